//! Byte-level byte-pair encoding with GPT-2's way of cutting a text, over any vocabulary of that kind: GPT-2's own, or
//! one read from a `tokenizer.json`. A piece that is a token as it stands is looked up whole, which most are; the others
//! are merged from their bytes.

use rustc_hash::FxHashMap;

use crate::merge::Merges;
use crate::pieces::pieces;

/// The bytes in GPT-2's order, which is the order of its ids: the visible characters of Latin-1, then the others.
pub(crate) const BYTE_ORDER: [u8; 256] = byte_order();

/// Tokens of at most this many bytes are looked up as one number, their length in its last byte.
const SHORT: usize = 7;

/// An encoder. It does not change while it encodes, so that threads share one freely.
#[derive(Debug)]
pub(crate) struct ByteBpe {
    short: ShortTokens,
    long: FxHashMap<Box<[u8]>, u16>,
    /// Length in bytes of the longest token.
    longest: usize,
    /// The token of each byte.
    byte_ids: [u16; 256],
    merges: Merges,
}

impl ByteBpe {
    /// An encoder of these merges that looks up no piece whole.
    pub(crate) fn new(byte_ids: [u16; 256], merges: Merges) -> ByteBpe {
        ByteBpe { short: ShortTokens::new(&[]), long: FxHashMap::default(), longest: 0, byte_ids, merges }
    }

    /// The encoder that looks `tokens` up whole. That changes no result as long as each of them is what its own bytes
    /// merge to.
    pub(crate) fn looking_up(mut self, tokens: &[(&[u8], u16)]) -> ByteBpe {
        let (short, long): (Vec<_>, Vec<_>) = tokens.iter().partition(|(token, _)| token.len() <= SHORT);
        self.short = ShortTokens::new(&short);
        self.longest = long.iter().map(|(token, _)| token.len()).max().unwrap_or(0);
        self.long = long.into_iter().map(|(token, id)| (token.into(), id)).collect();
        self
    }

    /// Appends the ids of `text`. The time is linear in its length but for the factor log n within a piece of n bytes.
    pub(crate) fn encode_into(&self, text: &str, out: &mut Vec<u32>) {
        let mut scratch = Vec::new();
        let mut rest = text.as_bytes();
        for piece in pieces(text) {
            match self.whole(rest, piece.len()) {
                Some(id) => out.push(id.into()),
                None => self.merge_into(piece.as_bytes(), &mut scratch, out),
            }
            rest = &rest[piece.len()..];
        }
    }

    /// The token that the first `len` bytes of `text` are.
    #[inline]
    fn whole(&self, text: &[u8], len: usize) -> Option<u16> {
        if len <= SHORT {
            return self.short.get(short_key(text, len));
        }
        if len > self.longest {
            return None;
        }
        self.long.get(&text[..len]).copied()
    }

    /// Appends what the bytes of one piece merge to. `scratch` is overwritten.
    pub(crate) fn merge_into(&self, piece: &[u8], scratch: &mut Vec<u16>, out: &mut Vec<u32>) {
        scratch.clear();
        scratch.extend(piece.iter().map(|&byte| self.byte_ids[usize::from(byte)]));
        self.merges.merge_into(scratch, out);
    }
}

/// The first `len` bytes of `text`, 1 to [`SHORT`], as a number that no other bytes give. It is not 0.
#[inline]
fn short_key(text: &[u8], len: usize) -> u64 {
    let word = match text.first_chunk() {
        Some(&eight) => u64::from_le_bytes(eight),
        None => text.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte)),
    };
    word & (u64::MAX >> (64 - 8 * len)) | (len as u64) << 56
}

/// A hash table of open addresses from a token's [`short_key`] to its id; the key 0 marks a free place.
#[derive(Debug)]
struct ShortTokens {
    places: Vec<(u64, u16)>,
    /// How far a hash is shifted to be a place: 64 less the bits of their number.
    shift: u32,
}

impl ShortTokens {
    /// At least half of the places stay free.
    fn new(tokens: &[(&[u8], u16)]) -> ShortTokens {
        let bits = (2 * tokens.len()).max(2).next_power_of_two().trailing_zeros();
        let mut table = ShortTokens { places: vec![(0, 0); 1 << bits], shift: 64 - bits };
        for &(token, id) in tokens {
            let key = short_key(token, token.len());
            let place = table.place(key);
            table.places[place] = (key, id);
        }
        table
    }

    #[inline]
    fn get(&self, key: u64) -> Option<u16> {
        let (found, id) = self.places[self.place(key)];
        (found == key).then_some(id)
    }

    /// Where `key` stands, or would.
    #[inline]
    fn place(&self, key: u64) -> usize {
        // Fibonacci hashing: the upper bits of the product by 2^64 / golden ratio.
        let mut place = (key.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> self.shift) as usize;
        while self.places[place].0 != key && self.places[place].0 != 0 {
            place = (place + 1) & (self.places.len() - 1);
        }
        place
    }
}

const fn byte_order() -> [u8; 256] {
    let mut order = [0; 256];
    let mut n = 0;
    let mut pass = 0;
    while pass < 2 {
        let mut byte = 0;
        while byte < 256 {
            if is_visible(byte as u8) == (pass == 0) {
                order[n] = byte as u8;
                n += 1;
            }
            byte += 1;
        }
        pass += 1;
    }
    order
}

const fn is_visible(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
}

/// How files spell each byte: a visible one as itself, the others in order from U+0100.
pub(crate) fn byte_spelling() -> [char; 256] {
    let mut spelling = ['\0'; 256];
    let mut hidden = '\u{100}'..;
    for byte in BYTE_ORDER {
        spelling[usize::from(byte)] =
            if is_visible(byte) { char::from(byte) } else { hidden.next().unwrap_or_default() };
    }
    spelling
}
