//! The product of a panel of rows and a panel of columns: a tile of the result, summed up in registers.

use super::element::Element;
use super::{TALL, WIDE, has_bfloat16};
use crate::cpu::block::Left;
use crate::cpu::simd::vectorised;

/// What sums begin with.
#[derive(Clone, Copy)]
pub(crate) enum Start<'a> {
    /// Nothing.
    Zero,
    /// What is in the result.
    Add,
    /// The same row everywhere, as wide as the result.
    Bias(&'a [f32]),
}

/// A tile of the result, `rows x cols`, rows `stride` elements apart.
pub(super) struct Sums<T> {
    pub(super) first: *mut T,
    pub(super) stride: usize,
    pub(super) rows: usize,
    pub(super) cols: usize,
}

/// Adds the product of some rows and a panel of columns, `pairs` deep, to what `start` says.
///
/// # Safety
/// Nobody else touches the elements of `sums`.
pub(super) unsafe fn multiply<T: Element>(
    a: Left<u32>,
    b: &[u32],
    pairs: usize,
    start: Start,
    sums: &Sums<T>,
) {
    assert!((1..=TALL).contains(&sums.rows) && (1..=WIDE).contains(&sums.cols));
    assert!(pairs > 0 && b.len() >= pairs * WIDE);
    assert!(a.data.len() > (sums.rows - 1) * a.row_stride + (pairs - 1) * a.k_stride);
    if let Start::Bias(bias) = start {
        assert!(bias.len() >= sums.cols);
    }
    #[cfg(target_arch = "x86_64")]
    if has_bfloat16() {
        // SAFETY: the processor has the instructions, lengths are checked above, the rest is the caller's promise.
        return unsafe { x86::multiply(a, b.as_ptr(), pairs, start, sums) };
    }
    // SAFETY: the caller's promise.
    unsafe { portable(a, b, pairs, start, sums) }
}

/// The same sums in the same order without the instruction.
///
/// # Safety
/// As [`multiply`].
unsafe fn portable<T: Element>(a: Left<u32>, b: &[u32], pairs: usize, start: Start, sums: &Sums<T>) {
    let mut tile = [[0.0f32; WIDE]; TALL];
    for (i, row) in tile[..sums.rows].iter_mut().enumerate() {
        match start {
            Start::Zero => {}
            // SAFETY: elements of the tile.
            Start::Add => unsafe {
                for (j, sum) in row[..sums.cols].iter_mut().enumerate() {
                    *sum = sums.first.add(i * sums.stride + j).read().get();
                }
            },
            Start::Bias(bias) => row[..sums.cols].copy_from_slice(&bias[..sums.cols]),
        }
    }
    add_products(a, &b[..pairs * WIDE], &mut tile[..sums.rows]);
    for (i, row) in tile[..sums.rows].iter().enumerate() {
        for (j, &sum) in row[..sums.cols].iter().enumerate() {
            // SAFETY: an element of the tile.
            unsafe { sums.first.add(i * sums.stride + j).write(T::new(sum)) };
        }
    }
}

vectorised! {
    fn add_products(a: Left<u32>, b: &[u32], tile: &mut [[f32; WIDE]]) {
        for (k, b) in b.as_chunks::<WIDE>().0.iter().enumerate() {
            for (i, sums) in tile.iter_mut().enumerate() {
                let a = a.data[i * a.row_stride + k * a.k_stride];
                let (a_low, a_high) = (f32::from_bits(a << 16), f32::from_bits(a & 0xffff_0000));
                for (sum, &b) in sums.iter_mut().zip(b) {
                    let (b_low, b_high) = (f32::from_bits(b << 16), f32::from_bits(b & 0xffff_0000));
                    *sum = a_low.mul_add(b_low, a_high.mul_add(b_high, *sum));
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m512bh, __m512i, _mm512_dpbf16_ps, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_setzero_ps,
    };
    use std::mem::transmute;

    use super::{Element, Left, Start, Sums, WIDE};

    /// # Safety
    /// As the function of the same name above, on a processor with AVX-512 BW and BF16; its asserts hold.
    pub(super) unsafe fn multiply<T: Element>(
        a: Left<u32>,
        b: *const u32,
        pairs: usize,
        start: Start,
        sums: &Sums<T>,
    ) {
        // SAFETY: passed on to the caller.
        unsafe {
            match sums.rows {
                1 => tile::<T, 1>(a, b, pairs, start, sums),
                2 => tile::<T, 2>(a, b, pairs, start, sums),
                3 => tile::<T, 3>(a, b, pairs, start, sums),
                4 => tile::<T, 4>(a, b, pairs, start, sums),
                5 => tile::<T, 5>(a, b, pairs, start, sums),
                6 => tile::<T, 6>(a, b, pairs, start, sums),
                7 => tile::<T, 7>(a, b, pairs, start, sums),
                8 => tile::<T, 8>(a, b, pairs, start, sums),
                9 => tile::<T, 9>(a, b, pairs, start, sums),
                10 => tile::<T, 10>(a, b, pairs, start, sums),
                11 => tile::<T, 11>(a, b, pairs, start, sums),
                12 => tile::<T, 12>(a, b, pairs, start, sums),
                13 => tile::<T, 13>(a, b, pairs, start, sums),
                _ => tile::<T, 14>(a, b, pairs, start, sums),
            }
        }
    }

    /// 28 of 32 registers hold sums where `ROWS` is 14.
    ///
    /// # Safety
    /// As [`multiply`], for `ROWS` rows.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn tile<T: Element, const ROWS: usize>(
        a: Left<u32>,
        b: *const u32,
        pairs: usize,
        start: Start,
        sums: &Sums<T>,
    ) {
        let Sums { first, stride, cols, .. } = *sums;
        let (a, a_row, a_k) = (a.data.as_ptr(), a.row_stride, a.k_stride);
        // SAFETY: the caller's promise; a __m512bh is any 64 bytes.
        unsafe {
            let load = |at: *const u32| transmute::<__m512i, __m512bh>(_mm512_loadu_si512(at.cast()));
            let mut registers = [[_mm512_setzero_ps(); 2]; ROWS];
            match start {
                Start::Zero => {}
                Start::Add => {
                    for (i, registers) in registers.iter_mut().enumerate() {
                        *registers = T::load(first.add(i * stride), cols);
                    }
                }
                Start::Bias(bias) => registers = [f32::load(bias.as_ptr(), cols); ROWS],
            }
            for k in 0..pairs {
                let right = [load(b.add(k * WIDE)), load(b.add(k * WIDE + 16))];
                for i in 0..ROWS {
                    let left = _mm512_set1_epi32(*a.add(k * a_k + i * a_row) as i32);
                    let left = transmute::<__m512i, __m512bh>(left);
                    registers[i][0] = _mm512_dpbf16_ps(registers[i][0], left, right[0]);
                    registers[i][1] = _mm512_dpbf16_ps(registers[i][1], left, right[1]);
                }
            }
            for (i, registers) in registers.iter().enumerate() {
                T::store(first.add(i * stride), cols, *registers);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::LEFT;
    use super::super::pack::pair;
    use super::*;
    use crate::bfloat16::Bf16;

    /// Every height, widths that are no whole vector, and rows that lie side by side or one behind the other.
    #[test]
    fn both_kernels_agree() {
        let a: Vec<u32> = (0..40 * LEFT).map(|i| pair((i as f32).sin(), (i as f32).cos())).collect();
        let layouts =
            [(1, LEFT), (40, 1)].map(|(row_stride, k_stride)| Left { data: &a, row_stride, k_stride });
        let b: Vec<u32> =
            (0..40 * WIDE).map(|i| pair((i as f32 * 0.3).sin(), (i as f32 * 0.7).cos())).collect();
        let bias = [0.25; WIDE];
        for (rows, cols) in (1..=TALL).flat_map(|rows| [1, 16, 17, 31, 32].map(|cols| (rows, cols))) {
            let starts = [Start::Zero, Start::Add, Start::Bias(&bias)];
            for (a, start) in layouts.iter().flat_map(|&a| starts.map(|start| (a, start))) {
                let run = |any: bool| {
                    let mut tile = [[0.5f32; WIDE]; TALL];
                    let first = tile.as_flattened_mut().as_mut_ptr();
                    let sums = Sums { first, stride: WIDE, rows, cols };
                    // SAFETY: `sums` lies within `tile`.
                    unsafe {
                        if any {
                            multiply(a, &b, 40, start, &sums);
                        } else {
                            portable(a, &b, 40, start, &sums);
                        };
                    }
                    tile
                };
                for (found, expected) in run(true).as_flattened().iter().zip(run(false).as_flattened()) {
                    assert!((found - expected).abs() < 1e-5, "{rows} {cols}: {found} {expected}");
                }
            }
        }
    }

    #[test]
    fn results_are_rounded_where_they_are_bfloat16() {
        let (a, b) = ([pair(1.0, 0.003); LEFT], [pair(1.0, 1.0); WIDE]);
        let mut tile = [Bf16::new(7.0); WIDE * TALL];
        let sums = Sums { first: tile.as_mut_ptr(), stride: WIDE, rows: 1, cols: 17 };
        // SAFETY: `sums` lies within `tile`.
        unsafe { multiply(Left { data: &a, row_stride: 1, k_stride: LEFT }, &b, 1, Start::Zero, &sums) };
        assert!(tile[..17].iter().all(|x| x.get() == 1.0) && tile[17..].iter().all(|x| x.get() == 7.0));
    }
}
