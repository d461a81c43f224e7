//! How good a model is: the mean loss over fixed windows of a data set and what follows from it, and scores on tasks
//! with published protocols.
//!
//! Nothing here changes a weight, and nothing depends on chance: the same weights and windows give the same
//! numbers.

pub mod tasks;

use std::ops::ControlFlow;

use oxigpt_compute::{Data, Error, Session};
use oxigpt_data::EvalWindows;
use oxigpt_model::{Evaluate, ScoreRange};
use oxigpt_text::Tokenizer;

/// A mean loss, and over how much it was taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Loss {
    /// Mean negative log-likelihood of a target, in nats.
    pub nats_per_token: f64,
    /// Targets.
    pub tokens: u64,
    /// Windows.
    pub windows: u64,
    /// How far attention scores went, where attention is a polynomial.
    pub range: Option<ScoreRange>,
}

impl Loss {
    /// Among how many equally likely words the model is as unsure.
    pub fn perplexity(&self) -> f64 {
        self.nats_per_token.exp()
    }

    /// Bits that the model spends on a byte of text, which compares across tokenizers.
    pub fn bits_per_byte(&self, bytes_per_token: f64) -> f64 {
        self.nats_per_token / std::f64::consts::LN_2 / bytes_per_token
    }
}

/// Bytes of text that the targets of `windows` stand for. The token that ends a text stands for none.
pub fn target_bytes(windows: &EvalWindows, tokenizer: &Tokenizer) -> u64 {
    let words = (0..tokenizer.vocab_size() as u32).map(|token| tokenizer.decode_bytes(&[token]).len() as u64);
    let mut lengths: Vec<u64> = words.collect();
    if let Some(end) = tokenizer.end_of_text() {
        lengths[end as usize] = 0;
    }
    let len = (windows.target_tokens() / windows.len()) as usize;
    let (mut x, mut y) = (vec![0; len], vec![0; len]);
    let mut bytes = 0;
    for index in 0..windows.len() {
        windows.fill(index, 1, &mut x, &mut y);
        // A token that no word of the tokenizer has stands for no text.
        bytes += y.iter().map(|&token| lengths.get(token as usize).copied().unwrap_or(0)).sum::<u64>();
    }
    bytes
}

/// Mean loss over all `windows`, in passes of `pass.batch_size`; the last may be smaller. `progress` hears,
/// after each pass, how many windows are done, and may break off; there is no loss then.
///
/// # Errors
/// If a token is none of the model's words.
///
/// # Panics
/// If the windows are not `pass.block_size` long.
pub fn evaluate(
    session: &mut Session,
    pass: &Evaluate,
    windows: &EvalWindows,
    progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<Option<Loss>, Error> {
    let tokens = windows.target_tokens();
    assert_eq!(tokens, windows.len() * pass.block_size as u64, "windows of another block_size");
    let len = pass.batch_size * pass.block_size;
    let (mut x, mut y, mut losses) = (vec![0; len], vec![0; len], vec![0.0f32; len]);
    let (mut done, mut sum, mut range) = (0, 0.0, None);
    while done < windows.len() {
        let rows = (windows.len() - done).min(pass.batch_size as u64);
        // Rows of the last pass that are not filled still hold windows of the one before; their losses do not
        // count.
        let used = rows as usize * pass.block_size;
        windows.fill(done, rows as usize, &mut x[..used], &mut y[..used]);
        session.upload(pass.tokens, Data::U32(&x))?;
        session.upload(pass.targets, Data::U32(&y))?;
        session.run(pass.phase);
        session.download(pass.losses, &mut losses)?;
        sum += losses[..used].iter().map(|&loss| f64::from(loss)).sum::<f64>();
        range = ScoreRange::merge(range, ScoreRange::of(session, pass.phase, rows as usize)?);
        done += rows;
        if progress(done).is_break() {
            return Ok(None);
        }
    }
    Ok(Some(Loss { nats_per_token: sum / tokens as f64, tokens, windows: done, range }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uniform_guess_costs_its_bits() {
        let loss = Loss { nats_per_token: 256f64.ln(), tokens: 1, windows: 1, range: None };
        assert!((loss.perplexity() - 256.0).abs() < 1e-9);
        assert!((loss.bits_per_byte(1.0) - 8.0).abs() < 1e-12);
        assert!((loss.bits_per_byte(4.0) - 2.0).abs() < 1e-12);
    }
}
