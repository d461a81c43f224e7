//! What the library `tokenizers` does for us: reading, encoding and decoding by any `tokenizer.json`, and training a
//! byte-pair encoding. Nothing outside this file knows its types.

use std::sync::OnceLock;

use serde_json::Value;
use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::{AddedToken, Tokenizer};

/// What the library says went wrong.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A tokenizer of the library.
pub(crate) struct Library {
    /// Takes special tokens for ordinary text.
    ordinary: Tokenizer,
    /// The same, but special tokens in a text become their ids; made when it is first needed.
    admitting: OnceLock<Box<Tokenizer>>,
}

impl Library {
    /// The tokenizer of a `tokenizer.json`.
    pub(crate) fn new(json: Value) -> Result<Library, Failure> {
        let mut ordinary: Tokenizer = serde_json::from_value(json)?;
        ordinary.set_encode_special_tokens(true);
        Ok(Library { ordinary, admitting: OnceLock::new() })
    }

    /// All tokens with their ids, in no order.
    pub(crate) fn tokens(&self) -> impl Iterator<Item = (String, u32)> {
        self.ordinary.get_vocab(true).into_iter()
    }

    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>, Failure> {
        ids(&self.ordinary, text)
    }

    pub(crate) fn encode_with_specials(&self, text: &str) -> Result<Vec<u32>, Failure> {
        let admitting = self.admitting.get_or_init(|| {
            let mut copy = self.ordinary.clone();
            copy.set_encode_special_tokens(false);
            Box::new(copy)
        });
        ids(admitting, text)
    }

    /// The text of a token: what it adds to that of the token before it, on which a leading space may depend.
    pub(crate) fn text(&self, previous: Option<u32>, id: u32) -> Option<String> {
        self.ordinary.id_to_token(id)?;
        let decode = |ids: &[u32]| self.ordinary.decode(ids, false).ok();
        let Some(previous) = previous else { return decode(&[id]) };
        let before = decode(&[previous])?;
        let both = decode(&[previous, id])?;
        both.strip_prefix(&before).map(str::to_owned).or_else(|| decode(&[id]))
    }
}

fn ids(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, Failure> {
    Ok(tokenizer.encode_fast(text, false)?.get_ids().to_vec())
}

/// Trains a byte-pair encoding on pieces of text, spelled byte by byte, and how often each occurs. Gives its `model` as
/// `tokenizer.json` has it. The special tokens come first in the vocabulary, then the bytes.
///
/// All occurrences together must be fewer than 2^31, which is what the library counts in.
pub(crate) fn train(
    counts: impl Iterator<Item = (String, u64)>,
    vocab_size: usize,
    special_tokens: &[&str],
) -> Result<Value, Failure> {
    let special_tokens = special_tokens.iter().map(|&token| AddedToken::from(token, true)).collect();
    let trainer = BpeTrainer::builder()
        .vocab_size(vocab_size)
        .min_frequency(2)
        .show_progress(false)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(special_tokens)
        .build();
    let counts = counts.map(|(piece, count)| (piece.into(), count)).collect();
    let mut model = BPE::default();
    trainer.do_train(&counts, &mut model)?;
    Ok(serde_json::to_value(&model)?)
}
