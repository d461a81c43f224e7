//! Generation with a cache of keys and values.
//!
//! Tokens are fed either in chunks (a prompt) or singly (each new token); both extend the cache. A chunk has one of a
//! few lengths; the last is filled up with its last token, which changes nothing.
//!
//! Where attention depends on the length of the whole text, what was cached of a shorter text is wrong: every new token
//! then has the whole text fed again, with its length as an input.
//! Several texts that begin alike are generated side by side: the prompt is fed once for all, and then a token of each, so
//! that weights are read once for all of them. A text is the same, bit for bit, whatever lies beside it.

use std::iter::once;
use std::ops::ControlFlow;

use oxigpt_compute::philox::Stream;
use oxigpt_compute::{Builder, Data, PhaseId, Places, Session, Storage, TensorId};

use crate::init::fnv1a;
use crate::{Error, ModelConfig, Weights, attention, forward, sample};

/// Lengths of a chunk: short ones for short prompts; the longest is enough for products to run at full speed.
const CHUNKS: [usize; 4] = [8, 16, 32, 64];

/// What a decoding plan is built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeShape {
    /// Texts side by side.
    pub batch_size: usize,
    /// Tokens that a text can be fed before its window slides, at most the model's.
    pub positions: usize,
    /// How matrices are kept.
    pub storage: Storage,
}

impl DecodeShape {
    /// One text in the model's whole context, in float32.
    pub fn one(config: &ModelConfig) -> DecodeShape {
        DecodeShape { batch_size: 1, positions: config.block_size, storage: Storage::Float32 }
    }
}

/// Handles of the phases that generate, for some texts side by side.
#[derive(Clone, Debug)]
pub struct Decoder {
    batch_size: usize,
    positions: usize,
    vocab_size: usize,
    padded_vocab_size: usize,
    /// `[batch_size]` U32: tokens of the whole text, where attention depends on it; the same for each.
    lengths: Option<TensorId>,
    /// One for each length of a chunk, shortest first.
    prefill: Vec<Feed>,
    /// Absent where attention depends on the length of the text.
    decode: Option<Feed>,
}

/// A phase that feeds a fixed number of tokens to each of some texts.
#[derive(Clone, Copy, Debug)]
struct Feed {
    /// How many texts, and tokens of each.
    shape: [usize; 2],
    /// `[B, T]` U32.
    tokens: TensorId,
    places: Places,
    /// `[1]` U32: after which of them the logits are wanted; absent where there is one only.
    row: Option<TensorId>,
    /// `[B, 1, Vp]`.
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
    /// Declares caches and phases for `batch_size` texts of `positions` tokens, which the model must have.
    pub fn declare(
        b: &mut Builder,
        config: &ModelConfig,
        weights: &Weights,
        batch_size: usize,
        positions: usize,
    ) -> Decoder {
        let shape = [batch_size, positions, config.n_embd];
        let mut cache = |kind: &str, layer: usize| b.cache(&format!("h.{layer}.{kind}_cache"), &shape);
        let caches: Vec<_> = (0..config.n_layer).map(|l| (cache("k", l), cache("v", l))).collect();
        let lengths = config.attention.depends_on_length().then(|| b.counters("text_lengths", &[batch_size]));
        let mut feed =
            |name: &str, shape| Feed::declare(b, config, weights, (&caches, lengths), (name, shape));
        let longest = positions.min(CHUNKS[CHUNKS.len() - 1]);
        let chunks = CHUNKS.into_iter().filter(|&len| len < longest).chain(once(longest));
        Decoder {
            batch_size,
            positions,
            vocab_size: config.vocab_size,
            padded_vocab_size: config.padded_vocab_size(),
            lengths,
            prefill: chunks.map(|len| feed(&format!("prefill_{len}"), [1, len])).collect(),
            decode: lengths.is_none().then(|| feed("decode", [batch_size, 1])),
        }
    }

    /// Texts side by side.
    pub fn batch_size(&self) -> usize {
        self.batch_size
    }

    /// The most tokens that can be fed.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// Phase that gives the next token: feeds one to every text, or where attention depends on the length of the text, a chunk.
    pub fn step_phase(&self) -> PhaseId {
        self.decode.as_ref().unwrap_or(&self.prefill[self.prefill.len() - 1]).phase
    }

    /// Forgets what was cached and feeds `tokens` (at least one, at most as many as there are positions) from position 0, the
    /// same to every text. Gives the logits after the last of them.
    pub fn prefill(&self, session: &mut Session, tokens: &[u32], logits: &mut Vec<f64>) -> Result<(), Error> {
        if let Some(lengths) = self.lengths {
            session.upload(lengths, Data::U32(&vec![tokens.len() as u32; self.batch_size]))?;
        }
        let longest = &self.prefill[self.prefill.len() - 1];
        let mut chunk = longest;
        for (i, part) in tokens.chunks(longest.shape[1]).enumerate() {
            chunk = self.prefill.iter().find(|chunk| chunk.shape[1] >= part.len()).unwrap_or(longest);
            chunk.run_prompt(session, part, i * longest.shape[1], self.batch_size)?;
        }
        self.logits(session, chunk, logits)
    }

    /// Feeds the last token of each text (equally many, at least one, at most as many as there are positions), of which the
    /// others have been fed before; or all of them again, where attention depends on the length of the text. Gives the
    /// logits after the last, text by text.
    ///
    /// # Panics
    /// If there are more texts than lie side by side, or none.
    pub fn decode<R: AsRef<[u32]>>(
        &self,
        session: &mut Session,
        texts: &[R],
        logits: &mut Vec<f64>,
    ) -> Result<(), Error> {
        assert!((1..=self.batch_size).contains(&texts.len()), "more texts than lie side by side");
        let Some(decode) = &self.decode else { return self.feed_again(session, texts, logits) };
        let len = texts[0].as_ref().len();
        let tokens: Vec<u32> = texts.iter().map(|text| text.as_ref()[len - 1]).collect();
        decode.run_each(session, &tokens, len - 1)?;
        self.logits(session, decode, logits)
    }

    /// Feeds texts anew, one after the other. Gives the logits after each.
    fn feed_again<R: AsRef<[u32]>>(
        &self,
        session: &mut Session,
        texts: &[R],
        logits: &mut Vec<f64>,
    ) -> Result<(), Error> {
        let mut of_text = Vec::new();
        logits.clear();
        for text in texts {
            self.prefill(session, text.as_ref(), &mut of_text)?;
            logits.extend(&of_text);
        }
        Ok(())
    }

    fn logits(&self, session: &Session, feed: &Feed, logits: &mut Vec<f64>) -> Result<(), Error> {
        let (padded, words) = (self.padded_vocab_size, self.vocab_size);
        logits.resize(feed.shape[0] * padded, 0.0);
        session.download_f64(feed.logits, logits)?;
        for row in 1..feed.shape[0] {
            logits.copy_within(row * padded..row * padded + words, row * words);
        }
        logits.truncate(feed.shape[0] * words);
        Ok(())
    }
}

impl Feed {
    fn declare(
        b: &mut Builder,
        config: &ModelConfig,
        weights: &Weights,
        (caches, lengths): (&[(TensorId, TensorId)], Option<TensorId>),
        (name, shape): (&str, [usize; 2]),
    ) -> Feed {
        let (phase, len) = (b.begin(name), shape[1]);
        let tokens = b.input_u32(&format!("{name}_tokens"), &shape, config.vocab_size as u32);
        let places = b.places(name, shape, caches[0].0);
        let positions = Some(places.positions);
        let mut x_btc =
            forward(b, config, weights, tokens, positions, None, |b, layer, block, normed_btc| {
                attention(b, block, normed_btc, |b, qkv_bt3c| {
                    let (cache, kind) = (caches[layer], config.attention);
                    b.cached_attention(qkv_bt3c, cache, (places, lengths), config.n_head, kind)
                })
            });
        let row = (len > 1).then(|| b.input_u32(&format!("{name}_row"), &[1], len as u32));
        if let Some(row) = row {
            x_btc = b.select_row(x_btc, row);
        }
        let logits = b.unembed(x_btc, weights.wte);
        b.mark_output(logits);
        Feed { shape, tokens, places, row, logits, phase }
    }

    /// Feeds `tokens` to all `texts` alike, from `start` on, maybe fewer than it takes; the logits are those after the last.
    fn run_prompt(
        &self,
        session: &mut Session,
        tokens: &[u32],
        start: usize,
        texts: usize,
    ) -> Result<(), Error> {
        let (len, last) = (self.shape[1], tokens.len() - 1);
        let of_rows = |of: &dyn Fn(usize) -> u32| (0..len).map(|i| of(i.min(last))).collect::<Vec<_>>();
        if let Some(row) = self.row {
            session.upload(row, Data::U32(&[last as u32]))?;
        }
        let positions = of_rows(&|i| (start + i) as u32);
        self.run(session, &of_rows(&|i| tokens[i]), &vec![texts as u32; len], &positions)
    }

    /// Feeds a token to each text, or fewer than it takes, at `position`.
    fn run_each(&self, session: &mut Session, tokens: &[u32], position: usize) -> Result<(), Error> {
        let texts: Vec<u32> = (0..self.shape[0] as u32).collect();
        let mut padded = tokens.to_vec();
        padded.resize(texts.len(), 0);
        self.run(session, &padded, &texts, &vec![position as u32; texts.len()])
    }

    fn run(
        &self,
        session: &mut Session,
        tokens: &[u32],
        texts: &[u32],
        positions: &[u32],
    ) -> Result<(), Error> {
        session.upload(self.tokens, Data::U32(tokens))?;
        session.upload(self.places.texts, Data::U32(texts))?;
        session.upload(self.places.positions, Data::U32(positions))?;
        session.run(self.phase);
        Ok(())
    }
}

/// Continues `prompt`: gives the new tokens, and each to `on_token` as it comes, which may end the text.
///
/// The model sees at most the last tokens that it has positions for. Beyond that the window slides, and is fed anew from
/// position 0 for every token, because positions are absolute.
pub fn generate(
    session: &mut Session,
    decoder: &Decoder,
    prompt: &[u32],
    options: &SampleOptions,
    on_token: &mut dyn FnMut(u32) -> ControlFlow<()>,
) -> Result<Vec<u32>, Error> {
    let mut texts =
        generate_side_by_side(session, decoder, prompt, &[*options], &mut |_, token| on_token(token))?;
    Ok(texts.pop().unwrap_or_default())
}

/// Continues `prompt` in several ways at once, at most as many as the decoder has texts: [`generate`] for each of `options`.
/// `on_token` hears the number of the text, and may end it.
///
/// # Panics
/// If there are more options than texts.
pub fn generate_side_by_side(
    session: &mut Session,
    decoder: &Decoder,
    prompt: &[u32],
    options: &[SampleOptions],
    on_token: &mut dyn FnMut(usize, u32) -> ControlFlow<()>,
) -> Result<Vec<Vec<u32>>, Error> {
    assert!(options.len() <= decoder.batch_size, "more texts than lie side by side");
    options.iter().try_for_each(|options| check(decoder, prompt, options))?;
    let mut texts: Vec<Text> = options.iter().map(|&options| Text::new(prompt, options)).collect();
    let mut logits = Vec::new();
    for len in prompt.len().. {
        texts.iter_mut().for_each(|text| text.ended |= len == prompt.len() + text.options.max_new_tokens);
        if texts.iter().all(|text| text.ended) {
            break;
        }
        let begin = len.saturating_sub(decoder.positions);
        // An ended text stays as it was, and is fed something of the right length.
        let windows: Vec<_> = texts.iter().map(|text| text.window(begin, len)).collect();
        if len == prompt.len() {
            decoder.prefill(session, &prompt[begin..], &mut logits)?;
        } else if begin > 0 {
            decoder.feed_again(session, &windows, &mut logits)?;
        } else {
            decoder.decode(session, &windows, &mut logits)?;
        }
        for (row, text) in texts.iter_mut().enumerate().filter(|(_, text)| !text.ended) {
            // After the prompt there is one row of logits for all.
            let start = row * decoder.vocab_size % logits.len();
            let token = text.next(&logits[start..start + decoder.vocab_size])?;
            text.ended = token.is_none_or(|token| on_token(row, token).is_break());
        }
    }
    Ok(texts.into_iter().map(|mut text| text.tokens.split_off(prompt.len())).collect())
}

/// A text being written.
struct Text {
    options: SampleOptions,
    random: Stream,
    /// The prompt and what has come.
    tokens: Vec<u32>,
    ended: bool,
}

impl Text {
    fn new(prompt: &[u32], options: SampleOptions) -> Text {
        let random = Stream::new(options.seed, fnv1a("sample"));
        Text { options, random, tokens: prompt.to_vec(), ended: false }
    }

    /// Tokens `begin..len`, token 0 for those that have not come because the text ended.
    fn window(&self, begin: usize, len: usize) -> Vec<u32> {
        let token = |i| self.tokens.get(i).copied().unwrap_or(0);
        (begin..len).map(token).collect()
    }

    /// Appends a word drawn from the logits after all words so far; `None` where the text ends instead.
    fn next(&mut self, logits: &[f64]) -> Result<Option<u32>, Error> {
        let SampleOptions { temperature, top_k, stop, words, .. } = self.options;
        let logits = &logits[..words.map_or(logits.len(), |words| words.min(logits.len()))];
        let token = sample(logits, temperature, top_k, self.random.uniform())
            .ok_or(Error::NotFinite { tokens: self.tokens.len() })?;
        if stop == Some(token) {
            return Ok(None);
        }
        self.tokens.push(token);
        Ok(Some(token))
    }
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
