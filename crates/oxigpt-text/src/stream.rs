//! Decoding token by token, for text that is shown while it is generated: a character may be split between tokens.

use crate::{REPLACEMENT, Tokenizer};

/// Decodes ids as they come. The pieces, joined, are what [`Tokenizer::decode`] gives for all ids at once.
#[derive(Clone, Debug, Default)]
pub struct StreamDecoder {
    /// The beginning of a character whose end has not come yet: at most three bytes.
    pending: Vec<u8>,
    /// The token before, on which the space in front of the next may depend.
    previous: Option<u32>,
}

impl StreamDecoder {
    /// A decoder at the beginning of a text.
    pub fn new() -> StreamDecoder {
        StreamDecoder::default()
    }

    /// Takes one id and gives the text that it completes, possibly none. Bytes that can no longer become a
    /// character come out as U+FFFD.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> String {
        tokenizer.push_bytes(&mut self.previous, id, &mut self.pending);
        let mut text = String::new();
        let mut held = Vec::new();
        let mut chunks = self.pending.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            text.push_str(chunk.valid());
            if chunks.peek().is_none() && is_incomplete(chunk.invalid()) {
                held = chunk.invalid().to_vec();
            } else if !chunk.invalid().is_empty() {
                text.push_str(REPLACEMENT);
            }
        }
        self.pending = held;
        text
    }

    /// Ends the text: what is held back comes out as U+FFFD, and the decoder is as new.
    pub fn finish(&mut self) -> String {
        let pending = std::mem::take(self).pending;
        String::from_utf8_lossy(&pending).into_owned()
    }
}

/// Whether further bytes could make a character of these, which are not UTF-8 now.
fn is_incomplete(invalid: &[u8]) -> bool {
    std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none())
}
