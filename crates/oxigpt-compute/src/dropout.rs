//! The mask of dropout: a pure function of counters, the same on every backend.
//!
//! Element `column` of row `row` of place `site` is dropped in step `step` where the word
//! `philox([row, column / 4, site, step], seed)[column % 4]` is below `p * 2^32`. Rows are counted over the whole
//! batch of a step, so that cutting it into micro-batches changes nothing: row `(first + b) * T + t` for a
//! `[B, T, C]` tensor, and row `((first + b) * H + h) * T + i`, column j, for the attention weight `a_ij` of head
//! h; `first` is the last of the counters in [`crate::Dropout::rng`], the sequence the micro-batch begins with.

use crate::philox::philox4x32;

/// A mask for one place and step.
#[derive(Clone, Copy, Debug)]
pub struct Mask {
    key: [u32; 2],
    step: u32,
    site: u32,
    threshold: u32,
    /// What a kept element is multiplied by: `1 / (1 - p)`.
    pub scale: f32,
}

impl Mask {
    /// `counters` are those of [`crate::Dropout::rng`].
    pub fn new(dropout: &crate::Dropout, counters: &[u32; 4]) -> Self {
        Mask {
            key: [counters[0], counters[1]],
            step: counters[2],
            site: dropout.site,
            threshold: (f64::from(dropout.p) * 4_294_967_296.0) as u32,
            scale: (1.0 / (1.0 - f64::from(dropout.p))) as f32,
        }
    }

    /// Words below this are dropped.
    pub fn threshold(&self) -> u32 {
        self.threshold
    }

    /// Whether each of the elements `4 * block .. 4 * block + 4` of a row is kept.
    #[inline(always)]
    pub fn keep4(&self, row: u32, block: u32) -> [bool; 4] {
        philox4x32([row, block, self.site, self.step], self.key).map(|word| word >= self.threshold)
    }

    /// Factor of one element: `scale` or zero.
    #[inline(always)]
    pub fn factor(&self, row: u32, column: usize) -> f32 {
        if self.keep4(row, (column / 4) as u32)[column % 4] { self.scale } else { 0.0 }
    }
}
