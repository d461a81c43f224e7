//! The learning rate of a step: linear warm-up, then half a cosine, then constant (nanoGPT's schedule).

use std::f64::consts::PI;

use crate::settings::Settings;

/// The learning rate of the update after `step` updates, counted from 0.
///
/// Warm-up of W steps gives `learning_rate * (step + 1) / (W + 1)`: nanoGPT's rule, so that the first step learns
/// something and step W is the first at the full rate. (build-nanogpt divides by W, and is there one step earlier.)
/// From there to `lr_decay_iters` (0 = `max_iters`) the rate falls along a cosine to `min_lr`, and stays. Without
/// `decay_lr` it stays at `learning_rate` after the warm-up.
pub fn learning_rate(settings: &Settings, step: u64) -> f64 {
    let Settings { learning_rate: highest, min_lr, decay_lr, .. } = *settings;
    let warmup = settings.warmup_iters as u64;
    if step < warmup {
        return highest * (step + 1) as f64 / (warmup + 1) as f64;
    }
    if !decay_lr {
        return highest;
    }
    let end = if settings.lr_decay_iters > 0 { settings.lr_decay_iters } else { settings.max_iters } as u64;
    if step >= end {
        return min_lr;
    }
    let progress = (step - warmup) as f64 / (end - warmup) as f64;
    min_lr + 0.5 * (1.0 + (PI * progress).cos()) * (highest - min_lr)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            learning_rate: 1e-3,
            min_lr: 1e-4,
            warmup_iters: 100,
            lr_decay_iters: 2000,
            max_iters: 3000,
            ..Settings::default()
        }
    }

    /// Values of nanoGPT's `get_lr`.
    #[test]
    fn values_are_nanogpts() {
        let expected = [
            (0, 1e-3 / 101.0),
            (99, 1e-3 * 100.0 / 101.0),
            (100, 1e-3),
            (1050, 5.5e-4),
            (2000, 1e-4),
            (2999, 1e-4),
        ];
        for (step, rate) in expected {
            let found = learning_rate(&settings(), step);
            assert!((found - rate).abs() < 1e-15, "step {step}: {found}");
        }
    }

    #[test]
    fn the_rate_rises_and_then_falls() {
        let rates: Vec<_> = (0..2100).map(|step| learning_rate(&settings(), step)).collect();
        assert!(rates[..101].is_sorted_by(|a, b| a < b));
        assert!(rates[100..].is_sorted_by(|a, b| a >= b));
    }

    #[test]
    fn without_decay_the_rate_stays() {
        let settings = Settings { decay_lr: false, ..settings() };
        assert_eq!(learning_rate(&settings, 100), 1e-3);
        assert_eq!(learning_rate(&settings, 1_000_000), 1e-3);
    }

    #[test]
    fn the_horizon_defaults_to_the_end_of_the_run() {
        let settings = Settings { lr_decay_iters: 0, warmup_iters: 0, ..settings() };
        assert_eq!(learning_rate(&settings, 0), 1e-3);
        assert!(learning_rate(&settings, 2999) > 1e-4);
        assert_eq!(learning_rate(&settings, 3000), 1e-4);
    }

    #[test]
    fn a_warm_up_beyond_the_horizon_ends_at_the_lowest_rate() {
        let settings = Settings { warmup_iters: 2500, ..settings() };
        assert!(learning_rate(&settings, 2499) < 1e-3);
        assert_eq!(learning_rate(&settings, 2500), 1e-4);
    }
}
