//! Items as tokens, by either definition.

use std::fmt;

use oxigpt_text::Tokenizer;
use serde::Serialize;

use super::Item;
use super::clean::{capitalize, clean};
use crate::tasks::TaskError;

/// A published definition of the task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// As build-nanogpt and llm.c: the context is `ctx` as it stands, the continuation a space and the ending, and each
    /// is put into tokens for itself. `acc_norm` divides by the ending's tokens.
    BuildNanoGpt,
    /// As lm-evaluation-harness: the context is `activity_label`, a colon, `ctx_a` and the capitalised `ctx_b`; markers
    /// in square brackets are cleaned away. `acc_norm` divides by the characters of the ending: Unicode scalar values,
    /// not bytes, without the space before it.
    LmEval,
}

impl Protocol {
    /// Both.
    pub const BOTH: [Protocol; 2] = [Protocol::BuildNanoGpt, Protocol::LmEval];
}

/// Why a definition does not apply: some items lack a key that it needs, or an ending of theirs is nothing but what it
/// cleans away. As words: what the items have not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// The key; [`Missing::ENDINGS`] where it is there, and cleaned away.
    pub key: &'static str,
    /// Items without it.
    pub items: u64,
}

impl Missing {
    /// The key of the endings, which no item lacks.
    pub const ENDINGS: &str = "endings";
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key {
            Missing::ENDINGS => write!(f, "nothing but markers in one of their \"endings\""),
            key => write!(f, "no \"{key}\""),
        }
    }
}

/// Items as tokens for a model of a certain `block_size`.
#[derive(Clone, Debug)]
pub struct Questions {
    pub(super) items: usize,
    pub(super) build_nanogpt: Option<Vec<Question>>,
    pub(super) lm_eval: Option<Vec<Question>>,
    pub(super) missing: Option<Missing>,
}

/// An item as tokens.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Question {
    pub(super) context: Vec<u32>,
    pub(super) endings: [Vec<u32>; 4],
    /// What `acc_norm` divides by.
    pub(super) lengths: [f64; 4],
    pub(super) label: usize,
    pub(super) truncated: bool,
}

impl Questions {
    /// Puts `items` into tokens, by each of `protocols`. Where an item lacks what a definition needs, that definition is
    /// left out altogether.
    ///
    /// A context that does not fit into `block_size` with its longest ending loses tokens from its left: all four
    /// endings see the same.
    ///
    /// # Errors
    /// If the tokenizer does not have an item's characters, or an ending alone has more tokens than `block_size`.
    ///
    /// # Panics
    /// If there are no items.
    pub fn new(
        items: &[Item],
        tokenizer: &Tokenizer,
        block_size: usize,
        protocols: &[Protocol],
    ) -> Result<Questions, TaskError> {
        assert!(!items.is_empty(), "no items");
        let all = |ask: fn(&Item, &Tokenizer) -> Result<Question, oxigpt_text::Error>| {
            let fitted = |(number, item)| {
                let question = ask(item, tokenizer);
                question.map_err(|source| TaskError::Encode { item: number, source })?.fit(number, block_size)
            };
            (1..).zip(items).map(fitted).collect::<Result<Vec<_>, _>>()
        };
        let wants_lm_eval = protocols.contains(&Protocol::LmEval);
        let missing = missing(items).filter(|_| wants_lm_eval);
        let build_nanogpt = protocols.contains(&Protocol::BuildNanoGpt).then(|| all(by_build_nanogpt));
        let lm_eval = (wants_lm_eval && missing.is_none()).then(|| all(by_lm_eval));
        Ok(Questions {
            items: items.len(),
            build_nanogpt: build_nanogpt.transpose()?,
            lm_eval: lm_eval.transpose()?,
            missing,
        })
    }

    /// Positions that a scorer needs for them: at least 1, and at most `block_size`.
    pub fn positions(&self) -> usize {
        let questions = [&self.build_nanogpt, &self.lm_eval].into_iter().flatten().flatten();
        let positions = questions.map(|q| q.context.len() + q.longest() - 1);
        positions.max().unwrap_or(1)
    }

    /// How many items to score side by side: all, or `limit` of them, and at least 1.
    pub fn batch_size(&self, limit: usize) -> usize {
        self.items.min(limit).max(1)
    }

    /// Questions that are scored: each item once for each definition that applies.
    pub fn len(&self) -> usize {
        [&self.build_nanogpt, &self.lm_eval].into_iter().flatten().map(Vec::len).sum()
    }

    /// Why [`Protocol::LmEval`] does not apply, where it was asked for.
    pub fn missing(&self) -> Option<Missing> {
        self.missing
    }

    /// Whether no definition applies.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Question {
    /// Tokens of the longest ending.
    pub(super) fn longest(&self) -> usize {
        self.endings.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// Makes room for the longest ending, whose last token is only ever a target.
    fn fit(mut self, item: usize, block_size: usize) -> Result<Question, TaskError> {
        let tokens = self.longest();
        if self.context.is_empty() || self.endings.iter().any(Vec::is_empty) {
            return Err(TaskError::NoTokens { item });
        }
        if tokens > block_size {
            return Err(TaskError::TooLong { item, tokens, block_size });
        }
        let superfluous = (self.context.len() + tokens - 1).saturating_sub(block_size);
        self.context.drain(..superfluous);
        self.truncated = superfluous > 0;
        Ok(self)
    }
}

/// The first key of [`Protocol::LmEval`] that items lack, or have nothing in that is left.
fn missing(items: &[Item]) -> Option<Missing> {
    type Lacks = fn(&Item) -> bool;
    let keys: [(&str, Lacks); 4] = [
        ("activity_label", |item| item.activity_label.is_none()),
        ("ctx_a", |item| item.ctx_a.is_none()),
        ("ctx_b", |item| item.ctx_b.is_none()),
        (Missing::ENDINGS, |item| item.endings.iter().any(|ending| clean(ending).is_empty())),
    ];
    let count = |(key, lacks): (_, Lacks)| {
        let items = items.iter().filter(|item| lacks(item)).count() as u64;
        Missing { key, items }
    };
    keys.into_iter().map(count).find(|missing| missing.items > 0)
}

fn by_build_nanogpt(item: &Item, tokenizer: &Tokenizer) -> Result<Question, oxigpt_text::Error> {
    let context = tokenizer.encode(&item.ctx)?;
    let endings = try_each(&item.endings, |ending| tokenizer.encode(&format!(" {ending}")))?;
    let lengths = endings.each_ref().map(|tokens| tokens.len() as f64);
    Ok(Question { context, endings, lengths, label: item.label, truncated: false })
}

/// Context and continuation are put into tokens together; the tokens of the context alone say where it ends. Space at
/// the end of the context, which cleaning may leave, goes to the continuation.
fn by_lm_eval(item: &Item, tokenizer: &Tokenizer) -> Result<Question, oxigpt_text::Error> {
    let [label, ctx_a, ctx_b] =
        [&item.activity_label, &item.ctx_a, &item.ctx_b].map(|text| text.as_deref().unwrap_or_default());
    let query = clean(&format!("{label}: {ctx_a} {}", capitalize(ctx_b)));
    let context = tokenizer.encode(query.trim_end())?;
    let choices = item.endings.each_ref().map(|ending| clean(ending));
    let endings = try_each(&choices, |choice| {
        let mut tokens = tokenizer.encode(&format!("{query} {choice}"))?;
        Ok(tokens.split_off(context.len().min(tokens.len())))
    })?;
    let lengths = choices.each_ref().map(|choice| choice.chars().count() as f64);
    Ok(Question { context, endings, lengths, label: item.label, truncated: false })
}

fn try_each<E>(texts: &[String; 4], f: impl Fn(&String) -> Result<Vec<u32>, E>) -> Result<[Vec<u32>; 4], E> {
    let [a, b, c, d] = texts.each_ref().map(f);
    Ok([a?, b?, c?, d?])
}
