//! Matrix products whose operands are rounded to bfloat16 and whose sums are float32.
//!
//! Operands are packed into panels, once for all threads: some rows of the left one, some columns of the right one,
//! pairs of neighbours along the inner dimension side by side, as the processor's instruction takes them (`vdpbf16ps`: a
//! product of two pairs, added to a float32). A left operand that is stored in bfloat16 along that dimension lies in
//! pairs already, and is multiplied where it lies. Each task multiplies some panels of both, which stay in its core's
//! second-level cache: two panels give a tile of the result, summed up in registers. What is packed at a time stays in
//! the third-level cache. Operands and result may each be float32 or bfloat16 in memory.
//!
//! How a product is cut along its inner dimension depends on the shape alone, and no sum on how it is cut across, so results
//! do not depend on the number of threads. A processor with matrix registers
//! (AMX) would take its place in `kernel.rs` and choose the sizes of panels here.

mod element;
mod kernel;
mod pack;

use std::ops::Range;

use bytemuck::cast_slice;
pub(super) use element::Element;
use kernel::{Start, Sums, multiply};
use pack::pack;
pub(super) use pack::{pair, pairs_across, pairs_along};

use super::block::Left;
use super::gemm::{Matrix, Operand, Product, Tile};
use super::memory::Shared;
use super::pool::Pool;
use crate::bfloat16::Bf16;

/// Rows of a panel of the left operand, and the room that they take.
const TALL: usize = 14;
const LEFT: usize = 16;
/// Columns of a panel of the right operand.
const WIDE: usize = 32;

/// Pairs along the inner dimension that are multiplied before the next, where sums can lie in the result meanwhile: in
/// float32.
const DEPTH: usize = 512;

/// Words of packed panels of the left and of the right operand that a task multiplies: together three quarters of a
/// second-level cache. A single panel may take more.
const TASK_WORDS: [usize; 2] = [1 << 16, 1 << 17];

/// Words of either that are packed at a time, for each of up to eight threads: enough that the right operand is seldom
/// packed twice, and little beside a third-level cache.
const PACKED_WORDS: [usize; 2] = [1 << 19, 3 << 18];

/// Panels that a task packs.
const PANELS: usize = 8;

/// Tasks of each thread that a product is cut into, at least, if it is not too small: fewer would leave threads waiting
/// for the last one.
const TASKS: usize = 8;

/// Whether this processor multiplies bfloat16 itself. Where it does not, float32 instructions give the same to rounding,
/// more slowly than products in float32.
pub fn has_bfloat16() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx512bf16")
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// Words of scratch for products of any size whose inner dimension is at most `depth`.
pub(super) fn scratch_len(depth: usize, threads: usize) -> usize {
    rooms(depth.div_ceil(2), threads).iter().sum()
}

/// Words that are packed at a time of the left and of the right operand: one panel at least.
fn rooms(pairs: usize, threads: usize) -> [usize; 2] {
    let [left, right] = PACKED_WORDS.map(|words| words * threads.min(8));
    [left.max(pairs * LEFT), right.max(pairs * WIDE)]
}

/// The panels of an operand.
#[derive(Clone, Copy)]
struct Side {
    /// Rows or columns of the result, and of a panel.
    len: usize,
    lanes: usize,
    /// Words of a pair in all lanes.
    width: usize,
    /// Panels that are packed at a time.
    at_once: usize,
}

impl Side {
    fn panels(&self) -> usize {
        self.len.div_ceil(self.lanes)
    }

    fn chunks(&self) -> usize {
        self.panels().div_ceil(self.at_once)
    }

    fn chunk(&self, index: usize) -> Range<usize> {
        index * self.at_once..((index + 1) * self.at_once).min(self.panels())
    }

    /// Rows or columns of panels.
    fn lanes_of(&self, panels: &Range<usize>) -> Range<usize> {
        panels.start * self.lanes..(panels.end * self.lanes).min(self.len)
    }
}

/// The product over the pool; `after` sees each tile on the thread that completes it. `scratch` is [`scratch_len`] words.
///
/// # Safety
/// Nobody else touches `c`, and nobody writes to `a` or `b`, during the call. `after` touches, of what other tiles write,
/// only its own tile.
pub(super) unsafe fn product(
    pool: &mut Pool,
    of: &Product,
    scratch: Shared<u32>,
    after: impl Fn(&Tile) + Sync,
) {
    let Product { c, a, b, .. } = of;
    assert!(a.rows() == c.rows() && b.cols() == c.cols() && a.cols() == b.rows(), "product of unlike shapes");
    let pairs = match c {
        Operand::F32(_) => a.cols().div_ceil(2).min(DEPTH),
        Operand::Bf16(_) => a.cols().div_ceil(2),
    };
    let rooms = rooms(pairs, pool.threads());
    let side = |len, lanes, width, room: usize| Side { len, lanes, width, at_once: room / (pairs * width) };
    let mut sides = [side(c.rows(), TALL, LEFT, rooms[0]), side(c.cols(), WIDE, WIDE, rooms[1])];
    let in_pairs = in_pairs(a);
    if in_pairs.is_some() {
        sides[0].at_once = sides[0].panels();
    }
    // SAFETY: the caller's promise.
    let (left, right) = unsafe { scratch.write(0..rooms[0] + rooms[1]) }.split_at_mut(rooms[0]);
    let packed = [Shared::of(left), Shared::of(right)];
    for slice in ranges(0..a.cols(), 2 * pairs) {
        let mut done = [0..0, 0..0];
        for chunk in chunks(&sides) {
            let part = Part { of, in_pairs, sides: &sides, slice: slice.clone(), chunk: &chunk, packed };
            // SAFETY: passed on to the caller; nobody else knows of the scratch.
            unsafe {
                part.pack(pool, [in_pairs.is_none() && chunk[0] != done[0], chunk[1] != done[1]]);
                part.multiply(pool, &after);
            }
            done = chunk;
        }
    }
}

/// A left operand that needs no packing. Rows a multiple of 2 KiB apart would drive each other out of a first-level
/// cache: they fall into two of its 64 sets.
fn in_pairs<'a>(a: &Operand<'a>) -> Option<Matrix<'a, Bf16>> {
    let Operand::Bf16(a) = *a else { return None };
    if !a.rows_are_contiguous() {
        return None;
    }
    let (first, stride) = a.first_and_stride();
    let are_words = first.cast::<u32>().is_aligned() && stride.is_multiple_of(2) && a.cols.is_multiple_of(2);
    (are_words && !stride.is_multiple_of(1 << 10)).then_some(a)
}

/// All pairs of chunks of both operands, so that the one with fewer chunks has each of them packed once.
fn chunks(sides: &[Side; 2]) -> impl Iterator<Item = [Range<usize>; 2]> {
    let [left, right] = *sides;
    let [n_left, n_right] = [left.chunks(), right.chunks()];
    (0..n_left * n_right).map(move |i| match n_left <= n_right {
        true => [left.chunk(i / n_right), right.chunk(i % n_right)],
        false => [left.chunk(i % n_left), right.chunk(i / n_left)],
    })
}

/// Part of a product: a slice of the inner dimension, and a chunk of the panels of either operand.
struct Part<'a> {
    of: &'a Product<'a>,
    /// The left operand, if it is not packed.
    in_pairs: Option<Matrix<'a, Bf16>>,
    sides: &'a [Side; 2],
    slice: Range<usize>,
    chunk: &'a [Range<usize>; 2],
    packed: [Shared<'a, u32>; 2],
}

impl Part<'_> {
    fn pairs(&self) -> usize {
        self.slice.len().div_ceil(2)
    }

    /// Where panels of a side lie in what is packed.
    fn words(&self, side: usize, panels: &Range<usize>) -> Range<usize> {
        let (panel, first) = (self.pairs() * self.sides[side].width, self.chunk[side].start);
        (panels.start - first) * panel..(panels.end - first) * panel
    }

    /// Packs the chunks of the sides where that is asked for.
    ///
    /// # Safety
    /// Nobody writes to the operands, and nobody else touches what is packed.
    unsafe fn pack(&self, pool: &mut Pool, asked: [bool; 2]) {
        let groups = |side: usize| ranges(self.chunk[side].clone(), PANELS);
        let n_groups = [0, 1].map(|side| if asked[side] { groups(side).count() } else { 0 });
        pool.run(n_groups[0] + n_groups[1], |index, _| {
            let (side, group) = if index < n_groups[0] { (0, index) } else { (1, index - n_groups[0]) };
            let panels = groups(side).nth(group).expect("one of the groups");
            let Side { lanes, width, .. } = self.sides[side];
            let along = self.sides[side].lanes_of(&panels);
            let from = match side {
                0 => self.of.a.part(along, self.slice.clone()),
                _ => self.of.b.part(self.slice.clone(), along).t(),
            };
            // SAFETY: groups do not overlap; the rest is the caller's promise.
            unsafe { pack(from, lanes, width, self.packed[side].write(self.words(side, &panels))) };
        });
    }

    /// Panels of either side that a task multiplies.
    fn of_a_task(&self, threads: usize) -> [usize; 2] {
        let panels = [0, 1].map(|side| self.chunk[side].len());
        let fit = |side: usize| TASK_WORDS[side] / (self.pairs() * self.sides[side].width);
        let mut task = [0, 1].map(|side| fit(side).clamp(1, panels[side]));
        let n_tasks = |task: [usize; 2]| panels[0].div_ceil(task[0]) * panels[1].div_ceil(task[1]);
        while n_tasks(task) < TASKS * threads && task[0] * task[1] > 4 {
            let larger = usize::from(task[0] * TALL < task[1] * WIDE);
            task[larger] = task[larger].div_ceil(2);
        }
        task
    }

    /// Multiplies what is packed.
    ///
    /// # Safety
    /// As [`product`].
    unsafe fn multiply(&self, pool: &mut Pool, after: &(impl Fn(&Tile) + Sync)) {
        let task = self.of_a_task(pool.threads());
        let groups = |side: usize| ranges(self.chunk[side].clone(), task[side]);
        let n_rows = groups(0).count();
        pool.run(n_rows * groups(1).count(), |index, _| {
            let (group_of_rows, group_of_cols) = (index % n_rows, index / n_rows);
            let rows = groups(0).nth(group_of_rows).expect("one of the groups");
            let cols = groups(1).nth(group_of_cols).expect("one of the groups");
            // SAFETY: tiles of the result are disjoint; the rest is the caller's promise.
            unsafe { self.tiles(&rows, &cols) };
            if self.slice.end == self.of.a.cols() {
                let [rows, cols] = [self.sides[0].lanes_of(&rows), self.sides[1].lanes_of(&cols)];
                after(&Tile { rows, cols });
            }
        });
    }

    /// A panel of the left operand.
    ///
    /// # Safety
    /// Nobody writes to the operand, or packs.
    unsafe fn left(&self, panel: usize) -> Left<'_, u32> {
        let panel = panel..panel + 1;
        // SAFETY: the caller's promise.
        unsafe {
            if let Some(a) = self.in_pairs {
                let (data, stride) = a.part(self.sides[0].lanes_of(&panel), self.slice.clone()).span();
                return Left { data: cast_slice(data), row_stride: stride / 2, k_stride: 1 };
            }
            Left { data: self.packed[0].read(self.words(0, &panel)), row_stride: 1, k_stride: LEFT }
        }
    }

    /// One task's tiles of the result.
    ///
    /// # Safety
    /// As [`product`], of these tiles.
    unsafe fn tiles(&self, rows: &Range<usize>, cols: &Range<usize>) {
        let (of, pairs) = (self.of, self.pairs());
        // SAFETY: everything is packed, and nobody packs now.
        let right = unsafe { self.packed[1].read(self.words(1, cols)) };
        let cols = self.sides[1].lanes_of(cols);
        for (cols, right) in ranges(cols, WIDE).zip(right.chunks_exact(pairs * WIDE)) {
            let start = match of.bias {
                _ if of.accumulate || self.slice.start > 0 => Start::Add,
                Some(bias) => Start::Bias(&bias[cols.clone()]),
                None => Start::Zero,
            };
            for panel in rows.clone() {
                let rows = self.sides[0].lanes_of(&(panel..panel + 1));
                // SAFETY: the caller's promise.
                unsafe {
                    let left = self.left(panel);
                    match of.c.part(rows, cols.clone()) {
                        Operand::F32(c) => multiply(left, right, pairs, start, &sums(c)),
                        Operand::Bf16(c) => multiply(left, right, pairs, start, &sums(c)),
                    }
                }
            }
        }
    }
}

/// A range in parts of `len`.
fn ranges(of: Range<usize>, len: usize) -> impl Iterator<Item = Range<usize>> {
    let end = of.end;
    of.step_by(len).map(move |start| start..(start + len).min(end))
}

fn sums<T: Element>(c: Matrix<T>) -> Sums<T> {
    let (first, stride) = c.first_and_stride();
    Sums { first, stride, rows: c.rows, cols: c.cols }
}

#[cfg(test)]
mod tests {
    use super::super::memory::Reals;
    use super::*;
    use crate::Precision;

    /// Against sums in float64 of what rounding leaves.
    #[test]
    fn products_of_all_layouts_and_awkward_shapes() {
        let mut pool = Pool::new(2, false).unwrap();
        let round = |x| f64::from(Precision::Bfloat16.round(x));
        for (m, n, k) in [(1, 1, 1), (14, 32, 3), (15, 33, 3), (29, 70, 131), (200, 300, 600), (33, 40, 2500)]
        {
            let mut a: Vec<f32> = (0..m * k).map(|i| (i as f32 * 0.37).sin()).collect();
            let mut b: Vec<f32> = (0..k * n).map(|i| (i as f32 * 0.73).cos()).collect();
            let [mut a_rounded, mut b_rounded] =
                [&a, &b].map(|x| x.iter().map(|&x| Bf16::new(x)).collect::<Vec<_>>());
            let bias = vec![1.0; n];
            let mut scratch = vec![0; scratch_len(k, pool.threads())];
            for transposed in [false, true] {
                let at = |i: usize, j: usize, l: usize| {
                    if transposed { (a[l * m + i], b[j * k + l]) } else { (a[i * k + l], b[l * n + j]) }
                };
                let sum = |i, j| (0..k).map(|l| at(i, j, l)).map(|(a, b)| round(a) * round(b)).sum::<f64>();
                let expected: Vec<f64> = (0..m * n).map(|at| 1.0 + sum(at / n, at % n)).collect();
                let matrix = |data, rows, cols| {
                    if transposed { Operand::of(data, cols, rows).t() } else { Operand::of(data, rows, cols) }
                };
                let (mut c, mut c_rounded) = (vec![1.0; m * n], vec![Bf16::new(0.0); m * n]);
                let products = [
                    Product {
                        c: Operand::of(Reals::F32(Shared::of(&mut c)), m, n),
                        a: matrix(Reals::F32(Shared::of(&mut a)), m, k),
                        b: matrix(Reals::F32(Shared::of(&mut b)), k, n),
                        accumulate: true,
                        bias: None,
                    },
                    Product {
                        c: Operand::of(Reals::Bf16(Shared::of(&mut c_rounded)), m, n),
                        a: matrix(Reals::Bf16(Shared::of(&mut a_rounded)), m, k),
                        b: matrix(Reals::Bf16(Shared::of(&mut b_rounded)), k, n),
                        accumulate: false,
                        bias: Some(&bias),
                    },
                ];
                for of in &products {
                    // SAFETY: separate vectors.
                    unsafe { product(&mut pool, of, Shared::of(&mut scratch), |_| {}) };
                }
                for ((&c, c_rounded), expected) in c.iter().zip(&c_rounded).zip(&expected) {
                    assert!((f64::from(c) - expected).abs() < 1e-4, "{m} {n} {k}: {c} {expected}");
                    let error = (f64::from(c_rounded.get()) - expected).abs();
                    assert!(error <= expected.abs() / 256.0 + 1e-4, "{m} {n} {k}: {c_rounded:?} {expected}");
                }
            }
        }
    }
}
