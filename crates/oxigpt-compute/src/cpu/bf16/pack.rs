//! Panels: some rows of a matrix side by side, rounded, pairs of neighbours along each row together.
//!
//! Pair `k` of lane `i` of panel `p` is element `(p * pairs + k) * width + i`.

use super::element::Element;
use super::has_bfloat16;
use crate::bfloat16::rounded;
use crate::cpu::gemm::{Matrix, Operand};

/// Two elements rounded to the nearest bfloat16, ties to even, the first in the low half.
#[inline(always)]
pub(crate) fn pair(first: f32, second: f32) -> u32 {
    rounded(first) >> 16 | rounded(second) & 0xffff_0000
}

/// Packs the rows of a matrix in panels of `lanes`, which take room for `width` (16 or 32). Lanes that are left over are
/// anything, and an odd element's neighbour is zero.
///
/// # Safety
/// Nobody writes to `from` during the call.
pub(super) unsafe fn pack(from: Operand, lanes: usize, width: usize, to: &mut [u32]) {
    // SAFETY: passed on to the caller.
    unsafe {
        match from {
            Operand::F32(from) => pack_as(from, lanes, width, to),
            Operand::Bf16(from) => pack_as(from, lanes, width, to),
        }
    }
}

/// # Safety
/// As [`pack`].
unsafe fn pack_as<T: Element>(from: Matrix<T>, lanes: usize, width: usize, to: &mut [u32]) {
    let shape = Shape { rows: from.rows, depth: from.cols, lanes, width };
    assert!(lanes <= width && matches!(width, 16 | 32));
    assert!(to.len() >= shape.rows.div_ceil(lanes) * shape.pairs() * width);
    // SAFETY: instructions are used where they exist; strides are the matrix's own, and `to` is long enough.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        if has_bfloat16() {
            if from.rows_are_contiguous() {
                let (first, stride) = from.first_and_stride();
                x86::transpose(first, stride, &shape, to.as_mut_ptr());
            } else {
                let (first, stride) = from.t().first_and_stride();
                x86::interleave(first, stride, &shape, to.as_mut_ptr());
            }
            return;
        }
        portable(from, &shape, to);
    }
}

/// Rounds numbers, two neighbours to a word.
pub(crate) fn pairs_along(from: &[f32], to: &mut [u32]) {
    assert_eq!(from.len(), 2 * to.len());
    #[cfg(target_arch = "x86_64")]
    if has_bfloat16() {
        // SAFETY: the processor has the instructions, and both slices are as long as they must be.
        return unsafe { x86::along(from.as_ptr(), from.len(), to.as_mut_ptr()) };
    }
    for (to, &[one, other]) in to.iter_mut().zip(from.as_chunks().0) {
        *to = pair(one, other);
    }
}

/// Rounds rows, `stride` apart and `cols` long, two neighbours to a row of words, `width` long. An odd row's neighbour is
/// zero, and so is what is left over of the width.
pub(crate) fn pairs_across<T: Element>(
    from: &[T],
    (rows, cols, stride): (usize, usize, usize),
    width: usize,
    to: &mut [u32],
) {
    assert!(rows > 0 && cols <= width && from.len() >= (rows - 1) * stride + cols);
    let to = &mut to[..rows.div_ceil(2) * width];
    #[cfg(target_arch = "x86_64")]
    if has_bfloat16() {
        // SAFETY: the processor has the instructions, and both slices are as long as they must be.
        return unsafe { x86::across(from.as_ptr(), (rows, cols, stride), width, to.as_mut_ptr()) };
    }
    for (to, rows) in to.chunks_exact_mut(width).zip(from.chunks(2 * stride)) {
        let other = |i: usize| rows.get(stride + i).map_or(0.0, |x| x.get());
        (0..cols).for_each(|i| to[i] = pair(rows[i].get(), other(i)));
        to[cols..].fill(0);
    }
}

/// What is packed, and how.
struct Shape {
    rows: usize,
    depth: usize,
    lanes: usize,
    width: usize,
}

impl Shape {
    fn pairs(&self) -> usize {
        self.depth.div_ceil(2)
    }

    /// First row, and number of rows, of each panel.
    fn panels(&self) -> impl Iterator<Item = (usize, usize)> {
        (0..self.rows).step_by(self.lanes).map(|row| (row, self.lanes.min(self.rows - row)))
    }
}

/// # Safety
/// As [`pack`].
unsafe fn portable<T: Element>(from: Matrix<T>, shape: &Shape, to: &mut [u32]) {
    let panels = to.chunks_exact_mut(shape.pairs() * shape.width);
    for ((first, rows), panel) in shape.panels().zip(panels) {
        for (k, to) in panel.chunks_exact_mut(shape.width).enumerate() {
            for (i, to) in to[..rows].iter_mut().enumerate() {
                // SAFETY: the caller's promise.
                let at = |depth| unsafe { from.element(first + i, depth).get() };
                *to = pair(at(2 * k), if 2 * k + 1 < shape.depth { at(2 * k + 1) } else { 0.0 });
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m512i, _mm512_loadu_si512, _mm512_mask_storeu_epi16, _mm512_mask_storeu_epi32,
        _mm512_permutex2var_epi16, _mm512_setzero_si512, _mm512_shuffle_i32x4, _mm512_storeu_si512,
        _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
    };

    use super::super::element::lanes;
    use super::{Element, Shape};

    /// # Safety
    /// As [`interleave`]: `from` has `n` numbers, and `to` room for half as many words.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    pub(super) unsafe fn along(from: *const f32, n: usize, to: *mut u32) {
        for at in (0..n).step_by(32) {
            // SAFETY: the caller's promise; lanes that are masked out are neither read nor written.
            unsafe {
                let words = f32::load_rounded(from.add(at), n - at);
                _mm512_mask_storeu_epi16(to.add(at / 2).cast(), lanes(n - at), words);
            }
        }
    }

    /// # Safety
    /// As [`interleave`]: `from` has so many rows, and `to` room for half as many of `width` words.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    pub(super) unsafe fn across<T: Element>(
        from: *const T,
        (rows, cols, stride): (usize, usize, usize),
        width: usize,
        to: *mut u32,
    ) {
        // SAFETY: the caller's promise; lanes that are masked out are neither read nor written.
        unsafe {
            let [low, high] = [0, 1].map(|half| _mm512_loadu_si512(HALVES[half].as_ptr().cast()));
            for row in (0..rows).step_by(2) {
                let (from, to) = (from.add(row * stride), to.add(row / 2 * width));
                for at in (0..width).step_by(32) {
                    let n = cols.saturating_sub(at);
                    let load = |row: usize| T::load_rounded(from.wrapping_add(row * stride + at), n);
                    let one = load(0);
                    let other = if row + 1 < rows { load(1) } else { _mm512_setzero_si512() };
                    let (to, lanes) = (to.add(at), lanes(width - at));
                    let words = _mm512_permutex2var_epi16(one, low, other);
                    _mm512_mask_storeu_epi32(to.cast(), lanes as u16, words);
                    let words = _mm512_permutex2var_epi16(one, high, other);
                    _mm512_mask_storeu_epi32(to.wrapping_add(16).cast(), (lanes >> 16) as u16, words);
                }
            }
        }
    }

    /// Rows lie across panels: element `(row, k)` is `first[k * stride + row]`. Memory is read in the order in which it
    /// lies.
    ///
    /// # Safety
    /// The processor has AVX-512 BW and BF16; the matrix can be read, and its panels written to `to`.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    pub(super) unsafe fn interleave<T: Element>(first: *const T, stride: usize, shape: &Shape, to: *mut u32) {
        // SAFETY: the caller's promise.
        unsafe {
            let [low, high] = [0, 1].map(|half| _mm512_loadu_si512(HALVES[half].as_ptr().cast()));
            for k in 0..shape.pairs() {
                let row = first.add(2 * k * stride);
                for (panel, (lane, n)) in shape.panels().enumerate() {
                    let to = to.add((panel * shape.pairs() + k) * shape.width);
                    let one = T::load_rounded(row.add(lane), n);
                    let other = if 2 * k + 1 < shape.depth {
                        T::load_rounded(row.add(stride + lane), n)
                    } else {
                        _mm512_setzero_si512()
                    };
                    _mm512_storeu_si512(to.cast(), _mm512_permutex2var_epi16(one, low, other));
                    if shape.width > 16 {
                        let words = _mm512_permutex2var_epi16(one, high, other);
                        _mm512_storeu_si512(to.add(16).cast(), words);
                    }
                }
            }
        }
    }

    /// Neighbours of two vectors side by side: those of the lower halves, and of the upper ones.
    static HALVES: [[u16; 32]; 2] = halves();

    const fn halves() -> [[u16; 32]; 2] {
        let mut halves = [[0; 32]; 2];
        let mut i = 0;
        while i < 32 {
            halves[0][i] = (i / 2 + 32 * (i % 2)) as u16;
            halves[1][i] = 16 + halves[0][i];
            i += 1;
        }
        halves
    }

    /// Rows lie along panels: element `(row, k)` is `first[row * stride + k]`.
    ///
    /// # Safety
    /// As [`interleave`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    pub(super) unsafe fn transpose<T: Element>(first: *const T, stride: usize, shape: &Shape, to: *mut u32) {
        // SAFETY: the caller's promise.
        unsafe {
            for (panel, (row, n)) in shape.panels().enumerate() {
                let to = to.add(panel * shape.pairs() * shape.width);
                for lane in (0..n).step_by(16) {
                    let rows = first.add((row + lane) * stride);
                    for depth in (0..shape.depth).step_by(32) {
                        let mut words = [_mm512_setzero_si512(); 16];
                        for (i, words) in words.iter_mut().enumerate().take(n - lane) {
                            let len = (shape.depth - depth).min(32);
                            *words = T::load_rounded(rows.add(i * stride + depth), len);
                        }
                        let to = to.add(depth / 2 * shape.width + lane);
                        for (k, words) in transposed(words).iter().enumerate() {
                            if depth + 2 * k < shape.depth {
                                _mm512_storeu_si512(to.add(k * shape.width).cast(), *words);
                            }
                        }
                    }
                }
            }
        }
    }

    /// A matrix of 16 x 16 words, transposed in four rounds of exchanges of growing distance.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn transposed(a: [__m512i; 16]) -> [__m512i; 16] {
        let zero = _mm512_setzero_si512();
        let (mut b, mut c, mut d) = ([zero; 16], [zero; 16], [zero; 16]);
        for i in 0..8 {
            b[2 * i] = _mm512_unpacklo_epi32(a[2 * i], a[2 * i + 1]);
            b[2 * i + 1] = _mm512_unpackhi_epi32(a[2 * i], a[2 * i + 1]);
        }
        for i in (0..16).step_by(4) {
            c[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
            c[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
            c[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
            c[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
        }
        for j in 0..4 {
            let even = [0, 8].map(|i| _mm512_shuffle_i32x4::<0x88>(c[i + j], c[i + 4 + j]));
            let odd = [0, 8].map(|i| _mm512_shuffle_i32x4::<0xdd>(c[i + j], c[i + 4 + j]));
            d[j] = _mm512_shuffle_i32x4::<0x88>(even[0], even[1]);
            d[4 + j] = _mm512_shuffle_i32x4::<0x88>(odd[0], odd[1]);
            d[8 + j] = _mm512_shuffle_i32x4::<0xdd>(even[0], even[1]);
            d[12 + j] = _mm512_shuffle_i32x4::<0xdd>(odd[0], odd[1]);
        }
        d
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::memory::Shared;

    #[test]
    fn neighbours_along_and_across() {
        let x: Vec<f32> = (0..5 * 80).map(|i| (i as f32 * 0.37).sin()).collect();
        for n in [0, 2, 30, 32, 34, 64, 70] {
            let mut words = vec![7; n / 2];
            pairs_along(&x[..n], &mut words);
            for (i, word) in words.into_iter().enumerate() {
                assert_eq!(word, pair(x[2 * i], x[2 * i + 1]), "{n} {i}");
            }
        }
        for (rows, cols, width) in [(1_usize, 1, 16), (2, 16, 16), (5, 40, 48), (4, 64, 64), (3, 33, 80)] {
            let mut words = vec![7; rows.div_ceil(2) * width + 3];
            pairs_across(&x, (rows, cols, 80), width, &mut words);
            for (at, word) in words.into_iter().enumerate() {
                let (row, col) = (2 * (at / width), at % width);
                let expected = match row {
                    _ if row >= rows => 7,
                    _ if col >= cols => 0,
                    _ => pair(x[row * 80 + col], if row + 1 < rows { x[(row + 1) * 80 + col] } else { 0.0 }),
                };
                assert_eq!(word, expected, "{rows} {cols} {width}: {row} {col}");
            }
        }
    }

    #[test]
    fn all_ways_of_packing_agree() {
        for (rows, depth) in [(1, 1), (3, 2), (14, 33), (33, 64), (70, 131)] {
            let mut numbers: Vec<f32> = (0..rows * depth).map(|i| (i as f32 * 0.37).sin()).collect();
            for (lanes, width) in [(14, 16), (32, 32)] {
                for transposed in [false, true] {
                    let data = Shared::of(&mut numbers);
                    let from = if transposed {
                        Matrix::new(data, depth, rows).t()
                    } else {
                        Matrix::new(data, rows, depth)
                    };
                    let shape = Shape { rows, depth, lanes, width };
                    let len = rows.div_ceil(lanes) * shape.pairs() * width;
                    let (mut found, mut expected) = (vec![0; len], vec![0; len]);
                    // SAFETY: separate vectors.
                    unsafe {
                        pack(Operand::F32(from), lanes, width, &mut found);
                        portable(from, &shape, &mut expected);
                    }
                    for (panel, (_, n)) in shape.panels().enumerate() {
                        for k in 0..shape.pairs() {
                            let at = (panel * shape.pairs() + k) * width;
                            assert_eq!(
                                found[at..at + n],
                                expected[at..at + n],
                                "{rows} {depth} {transposed}"
                            );
                        }
                    }
                }
            }
        }
    }
}
