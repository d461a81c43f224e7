//! The tokens of one split as one long stream, over however many shards it is cut into.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::error::Result;
use crate::shard::Shard;

/// Blocks of a shard that go into [`Tokens::fingerprint`], and tokens in each.
const SAMPLES: u64 = 256;
const SAMPLE_TOKENS: u64 = 2048;

/// A read-only stream of tokens. Cloning it is cheap: the shards are shared.
#[derive(Clone, Debug)]
pub struct Tokens {
    name: Arc<str>,
    shards: Arc<[Shard]>,
    /// Position in the stream at which each shard ends.
    ends: Arc<[u64]>,
}

impl Tokens {
    /// The concatenation of `shards`; `name` is what errors call it.
    pub fn new(name: &str, shards: Vec<Shard>) -> Tokens {
        let ends = shards.iter().scan(0, |end, shard| {
            *end += shard.len();
            Some(*end)
        });
        Tokens { name: name.into(), ends: ends.collect(), shards: shards.into() }
    }

    /// What errors call it, e.g. `data/stories (train)`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Number of tokens.
    pub fn len(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Whether there is no token, as in a split that the directory does not have.
    pub fn is_empty(&self) -> bool {
        self.shards.is_empty()
    }

    /// The shards in order.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// Copies the tokens from `start` on into `out`, across the borders of shards.
    ///
    /// # Panics
    /// If the stream ends before `out` is full.
    pub fn read(&self, start: u64, out: &mut [u32]) {
        assert!(
            start.checked_add(out.len() as u64).is_some_and(|end| end <= self.len()),
            "{} holds {} tokens; {} were read from {start} on",
            self.name,
            self.len(),
            out.len()
        );
        let mut index = self.ends.partition_point(|&end| end <= start);
        let mut position = start;
        let mut rest = out;
        while !rest.is_empty() {
            let count = rest.len().min((self.ends[index] - position) as usize);
            let (part, after) = rest.split_at_mut(count);
            let shard = &self.shards[index];
            shard.read(position - (self.ends[index] - shard.len()), part);
            position += count as u64;
            rest = after;
            index += 1;
        }
    }

    /// Reads every token, at the speed of memory, and checks that it is in the vocabulary.
    ///
    /// # Errors
    /// [`crate::ShardError::TokenOutOfVocab`] with the first token that is not.
    pub fn validate(&self, vocab_size: usize) -> Result<()> {
        self.shards.iter().try_for_each(|shard| shard.validate(vocab_size))
    }

    /// Adds to `hasher` the number of tokens of every shard and up to 256 blocks of its content, evenly spaced:
    /// enough to tell datasets apart without reading gigabytes.
    pub(crate) fn fingerprint(&self, hasher: &mut Sha256) {
        hasher.update((self.shards.len() as u64).to_le_bytes());
        for shard in self.shards.iter() {
            hasher.update(shard.len().to_le_bytes());
            let last = shard.len().saturating_sub(SAMPLE_TOKENS);
            let samples = shard.len().div_ceil(SAMPLE_TOKENS).min(SAMPLES);
            for k in 0..samples {
                let start = last * k / (samples - 1).max(1);
                let count = SAMPLE_TOKENS.min(shard.len() - start);
                hasher.update(shard.token_bytes(start, count as usize));
            }
        }
    }
}
