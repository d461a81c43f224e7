//! How likely a model finds the endings, and how often it is right.
//!
//! Some items lie side by side. Their contexts are read together, then their first endings behind them, their second, and
//! so on: an ending takes the place of the one before it.

use std::ops::ControlFlow;

use oxigpt_compute::Session;
use oxigpt_model::Scorer;
use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};

use super::questions::Question;
use super::{Missing, Questions};
use crate::tasks::{Accuracy, TaskError};

/// As many items side by side as any file needs: with more of them, products run hardly faster.
pub const MOST_ITEMS: usize = 16;

/// How well a model finds the right endings.
#[derive(Clone, Debug, PartialEq)]
pub struct HellaSwag {
    /// Items.
    pub items: u64,
    /// By [`Protocol::BuildNanoGpt`](super::Protocol), where asked for.
    pub build_nanogpt: Option<Scores>,
    /// By [`Protocol::LmEval`](super::Protocol), where asked for and possible.
    pub lm_eval: Option<Scores>,
    /// Why the latter is not possible.
    pub lm_eval_missing: Option<Missing>,
}

/// Results by one definition.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Scores {
    /// Items whose right ending has the least loss.
    pub acc: Accuracy,
    /// Items whose right ending has the least loss over its length.
    pub acc_norm: Accuracy,
    /// Items whose context did not fit.
    pub truncated: u64,
    /// Summed loss of each ending of each item, in nats.
    #[serde(skip)]
    pub losses: Vec<[f64; 4]>,
    /// What `acc_norm` divides it by.
    #[serde(skip)]
    pub lengths: Vec<[f64; 4]>,
}

/// As `acc` and `acc_norm` (build-nanogpt's), `acc_chars` (lm-evaluation-harness's `acc_norm`) and `items`, and all
/// that is behind them under the definitions' names.
impl Serialize for HellaSwag {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (build, lm_eval) = (self.build_nanogpt.as_ref(), self.lm_eval.as_ref());
        let mut fields = serializer.serialize_struct("HellaSwag", 7)?;
        fields.serialize_field("acc", &build.map(|scores| scores.acc.value()))?;
        fields.serialize_field("acc_norm", &build.map(|scores| scores.acc_norm.value()))?;
        fields.serialize_field("acc_chars", &lm_eval.map(|scores| scores.acc_norm.value()))?;
        fields.serialize_field("items", &self.items)?;
        fields.serialize_field("build_nanogpt", &build)?;
        fields.serialize_field("lm_eval", &lm_eval)?;
        fields.serialize_field("lm_eval_missing", &self.lm_eval_missing)?;
        fields.end()
    }
}

/// Scores a model on `questions`, in batches of the scorer's size, which changes nothing but rounding. `progress` hears,
/// after each, how many of [`Questions::len`] are done, and may break off; there is no result then.
///
/// # Errors
/// If a token is none of the model's words, or a loss not a finite number.
///
/// # Panics
/// If the scorer has fewer positions than [`Questions::positions`].
pub fn hellaswag(
    session: &mut Session,
    scorer: &Scorer,
    questions: &Questions,
    progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<Option<HellaSwag>, TaskError> {
    let mut done = 0;
    let mut score = |questions: &Option<Vec<Question>>| {
        let Some(questions) = questions else { return Ok(ControlFlow::Continue(None)) };
        let before = done;
        done += questions.len() as u64;
        let losses = losses(session, scorer, questions, &mut |done| progress(before + done))?;
        Ok::<_, TaskError>(match losses {
            Some(losses) => ControlFlow::Continue(Some(Scores::of(questions, losses))),
            None => ControlFlow::Break(()),
        })
    };
    let ControlFlow::Continue(build_nanogpt) = score(&questions.build_nanogpt)? else { return Ok(None) };
    let ControlFlow::Continue(lm_eval) = score(&questions.lm_eval)? else { return Ok(None) };
    let (items, lm_eval_missing) = (questions.items as u64, questions.missing);
    Ok(Some(HellaSwag { items, build_nanogpt, lm_eval, lm_eval_missing }))
}

impl Scores {
    fn of(questions: &[Question], losses: Vec<[f64; 4]>) -> Scores {
        let lengths: Vec<_> = questions.iter().map(|question| question.lengths).collect();
        let right = |normed: bool| {
            let chosen = losses.iter().zip(&lengths).map(move |(losses, lengths)| {
                least(std::array::from_fn(|i| if normed { losses[i] / lengths[i] } else { losses[i] }))
            });
            Accuracy::of(chosen.zip(questions).map(|(chosen, question)| chosen == question.label))
        };
        let (acc, acc_norm) = (right(false), right(true));
        let truncated = questions.iter().filter(|question| question.truncated).count() as u64;
        Scores { acc, acc_norm, truncated, losses, lengths }
    }
}

/// The first of the least.
fn least(losses: [f64; 4]) -> usize {
    (1..4).fold(0, |best, i| if losses[i] < losses[best] { i } else { best })
}

/// Summed loss of each ending.
fn losses(
    session: &mut Session,
    scorer: &Scorer,
    questions: &[Question],
    progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<Option<Vec<[f64; 4]>>, TaskError> {
    let order = order(questions);
    let mut losses = vec![[0.0; 4]; questions.len()];
    let mut done = 0;
    for group in order.chunks(scorer.batch_size()) {
        let members: Vec<_> = group.iter().map(|&i| &questions[i]).collect();
        for (&i, found) in group.iter().zip(group_losses(session, scorer, &members)?) {
            if found.iter().any(|loss| !loss.is_finite()) {
                return Err(TaskError::NotFinite { item: i + 1 });
            }
            losses[i] = found;
        }
        done += group.len() as u64;
        if progress(done).is_break() {
            return Ok(None);
        }
    }
    Ok(Some(losses))
}

/// In an order that depends on what the questions are, not on where they stand: that of the items changes no bit.
fn order(questions: &[Question]) -> Vec<usize> {
    let mut order: Vec<_> = (0..questions.len()).collect();
    order.sort_by_key(|&i| (&questions[i].context, &questions[i].endings));
    order
}

/// Losses of questions that lie side by side.
fn group_losses(
    session: &mut Session,
    scorer: &Scorer,
    group: &[&Question],
) -> Result<Vec<[f64; 4]>, TaskError> {
    let contexts: Vec<_> = group.iter().map(|question| &question.context).collect();
    // The last token of a context is fed with each ending: it tells the first of that.
    let shared: Vec<_> = contexts.iter().map(|context| 0..context.len() - 1).collect();
    scorer.read(session, &contexts, &shared)?;
    let mut losses = vec![[0.0; 4]; group.len()];
    for i in 0..4 {
        let texts: Vec<_> = group.iter().map(|q| [&q.context[..], &q.endings[i]].concat()).collect();
        let targets: Vec<_> = contexts.iter().zip(&texts).map(|(c, text)| c.len()..text.len()).collect();
        for (losses, found) in losses.iter_mut().zip(scorer.score(session, &texts, &targets)?) {
            losses[i] = found.into_iter().map(f64::from).sum();
        }
    }
    group.iter().zip(&mut losses).for_each(|(question, losses)| share_among_equals(question, losses));
    Ok(losses)
}

/// Equal endings have equal losses, which rounding in passes of different lengths may not give.
fn share_among_equals(question: &Question, losses: &mut [f64; 4]) {
    for i in 1..4 {
        if let Some(first) = question.endings[..i].iter().position(|ending| *ending == question.endings[i]) {
            losses[i] = losses[first];
        }
    }
}
