//! Instruction sets: what a tile's inner loop consists of.

/// An instruction set: vectors of sums, and of words.
pub(super) trait Unit {
    type Word: Copy;
    type Words: Copy;
    type Sums: Copy;
    /// Sums of a vector.
    const LANES: usize;

    /// The same number everywhere.
    ///
    /// # Safety
    /// The processor has the instructions of this type; so for all functions.
    unsafe fn sums(x: f32) -> Self::Sums;

    /// # Safety
    /// `from` points to `LANES` floats.
    unsafe fn load_sums(from: *const f32) -> Self::Sums;

    /// # Safety
    /// `to` points to `LANES` floats.
    unsafe fn store(sums: Self::Sums, to: *mut f32);

    /// # Safety
    /// As [`Unit::sums`].
    unsafe fn scale(sums: Self::Sums, by: Self::Sums) -> Self::Sums;

    /// The same word everywhere.
    ///
    /// # Safety
    /// As [`Unit::sums`].
    unsafe fn splat(word: Self::Word) -> Self::Words;

    /// # Safety
    /// `from` points to `LANES` words.
    unsafe fn load(from: *const Self::Word) -> Self::Words;

    /// `a * b + sums`.
    ///
    /// # Safety
    /// As [`Unit::sums`].
    unsafe fn multiply_add(a: Self::Words, b: Self::Words, sums: Self::Sums) -> Self::Sums;
}

/// What the compiler makes of loops.
pub(super) struct Portable;

impl Unit for Portable {
    type Word = f32;
    type Words = [f32; 4];
    type Sums = [f32; 4];
    const LANES: usize = 4;

    #[inline(always)]
    unsafe fn sums(x: f32) -> [f32; 4] {
        [x; 4]
    }

    #[inline(always)]
    unsafe fn load_sums(from: *const f32) -> [f32; 4] {
        // SAFETY: the caller's promise.
        unsafe { from.cast::<[f32; 4]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(sums: [f32; 4], to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<[f32; 4]>().write_unaligned(sums) }
    }

    #[inline(always)]
    unsafe fn scale(sums: [f32; 4], by: [f32; 4]) -> [f32; 4] {
        std::array::from_fn(|i| sums[i] * by[i])
    }

    #[inline(always)]
    unsafe fn splat(word: f32) -> [f32; 4] {
        [word; 4]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> [f32; 4] {
        // SAFETY: the caller's promise.
        unsafe { Self::load_sums(from) }
    }

    #[inline(always)]
    unsafe fn multiply_add(a: [f32; 4], b: [f32; 4], sums: [f32; 4]) -> [f32; 4] {
        std::array::from_fn(|i| a[i].mul_add(b[i], sums[i]))
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    use std::arch::x86_64::{
        __m256, __m512, __m512bh, __m512i, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_mul_ps, _mm256_set1_ps,
        _mm256_storeu_ps, _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512,
        _mm512_mul_ps, _mm512_set1_epi32, _mm512_set1_ps, _mm512_storeu_ps,
    };
    use std::mem::transmute;

    use super::Unit;

    pub(in super::super) struct Avx512;
    pub(in super::super) struct Avx2;
    pub(in super::super) struct Pairs;

    /// An instruction set, its types, and how it does what [`Unit`] asks for.
    macro_rules! unit {
        ($unit:ty, $word:ty, $words:ty, $sums:ty, $lanes:literal,
         $set1:ident, $load_sums:ident, $store:ident, $mul:ident,
         |$at:ident| $load:expr, |$one:ident| $splat:expr, |$a:ident, $b:ident, $c:ident| $fma:expr) => {
            impl Unit for $unit {
                type Word = $word;
                type Words = $words;
                type Sums = $sums;
                const LANES: usize = $lanes;

                #[inline(always)]
                unsafe fn sums(x: f32) -> $sums {
                    // SAFETY: the caller's promise; so below.
                    unsafe { $set1(x) }
                }

                #[inline(always)]
                unsafe fn load_sums(from: *const f32) -> $sums {
                    // SAFETY: as above.
                    unsafe { $load_sums(from) }
                }

                #[inline(always)]
                unsafe fn store(sums: $sums, to: *mut f32) {
                    // SAFETY: as above.
                    unsafe { $store(to, sums) }
                }

                #[inline(always)]
                unsafe fn scale(sums: $sums, by: $sums) -> $sums {
                    // SAFETY: as above.
                    unsafe { $mul(sums, by) }
                }

                #[inline(always)]
                unsafe fn splat($one: $word) -> $words {
                    // SAFETY: as above.
                    unsafe { $splat }
                }

                #[inline(always)]
                unsafe fn load($at: *const $word) -> $words {
                    // SAFETY: as above.
                    unsafe { $load }
                }

                #[inline(always)]
                unsafe fn multiply_add($a: $words, $b: $words, $c: $sums) -> $sums {
                    // SAFETY: as above.
                    unsafe { $fma }
                }
            }
        };
    }
    unit!(
        Avx512,
        f32,
        __m512,
        __m512,
        16,
        _mm512_set1_ps,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_mul_ps,
        |at| _mm512_loadu_ps(at),
        |one| _mm512_set1_ps(one),
        |a, b, sums| _mm512_fmadd_ps(a, b, sums)
    );
    unit!(
        Avx2,
        f32,
        __m256,
        __m256,
        8,
        _mm256_set1_ps,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_mul_ps,
        |at| _mm256_loadu_ps(at),
        |one| _mm256_set1_ps(one),
        |a, b, sums| _mm256_fmadd_ps(a, b, sums)
    );
    // A __m512bh is any 64 bytes.
    unit!(
        Pairs,
        u32,
        __m512bh,
        __m512,
        16,
        _mm512_set1_ps,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_mul_ps,
        |at| transmute::<__m512i, __m512bh>(_mm512_loadu_si512(at.cast())),
        |one| transmute::<__m512i, __m512bh>(_mm512_set1_epi32(one.cast_signed())),
        |a, b, sums| _mm512_dpbf16_ps(sums, a, b)
    );
}
