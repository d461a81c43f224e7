//! Products of blocks that lie in a core's cache, each tile of the result in registers: what attention is made of.
//!
//! Unlike a general product, nothing is packed or copied here, so the blocks must be shaped for it: rows of the right
//! operand and of the result are contiguous, and as wide as some whole vectors.

/// Rows of a tile. Any number is computed, but those left over one by one.
pub(super) const ROWS: usize = 8;

/// Columns of a result must be a multiple of this.
pub(super) const COLS: usize = 16;

/// The left operand: element `(row, k)` is `data[row * row_stride + k * k_stride]`.
#[derive(Clone, Copy)]
pub(super) struct Left<'a> {
    pub(super) data: &'a [f32],
    pub(super) row_stride: usize,
    pub(super) k_stride: usize,
}

/// The right operand: row `k` begins at `data[k * stride]`.
#[derive(Clone, Copy)]
pub(super) struct Right<'a> {
    pub(super) data: &'a [f32],
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

/// `out = a b`, or `out += a b` if `accumulate`.
pub(super) fn multiply(out: &mut Out, a: Left, b: Right, size: Size, accumulate: bool) {
    let Size { rows, cols, depth } = size;
    assert!(rows > 0 && depth > 0 && cols.is_multiple_of(COLS));
    assert!(out.data.len() >= (rows - 1) * out.stride + cols);
    assert!(a.data.len() > (rows - 1) * a.row_stride + (depth - 1) * a.k_stride);
    assert!(b.data.len() >= (depth - 1) * b.stride + cols);
    let operands = Operands {
        out: out.data.as_mut_ptr(),
        out_stride: out.stride,
        a: a.data.as_ptr(),
        a_row: a.row_stride,
        a_k: a.k_stride,
        b: b.data.as_ptr(),
        b_stride: b.stride,
        size,
        accumulate,
    };
    // SAFETY: the asserts above keep every access inside its slice, and instructions are used where they exist.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                return x86::avx512(&operands);
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return x86::avx2(&operands);
            }
        }
        tiles::<[f32; 4], 4, 2>(&operands);
    }
}

/// [`multiply`]'s operands without their lengths.
struct Operands {
    out: *mut f32,
    out_stride: usize,
    a: *const f32,
    a_row: usize,
    a_k: usize,
    b: *const f32,
    b_stride: usize,
    size: Size,
    accumulate: bool,
}

/// A vector register.
trait Vector: Copy {
    const LANES: usize;

    /// # Safety
    /// The processor has the instructions of this type; so for all methods.
    unsafe fn splat(x: f32) -> Self;

    /// # Safety
    /// `from` points to `LANES` floats.
    unsafe fn load(from: *const f32) -> Self;

    /// # Safety
    /// `to` points to `LANES` floats.
    unsafe fn store(self, to: *mut f32);

    /// `self * a + b`.
    ///
    /// # Safety
    /// As [`Vector::splat`].
    unsafe fn mul_add(self, a: Self, b: Self) -> Self;
}

impl Vector for [f32; 4] {
    const LANES: usize = 4;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        [x; 4]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise.
        unsafe { from.cast::<Self>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<Self>().write_unaligned(self) }
    }

    #[inline(always)]
    unsafe fn mul_add(self, a: Self, b: Self) -> Self {
        std::array::from_fn(|i| self[i].mul_add(a[i], b[i]))
    }
}

/// All tiles of `TALL` rows by `WIDE` vectors; rows and columns left over one by one.
///
/// # Safety
/// Every access that the sizes imply is in bounds, and the processor has `V`'s instructions.
#[inline(always)]
unsafe fn tiles<V: Vector, const TALL: usize, const WIDE: usize>(operands: &Operands) {
    let rows = operands.size.rows;
    // SAFETY: passed on to the caller.
    unsafe {
        for row in (0..rows / TALL * TALL).step_by(TALL) {
            strip::<V, TALL, WIDE>(operands, row);
        }
        for row in rows / TALL * TALL..rows {
            strip::<V, 1, WIDE>(operands, row);
        }
    }
}

/// All tiles of some rows.
///
/// # Safety
/// As [`tiles`].
#[inline(always)]
unsafe fn strip<V: Vector, const TALL: usize, const WIDE: usize>(operands: &Operands, row: usize) {
    let (cols, mut col) = (operands.size.cols, 0);
    // SAFETY: passed on to the caller.
    unsafe {
        while col + WIDE * V::LANES <= cols {
            tile::<V, TALL, WIDE>(operands, row, col);
            col += WIDE * V::LANES;
        }
        while col < cols {
            tile::<V, TALL, 1>(operands, row, col);
            col += V::LANES;
        }
    }
}

/// One tile, summed up over the whole depth in registers.
///
/// # Safety
/// As [`tiles`].
#[inline(always)]
unsafe fn tile<V: Vector, const TALL: usize, const WIDE: usize>(operands: &Operands, row: usize, col: usize) {
    let Operands { out_stride, a_row, a_k, b_stride, accumulate, .. } = *operands;
    // SAFETY: passed on to the caller.
    unsafe {
        let out = operands.out.add(row * out_stride + col);
        let (a, b) = (operands.a.add(row * a_row), operands.b.add(col));
        let mut sums = [[V::splat(0.0); WIDE]; TALL];
        if accumulate {
            for i in 0..TALL {
                for j in 0..WIDE {
                    sums[i][j] = V::load(out.add(i * out_stride + j * V::LANES));
                }
            }
        }
        for k in 0..operands.size.depth {
            let b_row = b.add(k * b_stride);
            let mut right = [V::splat(0.0); WIDE];
            for j in 0..WIDE {
                right[j] = V::load(b_row.add(j * V::LANES));
            }
            for i in 0..TALL {
                let left = V::splat(*a.add(i * a_row + k * a_k));
                for j in 0..WIDE {
                    sums[i][j] = left.mul_add(right[j], sums[i][j]);
                }
            }
        }
        for i in 0..TALL {
            for j in 0..WIDE {
                sums[i][j].store(out.add(i * out_stride + j * V::LANES));
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m256, __m512, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_storeu_ps, _mm512_fmadd_ps,
        _mm512_loadu_ps, _mm512_set1_ps, _mm512_storeu_ps,
    };

    use super::{Operands, Vector, tiles};

    /// 16 of 32 registers hold sums: enough to hide the latency of two units.
    ///
    /// # Safety
    /// As [`tiles`], with AVX-512.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn avx512(operands: &Operands) {
        // SAFETY: passed on to the caller.
        unsafe { tiles::<__m512, 8, 2>(operands) }
    }

    /// 8 of 16 registers hold sums.
    ///
    /// # Safety
    /// As [`tiles`], with AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn avx2(operands: &Operands) {
        // SAFETY: passed on to the caller.
        unsafe { tiles::<__m256, 4, 2>(operands) }
    }

    macro_rules! vector {
        ($type:ty, $lanes:literal, $splat:ident, $load:ident, $store:ident, $fmadd:ident) => {
            impl Vector for $type {
                const LANES: usize = $lanes;

                #[inline(always)]
                unsafe fn splat(x: f32) -> Self {
                    // SAFETY: the caller's promise; so below.
                    unsafe { $splat(x) }
                }

                #[inline(always)]
                unsafe fn load(from: *const f32) -> Self {
                    // SAFETY: as above.
                    unsafe { $load(from) }
                }

                #[inline(always)]
                unsafe fn store(self, to: *mut f32) {
                    // SAFETY: as above.
                    unsafe { $store(to, self) }
                }

                #[inline(always)]
                unsafe fn mul_add(self, a: Self, b: Self) -> Self {
                    // SAFETY: as above.
                    unsafe { $fmadd(self, a, b) }
                }
            }
        };
    }
    vector!(__m512, 16, _mm512_set1_ps, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_fmadd_ps);
    vector!(__m256, 8, _mm256_set1_ps, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_fmadd_ps);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, seed: f32) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * seed).sin()).collect()
    }

    #[test]
    fn every_path_multiplies_strided_and_transposed_blocks() {
        let (a, b) = (numbers(40 * 40, 0.37), numbers(40 * 50, 0.73));
        let size = Size { rows: 19, cols: 48, depth: 13 };
        for (row_stride, k_stride, accumulate) in [(40, 1, false), (1, 40, true)] {
            let expected: Vec<f32> = (0..19 * 48)
                .map(|at| {
                    let (i, j) = (at / 48, at % 48);
                    let sum: f32 = (0..13).map(|k| a[i * row_stride + k * k_stride] * b[k * 50 + j]).sum();
                    sum + if accumulate { 2.0 } else { 0.0 }
                })
                .collect();
            let check = |run: &dyn Fn(&mut [f32])| {
                let mut out = vec![2.0; 19 * 48];
                run(&mut out);
                for (found, expected) in out.iter().zip(&expected) {
                    assert!((found - expected).abs() < 1e-5, "{found} {expected}");
                }
            };
            let (left, right) = (Left { data: &a, row_stride, k_stride }, Right { data: &b, stride: 50 });
            check(&|out| multiply(&mut Out { data: out, stride: 48 }, left, right, size, accumulate));
            let operands = |out: &mut [f32]| Operands {
                out: out.as_mut_ptr(),
                out_stride: 48,
                a: a.as_ptr(),
                a_row: row_stride,
                a_k: k_stride,
                b: b.as_ptr(),
                b_stride: 50,
                size,
                accumulate,
            };
            // SAFETY: sizes as above; instructions are used where they exist.
            unsafe {
                check(&|out| tiles::<[f32; 4], 4, 2>(&operands(out)));
                #[cfg(target_arch = "x86_64")]
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    check(&|out| x86::avx2(&operands(out)));
                }
            }
        }
    }
}
