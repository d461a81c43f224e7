//! A tile of a few rows times a panel of 32 outputs, in registers, for every way of storing a matrix.
//!
//! With AVX-512 (for bfloat16 and integers with the instructions that multiply them) each weight is loaded once for all rows of
//! the tile. Elsewhere plain loops take the rows one after the other, over a panel that is in cache.

use super::simd::vectorised;
use crate::Storage;
use crate::storage::PANEL;

/// Rows of the tallest tile: its sums take 28 of 32 registers.
pub(super) const TALLEST: usize = 14;

/// Results of a tile.
pub(super) type Sums = [[f32; PANEL]; TALLEST];

/// Rows of a tile at most: beside integers each has two sums an output, one a digit.
pub(super) fn tallest(storage: Storage) -> usize {
    if storage == Storage::Int8 { TALLEST / 2 } else { TALLEST }
}

/// Fills `sums[..rows]`. The tile is `a`, `rows` words a step (twice as many beside integers, after a first one of what sums
/// begin with); the panel is `b`, [`PANEL`] words a step.
pub(super) fn multiply(storage: Storage, a: &[u32], b: &[u32], rows: usize, sums: &mut Sums) {
    let steps = b.len() / PANEL;
    let words = if storage == Storage::Int8 { 2 * (steps + 1) } else { steps };
    assert!((1..=tallest(storage)).contains(&rows) && a.len() == rows * words && b.len() == steps * PANEL);
    #[cfg(target_arch = "x86_64")]
    if x86::has(storage) {
        // SAFETY: the processor has the instructions, and the lengths are those just checked.
        return unsafe { x86::multiply(storage, a.as_ptr(), b.as_ptr(), (rows, steps), sums) };
    }
    for (i, sums) in sums[..rows].iter_mut().enumerate() {
        portable(storage, a, b, (rows, i), sums);
    }
}

fn portable(storage: Storage, a: &[u32], b: &[u32], (rows, i): (usize, usize), sums: &mut [f32; PANEL]) {
    match storage {
        Storage::Float32 => float32_row(a, b, rows, i, sums),
        Storage::Bfloat16 => bfloat16_row(a, b, rows, i, sums),
        Storage::Int8 => int8_row(a, b, rows, i, sums),
    }
}

vectorised! {
    fn float32_row(a: &[u32], b: &[u32], rows: usize, i: usize, out: &mut [f32; PANEL]) {
        let mut sums = [0.0f32; PANEL];
        for (a, b) in a.chunks_exact(rows).zip(b.as_chunks::<PANEL>().0) {
            let x = f32::from_bits(a[i]);
            for (sum, &w) in sums.iter_mut().zip(b) {
                *sum = x.mul_add(f32::from_bits(w), *sum);
            }
        }
        *out = sums;
    }
}

vectorised! {
    fn bfloat16_row(a: &[u32], b: &[u32], rows: usize, i: usize, out: &mut [f32; PANEL]) {
        let mut sums = [0.0f32; PANEL];
        for (a, b) in a.chunks_exact(rows).zip(b.as_chunks::<PANEL>().0) {
            let (x_low, x_high) = (f32::from_bits(a[i] << 16), f32::from_bits(a[i] & 0xffff_0000));
            for (sum, &w) in sums.iter_mut().zip(b) {
                let (w_low, w_high) = (f32::from_bits(w << 16), f32::from_bits(w & 0xffff_0000));
                *sum = x_low.mul_add(w_low, x_high.mul_add(w_high, *sum));
            }
        }
        *out = sums;
    }
}

vectorised! {
    /// Both digits at once, in float32, where they are exact.
    fn int8_row(a: &[u32], b: &[u32], rows: usize, i: usize, out: &mut [f32; PANEL]) {
        let mut sums = [[0.0f32; PANEL]; 4];
        for (a, b) in a.chunks_exact(2 * rows).skip(1).zip(b.as_chunks::<PANEL>().0) {
            let (high, low) = (a[2 * i], a[2 * i + 1]);
            for (byte, sums) in sums.iter_mut().enumerate() {
                let digit = |word: u32| f32::from((word >> (8 * byte)) as i8);
                let x = 256.0 * digit(high) + digit(low);
                for (sum, &w) in sums.iter_mut().zip(b) {
                    let w = (w >> (8 * byte) & 0xff) as i32 - 128;
                    *sum = x.mul_add(w as f32, *sum);
                }
            }
        }
        for (j, out) in out.iter_mut().enumerate() {
            *out = (sums[0][j] + sums[1][j]) + (sums[2][j] + sums[3][j]);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m512bh, __m512i, _mm512_cvtepi32_ps, _mm512_dpbf16_ps, _mm512_dpbusd_epi32, _mm512_fmadd_ps,
        _mm512_loadu_ps, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps,
        _mm512_storeu_ps,
    };
    use std::mem::transmute;

    use super::{Storage, Sums};
    use crate::storage::PANEL;

    pub(super) fn has(storage: Storage) -> bool {
        is_x86_feature_detected!("avx512f")
            && match storage {
                Storage::Float32 => true,
                Storage::Bfloat16 => is_x86_feature_detected!("avx512bf16"),
                Storage::Int8 => is_x86_feature_detected!("avx512vnni"),
            }
    }

    /// Calls a kernel for the number of rows at hand.
    macro_rules! for_rows {
        ($rows:expr, $kernel:ident $args:tt: $($n:literal)*) => {
            match $rows {
                $($n => $kernel::<$n> $args,)*
                _ => unreachable!("no tile is so tall"),
            }
        };
    }

    /// # Safety
    /// The processor [`has`] the instructions; `a` and `b` are as long as `rows` and `steps` say, and `rows` is no more than a tile
    /// has.
    pub(super) unsafe fn multiply(
        storage: Storage,
        a: *const u32,
        b: *const u32,
        (rows, steps): (usize, usize),
        sums: &mut Sums,
    ) {
        // SAFETY: passed on to the caller.
        unsafe {
            match storage {
                Storage::Float32 => {
                    for_rows!(rows, float32(a, b, steps, sums): 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
                }
                Storage::Bfloat16 => {
                    for_rows!(rows, bfloat16(a, b, steps, sums): 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
                }
                Storage::Int8 => for_rows!(rows, int8(a, b, steps, sums): 1 2 3 4 5 6 7),
            }
        }
    }

    /// # Safety
    /// As [`multiply`].
    #[target_feature(enable = "avx512f")]
    unsafe fn float32<const ROWS: usize>(a: *const u32, b: *const u32, steps: usize, sums: &mut Sums) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut registers = [[_mm512_setzero_ps(); 2]; ROWS];
            for k in 0..steps {
                let b = b.add(k * PANEL).cast::<f32>();
                let right = [_mm512_loadu_ps(b), _mm512_loadu_ps(b.add(16))];
                for (i, row) in registers.iter_mut().enumerate() {
                    let left = _mm512_set1_ps(*a.add(k * ROWS + i).cast::<f32>());
                    row[0] = _mm512_fmadd_ps(left, right[0], row[0]);
                    row[1] = _mm512_fmadd_ps(left, right[1], row[1]);
                }
            }
            for (row, sums) in registers.iter().zip(sums) {
                _mm512_storeu_ps(sums.as_mut_ptr(), row[0]);
                _mm512_storeu_ps(sums.as_mut_ptr().add(16), row[1]);
            }
        }
    }

    /// # Safety
    /// As [`multiply`].
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn bfloat16<const ROWS: usize>(a: *const u32, b: *const u32, steps: usize, sums: &mut Sums) {
        // SAFETY: the caller's promise; a __m512bh is any 64 bytes.
        unsafe {
            let load = |at: *const u32| transmute::<__m512i, __m512bh>(_mm512_loadu_si512(at.cast()));
            let mut registers = [[_mm512_setzero_ps(); 2]; ROWS];
            for k in 0..steps {
                let b = b.add(k * PANEL);
                let right = [load(b), load(b.add(16))];
                for (i, row) in registers.iter_mut().enumerate() {
                    let left = _mm512_set1_epi32(*a.add(k * ROWS + i) as i32);
                    let left = transmute::<__m512i, __m512bh>(left);
                    row[0] = _mm512_dpbf16_ps(row[0], left, right[0]);
                    row[1] = _mm512_dpbf16_ps(row[1], left, right[1]);
                }
            }
            for (row, sums) in registers.iter().zip(sums) {
                _mm512_storeu_ps(sums.as_mut_ptr(), row[0]);
                _mm512_storeu_ps(sums.as_mut_ptr().add(16), row[1]);
            }
        }
    }

    /// Products of unsigned weights with signed digits, exact in 32 bits for up to 65,000 inputs.
    ///
    /// # Safety
    /// As [`multiply`].
    #[target_feature(enable = "avx512f,avx512vnni")]
    unsafe fn int8<const ROWS: usize>(a: *const u32, b: *const u32, steps: usize, sums: &mut Sums) {
        // SAFETY: the caller's promise.
        unsafe {
            let word = |at: usize| _mm512_set1_epi32(*a.add(at) as i32);
            let mut registers = [[[_mm512_set1_epi32(0); 2]; 2]; ROWS];
            for (i, [high, low]) in registers.iter_mut().enumerate() {
                (*high, *low) = ([word(2 * i); 2], [word(2 * i + 1); 2]);
            }
            for k in 0..steps {
                let b = b.add(k * PANEL);
                let right = [_mm512_loadu_si512(b.cast()), _mm512_loadu_si512(b.add(16).cast())];
                for (i, digits) in registers.iter_mut().enumerate() {
                    for (digit, sums) in digits.iter_mut().enumerate() {
                        let left = word(2 * ((k + 1) * ROWS + i) + digit);
                        sums[0] = _mm512_dpbusd_epi32(sums[0], right[0], left);
                        sums[1] = _mm512_dpbusd_epi32(sums[1], right[1], left);
                    }
                }
            }
            let base = _mm512_set1_ps(256.0);
            for ([high, low], sums) in registers.iter().zip(sums) {
                for (half, (&high, &low)) in high.iter().zip(low).enumerate() {
                    let sum = _mm512_fmadd_ps(base, _mm512_cvtepi32_ps(high), _mm512_cvtepi32_ps(low));
                    _mm512_storeu_ps(sums.as_mut_ptr().add(16 * half), sum);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tiles of every height: the instructions and the plain loops, which for integers are exact both.
    #[test]
    fn both_kernels_agree() {
        const STEPS: usize = 37;
        let word = |i: usize| (i as u32).wrapping_mul(2_654_435_761) ^ (i as u32) << 7;
        for storage in [Storage::Float32, Storage::Bfloat16, Storage::Int8] {
            let is_int8 = storage == Storage::Int8;
            // Numbers of a sensible size, whichever way the words are read.
            let element = |i: usize| match storage {
                Storage::Float32 => (i as f32).sin().to_bits(),
                Storage::Bfloat16 => {
                    (i as f32).sin().to_bits() & 0xffff_0000 | (i as f32).cos().to_bits() >> 16
                }
                Storage::Int8 => word(i),
            };
            let b: Vec<u32> = (0..STEPS * PANEL).map(element).collect();
            for rows in 1..=tallest(storage) {
                let words = if is_int8 { 2 * (STEPS + 1) } else { STEPS };
                let mut a: Vec<u32> = (0..rows * words).map(|i| element(3 * i + 1)).collect();
                if is_int8 {
                    for i in 0..2 * rows {
                        let digits = (1..=STEPS).flat_map(|k| a[2 * rows * k + i].to_le_bytes());
                        a[i] = (-128 * digits.map(|digit| i32::from(digit as i8)).sum::<i32>()) as u32;
                    }
                }
                let mut found = [[f32::NAN; PANEL]; TALLEST];
                multiply(storage, &a, &b, rows, &mut found);
                for (i, found) in found[..rows].iter().enumerate() {
                    let mut expected = [f32::NAN; PANEL];
                    portable(storage, &a, &b, (rows, i), &mut expected);
                    for (found, expected) in found.iter().zip(expected) {
                        let size = if is_int8 { 256.0 * 128.0 * 128.0 * STEPS as f32 } else { STEPS as f32 };
                        assert!(
                            (found - expected).abs() < 1e-6 * size,
                            "{storage:?} {rows}: {found} {expected}"
                        );
                    }
                }
            }
        }
    }
}
