//! The byte tokenizer: an id below 256 is that byte of the text's UTF-8, and one more id separates documents.

use crate::gpt2::END_OF_TEXT;

/// The bytes, and `<|endoftext|>`: text of many documents needs a mark between them that no text contains.
pub(crate) const VOCAB_SIZE: usize = 257;

/// The id of `<|endoftext|>`.
pub(crate) const END_OF_TEXT_ID: u32 = 256;

pub(crate) fn encode_into(text: &str, out: &mut Vec<u32>) {
    out.extend(text.bytes().map(u32::from));
}

pub(crate) fn push_bytes(id: u32, out: &mut Vec<u8>) {
    match u8::try_from(id) {
        Ok(byte) => out.push(byte),
        Err(_) if id == END_OF_TEXT_ID => out.extend_from_slice(END_OF_TEXT.as_bytes()),
        Err(_) => out.extend_from_slice(crate::REPLACEMENT.as_bytes()),
    }
}
