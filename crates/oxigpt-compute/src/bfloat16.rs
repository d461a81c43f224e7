//! bfloat16: the upper half of a float32.

/// A number in bfloat16.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
pub(crate) struct Bf16(u16);

impl Bf16 {
    /// The nearest to `x`, ties to even.
    #[inline(always)]
    pub(crate) fn new(x: f32) -> Bf16 {
        Bf16((rounded(x) >> 16) as u16)
    }

    /// The same number in float32, exactly.
    #[inline(always)]
    pub(crate) fn get(self) -> f32 {
        f32::from_bits(u32::from(self.0) << 16)
    }
}

/// Bits whose upper half is the bfloat16 nearest to `x`, ties to even. Not a number stays so.
#[inline(always)]
pub(crate) fn rounded(x: f32) -> u32 {
    let bits = x.to_bits();
    let nearest = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    if x.is_nan() { bits | 0x40_0000 } else { nearest }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_to_the_nearest_even() {
        for (x, expected) in [
            (1.0, 0x3f80),
            (1.003_906_2, 0x3f80),
            (1.003_906_4, 0x3f81),
            (1.011_718_8, 0x3f82),
            (-0.0, 0x8000),
            (f32::MAX, 0x7f80),
            (f32::INFINITY, 0x7f80),
        ] {
            assert_eq!(Bf16::new(x).0, expected, "{x}");
        }
        assert!(Bf16::new(f32::from_bits(0x7fff_ffff)).get().is_nan());
    }
}
