//! GPT-2's byte-level byte-pair encoding, with its vocabulary embedded as the list of its merges. Token 0 to 255 are
//! the bytes in an order of GPT-2's own, the next 50,000 are made by one merge each, the last is `<|endoftext|>`.

use std::fmt;
use std::sync::LazyLock;

use crate::bpe::{BYTE_ORDER, ByteBpe, byte_spelling};
use crate::merge::Merges;

/// The halves of tokens 256 to 50255, each a pair of ids as little-endian u16. Made by `examples/make_tables.rs`.
static MERGES: &[u8] = include_bytes!("../assets/gpt2_merges.bin");

static TABLES: LazyLock<Tables> = LazyLock::new(Tables::new);

/// The one special token.
pub(crate) const END_OF_TEXT: &str = "<|endoftext|>";
/// The id of [`END_OF_TEXT`].
pub(crate) const END_OF_TEXT_ID: u32 = 50_256;

const VOCAB_SIZE: usize = 50_257;

/// GPT-2's tokenizer: a handle to tables that all handles share.
#[derive(Clone, Copy)]
pub struct Gpt2 {
    tables: &'static Tables,
}

struct Tables {
    /// The bytes of every token, in order of id.
    tokens: Vec<&'static [u8]>,
    bpe: ByteBpe,
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
        self.tables.bpe.encode_into(text, out);
    }

    /// The tokens as GPT-2's files spell them, in order of id: every byte as a visible character.
    pub(crate) fn token_texts(self) -> Vec<String> {
        let spelling = byte_spelling();
        let spell = |token: &&[u8]| token.iter().map(|&byte| spelling[usize::from(byte)]).collect();
        let mut texts: Vec<String> = self.tables.tokens.iter().map(spell).collect();
        texts[END_OF_TEXT_ID as usize] = END_OF_TEXT.to_owned();
        texts
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
        let mut byte_ids = [0; 256];
        for (&byte, id) in BYTE_ORDER.iter().zip(0..) {
            byte_ids[usize::from(byte)] = id;
        }
        // Every token is what its own bytes merge to: the tests compare each with OpenAI's.
        let ordinary: Vec<(&[u8], u16)> =
            tokens[..END_OF_TEXT_ID as usize].iter().copied().zip(0..).collect();
        let bpe = ByteBpe::new(byte_ids, Merges::new(merge_pairs().zip(256..))).looking_up(&ordinary);
        Tables { tokens, bpe }
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
    let mut block = BYTE_ORDER.to_vec();
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
