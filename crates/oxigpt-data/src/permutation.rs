//! A keyed permutation of `0..n` whose value at any position costs the same few operations: no table, no state.
//! It is a balanced Feistel network over the smallest power of four that covers `n`; positions that land outside
//! `0..n` are sent through again until they land inside (cycle walking), which keeps it a bijection.

use oxigpt_compute::philox;

const ROUNDS: usize = 8;
/// Below 2^3 values a half, the rounds of a Feistel network reach too few permutations.
const MIN_HALF_BITS: u32 = 3;

/// A permutation of `0..n`, chosen by a key.
#[derive(Clone, Debug)]
pub(crate) struct Permutation {
    n: u64,
    half_bits: u32,
    round_keys: [u32; ROUNDS],
}

impl Permutation {
    /// The permutation of `0..n` for (`seed`, `stream`, `index`); `n` is at least 1.
    pub(crate) fn new(n: u64, seed: u64, stream: u64, index: u64) -> Self {
        let bits = u64::BITS - n.saturating_sub(1).leading_zeros();
        let [low, high] = [0, 1].map(|part| philox::draw(seed, stream, index << 1 | part));
        let mut round_keys = [0; ROUNDS];
        round_keys[..4].copy_from_slice(&low);
        round_keys[4..].copy_from_slice(&high);
        Permutation { n, half_bits: bits.div_ceil(2).max(MIN_HALF_BITS), round_keys }
    }

    /// Where position `i` of `0..n` goes.
    pub(crate) fn at(&self, i: u64) -> u64 {
        debug_assert!(i < self.n);
        let mut value = self.feistel(i);
        while value >= self.n {
            value = self.feistel(value);
        }
        value
    }

    fn feistel(&self, value: u64) -> u64 {
        let mask = (1u64 << self.half_bits) - 1;
        let (mut left, mut right) = ((value >> self.half_bits) as u32, (value & mask) as u32);
        for key in self.round_keys {
            (left, right) = (right, left ^ (mix(right ^ key) & mask as u32));
        }
        u64::from(left) << self.half_bits | u64::from(right)
    }
}

/// The 32-bit finalizer of MurmurHash3: every input bit reaches every output bit.
fn mix(mut x: u32) -> u32 {
    x = (x ^ x >> 16).wrapping_mul(0x85eb_ca6b);
    x = (x ^ x >> 13).wrapping_mul(0xc2b2_ae35);
    x ^ x >> 16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn is_bijection(n: u64, seed: u64) -> bool {
        let permutation = Permutation::new(n, seed, 0, 0);
        let mut seen = vec![false; n as usize];
        (0..n).for_each(|i| seen[permutation.at(i) as usize] = true);
        seen.into_iter().all(|hit| hit)
    }

    #[test]
    fn every_small_n_is_a_bijection() {
        assert!((1..=600).all(|n| is_bijection(n, 1337)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn is_a_bijection_for_every_n_and_seed(n in 1u64..20_000, seed: u64) {
            prop_assert!(is_bijection(n, seed));
        }

        #[test]
        fn large_n_stays_inside(n in 1u64 << 40..1 << 62, i: u64, seed: u64) {
            prop_assert!(Permutation::new(n, seed, 3, 4).at(i % n) < n);
        }
    }

    /// Every position goes everywhere about equally often, also for the few windows of a toy corpus.
    #[test]
    fn positions_spread_evenly_over_keys() {
        for n in [2u64, 3, 5, 8, 31] {
            let draws = 400 * n;
            for i in [0, n - 1] {
                let mut counts = vec![0.0; n as usize];
                for index in 0..draws {
                    counts[Permutation::new(n, 42, 0, index).at(i) as usize] += 1.0;
                }
                let chi2: f64 = counts.iter().map(|c: &f64| (c - 400.0).powi(2) / 400.0).sum();
                let freedom = (n - 1) as f64;
                assert!(chi2 < freedom + 5.0 * (2.0 * freedom).sqrt(), "n {n}, i {i}: chi2 {chi2}");
            }
        }
    }

    #[test]
    fn neighbours_are_scattered() {
        let permutation = Permutation::new(10_000, 5, 0, 0);
        let adjacent = (0..9_999).filter(|&i| permutation.at(i).abs_diff(permutation.at(i + 1)) == 1).count();
        assert!(adjacent < 12, "{adjacent} neighbours stayed neighbours; about 2 are expected");
    }
}
