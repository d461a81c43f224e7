//! The two types that reals have in memory, each with its loads and stores.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m512, __m512bh, __m512i};

use crate::bfloat16::Bf16;

/// float32 or bfloat16.
pub(crate) trait Element: Copy + Send + Sync + 'static {
    /// The nearest to `x`.
    fn new(x: f32) -> Self;

    /// The same number in float32.
    fn get(self) -> f32;

    /// The first `n <= 32` of 32 elements as bfloat16; zeros after.
    ///
    /// # Safety
    /// `from` points to `n` elements, and the processor has AVX-512 BW and BF16. So below.
    #[cfg(target_arch = "x86_64")]
    unsafe fn load_rounded(from: *const Self, n: usize) -> __m512i;

    /// The first `n <= 32` of 32 elements as float32; zeros after.
    ///
    /// # Safety
    /// As [`Element::load_rounded`].
    #[cfg(target_arch = "x86_64")]
    unsafe fn load(from: *const Self, n: usize) -> [__m512; 2];

    /// Writes the first `n <= 32` of 32 numbers.
    ///
    /// # Safety
    /// As [`Element::load_rounded`], to write.
    #[cfg(target_arch = "x86_64")]
    unsafe fn store(to: *mut Self, n: usize, numbers: [__m512; 2]);
}

/// Bits of the first `n` of 32 lanes.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn lanes(n: usize) -> u32 {
    if n >= 32 { u32::MAX } else { (1 << n) - 1 }
}

impl Element for f32 {
    #[inline(always)]
    fn new(x: f32) -> f32 {
        x
    }

    #[inline(always)]
    fn get(self) -> f32 {
        self
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load_rounded(from: *const f32, n: usize) -> __m512i {
        use std::arch::x86_64::_mm512_cvtne2ps_pbh;
        // SAFETY: the caller's promise; a __m512bh is any 64 bytes.
        unsafe {
            let [low, high] = f32::load(from, n);
            std::mem::transmute(_mm512_cvtne2ps_pbh(high, low))
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load(from: *const f32, n: usize) -> [__m512; 2] {
        use std::arch::x86_64::_mm512_maskz_loadu_ps;
        let lanes = lanes(n);
        // SAFETY: lanes that are masked out are not read, so the second half may begin beyond the slice.
        unsafe {
            [
                _mm512_maskz_loadu_ps(lanes as u16, from),
                _mm512_maskz_loadu_ps((lanes >> 16) as u16, from.wrapping_add(16)),
            ]
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn store(to: *mut f32, n: usize, numbers: [__m512; 2]) {
        use std::arch::x86_64::_mm512_mask_storeu_ps;
        let lanes = lanes(n);
        // SAFETY: as for `load`.
        unsafe {
            _mm512_mask_storeu_ps(to, lanes as u16, numbers[0]);
            _mm512_mask_storeu_ps(to.wrapping_add(16), (lanes >> 16) as u16, numbers[1]);
        }
    }
}

impl Element for Bf16 {
    #[inline(always)]
    fn new(x: f32) -> Bf16 {
        Bf16::new(x)
    }

    #[inline(always)]
    fn get(self) -> f32 {
        self.get()
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load_rounded(from: *const Bf16, n: usize) -> __m512i {
        use std::arch::x86_64::_mm512_maskz_loadu_epi16;
        // SAFETY: lanes that are masked out are not read.
        unsafe { _mm512_maskz_loadu_epi16(lanes(n), from.cast()) }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load(from: *const Bf16, n: usize) -> [__m512; 2] {
        use std::arch::x86_64::{
            _mm512_castsi512_ps, _mm512_castsi512_si256, _mm512_cvtepu16_epi32, _mm512_extracti64x4_epi64,
            _mm512_slli_epi32,
        };
        // SAFETY: the caller's promise.
        unsafe {
            let both = Bf16::load_rounded(from, n);
            let widen = |half| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half)));
            [widen(_mm512_castsi512_si256(both)), widen(_mm512_extracti64x4_epi64::<1>(both))]
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn store(to: *mut Bf16, n: usize, numbers: [__m512; 2]) {
        use std::arch::x86_64::{_mm512_cvtne2ps_pbh, _mm512_mask_storeu_epi16};
        // SAFETY: the caller's promise; a __m512bh is any 64 bytes.
        unsafe {
            let rounded =
                std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(numbers[1], numbers[0]));
            _mm512_mask_storeu_epi16(to.cast(), lanes(n), rounded);
        }
    }
}
