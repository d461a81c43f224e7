//! Products with matrices that are only read: every weight is read once, in the order in which it lies.
//!
//! A matrix `[O, C]` lies in panels of 32 outputs. Along C a panel goes on in steps of 128 bytes, four of each output: one
//! float32, two bfloat16 or four integers. Activations are made to match, in tiles of a few rows, and a tile is multiplied
//! by a whole panel in registers (see [`super::stored_kernels`]). The sum of a row has one order, whatever rows are beside it.

use std::ops::Range;

use super::bf16::pair;
use super::memory::Shared;
use super::pool::Pool;
use super::stored_kernels::{Sums, TALLEST, multiply, tallest};
use crate::storage::{PANEL, int8, int8_scale};
use crate::{Op, Plan, Storage, TensorId};

/// Tasks that a product is cut into if it has so many panels, and panels of a task at most.
const TASKS: usize = 16;
const TASK_PANELS: usize = 32;

/// Words of activations that the panels of a task are multiplied by before the next: half a second-level cache.
const BLOCK_WORDS: usize = 1 << 17;

/// A stored matrix. Word `step * PANEL + j` of a panel holds elements of its output `j`; where they are integers, 128 more than
/// they are, to be unsigned, the scales of all outputs follow.
#[derive(Clone, Copy)]
pub(super) struct Stored<'a> {
    storage: Storage,
    pub(super) n_out: usize,
    pub(super) n_in: usize,
    words: Shared<'a, u32>,
}

/// Four integers, each 128 more than it is.
fn unsigned_bytes(four: [i8; 4]) -> u32 {
    u32::from_le_bytes(four.map(|q| q as u8 ^ 0x80))
}

impl<'a> Stored<'a> {
    pub(super) fn new(storage: Storage, [n_out, n_in]: [usize; 2], words: Shared<'a, u32>) -> Self {
        assert_eq!(4 * words.len(), storage.bytes(n_out, n_in));
        Stored { storage, n_out, n_in, words }
    }

    fn steps(&self) -> usize {
        self.n_in.div_ceil(self.storage.group())
    }

    fn n_panels(&self) -> usize {
        self.n_out.div_ceil(PANEL)
    }

    fn panel_range(&self, panel: usize) -> Range<usize> {
        let words = self.steps() * PANEL;
        panel * words..(panel + 1) * words
    }

    fn scales_range(&self) -> Range<usize> {
        self.n_panels() * self.steps() * PANEL..self.words.len()
    }

    /// Writes all elements.
    ///
    /// # Safety
    /// Nobody else touches the matrix during the call.
    pub(super) unsafe fn write(&self, pool: &mut Pool, elements: &[f32]) {
        assert_eq!(elements.len(), self.n_out * self.n_in);
        let rows = |panel: usize| panel * PANEL..((panel + 1) * PANEL).min(self.n_out);
        pool.run(self.n_panels(), |panel, _| {
            // SAFETY: each panel is one task's, and so are its scales.
            let words = unsafe { self.words.write(self.panel_range(panel)) };
            for (j, row) in rows(panel).enumerate() {
                let elements = &elements[row * self.n_in..(row + 1) * self.n_in];
                let words = words.iter_mut().skip(j).step_by(PANEL);
                match self.storage {
                    Storage::Float32 => words.zip(elements).for_each(|(to, x)| *to = x.to_bits()),
                    Storage::Bfloat16 => {
                        let pairs = elements.chunks(2);
                        words
                            .zip(pairs)
                            .for_each(|(to, x)| *to = pair(x[0], x.get(1).copied().unwrap_or(0.0)));
                    }
                    Storage::Int8 => {
                        let scale = int8_scale(elements);
                        for (to, x) in words.zip(elements.chunks(4)) {
                            let mut four = [0; 4];
                            four.iter_mut().zip(x).for_each(|(q, &x)| *q = int8(x, scale));
                            *to = unsigned_bytes(four);
                        }
                        let at = self.scales_range().start + row;
                        // SAFETY: as above.
                        unsafe { self.words.write(at..at + 1)[0] = scale.to_bits() };
                    }
                }
            }
        });
    }

    /// The elements of one output.
    ///
    /// # Safety
    /// Nobody writes to the matrix during the call.
    pub(super) unsafe fn read_row(&self, row: usize, to: &mut [f32]) {
        // SAFETY: passed on to the caller.
        let (words, scales) =
            unsafe { (self.words.read(self.panel_range(row / PANEL)), self.words.read(self.scales_range())) };
        let words = words.iter().skip(row % PANEL).step_by(PANEL);
        for (to, &word) in to.chunks_mut(self.storage.group()).zip(words) {
            match self.storage {
                Storage::Float32 => to[0] = f32::from_bits(word),
                Storage::Bfloat16 => {
                    to.iter_mut()
                        .zip([word << 16, word & 0xffff_0000])
                        .for_each(|(to, b)| *to = f32::from_bits(b));
                }
                Storage::Int8 => {
                    let scale = f32::from_bits(scales[row]);
                    let integers = word.to_le_bytes().map(|q| f32::from((q ^ 0x80) as i8));
                    to.iter_mut().zip(integers).for_each(|(to, q)| *to = scale * q);
                }
            }
        }
    }
}

/// Words of scratch for products of a plan with stored matrices.
pub(super) fn scratch_len(plan: &Plan) -> usize {
    let words = |w: TensorId, rows: usize| {
        let tensor = plan.tensor(w);
        tensor.storage().map_or(0, |storage| rows * (words_a_row(storage, tensor.width()) + 1))
    };
    let ops = plan.phases().flat_map(|(_, phase)| &phase.ops);
    let of_op = |op: &Op| match *op {
        Op::Linear { x, w, .. } => words(w, plan.tensor(x).rows()),
        Op::Classifier { w, logits, .. } => words(w, plan.tensor(logits).rows()),
        _ => 0,
    };
    ops.map(of_op).max().unwrap_or(0)
}

/// Words that a row of activations takes beside matrices of a storage. Beside integers it has two digits of eight bits, four
/// elements of each in a word, and begins with two sums (see [`pack_digits`]).
fn words_a_row(storage: Storage, width: usize) -> usize {
    match storage {
        Storage::Float32 | Storage::Bfloat16 => width.div_ceil(storage.group()),
        Storage::Int8 => 2 * (width.div_ceil(4) + 1),
    }
}

/// Largest number of two signed digits of eight bits whose negative is one too.
const LARGEST: f32 = 127.0 * 257.0;

/// A row as numbers of two signed digits, `scale * (256 high + low)`, of which [`LARGEST`] is the largest magnitude in the row:
/// finer than bfloat16 for elements within 1/256 of the largest. Words are `stride` apart; the first of each digit
/// is what sums must begin with, because the weights they are made of are 128 too large. Gives the scale; for a row that is not
/// finite, not a number, and no words.
fn pack_digits(row: &[f32], to: &mut [u32], stride: usize) -> f32 {
    if !row.iter().all(|x| x.is_finite()) {
        return f32::NAN;
    }
    let largest = row.iter().fold(0.0, |largest: f32, x| largest.max(x.abs()));
    let (mut high_sum, mut low_sum) = (0, 0);
    // What is so small is zero: its inverse would be infinite.
    let inverse = if largest > 1e-30 { LARGEST / largest } else { 0.0 };
    for (k, four) in row.chunks(4).enumerate() {
        let (mut high, mut low) = ([0i8; 4], [0i8; 4]);
        for (i, &x) in four.iter().enumerate() {
            let number = round_to_i32(x * inverse);
            let digit = (number + 128) >> 8;
            (high[i], low[i]) = (digit as i8, (number - 256 * digit) as i8);
            high_sum += digit;
            low_sum += number - 256 * digit;
        }
        let at = (k + 1) * stride;
        to[at] = u32::from_le_bytes(high.map(|digit| digit as u8));
        to[at + 1] = u32::from_le_bytes(low.map(|digit| digit as u8));
    }
    (to[0], to[1]) = ((-128 * high_sum) as u32, (-128 * low_sum) as u32);
    if inverse > 0.0 { largest / LARGEST } else { 0.0 }
}

/// The nearest integer to a number below 2^22: unlike a cast, in code that vectorises.
#[inline(always)]
fn round_to_i32(x: f32) -> i32 {
    const ROUND: f32 = 12_582_912.0;
    (x + ROUND).to_bits() as i32 - ROUND.to_bits() as i32
}

/// Packs rows as a tile; gives the scale of each.
fn pack_tile(storage: Storage, x: &[f32], width: usize, to: &mut [u32], scales: &mut [u32]) {
    let rows = scales.len();
    for (i, (row, scale)) in x.chunks_exact(width).zip(scales).enumerate() {
        *scale = 1f32.to_bits();
        match storage {
            Storage::Float32 => {
                to[i..].iter_mut().step_by(rows).zip(row).for_each(|(to, x)| *to = x.to_bits());
            }
            Storage::Bfloat16 => {
                let pairs = row.chunks(2).map(|x| pair(x[0], x.get(1).copied().unwrap_or(0.0)));
                to[i..].iter_mut().step_by(rows).zip(pairs).for_each(|(to, pair)| *to = pair);
            }
            Storage::Int8 => *scale = pack_digits(row, &mut to[2 * i..], 2 * rows).to_bits(),
        }
    }
}

/// `out = x W^T + bias` for rows `x`; `after` sees rows and columns of each part of the result on the thread that wrote it.
///
/// # Safety
/// Nobody else touches `out`, and nobody writes to `x` or `w`, during the call. `after` touches, of what others may touch, only
/// its part of a row.
pub(super) unsafe fn product(
    pool: &mut Pool,
    (x, w, bias): (&[f32], Stored, Option<&[f32]>),
    out: Shared,
    scratch: &mut [u32],
    after: impl Fn(usize, Range<usize>) + Sync,
) {
    let (n_in, n_out) = (w.n_in, w.n_out);
    let rows = x.len() / n_in;
    let (row_words, tall) = (words_a_row(w.storage, n_in), tallest(w.storage));
    let (tiles, scales) = scratch[..rows * (row_words + 1)].split_at_mut(rows * row_words);
    let tile_rows = |tile: usize| tile * tall..((tile + 1) * tall).min(rows);
    let (tiles, scales) = (Shared::of(tiles), Shared::of(scales));
    let n_tiles = rows.div_ceil(tall);
    pool.run(n_tiles, |tile, _| {
        let rows = tile_rows(tile);
        // SAFETY: each tile is one task's.
        let (to, scales) = unsafe {
            (tiles.write(rows.start * row_words..rows.end * row_words), scales.write(rows.clone()))
        };
        pack_tile(w.storage, &x[rows.start * n_in..rows.end * n_in], n_in, to, scales);
    });

    let task_panels = (w.n_panels() / TASKS).clamp(1, TASK_PANELS);
    let block_tiles = (BLOCK_WORDS / (row_words * tall)).clamp(1, n_tiles);
    let n_blocks = n_tiles.div_ceil(block_tiles);
    pool.run(n_blocks * w.n_panels().div_ceil(task_panels), |task, _| {
        let (first_tile, first_panel) = (task % n_blocks * block_tiles, task / n_blocks * task_panels);
        let mut sums: Sums = [[0.0; PANEL]; TALLEST];
        for panel in first_panel..(first_panel + task_panels).min(w.n_panels()) {
            // SAFETY: nobody writes to weights or tiles, and each part of the result is written once.
            unsafe {
                let (words, cols) =
                    (w.words.read(w.panel_range(panel)), panel * PANEL..n_out.min((panel + 1) * PANEL));
                for tile in first_tile..(first_tile + block_tiles).min(n_tiles) {
                    let rows = tile_rows(tile);
                    let a = tiles.read(rows.start * row_words..rows.end * row_words);
                    multiply(w.storage, a, words, rows.len(), &mut sums);
                    let output_scales = w.words.read(w.scales_range());
                    for (row, sums) in rows.clone().zip(&mut sums) {
                        if w.storage == Storage::Int8 {
                            let scale = f32::from_bits(scales.read(row..row + 1)[0]);
                            for (sum, &of_output) in sums.iter_mut().zip(&output_scales[cols.clone()]) {
                                *sum *= scale * f32::from_bits(of_output);
                            }
                        }
                        if let Some(bias) = bias {
                            sums.iter_mut().zip(&bias[cols.clone()]).for_each(|(sum, b)| *sum += b);
                        }
                        let at = row * n_out;
                        out.write(at + cols.start..at + cols.end).copy_from_slice(&sums[..cols.len()]);
                        after(row, cols.clone());
                    }
                }
            }
        }
    });
}
