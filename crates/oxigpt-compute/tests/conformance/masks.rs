//! Dropout's mask: the share it keeps, and what it depends on.

use oxigpt_compute::dropout::Mask;
use oxigpt_compute::{Builder, Dropout};
use proptest::prelude::*;

const COUNTERS: [u32; 4] = [1, 2, 3, 0];

/// Which of 40,000 elements are kept.
fn kept(p: f32, site: u32, counters: &[u32; 4]) -> Vec<bool> {
    let rng = Builder::new().counters("rng", &[4]);
    let mask = Mask::new(&Dropout { p, site, rng }, counters);
    (0..200).flat_map(|row| (0..200).map(move |column| mask.factor(row, column) != 0.0)).collect()
}

fn share(kept: impl Iterator<Item = bool>) -> f64 {
    kept.map(f64::from).sum::<f64>() / 40_000.0
}

/// The deviation of the share is at most 0.0025.
#[test]
fn keeps_its_share() {
    for p in [0.0, 0.1, 0.5, 0.9] {
        let found = share(kept(p, 0, &COUNTERS).into_iter());
        assert!((found - f64::from(1.0 - p)).abs() < 0.01, "p = {p}: keeps {found}");
    }
}

#[test]
fn scale_keeps_the_mean() {
    let rng = Builder::new().counters("rng", &[4]);
    let mask = Mask::new(&Dropout { p: 0.75, site: 0, rng }, &COUNTERS);
    assert_eq!(mask.scale, 4.0);
}

/// Other places, steps and seeds have masks of their own: two of one half agree on half of the elements.
#[test]
fn places_steps_and_seeds_are_independent() {
    let expected = kept(0.5, 0, &COUNTERS);
    for (site, counters) in [(1, COUNTERS), (0, [1, 2, 4, 0]), (0, [2, 2, 3, 0]), (0, [1, 3, 3, 0])] {
        let other = kept(0.5, site, &counters);
        let found = share(expected.iter().zip(other).map(|(&a, b)| a == b));
        assert!((found - 0.5).abs() < 0.015, "site {site}, counters {counters:?}: agree on {found}");
    }
}

proptest! {
    #[test]
    fn four_at_a_time_are_the_same_four(p in 0.0..0.99f32, site: u32, counters: [u32; 4], row: u32, block in 0..1000u32) {
        let rng = Builder::new().counters("rng", &[4]);
        let mask = Mask::new(&Dropout { p, site, rng }, &counters);
        let one_by_one = std::array::from_fn(|i| mask.factor(row, 4 * block as usize + i) != 0.0);
        prop_assert_eq!(mask.keep4(row, block), one_by_one);
    }
}
