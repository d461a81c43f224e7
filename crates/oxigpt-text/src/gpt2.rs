//! GPT-2's byte-level byte-pair encoding, with its vocabulary embedded as the list of its merges. Token 0 to 255 are
//! the bytes in an order of GPT-2's own, the next 50,000 are made by one merge each, the last is `<|endoftext|>`.

use std::fmt;
use std::sync::LazyLock;

use rustc_hash::FxHashMap;

use crate::merge::Merges;
use crate::pieces::pieces;

/// The halves of tokens 256 to 50255, each a pair of ids as little-endian u16. Made by `examples/make_tables.rs`.
static MERGES: &[u8] = include_bytes!("../assets/gpt2_merges.bin");

static TABLES: LazyLock<Tables> = LazyLock::new(Tables::new);

/// The one special token.
pub(crate) const END_OF_TEXT: &str = "<|endoftext|>";
/// The id of [`END_OF_TEXT`].
pub(crate) const END_OF_TEXT_ID: u32 = 50_256;

const VOCAB_SIZE: usize = 50_257;

/// The byte of each of the first 256 ids.
const BYTE_OF_ID: [u8; 256] = byte_order();

/// GPT-2's tokenizer: a handle to tables that all handles share.
#[derive(Clone, Copy)]
pub struct Gpt2 {
    tables: &'static Tables,
}

struct Tables {
    /// The bytes of every token, in order of id.
    tokens: Vec<&'static [u8]>,
    /// The ordinary tokens' ids: most pieces are a token as they are.
    ids: FxHashMap<&'static [u8], u32>,
    /// The id of each byte.
    byte_ids: [u16; 256],
    merges: Merges,
    /// Length in bytes of the longest ordinary token.
    longest: usize,
}

impl Gpt2 {
    /// The tokenizer. The first call makes its tables (some milliseconds).
    pub(crate) fn new() -> Gpt2 {
        Gpt2 { tables: &TABLES }
    }

    pub(crate) fn vocab_size(self) -> usize {
        VOCAB_SIZE
    }

    pub(crate) fn token_bytes(self, id: u32) -> Option<&'static [u8]> {
        self.tables.tokens.get(usize::try_from(id).ok()?).copied()
    }

    pub(crate) fn encode_into(self, text: &str, out: &mut Vec<u32>) {
        let tables = self.tables;
        let mut scratch = Vec::new();
        for piece in pieces(text).map(str::as_bytes) {
            if piece.len() <= tables.longest
                && let Some(&id) = tables.ids.get(piece)
            {
                out.push(id);
                continue;
            }
            scratch.clear();
            scratch.extend(piece.iter().map(|&byte| tables.byte_ids[usize::from(byte)]));
            tables.merges.merge_into(&mut scratch, out);
        }
    }

    pub(crate) fn encode_with_specials(self, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        for (i, ordinary) in text.split(END_OF_TEXT).enumerate() {
            if i > 0 {
                ids.push(END_OF_TEXT_ID);
            }
            self.encode_into(ordinary, &mut ids);
        }
        ids
    }

    /// A token as GPT-2's files spell it: every byte as a visible character.
    pub(crate) fn token_text(self, id: u32) -> String {
        if id == END_OF_TEXT_ID {
            return END_OF_TEXT.to_owned();
        }
        let bytes = self.token_bytes(id).unwrap_or_default();
        bytes.iter().map(|&byte| char_of_byte_id(self.tables.byte_ids[usize::from(byte)])).collect()
    }
}

impl fmt::Debug for Gpt2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gpt2")
    }
}

impl Tables {
    fn new() -> Tables {
        let tokens = token_list();
        let ids: FxHashMap<_, _> = tokens[..END_OF_TEXT_ID as usize].iter().copied().zip(0..).collect();
        let mut byte_ids = [0; 256];
        for (&byte, id) in BYTE_OF_ID.iter().zip(0..) {
            byte_ids[usize::from(byte)] = id;
        }
        let longest = ids.keys().map(|token| token.len()).max().unwrap_or(0);
        Tables { ids, byte_ids, merges: Merges::new(merge_pairs().zip(256..)), longest, tokens }
    }
}

/// The halves of each merge, in order of rank.
pub(crate) fn merge_pairs() -> impl Iterator<Item = (u16, u16)> {
    MERGES
        .chunks_exact(4)
        .map(|pair| (u16::from_le_bytes([pair[0], pair[1]]), u16::from_le_bytes([pair[2], pair[3]])))
}

/// The bytes of every token. They lie in one block that is never freed, since the tables never are.
fn token_list() -> Vec<&'static [u8]> {
    let mut ends = Vec::with_capacity(VOCAB_SIZE);
    let mut block = BYTE_OF_ID.to_vec();
    ends.extend(1..=block.len());
    let range = |id: u16, ends: &[usize]| {
        let id = usize::from(id);
        id.checked_sub(1).map_or(0, |before| ends[before])..ends[id]
    };
    for (left, right) in merge_pairs() {
        block.extend_from_within(range(left, &ends));
        block.extend_from_within(range(right, &ends));
        ends.push(block.len());
    }
    block.extend_from_slice(END_OF_TEXT.as_bytes());
    ends.push(block.len());
    let block: &'static [u8] = block.leak();
    let starts = std::iter::once(0).chain(ends.iter().copied());
    starts.zip(&ends).map(|(start, &end)| &block[start..end]).collect()
}

/// The visible characters of Latin-1, then the other bytes.
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

/// How GPT-2's files spell the byte of an id below 256: a visible one as itself, the others in order from U+0100.
fn char_of_byte_id(id: u16) -> char {
    let byte = BYTE_OF_ID[usize::from(id)];
    if is_visible(byte) {
        return char::from(byte);
    }
    let n_visible = BYTE_OF_ID.iter().filter(|&&byte| is_visible(byte)).count();
    char::from_u32(256 + u32::from(id) - n_visible as u32).expect("U+0100 to U+0143 are characters")
}
