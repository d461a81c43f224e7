//! LAMBADA (Paperno et al. 2016) in OpenAI's variant: the last word of a passage, told from all before it.
//!
//! Protocol: the file is OpenAI's `lambada_test.jsonl`, with the passages' original formatting. The context is what
//! stands before the last space; the target is that space and the last word, as the tokenizer cuts them. A passage is
//! right if greedy decoding gives exactly the tokens of the target, whatever would come behind them: there is no filter
//! for stop words. Contexts that do not fit lose tokens from their left.

use std::ops::ControlFlow;
use std::path::Path;

use oxigpt_compute::Session;
use oxigpt_model::{Decoder, sample};
use oxigpt_text::Tokenizer;
use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};

use super::{Accuracy, TaskError, records};

/// A passage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passage {
    /// All but the last word, and no space behind it.
    pub context: String,
    /// The last word.
    pub word: String,
}

/// How well a model tells last words.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lambada {
    /// Passages whose last word greedy decoding gives.
    pub acc: Accuracy,
    /// Sum of the negative log-likelihoods of all last words, in nats.
    pub loss: f64,
    /// Tokens of all last words.
    pub tokens: u64,
    /// Passages whose context did not fit.
    pub truncated: u64,
}

impl Lambada {
    /// `exp` of the mean loss of a last word: `perplexity` of lm-evaluation-harness.
    pub fn perplexity(&self) -> f64 {
        (self.loss / self.acc.items as f64).exp()
    }

    /// `exp` of the mean loss of a token of the last words.
    pub fn token_perplexity(&self) -> f64 {
        (self.loss / self.tokens as f64).exp()
    }
}

/// As `acc`, `perplexity`, `token_perplexity`, `items`, and the details.
impl Serialize for Lambada {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Lambada", 8)?;
        fields.serialize_field("acc", &self.acc.value())?;
        fields.serialize_field("perplexity", &self.perplexity())?;
        fields.serialize_field("token_perplexity", &self.token_perplexity())?;
        fields.serialize_field("items", &self.acc.items)?;
        fields.serialize_field("correct", &self.acc.correct)?;
        fields.serialize_field("interval", &self.acc.interval())?;
        fields.serialize_field("tokens", &self.tokens)?;
        fields.serialize_field("truncated", &self.truncated)?;
        fields.end()
    }
}

/// The passages of a file: JSON lines with the key `text`.
///
/// # Errors
/// If the file cannot be read, has no passages, or has lines that are none.
pub fn read(path: &Path) -> Result<Vec<Passage>, TaskError> {
    let passage = |record: &records::Record| {
        let (context, word) =
            record.text("text")?.trim().rsplit_once(' ').ok_or_else(|| {
                record.unfit("text", "a single word", "a context, a space, and a last word")
            })?;
        Ok(Passage { context: context.trim_end().to_owned(), word: word.to_owned() })
    };
    records::read(path)?.iter().map(passage).collect()
}

/// Scores passages one after the other. `progress` hears, after each, how many are done, and may break off; there is no
/// result then.
///
/// # Errors
/// If the tokenizer does not have the passages' characters, or the model not the tokenizer's words; if a last word is
/// longer than the model can hold.
///
/// # Panics
/// If there are no passages, or the decoder has more than one text.
pub fn lambada(
    session: &mut Session,
    decoder: &Decoder,
    tokenizer: &Tokenizer,
    passages: &[Passage],
    progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<Option<Lambada>, TaskError> {
    assert!(!passages.is_empty(), "no passages");
    let mut sum = Lambada { acc: Accuracy::default(), loss: 0.0, tokens: 0, truncated: 0 };
    for (item, passage) in (1..).zip(passages) {
        let encode = |text: &str| tokenizer.encode(text).map_err(|source| TaskError::Encode { item, source });
        let (context, target) = (encode(&passage.context)?, encode(&format!(" {}", passage.word))?);
        let (tokens, block_size) = (target.len(), decoder.positions());
        if tokens > block_size {
            return Err(TaskError::TooLong { item, tokens, block_size });
        }
        let room = block_size + 1 - tokens;
        let start = context.len().saturating_sub(room);
        let (loss, right) =
            last_word(session, decoder, &context[start..], &target)?.ok_or(TaskError::NotFinite { item })?;
        sum.acc.correct += u64::from(right);
        sum.acc.items += 1;
        sum.loss += loss;
        sum.tokens += tokens as u64;
        sum.truncated += u64::from(start > 0);
        if progress(item as u64).is_break() {
            return Ok(None);
        }
    }
    Ok(Some(sum))
}

/// Loss of a target behind its context, and whether it is the likeliest; nothing where the logits are not finite.
fn last_word(
    session: &mut Session,
    decoder: &Decoder,
    context: &[u32],
    target: &[u32],
) -> Result<Option<(f64, bool)>, TaskError> {
    let (mut loss, mut right) = (0.0, true);
    let (text, mut logits) = ([context, target].concat(), Vec::new());
    decoder.prefill(session, context, &mut logits)?;
    for (i, &token) in target.iter().enumerate() {
        if i > 0 {
            decoder.decode(session, &[&text[..context.len() + i]], &mut logits)?;
        }
        let Some(likeliest) = sample(&logits, 0.0, None, 0.0) else { return Ok(None) };
        let (largest, vocab_size) = (logits[likeliest as usize], logits.len());
        let index = context.len() + i;
        let logit = logits.get(token as usize);
        let logit = *logit.ok_or(oxigpt_model::Error::PromptToken { index, token, vocab_size })?;
        let total: f64 = logits.iter().map(|logit| (logit - largest).exp()).sum();
        loss += largest + total.ln() - logit;
        right &= likeliest == token;
    }
    Ok(Some((loss, right)))
}
