//! Matrix products whose operands are rounded to bfloat16 and whose sums are float32.
//!
//! Operands are rounded while they are packed: in panels of some rows of the left one and some columns of the right
//! one, pairs of neighbours along the inner dimension side by side, as the processor's instruction takes them
//! (`vdpbf16ps`: a product of two pairs, added to a float32). A panel pair gives a tile of the result, summed up over the
//! whole inner dimension in registers.
//!
//! Tiles depend on the shape alone, so results do not depend on the number of threads.

use std::ops::Range;

use super::gemm::{Matrix, Tile};
use super::memory::Shared;
use super::pool::Pool;
use super::simd::vectorised;
use crate::bfloat16::rounded;

/// Rows of a panel of the left operand.
pub(super) const TALL: usize = 14;
/// Columns of a panel of the right operand.
pub(super) const WIDE: usize = 32;

/// Pairs along the inner dimension that are multiplied before the next: so many of some panels of both
/// operands fit the second-level cache.
const DEPTH: usize = 512;

/// Pairs along the inner dimension that one task packs.
const PACK_PAIRS: usize = 64;

/// Panels that one task packs of rows that lie across panels.
const PANEL_GROUP: usize = 32;

/// Whether this processor multiplies bfloat16 itself. Where it does not, float32 instructions give the same to rounding,
/// more slowly than products in float32.
pub fn has_bfloat16() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512f");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// Pairs that a packed operand takes: `lanes` rows (or columns) in panels of `width`, `depth` elements each.
pub(super) fn packed_len(lanes: usize, depth: usize, width: usize) -> usize {
    lanes.next_multiple_of(width) * depth.div_ceil(2)
}

/// An operand in panels. Pair `k` of lane `i` of panel `p` is element `(p * pairs + k) * width + i`.
#[derive(Clone, Copy)]
pub(super) struct Packed<'a> {
    data: Shared<'a, u32>,
    lanes: usize,
    pairs: usize,
    width: usize,
}

impl<'a> Packed<'a> {
    /// What [`pack`] has made of `from` before.
    pub(super) fn kept(from: Matrix, width: usize, data: Shared<'a, u32>) -> Self {
        Packed { data, lanes: from.rows, pairs: from.cols.div_ceil(2), width }
    }

    /// Pairs `depth` of a panel.
    fn panel(&self, panel: usize, depth: &Range<usize>) -> *const u32 {
        let start = (panel * self.pairs + depth.start) * self.width;
        assert!(depth.end <= self.pairs && start + depth.len() * self.width <= self.data.len());
        // SAFETY: inside the operand, as just checked.
        unsafe { self.data.ptr().add(start) }
    }
}

/// Two elements rounded to the nearest bfloat16, ties to even, the first in the low half.
#[inline(always)]
pub(super) fn pair(first: f32, second: f32) -> u32 {
    rounded(first) >> 16 | rounded(second) & 0xffff_0000
}

vectorised! {
    /// Pairs of neighbouring rows, which begin `stride` apart: pair `k` of column `i` goes to `to[k * width + i]`.
    fn pair_rows(rows: &[f32], stride: usize, columns: usize, width: usize, to: &mut [u32]) {
        for (rows, to) in rows.chunks(2 * stride).zip(to.chunks_exact_mut(width)) {
            let (to, padding) = to.split_at_mut(columns);
            match rows.get(stride..) {
                Some(second) if !second.is_empty() => {
                    for ((to, &first), &second) in to.iter_mut().zip(rows).zip(second) {
                        *to = pair(first, second);
                    }
                }
                _ => {
                    for (to, &first) in to.iter_mut().zip(rows) {
                        *to = pair(first, 0.0);
                    }
                }
            }
            padding.fill(0);
        }
    }
}

vectorised! {
    /// Pairs of neighbours of each row, transposed: pair `k` of row `i` goes to `to[k * width + i]`.
    fn pair_neighbours(rows: &[&[f32]], width: usize, to: &mut [u32]) {
        const BLOCK: usize = 16;
        let mut pairs = [[0u32; BLOCK]; WIDE];
        for (block, to) in to.chunks_mut(BLOCK * width).enumerate() {
            for (row, pairs) in rows.iter().zip(&mut pairs) {
                let row = &row[(2 * BLOCK * block).min(row.len())..];
                match row.first_chunk::<{ 2 * BLOCK }>() {
                    Some(row) => {
                        for (k, pairs) in pairs.iter_mut().enumerate() {
                            *pairs = pair(row[2 * k], row[2 * k + 1]);
                        }
                    }
                    None => {
                        for (pairs, row) in pairs.iter_mut().zip(row.chunks(2)) {
                            *pairs = pair(row[0], row.get(1).copied().unwrap_or(0.0));
                        }
                    }
                }
            }
            for (k, to) in to.chunks_exact_mut(width).enumerate() {
                for (to, pairs) in to.iter_mut().zip(&pairs[..rows.len()]) {
                    *to = pairs[k];
                }
                to[rows.len()..].fill(0);
            }
        }
    }
}

/// Packs the rows of a matrix; for the columns of one, its transpose.
///
/// # Safety
/// Nobody writes to `from`, and nobody else touches `to`, during the call.
pub(super) unsafe fn pack<'a>(
    pool: &mut Pool,
    from: Matrix,
    width: usize,
    to: Shared<'a, u32>,
) -> Packed<'a> {
    let (lanes, depth) = (from.rows, from.cols);
    let pairs = depth.div_ceil(2);
    let (panels, parts) = (lanes.div_ceil(width), pairs.div_ceil(PACK_PAIRS));
    // Panels that read the same rows of memory belong together.
    let group = if from.rows_are_contiguous() { 1 } else { PANEL_GROUP };
    pool.run(panels.div_ceil(group) * parts, |index, _| {
        let (first, part) = (index / parts * group, index % parts);
        let part = part * PACK_PAIRS..((part + 1) * PACK_PAIRS).min(pairs);
        for panel in first..(first + group).min(panels) {
            let rows = panel * width..((panel + 1) * width).min(lanes);
            let block = from.part(rows, 2 * part.start..(2 * part.end).min(depth));
            let start = panel * pairs * width;
            let range = start + part.start * width..start + part.end * width;
            // SAFETY: each panel's part is written once; the rest is the caller's promise.
            unsafe { pack_block(block, width, to.write(range)) };
        }
    });
    Packed::kept(from, width, to)
}

/// # Safety
/// Nobody writes to `from` during the call.
unsafe fn pack_block(from: Matrix, width: usize, to: &mut [u32]) {
    let lanes = from.rows;
    if from.rows_are_contiguous() {
        let mut rows = [&[][..]; WIDE];
        for (i, row) in rows[..lanes].iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            *row = unsafe { from.row(i) };
        }
        return pair_neighbours(&rows[..lanes], width, to);
    }
    // SAFETY: the caller's promise.
    let (rows, stride) = unsafe { from.t().span() };
    pair_rows(rows, stride, lanes, width, to);
}

/// `c = a b`, or `c += a b` if `accumulate`, over the pool; `before` and `after` see each tile on the thread that computes
/// it. If `before` fills the tile, set `accumulate`.
///
/// # Safety
/// Nobody else touches `c`, and nobody writes to `a` or `b`, during the call. `before` and `after` touch, of what other
/// tiles write, only their own tile.
pub(super) unsafe fn packed_product(
    pool: &mut Pool,
    (c, accumulate): (Matrix, bool),
    (a, b): (Packed, Packed),
    before: impl Fn(&Tile) + Sync,
    after: impl Fn(&Tile) + Sync,
) {
    assert!(a.lanes == c.rows && b.lanes == c.cols && a.pairs == b.pairs, "product of unlike shapes");
    assert!(a.width == TALL && b.width == WIDE);
    let (a_panels, b_panels) = (c.rows.div_ceil(TALL), c.cols.div_ceil(WIDE));
    let (rows_of, cols_of) = panels_a_tile(a_panels, b_panels);
    let (n_rows, n_cols) = (a_panels.div_ceil(rows_of), b_panels.div_ceil(cols_of));
    pool.run(n_rows * n_cols, |index, _| {
        let (row, col) = (index % n_rows * rows_of, index / n_rows * cols_of);
        let (row_end, col_end) = ((row + rows_of).min(a_panels), (col + cols_of).min(b_panels));
        let tile = Tile {
            rows: row * TALL..(row_end * TALL).min(c.rows),
            cols: col * WIDE..(col_end * WIDE).min(c.cols),
        };
        before(&tile);
        let part = c.part(tile.rows.clone(), tile.cols.clone());
        for first in (0..a.pairs).step_by(DEPTH) {
            let depth = first..(first + DEPTH).min(a.pairs);
            for right in col..col_end {
                for left in row..row_end {
                    let (i, j) = ((left - row) * TALL, (right - col) * WIDE);
                    let rows = i..(i + TALL).min(part.rows);
                    let cols = j..(j + WIDE).min(part.cols);
                    let (a, b) = (a.panel(left, &depth), b.panel(right, &depth));
                    // SAFETY: nobody writes to panels, and tiles of the result are disjoint.
                    unsafe {
                        panel_product(a, b, depth.len(), part.part(rows, cols), accumulate || first > 0);
                    };
                }
            }
        }
        after(&tile);
    });
}

/// Panels of a task, then halved until there are 16 tasks.
fn panels_a_tile(a_panels: usize, b_panels: usize) -> (usize, usize) {
    let (mut rows, mut cols) = (a_panels.min(16), b_panels.min(32));
    while a_panels.div_ceil(rows) * b_panels.div_ceil(cols) < 16 && rows * cols > 4 {
        if rows * TALL >= cols * WIDE { rows = rows.div_ceil(2) } else { cols = cols.div_ceil(2) }
    }
    (rows, cols)
}

/// Rows [`WIDE`] or more floats apart of a whole tile of the result.
#[derive(Clone, Copy)]
struct Sums {
    first: *mut f32,
    stride: usize,
    /// Whether products are added to what is there.
    accumulate: bool,
}

/// One tile of the result, up to `TALL x WIDE`.
///
/// # Safety
/// `a` and `b` point to panels `pairs` deep that nobody writes to; nobody else touches `c`.
unsafe fn panel_product(a: *const u32, b: *const u32, pairs: usize, c: Matrix, accumulate: bool) {
    // SAFETY: the caller's promise; a whole tile is written where it belongs, a part of one by way of a copy.
    unsafe {
        if c.rows == TALL && c.cols == WIDE {
            let (first, stride) = c.first_and_stride();
            return whole_panel_product(a, b, pairs, Sums { first, stride, accumulate });
        }
        let mut copy = [[0.0f32; WIDE]; TALL];
        if accumulate {
            for (i, copy) in copy[..c.rows].iter_mut().enumerate() {
                copy[..c.cols].copy_from_slice(c.row_mut(i));
            }
        }
        let first = copy.as_flattened_mut().as_mut_ptr();
        whole_panel_product(a, b, pairs, Sums { first, stride: WIDE, accumulate });
        for (i, copy) in copy[..c.rows].iter().enumerate() {
            c.row_mut(i).copy_from_slice(&copy[..c.cols]);
        }
    }
}

/// # Safety
/// As [`panel_product`]; `sums` is a whole tile.
unsafe fn whole_panel_product(a: *const u32, b: *const u32, pairs: usize, sums: Sums) {
    // SAFETY: the caller's promise; instructions are used where they exist.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        if has_bfloat16() {
            return x86::kernel(a, b, pairs, sums);
        }
        portable_kernel(
            std::slice::from_raw_parts(a, pairs * TALL),
            std::slice::from_raw_parts(b, pairs * WIDE),
            std::array::from_fn(|i| std::slice::from_raw_parts_mut(sums.first.add(i * sums.stride), WIDE)),
            sums.accumulate,
        );
    }
}

vectorised! {
    /// The same sums in the same order by float32 instructions.
    fn portable_kernel(a: &[u32], b: &[u32], rows: [&mut [f32]; TALL], accumulate: bool) {
        let mut sums = [[0.0f32; WIDE]; TALL];
        if accumulate {
            for (sums, row) in sums.iter_mut().zip(&rows) {
                sums.copy_from_slice(row);
            }
        }
        for (a, b) in a.as_chunks::<TALL>().0.iter().zip(b.as_chunks::<WIDE>().0) {
            for (sums, &a) in sums.iter_mut().zip(a) {
                let (a_low, a_high) = (f32::from_bits(a << 16), f32::from_bits(a & 0xffff_0000));
                for (sum, &b) in sums.iter_mut().zip(b) {
                    let (b_low, b_high) = (f32::from_bits(b << 16), f32::from_bits(b & 0xffff_0000));
                    *sum = a_low.mul_add(b_low, a_high.mul_add(b_high, *sum));
                }
            }
        }
        for (sums, row) in sums.iter().zip(rows) {
            row.copy_from_slice(sums);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m512bh, __m512i, _mm512_dpbf16_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_set1_epi32,
        _mm512_setzero_ps, _mm512_storeu_ps,
    };
    use std::mem::transmute;

    use super::{Sums, TALL, WIDE};

    /// The product of two panels; 28 of 32 registers hold sums.
    ///
    /// # Safety
    /// The processor has AVX-512 BF16. `a` and `b` point to panels `pairs` deep that nobody writes to; nobody else touches
    /// `sums`, a whole tile.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) unsafe fn kernel(a: *const u32, b: *const u32, pairs: usize, sums: Sums) {
        // SAFETY: the caller's promise; a __m512bh is any 64 bytes.
        unsafe {
            let load = |at: *const u32| transmute::<__m512i, __m512bh>(_mm512_loadu_si512(at.cast()));
            let mut registers = [[_mm512_setzero_ps(); 2]; TALL];
            if sums.accumulate {
                for i in 0..TALL {
                    let row = sums.first.add(i * sums.stride);
                    registers[i] = [_mm512_loadu_ps(row), _mm512_loadu_ps(row.add(16))];
                }
            }
            for k in 0..pairs {
                let right = [load(b.add(k * WIDE)), load(b.add(k * WIDE + 16))];
                for i in 0..TALL {
                    let left = _mm512_set1_epi32(*a.add(k * TALL + i) as i32);
                    let left = transmute::<__m512i, __m512bh>(left);
                    registers[i][0] = _mm512_dpbf16_ps(registers[i][0], left, right[0]);
                    registers[i][1] = _mm512_dpbf16_ps(registers[i][1], left, right[1]);
                }
            }
            for i in 0..TALL {
                let row = sums.first.add(i * sums.stride);
                _mm512_storeu_ps(row, registers[i][0]);
                _mm512_storeu_ps(row.add(16), registers[i][1]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against sums in float64 of what rounding leaves.
    #[test]
    fn products_of_all_layouts_and_awkward_shapes() {
        let mut pool = Pool::new(2, false).unwrap();
        let round = |x| f64::from(crate::Precision::Bfloat16.round(x));
        for (m, n, k) in [(1, 1, 1), (14, 32, 3), (15, 33, 3), (29, 70, 131), (200, 300, 600)] {
            let mut a: Vec<f32> = (0..m * k).map(|i| (i as f32 * 0.37).sin()).collect();
            let mut b: Vec<f32> = (0..k * n).map(|i| (i as f32 * 0.73).cos()).collect();
            for transposed in [false, true] {
                let (mut pack_a, mut pack_b) =
                    (vec![0; packed_len(m, k, TALL)], vec![0; packed_len(n, k, WIDE)]);
                let mut c = vec![1.0; m * n];
                let c_matrix = Matrix::new(Shared::of(&mut c), m, n);
                let (a_matrix, b_matrix) = if transposed {
                    (Matrix::new(Shared::of(&mut a), k, m).t(), Matrix::new(Shared::of(&mut b), n, k).t())
                } else {
                    (Matrix::new(Shared::of(&mut a), m, k), Matrix::new(Shared::of(&mut b), k, n))
                };
                // SAFETY: separate vectors.
                unsafe {
                    let left = pack(&mut pool, a_matrix, TALL, Shared::of(&mut pack_a));
                    let right = pack(&mut pool, b_matrix.t(), WIDE, Shared::of(&mut pack_b));
                    packed_product(&mut pool, (c_matrix, true), (left, right), |_| {}, |_| {});
                }
                for i in 0..m {
                    for j in 0..n {
                        let at = |l: usize| {
                            if transposed {
                                (a[l * m + i], b[j * k + l])
                            } else {
                                (a[i * k + l], b[l * n + j])
                            }
                        };
                        let sum: f64 = (0..k).map(at).map(|(a, b)| round(a) * round(b)).sum();
                        let found = f64::from(c[i * n + j]);
                        assert!((found - 1.0 - sum).abs() < 1e-4, "{m} {n} {k}: {found} {sum}");
                    }
                }
            }
        }
    }

    #[test]
    fn both_kernels_agree() {
        let a: Vec<u32> = (0..40 * TALL).map(|i| pair((i as f32).sin(), (i as f32).cos())).collect();
        let b: Vec<u32> =
            (0..40 * WIDE).map(|i| pair((i as f32 * 0.3).sin(), (i as f32 * 0.7).cos())).collect();
        for accumulate in [false, true] {
            let (mut found, mut expected) = ([[0.5f32; WIDE]; TALL], [[0.5f32; WIDE]; TALL]);
            let sums = Sums { first: found.as_flattened_mut().as_mut_ptr(), stride: WIDE, accumulate };
            portable_kernel(&a, &b, expected.each_mut().map(|row| &mut row[..]), accumulate);
            // SAFETY: both panels are 40 deep, and `found` is a whole tile.
            unsafe { whole_panel_product(a.as_ptr(), b.as_ptr(), 40, sums) };
            for (found, expected) in found.as_flattened().iter().zip(expected.as_flattened()) {
                assert!((found - expected).abs() < 1e-5, "{found} {expected}");
            }
        }
    }
}
