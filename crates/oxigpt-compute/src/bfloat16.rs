//! Rounding to bfloat16: the upper half of a float32.

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
            assert_eq!(rounded(x) >> 16, expected, "{x}");
        }
        assert!(f32::from_bits(rounded(f32::from_bits(0x7fff_ffff)) & 0xffff_0000).is_nan());
    }
}
