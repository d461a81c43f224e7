//! Tokenizers: text to token ids and back. GPT-2's byte-pair encoding with its vocabulary embedded, and one token per
//! character. The crate opens no file: callers hand over the bytes of tokenizer files and take them back to write.

mod chars;
mod error;
mod files;
mod gpt2;
mod merge;
mod pieces;
mod stream;

pub use chars::CharTokenizer;
pub use error::Error;
pub use gpt2::Gpt2;
pub use stream::StreamDecoder;

use sha2::{Digest, Sha256};

/// What an id outside the vocabulary decodes to: U+FFFD, the replacement character.
const REPLACEMENT: &str = "\u{FFFD}";

/// A tokenizer of either kind. Cloning one is cheap for GPT-2 and proportional to the vocabulary for characters.
#[derive(Clone, Debug)]
pub enum Tokenizer {
    /// GPT-2's byte-pair encoding: 50,257 tokens, any text.
    Gpt2(Gpt2),
    /// One token per character of a fixed set.
    Char(CharTokenizer),
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

    /// The kind's name: `gpt2` or `char`.
    pub fn name(&self) -> &'static str {
        match self {
            Tokenizer::Gpt2(_) => "gpt2",
            Tokenizer::Char(_) => "char",
        }
    }

    /// Number of tokens, special ones included; every id is below it.
    pub fn vocab_size(&self) -> usize {
        match self {
            Tokenizer::Gpt2(gpt2) => gpt2.vocab_size(),
            Tokenizer::Char(chars) => chars.vocab_size(),
        }
    }

    /// The ids of `text`, all of it taken as ordinary text: a literal `<|endoftext|>` is thirteen characters.
    /// Fails only for the character tokenizer, on characters that it does not have.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        let mut ids = Vec::new();
        self.encode_into(text, &mut ids)?;
        Ok(ids)
    }

    /// Like [`Tokenizer::encode`], but GPT-2's literal `<|endoftext|>` becomes the one token of that name.
    pub fn encode_with_specials(&self, text: &str) -> Result<Vec<u32>, Error> {
        match self {
            Tokenizer::Gpt2(gpt2) => Ok(gpt2.encode_with_specials(text)),
            Tokenizer::Char(_) => self.encode(text),
        }
    }

    /// Like [`Tokenizer::encode`], appending to `out`. On an error `out` is as it was.
    pub fn encode_into(&self, text: &str, out: &mut Vec<u32>) -> Result<(), Error> {
        match self {
            Tokenizer::Gpt2(gpt2) => {
                gpt2.encode_into(text, out);
                Ok(())
            }
            Tokenizer::Char(chars) => chars.encode_into(text, out),
        }
    }

    /// The bytes of any sequence of ids. They need not be whole UTF-8 (a GPT-2 token may be part of a character);
    /// an id outside the vocabulary gives the bytes of U+FFFD.
    pub fn decode_bytes(&self, ids: &[u32]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(4 * ids.len());
        ids.iter().for_each(|&id| self.push_bytes(id, &mut bytes));
        bytes
    }

    /// The text of any sequence of ids, with U+FFFD for what is not UTF-8.
    pub fn decode(&self, ids: &[u32]) -> String {
        String::from_utf8_lossy(&self.decode_bytes(ids)).into_owned()
    }

    /// The id that separates documents: 50256 for GPT-2, none for characters.
    pub fn end_of_text(&self) -> Option<u32> {
        match self {
            Tokenizer::Gpt2(_) => Some(gpt2::END_OF_TEXT_ID),
            Tokenizer::Char(_) => None,
        }
    }

    /// SHA-256 of the vocabulary in lower-case hexadecimal: of the kind's name, then of every token in order of id,
    /// each string with its length in bytes (little-endian u32) in front.
    pub fn hash(&self) -> String {
        let mut digest = Sha256::new();
        let mut update = |bytes: &[u8]| {
            let length = u32::try_from(bytes.len()).expect("names and tokens are short");
            digest.update(length.to_le_bytes());
            digest.update(bytes);
        };
        update(self.name().as_bytes());
        for id in 0..self.vocab_size() {
            let id = u32::try_from(id).expect("ids are u32");
            update(&self.decode_bytes(&[id]));
        }
        digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The files, as names and contents, that make a directory's tokenizer readable by Hugging Face tools and by
    /// [`Tokenizer::from_files`].
    pub fn to_files(&self) -> Vec<(String, Vec<u8>)> {
        match self {
            Tokenizer::Gpt2(gpt2) => files::of_gpt2(gpt2),
            Tokenizer::Char(chars) => files::of_chars(chars),
        }
    }

    /// The tokenizer of a directory; `read` gives the contents of the file of a name, or `None` where there is none.
    /// Looks for `tokenizer.json`, then for `vocab.json` and `merges.txt`. `Ok(None)` where there is no tokenizer;
    /// an error where there is one that is neither GPT-2's nor a character tokenizer.
    pub fn from_files(read: impl Fn(&str) -> Option<Vec<u8>>) -> Result<Option<Tokenizer>, Error> {
        files::read_tokenizer(read)
    }

    /// Appends the bytes of one token.
    fn push_bytes(&self, id: u32, out: &mut Vec<u8>) {
        match self {
            Tokenizer::Gpt2(gpt2) => {
                out.extend_from_slice(gpt2.token_bytes(id).unwrap_or(REPLACEMENT.as_bytes()));
            }
            Tokenizer::Char(chars) => {
                let c = chars.token(id).unwrap_or(char::REPLACEMENT_CHARACTER);
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
    }
}
