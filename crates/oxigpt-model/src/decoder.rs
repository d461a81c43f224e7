//! Generation with a cache of keys and values.
//!
//! Tokens are fed either in chunks (a prompt) or singly (each new token); both extend the cache. A chunk
//! always has the same length: the last is begun early enough to end within `block_size`, and filled up with
//! token 0 behind the prompt. What this leaves in the cache behind the prompt is overwritten before it is
//! attended to.
//!
//! Where attention depends on the length of the whole text, what was cached of a shorter text is wrong: every new token
//! then has the whole text fed again, with its length as an input.

use std::ops::ControlFlow;

use oxigpt_compute::philox::Stream;
use oxigpt_compute::{Builder, Data, PhaseId, Session, TensorId};

use crate::init::fnv1a;
use crate::{Error, ModelConfig, Weights, attention, forward, sample};

/// Positions of a chunk at most: enough that products over it run at full speed.
const CHUNK: usize = 64;

/// Handles of the phases that generate, for one sequence.
#[derive(Clone, Copy, Debug)]
pub struct Decoder {
    block_size: usize,
    vocab_size: usize,
    padded_vocab_size: usize,
    /// `[1]` U32: tokens of the whole text, where attention depends on it.
    length: Option<TensorId>,
    prefill: Feed,
    decode: Feed,
}

/// A phase that feeds a fixed number of tokens.
#[derive(Clone, Copy, Debug)]
struct Feed {
    /// How many.
    len: usize,
    /// `[1, len]` U32.
    tokens: TensorId,
    /// `[1]` U32: where the first of them stands.
    position: TensorId,
    /// `[1]` U32: after which of them the logits are wanted; absent where there is one only.
    row: Option<TensorId>,
    /// `[1, 1, Vp]`.
    logits: TensorId,
    phase: PhaseId,
}

/// How to continue a text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampleOptions {
    /// Divides the logits; 0 takes the likeliest word.
    pub temperature: f64,
    /// Choose among this many likeliest words (and those as likely as the last of them).
    pub top_k: Option<usize>,
    /// Tokens to generate at most.
    pub max_new_tokens: usize,
    /// The same seed, the same text.
    pub seed: u64,
    /// Token that ends the text; it is not part of it.
    pub stop: Option<u32>,
    /// Choose among the first so many words, where the model has more than its tokenizer (a vocabulary rounded up).
    pub words: Option<usize>,
}

impl Decoder {
    /// Declares caches and phases.
    pub fn declare(b: &mut Builder, config: &ModelConfig, weights: &Weights) -> Decoder {
        let shape = [1, config.block_size, config.n_embd];
        let mut cache = |kind: &str, layer: usize| b.cache(&format!("h.{layer}.{kind}_cache"), &shape);
        let caches: Vec<_> = (0..config.n_layer).map(|l| (cache("k", l), cache("v", l))).collect();
        let length = config.attention.depends_on_length().then(|| b.counters("text_length", &[1]));
        let mut feed =
            |name: &str, len: usize| Feed::declare(b, config, weights, (&caches, length), (name, len));
        Decoder {
            block_size: config.block_size,
            vocab_size: config.vocab_size,
            padded_vocab_size: config.padded_vocab_size(),
            length,
            prefill: feed("prefill", CHUNK.min(config.block_size)),
            decode: feed("decode", 1),
        }
    }

    /// Positions: the most tokens that can be fed.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// Phase that feeds a chunk of a prompt.
    pub fn prefill_phase(&self) -> PhaseId {
        self.prefill.phase
    }

    /// Phase that feeds one token.
    pub fn decode_phase(&self) -> PhaseId {
        self.decode.phase
    }

    /// Forgets what was cached and feeds `tokens` (at least one, at most `block_size`) from position 0. Gives
    /// the logits after the last of them.
    pub fn prefill(&self, session: &mut Session, tokens: &[u32], logits: &mut Vec<f64>) -> Result<(), Error> {
        if let Some(length) = self.length {
            session.upload(length, Data::U32(&[tokens.len() as u32]))?;
        }
        let chunk = self.prefill.len;
        let mut fed = 0;
        while fed < tokens.len() {
            let start = fed.min(self.block_size - chunk);
            let end = (start + chunk).min(tokens.len());
            self.prefill.run(session, &tokens[start..end], start)?;
            fed = end;
        }
        self.logits(session, &self.prefill, logits)
    }

    /// Feeds the last of `tokens` (at least one, at most `block_size`), of which the others have been fed before; or all
    /// of them again, where attention depends on the length of the text. Gives the logits after the last.
    pub fn decode(&self, session: &mut Session, tokens: &[u32], logits: &mut Vec<f64>) -> Result<(), Error> {
        if self.length.is_some() {
            return self.prefill(session, tokens, logits);
        }
        let last = tokens.len() - 1;
        self.decode.run(session, &tokens[last..], last)?;
        self.logits(session, &self.decode, logits)
    }

    fn logits(&self, session: &Session, feed: &Feed, logits: &mut Vec<f64>) -> Result<(), Error> {
        logits.resize(self.padded_vocab_size, 0.0);
        session.download_f64(feed.logits, logits)?;
        logits.truncate(self.vocab_size);
        Ok(())
    }
}

impl Feed {
    fn declare(
        b: &mut Builder,
        config: &ModelConfig,
        weights: &Weights,
        (caches, length): (&[(TensorId, TensorId)], Option<TensorId>),
        (name, len): (&str, usize),
    ) -> Feed {
        let phase = b.begin(name);
        let tokens = b.input_u32(&format!("{name}_tokens"), &[1, len], config.vocab_size as u32);
        let last_position = (config.block_size - len) as u32;
        let position = b.input_u32(&format!("{name}_position"), &[1], last_position + 1);
        let mut x_btc =
            forward(b, config, weights, tokens, Some(position), None, |b, layer, block, normed_btc| {
                attention(b, block, normed_btc, |b, qkv_bt3c| {
                    b.cached_attention(
                        qkv_bt3c,
                        caches[layer],
                        (position, length),
                        config.n_head,
                        config.attention,
                    )
                })
            });
        let row = (len > 1).then(|| b.input_u32(&format!("{name}_row"), &[1], len as u32));
        if let Some(row) = row {
            x_btc = b.select_row(x_btc, row);
        }
        let logits = b.unembed(x_btc, weights.wte);
        b.mark_output(logits);
        Feed { len, tokens, position, row, logits, phase }
    }

    /// Feeds `tokens`, at most `len`; the logits are those after the last of them.
    fn run(&self, session: &mut Session, tokens: &[u32], position: usize) -> Result<(), Error> {
        let mut padded = [0; CHUNK];
        padded[..tokens.len()].copy_from_slice(tokens);
        session.upload(self.tokens, Data::U32(&padded[..self.len]))?;
        session.upload(self.position, Data::U32(&[position as u32]))?;
        if let Some(row) = self.row {
            session.upload(row, Data::U32(&[tokens.len() as u32 - 1]))?;
        }
        session.run(self.phase);
        Ok(())
    }
}

/// Continues `prompt`: gives the new tokens, and each to `on_token` as it comes, which may end the text.
///
/// The model sees at most the last `block_size` tokens. Beyond that the window slides, and is fed anew from
/// position 0 for every token, because positions are absolute.
pub fn generate(
    session: &mut Session,
    decoder: &Decoder,
    prompt: &[u32],
    options: &SampleOptions,
    on_token: &mut dyn FnMut(u32) -> ControlFlow<()>,
) -> Result<Vec<u32>, Error> {
    check(decoder, prompt, options)?;
    let mut random = Stream::new(options.seed, fnv1a("sample"));
    let mut tokens = prompt.to_vec();
    let mut logits = Vec::new();
    for new in 0..options.max_new_tokens {
        let begin = tokens.len().saturating_sub(decoder.block_size);
        let window = &tokens[begin..];
        if new == 0 || begin > 0 {
            decoder.prefill(session, window, &mut logits)?;
        } else {
            decoder.decode(session, window, &mut logits)?;
        }
        logits.truncate(options.words.unwrap_or(logits.len()));
        let token = sample(&logits, options.temperature, options.top_k, random.uniform())
            .ok_or(Error::NotFinite { tokens: tokens.len() })?;
        if options.stop == Some(token) {
            break;
        }
        tokens.push(token);
        if on_token(token).is_break() {
            break;
        }
    }
    Ok(tokens.split_off(prompt.len()))
}

fn check(decoder: &Decoder, prompt: &[u32], options: &SampleOptions) -> Result<(), Error> {
    let vocab_size = decoder.vocab_size;
    if prompt.is_empty() {
        return Err(Error::EmptyPrompt);
    }
    if let Some(index) = prompt.iter().position(|&token| token as usize >= vocab_size) {
        return Err(Error::PromptToken { index, token: prompt[index], vocab_size });
    }
    if options.top_k == Some(0) {
        return Err(Error::TopK);
    }
    if !(options.temperature >= 0.0 && options.temperature.is_finite()) {
        return Err(Error::Temperature { value: options.temperature });
    }
    Ok(())
}
