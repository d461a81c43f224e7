//! Tokenizers: text to token ids and back. GPT-2's byte-pair encoding with its vocabulary embedded, one token per
//! character or per byte, and any Hugging Face `tokenizer.json`, which can also be trained here. The crate opens no file:
//! callers hand over the bytes of tokenizer files and take them back to write.
//!
//! Threads share a tokenizer by reference, and none waits for another. Encoding is a pure function of the text: documents
//! may be encoded on any thread, in any order.

mod bpe;
mod bytes;
mod chars;
mod error;
mod files;
mod gpt2;
mod json;
mod library;
mod merge;
mod pieces;
mod stream;
mod train;

pub use chars::CharTokenizer;
pub use error::Error;
pub use gpt2::Gpt2;
pub use json::JsonTokenizer;
pub use stream::StreamDecoder;
pub use train::TokenizerTrainer;

use sha2::{Digest, Sha256};

/// What an id outside the vocabulary decodes to: U+FFFD, the replacement character.
const REPLACEMENT: &str = "\u{FFFD}";

/// The name of a tokenizer that a `tokenizer.json` describes.
const JSON: &str = "tokenizer.json";

/// A tokenizer of any kind. Cloning one is cheap, but proportional to the vocabulary for characters.
#[derive(Clone, Debug)]
pub enum Tokenizer {
    /// GPT-2's byte-pair encoding: 50,257 tokens, any text.
    Gpt2(Gpt2),
    /// One token per character of a fixed set.
    Char(CharTokenizer),
    /// One token per byte of UTF-8, and `<|endoftext|>` as number 256.
    Byte,
    /// What a `tokenizer.json` describes, if it is none of the above.
    Json(JsonTokenizer),
}

impl Tokenizer {
    /// GPT-2's tokenizer. Its tables are made at the first call and shared by all later ones.
    pub fn gpt2() -> Tokenizer {
        Tokenizer::Gpt2(Gpt2::new())
    }

    /// A tokenizer of the characters that occur in `text`, sorted, with ids from 0 (nanoGPT's rule).
    /// An empty text is an error.
    pub fn chars_of(text: &str) -> Result<Tokenizer, Error> {
        CharTokenizer::of_text(text).map(Tokenizer::Char)
    }

    /// The byte tokenizer: 257 tokens, any text.
    pub fn bytes() -> Tokenizer {
        Tokenizer::Byte
    }

    /// The kind's name: `gpt2`, `char`, `byte` or `tokenizer.json`.
    pub fn name(&self) -> &'static str {
        match self {
            Tokenizer::Gpt2(_) => "gpt2",
            Tokenizer::Char(_) => "char",
            Tokenizer::Byte => "byte",
            Tokenizer::Json(_) => JSON,
        }
    }

    /// Number of tokens, special ones included; every id is below it. (A `tokenizer.json` may skip ids, which count.)
    pub fn vocab_size(&self) -> usize {
        match self {
            Tokenizer::Gpt2(gpt2) => gpt2.vocab_size(),
            Tokenizer::Char(chars) => chars.vocab_size(),
            Tokenizer::Byte => bytes::VOCAB_SIZE,
            Tokenizer::Json(json) => json.vocab_size(),
        }
    }

    /// The ids of `text`, all of it taken as ordinary text: a literal `<|endoftext|>` is thirteen characters. Nothing is
    /// put around them, whatever a `tokenizer.json` says of that.
    ///
    /// GPT-2's encoding, and any byte-level one of its kind with fewer than 65,536 tokens, is ours: over 100 MB/s of
    /// English and code on one core. No text takes the square of its length: 1 MiB of random characters of all scripts
    /// takes 22 ms, the worst we know, 1 MiB of one letter, 250 ms (`docs/performance.md` names the machine).
    ///
    /// # Errors
    /// For the character tokenizer, if it lacks a character; for a `tokenizer.json`, if it has no token for what it does
    /// not know. (Byte-pair encodings that are not byte-level and have none drop it: that is their definition.)
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        let mut ids = Vec::new();
        self.encode_into(text, &mut ids)?;
        Ok(ids)
    }

    /// Like [`Tokenizer::encode`], but a literal `<|endoftext|>`, and any other special token that a `tokenizer.json`
    /// has, becomes the one token of that name. Characters have none.
    pub fn encode_with_specials(&self, text: &str) -> Result<Vec<u32>, Error> {
        match self {
            Tokenizer::Gpt2(_) => self.encode_parts(text, gpt2::END_OF_TEXT_ID),
            Tokenizer::Char(_) => self.encode(text),
            Tokenizer::Byte => self.encode_parts(text, bytes::END_OF_TEXT_ID),
            Tokenizer::Json(json) => json.encode_with_specials(text),
        }
    }

    /// The ids of what stands between the literal `<|endoftext|>`s, and `end` for each of those.
    fn encode_parts(&self, text: &str, end: u32) -> Result<Vec<u32>, Error> {
        let mut ids = Vec::new();
        for (i, ordinary) in text.split(gpt2::END_OF_TEXT).enumerate() {
            if i > 0 {
                ids.push(end);
            }
            self.encode_into(ordinary, &mut ids)?;
        }
        Ok(ids)
    }

    /// Like [`Tokenizer::encode`], appending to `out`. On an error `out` is as it was.
    pub fn encode_into(&self, text: &str, out: &mut Vec<u32>) -> Result<(), Error> {
        match self {
            Tokenizer::Gpt2(gpt2) => gpt2.encode_into(text, out),
            Tokenizer::Char(chars) => chars.encode_into(text, out)?,
            Tokenizer::Byte => bytes::encode_into(text, out),
            Tokenizer::Json(json) => json.encode_into(text, out)?,
        }
        Ok(())
    }

    /// The bytes of any sequence of ids. They need not be whole UTF-8 (a GPT-2 token may be part of a character);
    /// an id outside the vocabulary gives the bytes of U+FFFD.
    pub fn decode_bytes(&self, ids: &[u32]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(4 * ids.len());
        let mut previous = None;
        ids.iter().for_each(|&id| self.push_bytes(&mut previous, id, &mut bytes));
        bytes
    }

    /// The text of any sequence of ids, with U+FFFD for what is not UTF-8.
    pub fn decode(&self, ids: &[u32]) -> String {
        String::from_utf8_lossy(&self.decode_bytes(ids)).into_owned()
    }

    /// The id that separates documents: 50256 for GPT-2, 256 for bytes, none for characters. For a `tokenizer.json` the
    /// `eos_token` of the `tokenizer_config.json` beside it, or else an added token of a usual name (`<|endoftext|>`,
    /// `</s>`, ...), or else none.
    pub fn end_of_text(&self) -> Option<u32> {
        match self {
            Tokenizer::Gpt2(_) => Some(gpt2::END_OF_TEXT_ID),
            Tokenizer::Char(_) => None,
            Tokenizer::Byte => Some(bytes::END_OF_TEXT_ID),
            Tokenizer::Json(json) => json.end_of_text(),
        }
    }

    /// SHA-256, in lower-case hexadecimal, of all that the encoding depends on: of the kind's name, then of every token in
    /// order of id, or of the content of the `tokenizer.json` (without its white space, the order of its keys, and what
    /// it says of truncation, padding, dropout and post-processing). Each string has its length in bytes (little-endian
    /// u32) in front.
    pub fn hash(&self) -> String {
        if let Tokenizer::Json(json) = self {
            return json.hash().to_owned();
        }
        let ids = 0..u32::try_from(self.vocab_size()).expect("ids are u32");
        let tokens = ids.map(|id| self.decode_bytes(&[id]));
        hex_sha256(std::iter::once(self.name().as_bytes().to_vec()).chain(tokens))
    }

    /// The files, as names and contents, that make a directory's tokenizer readable by Hugging Face tools and by
    /// [`Tokenizer::from_files`].
    pub fn to_files(&self) -> Vec<(String, Vec<u8>)> {
        match self {
            Tokenizer::Gpt2(gpt2) => files::of_gpt2(gpt2),
            Tokenizer::Char(chars) => files::of_chars(chars),
            Tokenizer::Byte => files::of_bytes(),
            Tokenizer::Json(json) => files::of_json(json),
        }
    }

    /// The tokenizer of a directory; `read` gives the contents of the file of a name, or `None` where there is none.
    /// Looks for `tokenizer.json`, then for `vocab.json` and `merges.txt`, which are read where they are GPT-2's.
    /// A `tokenizer.json` that is GPT-2's, or one token per character or byte, gives a tokenizer of that kind.
    /// `Ok(None)` where there is no tokenizer; an error where there is one that cannot be read.
    pub fn from_files(read: impl Fn(&str) -> Option<Vec<u8>>) -> Result<Option<Tokenizer>, Error> {
        files::read_tokenizer(read)
    }

    /// Appends the bytes of one token, which `previous` then is. Only a `tokenizer.json` cares what was before.
    fn push_bytes(&self, previous: &mut Option<u32>, id: u32, out: &mut Vec<u8>) {
        match self {
            Tokenizer::Gpt2(gpt2) => {
                out.extend_from_slice(gpt2.token_bytes(id).unwrap_or(REPLACEMENT.as_bytes()));
            }
            Tokenizer::Char(chars) => {
                let c = chars.token(id).unwrap_or(char::REPLACEMENT_CHARACTER);
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
            Tokenizer::Byte => bytes::push_bytes(id, out),
            Tokenizer::Json(json) if json.push_bytes(*previous, id, out) => *previous = Some(id),
            Tokenizer::Json(_) => out.extend_from_slice(REPLACEMENT.as_bytes()),
        }
    }
}

/// SHA-256 of strings, each with its length as a little-endian u32 in front, in lower-case hexadecimal.
fn hex_sha256(strings: impl IntoIterator<Item = impl AsRef<[u8]>>) -> String {
    let mut digest = Sha256::new();
    for bytes in strings {
        let bytes = bytes.as_ref();
        let length = u32::try_from(bytes.len()).expect("what is hashed was read whole and is small");
        digest.update(length.to_le_bytes());
        digest.update(bytes);
    }
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
