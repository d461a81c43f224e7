//! Philox4x32-10, a counter-based generator (Salmon et al. 2011, section 3.3): the n-th number is a function
//! of n and a key, so a stream can be entered anywhere and split over threads without changing it.

/// Four random words for a counter and a key.
#[inline(always)]
pub fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let p0 = 0xD251_1F53_u64 * u64::from(counter[0]);
        let p1 = 0xCD9E_8D57_u64 * u64::from(counter[2]);
        counter = [
            (p1 >> 32) as u32 ^ counter[1] ^ key[0],
            p1 as u32,
            (p0 >> 32) as u32 ^ counter[3] ^ key[1],
            p0 as u32,
        ];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

/// Four random words for (`seed`, `index`) within `stream`. Uses of one seed that must not be correlated take
/// different streams.
#[inline]
pub fn draw(seed: u64, stream: u64, index: u64) -> [u32; 4] {
    let halves = |word: u64| [word as u32, (word >> 32) as u32];
    let ([i0, i1], [s0, s1]) = (halves(index), halves(stream));
    philox4x32([i0, i1, s0, s1], halves(seed))
}

/// Maps 64 random bits to `0..bound` by a multiplication; the bias is at most `bound / 2^64`.
pub fn below(words: [u32; 2], bound: u64) -> u64 {
    let bits = u64::from(words[0]) | u64::from(words[1]) << 32;
    ((u128::from(bits) * u128::from(bound)) >> 64) as u64
}

/// A uniform number in `[0, 1)` from the upper 53 of 64 bits.
#[inline]
pub fn uniform(high: u32, low: u32) -> f64 {
    let bits = (u64::from(high) << 32 | u64::from(low)) >> 11;
    bits as f64 / (1u64 << 53) as f64
}

/// A stream of numbers, drawn one after another.
#[derive(Clone, Debug)]
pub struct Stream {
    seed: u64,
    stream: u64,
    position: u64,
}

impl Stream {
    /// Stream number `stream` of `seed`, at its beginning.
    pub fn new(seed: u64, stream: u64) -> Self {
        Stream { seed, stream, position: 0 }
    }

    /// The next four words.
    #[inline]
    pub fn next4(&mut self) -> [u32; 4] {
        self.position += 1;
        draw(self.seed, self.stream, self.position - 1)
    }

    /// A uniform number in `[0, 1)`.
    pub fn uniform(&mut self) -> f64 {
        let [a, b, ..] = self.next4();
        uniform(a, b)
    }

    /// Two independent standard normal numbers (Box and Muller 1958).
    pub fn normal_pair(&mut self) -> (f64, f64) {
        let [a, b, c, d] = self.next4();
        let radius = (-2.0 * (1.0 - uniform(a, b)).ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * uniform(c, d)).sin_cos();
        (radius * cos, radius * sin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers published with Random123 (kat_vectors).
    #[test]
    fn known_answers() {
        let max = u32::MAX;
        assert_eq!(philox4x32([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox4x32([max; 4], [max; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox4x32([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn normals_have_their_moments() {
        let mut stream = Stream::new(7, 3);
        let xs: Vec<f64> = (0..50_000).flat_map(|_| <[f64; 2]>::from(stream.normal_pair())).collect();
        let mean = xs.iter().sum::<f64>() / xs.len() as f64;
        let var = xs.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / xs.len() as f64;
        assert!(mean.abs() < 0.01, "mean {mean}");
        assert!((var - 1.0).abs() < 0.02, "variance {var}");
    }

    #[test]
    fn seed_stream_and_index_each_matter() {
        let base = draw(1, 2, 3);
        for other in [draw(2, 2, 3), draw(1, 3, 3), draw(1, 2, 4), draw(1 << 32 | 1, 2, 3)] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn below_reaches_both_ends_and_never_the_bound() {
        assert_eq!(below([0, 0], 7), 0);
        assert_eq!(below([u32::MAX, u32::MAX], 7), 6);
        assert_eq!(below([u32::MAX, u32::MAX], u64::MAX), u64::MAX - 1);
        let mut seen = [0u32; 5];
        for i in 0..5000 {
            let words = draw(7, 0, i);
            seen[below([words[0], words[1]], 5) as usize] += 1;
        }
        assert!(seen.iter().all(|&count| (850..1150).contains(&count)), "{seen:?}");
    }
}
