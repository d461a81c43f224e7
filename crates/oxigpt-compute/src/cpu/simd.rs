//! Vector code without intrinsics: plain loops that the compiler turns into vector instructions, compiled once per
//! instruction set and chosen at run time; and the elementary functions those loops need.
//!
//! The standard library's `exp` and `tanh` are calls, which no loop around them survives; those here are a few
//! fused multiply-adds. (Without the instruction, `mul_add` is a slow but exact call: results do not depend on it.)

use super::bf16::Element;

/// Floats that one step of a reduction adds up side by side: a fixed number, so that a sum has the same order on
/// every machine.
pub(crate) const LANES: usize = 16;

/// Declares a function whose body is compiled for AVX-512, for AVX2 with FMA, and for the target's baseline, and
/// which picks at run time what the processor has.
macro_rules! vectorised {
    ($(#[$meta:meta])* fn $name:ident$(<$T:ident: $bound:ident>)?($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        pub(crate) fn $name$(<$T: $bound>)?($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body$(<$T: $bound>)?($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn avx512$(<$T: $bound>)?($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
                #[target_feature(enable = "avx2,fma")]
                fn avx2$(<$T: $bound>)?($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
                if is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                {
                    // SAFETY: the processor has these instructions, as just detected.
                    return unsafe { avx512($($arg),*) };
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    // SAFETY: the processor has these instructions, as just detected.
                    return unsafe { avx2($($arg),*) };
                }
            }
            body($($arg),*)
        }
    };
}
pub(crate) use vectorised;

/// `1/k!` from k = 7 down to 0.
const EXP_SERIES: [f32; 8] = [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];

/// `e^x` to about one unit in the last place; 0 below -87, and no infinity above 88.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`; `e^r` by its Taylor series to degree 7, whose remainder is below 6e-9.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits: unlike a cast, that vectorises.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = x.clamp(-87.0, 88.0);
    let shifted = clamped.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, clamped));
    let series = EXP_SERIES.iter().fold(0.0, |sum: f32, &c| sum.mul_add(r, c));
    let power_of_two = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    if x < -87.0 { 0.0 } else { series * power_of_two }
}

/// A function that is 1/2 plus an odd one, and does not change beyond `reach`: `1/2 + x P(2 (x / reach)^2 - 1)`. That
/// argument runs from -1 to 1, where powers stay small, so that little is lost to rounding.
#[inline(always)]
fn half_plus_odd<const N: usize>(x: f32, reach: f32, p: &[f32; N]) -> f32 {
    let x = x.clamp(-reach, reach);
    let s = (x * x).mul_add(2.0 / (reach * reach), -1.0);
    p.iter().rev().fold(0.0, |sum: f32, &c| sum.mul_add(s, c)).mul_add(x, 0.5)
}

/// The standard normal distribution function to 1e-7, with which the exact GELU multiplies.
#[inline(always)]
pub(crate) fn normal(x: f32) -> f32 {
    half_plus_odd(x, 5.5, &NORMAL).clamp(0.0, 1.0)
}

/// The slope of the exact GELU, `Phi(x) + x phi(x)`, to 2.5e-7.
#[inline(always)]
pub(crate) fn gelu_slope(x: f32) -> f32 {
    half_plus_odd(x, 5.8, &GELU_SLOPE)
}

// Fitted in float64 for the least largest error.

const NORMAL: [f32; 16] = [
    0.128_551_93,
    -0.064_172_335,
    0.047_737_63,
    -0.038_792_785,
    0.032_070_26,
    -0.026_048_262,
    0.020_364_566,
    -0.014_999_071,
    0.010_227_831,
    -0.006_819_928_5,
    0.004_621_775_4,
    -0.002_418_624,
    7.201_107e-4,
    -5.291_501e-4,
    6.315_577e-4,
    -2.364_126_4e-4,
];
const GELU_SLOPE: [f32; 18] = [
    0.121_998_77,
    -0.061_657_47,
    0.048_635_956,
    -0.046_197_04,
    0.050_160_494,
    -0.057_715_41,
    0.065_087_61,
    -0.069_679_305,
    0.069_762_245,
    -0.060_296_96,
    0.043_732_66,
    -0.036_571_812,
    0.034_968_06,
    -0.017_851_876,
    3.650_677_4e-4,
    -0.002_943_351_4,
    0.007_334_770_6,
    -0.002_925_51,
];

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Sums `f` of the elements of some slices of one length, in [`LANES`] running sums that are added up pairwise at
/// the end.
#[inline(always)]
pub(crate) fn sum<T: Element, const K: usize>(slices: [&[T]; K], f: impl Fn([f32; K]) -> f32) -> f32 {
    let n = slices.iter().map(|slice| slice.len()).min().unwrap_or(0);
    let chunks = slices.map(|slice| slice[..n].as_chunks::<LANES>());
    let mut lanes = [0.0f32; LANES];
    for c in 0..n / LANES {
        let chunk = chunks.map(|(whole, _)| &whole[c]);
        for lane in 0..LANES {
            lanes[lane] += f(chunk.map(|chunk| chunk[lane].get()));
        }
    }
    for lane in 0..n % LANES {
        lanes[lane] += f(chunks.map(|(_, rest)| rest[lane].get()));
    }
    fold(lanes, |a, b| a + b)
}

vectorised! {
    /// Sum of the products of two slices.
    fn dot<T: Element>(a: &[T], b: &[T]) -> f32 {
        sum([a, b], |[a, b]| a * b)
    }
}

/// Largest element; negative infinity for none.
#[inline(always)]
pub(crate) fn max(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (whole, rest) = values.as_chunks::<LANES>();
    for chunk in whole {
        for lane in 0..LANES {
            lanes[lane] = if chunk[lane] > lanes[lane] { chunk[lane] } else { lanes[lane] };
        }
    }
    let of_rest = rest.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
    fold(lanes, f32::max).max(of_rest)
}

/// Joins the lanes pairwise.
#[inline(always)]
pub(crate) fn fold(mut lanes: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = f(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_accurate() {
        let mut worst = 0.0f64;
        for i in -870_000..880_000 {
            let x = i as f32 * 1e-4;
            let exact = f64::from(x).exp();
            worst = worst.max(((f64::from(exp(x)) - exact) / exact).abs());
        }
        assert!(worst < 2e-7, "relative error {worst}");
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn gelu_is_accurate() {
        let (mut of_normal, mut of_slope) = (0.0f64, 0.0f64);
        for i in -80_000..80_000 {
            let x = i as f32 * 1e-4;
            let exact = f64::from(x);
            let distribution = 0.5 * libm::erfc(-exact * std::f64::consts::FRAC_1_SQRT_2);
            let density = (-0.5 * exact * exact).exp() / std::f64::consts::TAU.sqrt();
            of_normal = of_normal.max((f64::from(normal(x)) - distribution).abs());
            of_slope = of_slope.max((f64::from(gelu_slope(x)) - (distribution + exact * density)).abs());
        }
        assert!(of_normal < 1e-7, "distribution function, absolute error {of_normal}");
        assert!(of_slope < 2.5e-7, "slope, absolute error {of_slope}");
        for x in [6.0, 1e9, f32::INFINITY] {
            assert_eq!((normal(-x), normal(x)), (0.0, 1.0));
            assert!((gelu_slope(x) - 1.0).abs() < 2.5e-7 && gelu_slope(-x).abs() < 2.5e-7);
        }
    }

    #[test]
    fn sums_and_maxima() {
        for n in [0, 1, 15, 16, 17, 100] {
            let xs: Vec<f32> = (0..n).map(|i| ((i * 7919) % 101) as f32 - 50.0).collect();
            assert_eq!(sum([&xs], |[x]| x), xs.iter().sum::<f32>());
            assert_eq!(max(&xs), xs.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b)));
        }
    }
}
