//! Products of blocks that lie in a core's cache, each tile of the result in registers: what attention is made of.
//!
//! Unlike a general product, nothing is packed or copied here, so the blocks must be shaped for it: rows of the right
//! operand and of the result are contiguous, and as wide as some whole vectors.
//!
//! Operands are words of four bytes: one float32, or two bfloat16 that are neighbours along the inner dimension. Depths
//! and strides count words. Sums are float32.

mod unit;

use super::bf16::has_bfloat16;
use unit::{Portable, Unit};

/// Rows of a tile. Any number is computed, but those left over one by one.
pub(super) const ROWS: usize = 8;

/// Columns of a result must be a multiple of this.
pub(super) const COLS: usize = 16;

/// The left operand: word `(row, k)` is `data[row * row_stride + k * k_stride]`.
#[derive(Clone, Copy)]
pub(super) struct Left<'a, W = f32> {
    pub(super) data: &'a [W],
    pub(super) row_stride: usize,
    pub(super) k_stride: usize,
}

/// The right operand: row `k` begins at `data[k * stride]`.
#[derive(Clone, Copy)]
pub(super) struct Right<'a, W = f32> {
    pub(super) data: &'a [W],
    pub(super) stride: usize,
}

/// The result, row-major: row `i` begins at `data[i * stride]`.
pub(super) struct Out<'a> {
    pub(super) data: &'a mut [f32],
    pub(super) stride: usize,
}

/// Sizes of a product: `[rows, depth] x [depth, cols]`.
#[derive(Clone, Copy)]
pub(super) struct Size {
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) depth: usize,
}

/// What becomes of a product.
#[derive(Clone, Copy)]
pub(super) enum Store {
    /// The result, times this.
    Scaled(f32),
    /// Added to the result.
    Added,
}

/// What operands consist of: `f32`, or `u32` for pairs of bfloat16, the first in the low half.
pub(super) trait Word: Copy {
    /// Whether this processor multiplies them.
    fn can_be_multiplied() -> bool;

    /// # Safety
    /// Every access that the sizes imply is in bounds, and [`Word::can_be_multiplied`].
    unsafe fn tiles(operands: &Operands<Self>);
}

impl Word for f32 {
    fn can_be_multiplied() -> bool {
        true
    }

    unsafe fn tiles(operands: &Operands<f32>) {
        // SAFETY: the caller's promise; instructions are used where they exist.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            {
                if is_x86_feature_detected!("avx512f") {
                    return x86::avx512(operands);
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    return x86::avx2(operands);
                }
            }
            tiles::<Portable, 4, 2>(operands);
        }
    }
}

impl Word for u32 {
    fn can_be_multiplied() -> bool {
        has_bfloat16()
    }

    unsafe fn tiles(operands: &Operands<u32>) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the caller's promise.
        unsafe {
            x86::pairs(operands);
        }
        #[cfg(not(target_arch = "x86_64"))]
        unreachable!("no instructions for {} pairs", operands.size.depth);
    }
}

/// `out = scale * a b`, or `out += a b`.
pub(super) fn multiply<W: Word>(out: &mut Out, a: Left<W>, b: Right<W>, size: Size, store: Store) {
    let Size { rows, cols, depth } = size;
    assert!(rows > 0 && depth > 0 && cols.is_multiple_of(COLS));
    assert!(out.data.len() >= (rows - 1) * out.stride + cols);
    assert!(a.data.len() > (rows - 1) * a.row_stride + (depth - 1) * a.k_stride);
    assert!(b.data.len() >= (depth - 1) * b.stride + cols);
    assert!(W::can_be_multiplied());
    let operands = Operands {
        out: out.data.as_mut_ptr(),
        out_stride: out.stride,
        a: a.data.as_ptr(),
        a_row: a.row_stride,
        a_k: a.k_stride,
        b: b.data.as_ptr(),
        b_stride: b.stride,
        size,
        store,
    };
    // SAFETY: the asserts above keep every access inside its slice.
    unsafe { W::tiles(&operands) };
}

/// [`multiply`]'s operands without their lengths.
pub(super) struct Operands<W> {
    out: *mut f32,
    out_stride: usize,
    a: *const W,
    a_row: usize,
    a_k: usize,
    b: *const W,
    b_stride: usize,
    size: Size,
    store: Store,
}

/// All tiles of `TALL` rows by `WIDE` vectors; rows and columns left over one by one.
///
/// # Safety
/// Every access that the sizes imply is in bounds, and the processor has `U`'s instructions.
#[inline(always)]
unsafe fn tiles<U: Unit, const TALL: usize, const WIDE: usize>(operands: &Operands<U::Word>) {
    let rows = operands.size.rows;
    // SAFETY: passed on to the caller.
    unsafe {
        for row in (0..rows / TALL * TALL).step_by(TALL) {
            strip::<U, TALL, WIDE>(operands, row);
        }
        for row in rows / TALL * TALL..rows {
            strip::<U, 1, WIDE>(operands, row);
        }
    }
}

/// All tiles of some rows.
///
/// # Safety
/// As [`tiles`].
#[inline(always)]
unsafe fn strip<U: Unit, const TALL: usize, const WIDE: usize>(operands: &Operands<U::Word>, row: usize) {
    let (cols, mut col) = (operands.size.cols, 0);
    // SAFETY: passed on to the caller.
    unsafe {
        while col + WIDE * U::LANES <= cols {
            tile::<U, TALL, WIDE>(operands, row, col);
            col += WIDE * U::LANES;
        }
        while col < cols {
            tile::<U, TALL, 1>(operands, row, col);
            col += U::LANES;
        }
    }
}

/// One tile, summed up over the whole depth in registers.
///
/// # Safety
/// As [`tiles`].
#[inline(always)]
unsafe fn tile<U: Unit, const TALL: usize, const WIDE: usize>(
    operands: &Operands<U::Word>,
    row: usize,
    col: usize,
) {
    let Operands { out_stride, a_row, a_k, b_stride, store, .. } = *operands;
    // SAFETY: passed on to the caller.
    unsafe {
        let out = operands.out.add(row * out_stride + col);
        let (a, b) = (operands.a.add(row * a_row), operands.b.add(col));
        let mut sums = [[U::sums(0.0); WIDE]; TALL];
        if let Store::Added = store {
            for i in 0..TALL {
                for j in 0..WIDE {
                    sums[i][j] = U::load_sums(out.add(i * out_stride + j * U::LANES));
                }
            }
        }
        for k in 0..operands.size.depth {
            let b_row = b.add(k * b_stride);
            let mut right = [U::load(b_row); WIDE];
            for j in 1..WIDE {
                right[j] = U::load(b_row.add(j * U::LANES));
            }
            for i in 0..TALL {
                let left = U::splat(*a.add(i * a_row + k * a_k));
                for j in 0..WIDE {
                    sums[i][j] = U::multiply_add(left, right[j], sums[i][j]);
                }
            }
        }
        let scale = U::sums(if let Store::Scaled(scale) = store { scale } else { 1.0 });
        for i in 0..TALL {
            for j in 0..WIDE {
                U::store(U::scale(sums[i][j], scale), out.add(i * out_stride + j * U::LANES));
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::unit::x86::{Avx2, Avx512, Pairs};
    use super::{Operands, tiles};

    /// 16 of 32 registers hold sums: enough to hide the latency of two units.
    ///
    /// # Safety
    /// As [`tiles`], with AVX-512.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn avx512(operands: &Operands<f32>) {
        // SAFETY: passed on to the caller.
        unsafe { tiles::<Avx512, 8, 2>(operands) }
    }

    /// # Safety
    /// As [`tiles`], with AVX-512 BF16.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) unsafe fn pairs(operands: &Operands<u32>) {
        // SAFETY: passed on to the caller.
        unsafe { tiles::<Pairs, 8, 2>(operands) }
    }

    /// 8 of 16 registers hold sums.
    ///
    /// # Safety
    /// As [`tiles`], with AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn avx2(operands: &Operands<f32>) {
        // SAFETY: passed on to the caller.
        unsafe { tiles::<Avx2, 4, 2>(operands) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::bf16::pair;
    use super::*;

    fn numbers(n: usize, seed: f32) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * seed).sin()).collect()
    }

    #[test]
    fn every_path_multiplies_strided_and_transposed_blocks() {
        let (a, b) = (numbers(40 * 40, 0.37), numbers(40 * 50, 0.73));
        let size = Size { rows: 19, cols: 48, depth: 13 };
        for (row_stride, k_stride, store) in [(40, 1, Store::Scaled(0.5)), (1, 40, Store::Added)] {
            let sum = |i: usize, j: usize| -> f32 {
                (0..13).map(|k| a[i * row_stride + k * k_stride] * b[k * 50 + j]).sum()
            };
            let expected = |at: usize| match store {
                Store::Scaled(scale) => scale * sum(at / 48, at % 48),
                Store::Added => 2.0 + sum(at / 48, at % 48),
            };
            let check = |run: &dyn Fn(&mut [f32])| {
                let mut out = vec![2.0; 19 * 48];
                run(&mut out);
                for (at, found) in out.iter().enumerate() {
                    let expected = expected(at);
                    assert!((found - expected).abs() < 1e-5, "{found} {expected}");
                }
            };
            let (left, right) = (Left { data: &a, row_stride, k_stride }, Right { data: &b, stride: 50 });
            check(&|out| multiply(&mut Out { data: out, stride: 48 }, left, right, size, store));
            let operands = |out: &mut [f32]| Operands {
                out: out.as_mut_ptr(),
                out_stride: 48,
                a: a.as_ptr(),
                a_row: row_stride,
                a_k: k_stride,
                b: b.as_ptr(),
                b_stride: 50,
                size,
                store,
            };
            // SAFETY: sizes as above; instructions are used where they exist.
            unsafe {
                check(&|out| tiles::<Portable, 4, 2>(&operands(out)));
                #[cfg(target_arch = "x86_64")]
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    check(&|out| x86::avx2(&operands(out)));
                }
            }
        }
    }

    #[test]
    fn pairs_are_multiplied_and_added_up() {
        if !u32::can_be_multiplied() {
            return;
        }
        // Eighths are exact in bfloat16.
        let eighths = |n: usize, seed: usize| (0..n).map(move |i| (i * seed % 17) as f32 / 8.0 - 1.0);
        let words = |numbers: Vec<f32>| -> Vec<u32> {
            numbers.as_chunks::<2>().0.iter().map(|&[one, other]| pair(one, other)).collect()
        };
        let (a, b): (Vec<f32>, Vec<f32>) =
            (eighths(2 * 11 * 5, 7).collect(), eighths(2 * 5 * 32, 5).collect());
        let (left, right) = (words(a.clone()), words(b.clone()));
        let mut out = vec![1.0; 11 * 32];
        let a_words = Left { data: &left, row_stride: 5, k_stride: 1 };
        let (size, b_words) = (Size { rows: 11, cols: 32, depth: 5 }, Right { data: &right, stride: 32 });
        multiply(&mut Out { data: &mut out, stride: 32 }, a_words, b_words, size, Store::Added);
        for (at, found) in out.into_iter().enumerate() {
            let (i, j) = (at / 32, at % 32);
            let product = |k: usize| a[2 * (5 * i + k / 2) + k % 2] * b[2 * (32 * (k / 2) + j) + k % 2];
            assert_eq!(found, 1.0 + (0..10).map(product).sum::<f32>());
        }
    }
}
