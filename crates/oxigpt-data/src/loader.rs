//! Which tokens make row `i` of a run. There is one global count of rows; row `i` is a pure function of the corpus, the
//! order, the block size and the seed. So a batch does not depend on how it is cut into micro-batches or spread over
//! processes, and to resume is to go on counting.
//!
//! T stands for `block_size`: a row is T inputs, and as targets the same shifted by one, so its window is T + 1 tokens.

use std::fmt;
use std::str::FromStr;

use oxigpt_compute::philox;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, WindowError};
use crate::permutation::Permutation;
use crate::tokens::Tokens;

/// Streams of random numbers under one seed (see [`philox::draw`]).
const STREAM_RANDOM: u64 = 0x6461_7461_0000;
const STREAM_PHASE: u64 = STREAM_RANDOM + 1;
const STREAM_SHUFFLE: u64 = STREAM_RANDOM + 2;

/// In which order the windows of a corpus are drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DataOrder {
    /// Without replacement, in another order and with other window borders each epoch.
    #[default]
    Shuffled,
    /// From the first window to the last, then again (build-nanogpt).
    Sequential,
    /// Each window starts anywhere, independently of the others (nanoGPT).
    Random,
}

impl FromStr for DataOrder {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "shuffled" => Ok(DataOrder::Shuffled),
            "sequential" => Ok(DataOrder::Sequential),
            "random" => Ok(DataOrder::Random),
            _ => Err(WindowError::UnknownOrder { found: name.into() }.into()),
        }
    }
}

impl fmt::Display for DataOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DataOrder::Shuffled => "shuffled",
            DataOrder::Sequential => "sequential",
            DataOrder::Random => "random",
        })
    }
}

/// Draws the rows of a training run.
#[derive(Clone, Debug)]
pub struct Loader {
    tokens: Tokens,
    order: DataOrder,
    block_size: usize,
    seed: u64,
    windows_per_epoch: u64,
    /// Largest offset of an epoch's first window.
    max_phase: u64,
}

impl Loader {
    /// A loader of windows of `block_size` tokens (and one more for the last target).
    ///
    /// # Errors
    /// If the corpus does not hold one window.
    pub fn new(tokens: &Tokens, order: DataOrder, block_size: usize, seed: u64) -> Result<Loader> {
        let whole = whole_windows(tokens, block_size)?;
        let (len, t) = (tokens.len(), block_size as u64);
        // Shuffled gives up one window (unless there is but one), so that every offset below T leaves the others room.
        let windows_per_epoch = if order == DataOrder::Shuffled { (len / t - 1).max(1) } else { whole };
        let max_phase = (len - 1 - windows_per_epoch * t).min(t - 1);
        Ok(Loader { tokens: tokens.clone(), order, block_size, seed, windows_per_epoch, max_phase })
    }

    /// Tokens in a row, T.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// The corpus.
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// Rows in an epoch. Where rows are drawn with replacement: as many as the corpus has whole windows.
    pub fn windows_per_epoch(&self) -> u64 {
        self.windows_per_epoch
    }

    /// The epoch, from 0 on, that row `cursor` belongs to.
    pub fn epoch_of(&self, cursor: u64) -> u64 {
        cursor / self.windows_per_epoch
    }

    /// Where in the corpus row `cursor` starts; it takes T + 1 tokens from there.
    pub fn window(&self, cursor: u64) -> u64 {
        let (epoch, index) = (self.epoch_of(cursor), cursor % self.windows_per_epoch);
        let t = self.block_size as u64;
        match self.order {
            DataOrder::Sequential => index * t,
            DataOrder::Random => self.uniform(STREAM_RANDOM, cursor, self.tokens.len() - t),
            DataOrder::Shuffled => {
                let phase = self.uniform(STREAM_PHASE, epoch, self.max_phase + 1);
                let order = Permutation::new(self.windows_per_epoch, self.seed, STREAM_SHUFFLE, epoch);
                phase + order.at(index) * t
            }
        }
    }

    /// Writes rows `cursor..cursor + rows`: inputs to `x`, targets to `y`, both `(rows, T)` row by row.
    ///
    /// # Panics
    /// If `x` or `y` is not `rows * T` long.
    pub fn fill(&self, cursor: u64, rows: usize, x: &mut [u32], y: &mut [u32]) {
        fill_rows(&self.tokens, self.block_size, rows, |row| self.window(cursor + row), x, y);
    }

    fn uniform(&self, stream: u64, index: u64, bound: u64) -> u64 {
        let words = philox::draw(self.seed, stream, index);
        philox::below([words[0], words[1]], bound)
    }
}

/// The fixed windows that a loss is measured on; every call sees the same ones.
#[derive(Clone, Debug)]
pub struct EvalWindows {
    tokens: Tokens,
    block_size: usize,
    /// Windows in the split, and how many of them are used, evenly spaced.
    available: u64,
    used: u64,
    spread: bool,
}

/// The first windows of a split: whole, in order, without overlap (but for the border token that is one window's last
/// target and the next one's first input); as many as the split and `max_tokens` hold.
///
/// # Errors
/// If the split or `max_tokens` does not hold one window.
pub fn eval_windows(tokens: &Tokens, block_size: usize, max_tokens: Option<u64>) -> Result<EvalWindows> {
    let available = whole_windows(tokens, block_size)?;
    let limit = max_tokens.map_or(available, |max| max / block_size as u64);
    if limit == 0 {
        return Err(WindowError::EvalTooShort { max_tokens: max_tokens.unwrap_or(0), block_size }.into());
    }
    let used = available.min(limit);
    Ok(EvalWindows { tokens: tokens.clone(), block_size, available, used, spread: false })
}

/// Like [`eval_windows`], but evenly spaced over the whole split: a fixed sample of a long training split.
///
/// # Errors
/// If the split or `max_tokens` does not hold one window.
pub fn spread_windows(tokens: &Tokens, block_size: usize, max_tokens: Option<u64>) -> Result<EvalWindows> {
    Ok(EvalWindows { spread: true, ..eval_windows(tokens, block_size, max_tokens)? })
}

impl EvalWindows {
    /// Number of windows; at least 1.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> u64 {
        self.used
    }

    /// Number of targets over all windows.
    pub fn target_tokens(&self) -> u64 {
        self.used * self.block_size as u64
    }

    /// Where in the split window `index` starts.
    pub fn window(&self, index: u64) -> u64 {
        let spread = || (u128::from(index) * u128::from(self.available) / u128::from(self.used)) as u64;
        let k = if self.spread { spread() } else { index };
        k * self.block_size as u64
    }

    /// Writes windows `first..first + rows`: inputs to `x`, targets to `y`, both `(rows, T)` row by row.
    ///
    /// # Panics
    /// If there are fewer windows, or `x` or `y` is not `rows * T` long.
    pub fn fill(&self, first: u64, rows: usize, x: &mut [u32], y: &mut [u32]) {
        assert!(first + rows as u64 <= self.used, "there are {} windows", self.used);
        fill_rows(&self.tokens, self.block_size, rows, |row| self.window(first + row), x, y);
    }
}

/// How many windows of T + 1 tokens, overlapping by one, a corpus holds; at least 1.
fn whole_windows(tokens: &Tokens, block_size: usize) -> Result<u64> {
    if block_size == 0 {
        return Err(WindowError::ZeroBlock.into());
    }
    let (found, needed) = (tokens.len(), block_size as u64 + 1);
    if found < needed {
        return Err(WindowError::TooShort { corpus: tokens.name().into(), found, needed, block_size }.into());
    }
    Ok((found - 1) / block_size as u64)
}

fn fill_rows(
    tokens: &Tokens,
    block_size: usize,
    rows: usize,
    window: impl Fn(u64) -> u64,
    x: &mut [u32],
    y: &mut [u32],
) {
    assert_eq!((x.len(), y.len()), (rows * block_size, rows * block_size), "x and y must be (rows, T)");
    for (row, (x, y)) in x.chunks_exact_mut(block_size).zip(y.chunks_exact_mut(block_size)).enumerate() {
        let start = window(row as u64);
        tokens.read(start, x);
        y[..block_size - 1].copy_from_slice(&x[1..]);
        tokens.read(start + block_size as u64, &mut y[block_size - 1..]);
    }
}
