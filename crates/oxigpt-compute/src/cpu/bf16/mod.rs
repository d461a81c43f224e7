//! Matrix products whose operands are rounded to bfloat16 and whose sums are float32.
//!
//! A task computes a block of the result. It packs what it needs of both operands into memory of its thread's own, which
//! stays in the core's second-level cache: panels of some rows of the left one and some columns of the right one, pairs
//! of neighbours along the inner dimension side by side, as the processor's instruction takes them (`vdpbf16ps`: a product
//! of two pairs, added to a float32). Two panels give a tile of the result, summed up in registers. Operands and result may
//! each be float32 or bfloat16 in memory.
//!
//! How a product is cut along its inner dimension depends on the shape alone, and no sum on how it is cut across, so results
//! do not depend on the number of threads. A processor with matrix registers
//! (AMX) would take its place in `kernel.rs` and choose the sizes of panels here.

mod element;
mod kernel;
mod pack;

use std::ops::Range;

pub(super) use element::Element;
use kernel::{Start, Sums, multiply};
use pack::pack;
pub(super) use pack::{pair, pairs_across, pairs_along};

use super::gemm::{Matrix, Operand, Product, Tile};
use super::memory::Shared;
use super::pool::Pool;

/// Rows of a panel of the left operand, and the room that they take.
const TALL: usize = 14;
const LEFT: usize = 16;
/// Columns of a panel of the right operand.
const WIDE: usize = 32;

/// Pairs along the inner dimension that are multiplied before the next, where sums can lie in the result meanwhile: in
/// float32.
const DEPTH: usize = 512;

/// Words of packed panels of the left and of the right operand: together three quarters of a second-level cache. A single
/// panel may take more.
const LEFT_WORDS: usize = 1 << 16;
const RIGHT_WORDS: usize = 1 << 17;

/// Tasks of each thread that a product is cut into, at least, if it is not too small: more would pack more, fewer would
/// leave threads waiting for the last one.
const TASKS: usize = 4;

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

/// Words of scratch that a thread needs for products of any size whose inner dimension is at most `depth`.
pub(super) fn scratch_len(depth: usize) -> usize {
    let pairs = depth.div_ceil(2);
    LEFT_WORDS.max(pairs * LEFT) + RIGHT_WORDS.max(pairs * WIDE)
}

/// How a product is cut: panels of both operands that a task takes, and of the left one that are packed at once; pairs of
/// one slice of the inner dimension.
struct Blocks {
    rows: usize,
    cols: usize,
    rows_at_once: usize,
    depth: usize,
}

impl Blocks {
    fn of(c: &Operand, pairs: usize, threads: usize) -> Blocks {
        let depth = match c {
            Operand::F32(_) => pairs.min(DEPTH),
            Operand::Bf16(_) => pairs,
        };
        let (a_panels, b_panels) = (c.rows().div_ceil(TALL), c.cols().div_ceil(WIDE));
        let (mut rows, mut cols) = (a_panels, b_panels.min((RIGHT_WORDS / (depth * WIDE)).max(1)));
        while a_panels.div_ceil(rows) * b_panels.div_ceil(cols) < TASKS * threads && rows * cols > 4 {
            if rows * TALL >= cols * WIDE { rows = rows.div_ceil(2) } else { cols = cols.div_ceil(2) }
        }
        Blocks { rows, cols, rows_at_once: (LEFT_WORDS / (depth * LEFT)).max(1), depth }
    }
}

/// The product over the pool; `after` sees each tile on the thread that computes it. `scratch` is [`scratch_len`] words a
/// thread.
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
    let blocks = Blocks::of(c, a.cols().div_ceil(2), pool.threads());
    let (tall, wide) = (blocks.rows * TALL, blocks.cols * WIDE);
    let (n_rows, n_cols) = (c.rows().div_ceil(tall), c.cols().div_ceil(wide));
    let scratch_len = scratch.len() / pool.threads();
    pool.run(n_rows * n_cols, |index, thread| {
        let (row, col) = (index % n_rows * tall, index / n_rows * wide);
        let tile = Tile { rows: row..(row + tall).min(c.rows()), cols: col..(col + wide).min(c.cols()) };
        // SAFETY: every thread has its own scratch; tiles of the result are disjoint; the rest is the caller's promise.
        unsafe {
            let scratch = scratch.write(thread * scratch_len..(thread + 1) * scratch_len);
            block(of, &blocks, &tile, scratch);
        }
        after(&tile);
    });
}

/// One task's block of the result.
///
/// # Safety
/// As [`product`], of this block.
unsafe fn block(of: &Product, blocks: &Blocks, tile: &Tile, scratch: &mut [u32]) {
    let depth = of.a.cols();
    let (left, right) = scratch.split_at_mut(LEFT_WORDS.max(blocks.depth * LEFT));
    for slice in ranges(0..depth, 2 * blocks.depth) {
        let pairs = slice.len().div_ceil(2);
        // SAFETY: passed on to the caller.
        unsafe { pack(of.b.part(slice.clone(), tile.cols.clone()).t(), WIDE, WIDE, right) };
        for group in ranges(tile.rows.clone(), blocks.rows_at_once * TALL) {
            // SAFETY: as above.
            unsafe { pack(of.a.part(group.clone(), slice.clone()), TALL, LEFT, left) };
            for (cols, right) in ranges(tile.cols.clone(), WIDE).zip(right.chunks_exact(pairs * WIDE)) {
                let start = match of.bias {
                    _ if of.accumulate || slice.start > 0 => Start::Add,
                    Some(bias) => Start::Bias(&bias[cols.clone()]),
                    None => Start::Zero,
                };
                for (rows, left) in ranges(group.clone(), TALL).zip(left.chunks_exact(pairs * LEFT)) {
                    // SAFETY: as above.
                    unsafe {
                        match of.c.part(rows, cols.clone()) {
                            Operand::F32(c) => multiply(left, right, pairs, start, &sums(c)),
                            Operand::Bf16(c) => multiply(left, right, pairs, start, &sums(c)),
                        }
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
    use crate::bfloat16::Bf16;

    /// Against sums in float64 of what rounding leaves.
    #[test]
    fn products_of_all_layouts_and_awkward_shapes() {
        let mut pool = Pool::new(2, false).unwrap();
        let round = |x| f64::from(Precision::Bfloat16.round(x));
        for (m, n, k) in [(1, 1, 1), (14, 32, 3), (15, 33, 3), (29, 70, 131), (200, 300, 600), (33, 40, 2500)]
        {
            let mut a: Vec<f32> = (0..m * k).map(|i| (i as f32 * 0.37).sin()).collect();
            let mut b: Vec<f32> = (0..k * n).map(|i| (i as f32 * 0.73).cos()).collect();
            let mut b_rounded: Vec<Bf16> = b.iter().map(|&x| Bf16::new(x)).collect();
            let bias = vec![1.0; n];
            let mut scratch = vec![0; 2 * scratch_len(k)];
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
                let a = matrix(Reals::F32(Shared::of(&mut a)), m, k);
                let products = [
                    Product {
                        c: Operand::of(Reals::F32(Shared::of(&mut c)), m, n),
                        a,
                        b: matrix(Reals::F32(Shared::of(&mut b)), k, n),
                        accumulate: true,
                        bias: None,
                    },
                    Product {
                        c: Operand::of(Reals::Bf16(Shared::of(&mut c_rounded)), m, n),
                        a,
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
