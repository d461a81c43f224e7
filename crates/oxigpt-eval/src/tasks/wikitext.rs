//! WikiText (Merity et al. 2016): how surprising a whole text is.
//!
//! Protocol: the text is one stream, as it stands in the file. Nothing is detokenised: `<unk>`, ` @-@ ` and the spaces
//! around punctuation stay, which makes losses comparable among models evaluated here, and higher than those of
//! protocols that undo them. Windows of `block_size` tokens do not overlap; the last may be shorter. Every token is a
//! target once, the first behind the token that ends texts, where the tokenizer has one, and else not at all.

use std::ops::ControlFlow;
use std::path::Path;

use fs_err as fs;
use oxigpt_compute::{Data, Session};
use oxigpt_model::Evaluate;
use oxigpt_text::Tokenizer;
use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};

use super::TaskError;

/// What a model makes of a text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WikiText {
    /// Mean negative log-likelihood of a token, in nats.
    pub loss: f64,
    /// Targets.
    pub tokens: u64,
    /// Words, between white space, of the raw text.
    pub words: u64,
    /// Bytes of the targets.
    pub bytes: u64,
}

impl WikiText {
    /// `exp` of the loss of a token.
    pub fn perplexity(&self) -> f64 {
        self.loss.exp()
    }

    /// `exp` of the loss of the whole text over its words, which compares across tokenizers: `word_perplexity` of
    /// lm-evaluation-harness, but over the text as it stands.
    pub fn word_perplexity(&self) -> f64 {
        (self.loss * self.tokens as f64 / self.words as f64).exp()
    }

    /// Bits of the whole text over its bytes.
    pub fn bits_per_byte(&self) -> f64 {
        self.loss * self.tokens as f64 / self.bytes as f64 / std::f64::consts::LN_2
    }
}

/// As the fields and what follows from them.
impl Serialize for WikiText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("WikiText", 7)?;
        fields.serialize_field("loss", &self.loss)?;
        fields.serialize_field("perplexity", &self.perplexity())?;
        fields.serialize_field("word_perplexity", &self.word_perplexity())?;
        fields.serialize_field("bits_per_byte", &self.bits_per_byte())?;
        fields.serialize_field("tokens", &self.tokens)?;
        fields.serialize_field("words", &self.words)?;
        fields.serialize_field("bytes", &self.bytes)?;
        fields.end()
    }
}

/// The text of a file.
///
/// # Errors
/// If the file cannot be read, is not UTF-8, or is blank.
pub fn read(path: &Path) -> Result<String, TaskError> {
    let text = String::from_utf8(fs::read(path)?).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + valid.iter().filter(|&&byte| byte == b'\n').count();
        TaskError::NotUtf8 { path: path.into(), line }
    })?;
    if text.trim().is_empty() {
        return Err(TaskError::Empty { path: path.into(), found: "no text" });
    }
    Ok(text)
}

/// Scores a text, in passes of `pass.batch_size` windows. `progress` hears, after each pass, how many of how many
/// windows are done, and may break off; there is no result then.
///
/// # Errors
/// If the tokenizer does not have the text's characters, or the model not the tokenizer's words; if there is no more
/// than one token.
pub fn wikitext(
    session: &mut Session,
    pass: &Evaluate,
    tokenizer: &Tokenizer,
    text: &str,
    progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<Option<WikiText>, TaskError> {
    let mut stream: Vec<u32> = tokenizer.end_of_text().into_iter().collect();
    tokenizer.encode_into(text, &mut stream).map_err(|source| TaskError::Encode { item: 1, source })?;
    let tokens = stream.len().saturating_sub(1);
    if tokens == 0 {
        return Err(TaskError::NoTargets);
    }
    let windows = tokens.div_ceil(pass.block_size);
    let len = pass.batch_size * pass.block_size;
    let mut losses = vec![0.0f32; len];
    let mut sum = 0.0;
    for (index, start) in (0..tokens).step_by(len).enumerate() {
        let used = len.min(tokens - start);
        session.upload(pass.tokens, Data::U32(&padded(&stream[start..start + used], len)))?;
        session.upload(pass.targets, Data::U32(&padded(&stream[start + 1..start + 1 + used], len)))?;
        session.run(pass.phase);
        session.download(pass.losses, &mut losses)?;
        sum += losses[..used].iter().map(|&loss| f64::from(loss)).sum::<f64>();
        let done = windows.min((index + 1) * pass.batch_size);
        if progress(done as u64, windows as u64).is_break() {
            return Ok(None);
        }
    }
    if !sum.is_finite() {
        return Err(TaskError::NotFinite { item: 1 });
    }
    let bytes = tokenizer.decode_bytes(&stream[1..]).len() as u64;
    let words = text.split_whitespace().count() as u64;
    Ok(Some(WikiText { loss: sum / tokens as f64, tokens: tokens as u64, words, bytes }))
}

/// `tokens`, and as many 0 behind them as make `len`.
fn padded(tokens: &[u32], len: usize) -> Vec<u32> {
    let mut padded = tokens.to_vec();
    padded.resize(len, 0);
    padded
}
