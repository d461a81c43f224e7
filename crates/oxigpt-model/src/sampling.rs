//! From logits to a token: temperature, the k likeliest, chance.

/// Draws a token.
///
/// `temperature` divides the logits; at 0 the largest wins, the first of several. `top_k` keeps the k largest
/// logits and all that equal the smallest of these. `uniform` in `[0, 1)` decides among what remains. Gives
/// `None` where the logits have no largest: none at all, or not a number.
pub fn sample(logits: &[f64], temperature: f64, top_k: Option<usize>, uniform: f64) -> Option<u32> {
    if logits.iter().any(|logit| logit.is_nan()) {
        return None;
    }
    let (best, max) = logits
        .iter()
        .copied()
        .enumerate()
        .reduce(|best, next| if next.1 > best.1 { next } else { best })
        .filter(|(_, max)| max.is_finite())?;
    if temperature == 0.0 {
        return Some(best as u32);
    }
    let threshold = top_k.map_or(f64::NEG_INFINITY, |k| kth_largest(logits, k));
    let chosen = logits.iter().enumerate().filter(|(_, logit)| **logit >= threshold);
    let weights: Vec<_> = chosen.map(|(i, logit)| (i, ((logit - max) / temperature).exp())).collect();
    let mut remaining = uniform * weights.iter().map(|(_, weight)| weight).sum::<f64>();
    // Rounding may leave a trace of `remaining` at the end: then the last word that had a chance is taken.
    let mut last = best;
    for (token, weight) in weights.into_iter().filter(|(_, weight)| *weight > 0.0) {
        last = token;
        remaining -= weight;
        if remaining < 0.0 {
            break;
        }
    }
    Some(last as u32)
}

/// Goes over the values once and keeps those above the k largest so far, which soon are few: at 50,000 words a tenth of the
/// time of selecting among all.
fn kth_largest(values: &[f64], k: usize) -> f64 {
    let k = k.clamp(1, values.len());
    let (mut kept, mut bar) = (Vec::with_capacity(4 * k), f64::NEG_INFINITY);
    for &value in values {
        if value > bar || kept.len() < k {
            kept.push(value);
            if kept.len() == 4 * k {
                bar = *kept.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1;
                kept.truncate(k);
            }
        }
    }
    *kept.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1
}

#[cfg(test)]
mod tests {
    use super::*;
    use oxigpt_compute::philox::Stream;

    fn frequencies(logits: &[f64], temperature: f64, top_k: Option<usize>) -> Vec<f64> {
        let mut stream = Stream::new(3, 9);
        let mut counts = vec![0.0; logits.len()];
        for _ in 0..20_000 {
            let token = sample(logits, temperature, top_k, stream.uniform()).unwrap();
            counts[token as usize] += 1.0 / 20_000.0;
        }
        counts
    }

    #[test]
    fn greedy_takes_the_first_maximum() {
        assert_eq!(sample(&[1.0, 3.0, 3.0, 2.0], 0.0, None, 0.99), Some(1));
        assert_eq!(sample(&[-5.0], 0.0, Some(1), 0.5), Some(0));
    }

    #[test]
    fn frequencies_are_the_softmax() {
        let logits = [0.0, 1.0, -2.0, 3.0];
        for temperature in [0.5, 1.0, 2.0] {
            let weights = logits.map(|l: f64| (l / temperature).exp());
            let sum: f64 = weights.iter().sum();
            for (found, weight) in frequencies(&logits, temperature, None).iter().zip(weights) {
                assert!((found - weight / sum).abs() < 0.012, "{found} at {temperature}");
            }
        }
    }

    #[test]
    fn top_k_keeps_ties() {
        let logits = [1.0, 2.0, 1.0, 0.0, 2.0];
        assert_eq!(frequencies(&logits, 1.0, Some(1)).iter().filter(|f| **f > 0.0).count(), 2);
        assert_eq!(frequencies(&logits, 1.0, Some(2)).iter().filter(|f| **f > 0.0).count(), 2);
        let three = frequencies(&logits, 1.0, Some(3));
        assert!(three[0] > 0.0 && three[2] > 0.0 && three[3] == 0.0);
        assert!(frequencies(&logits, 1.0, Some(100)).iter().all(|f| *f > 0.0));
    }

    #[test]
    fn the_kth_largest_is_that_of_a_sorted_list() {
        let mut stream = Stream::new(5, 1);
        for n in [1, 2, 7, 100, 5000] {
            // Few values, so that there are many ties.
            let values: Vec<f64> = (0..n).map(|_| (stream.uniform() * 0.7 * n as f64).floor()).collect();
            let mut sorted = values.clone();
            sorted.sort_by(|a, b| b.total_cmp(a));
            for k in [1, 2, 3, n / 3, n - 1, n, n + 10].into_iter().filter(|&k| k > 0) {
                assert_eq!(kth_largest(&values, k), sorted[k.min(n) - 1], "{k} of {n}");
            }
        }
    }

    #[test]
    fn extremes_are_safe() {
        assert_eq!(sample(&[], 1.0, None, 0.5), None);
        assert_eq!(sample(&[0.0, f64::NAN], 1.0, None, 0.5), None);
        assert_eq!(sample(&[0.0, f64::INFINITY], 1.0, None, 0.5), None);
        assert_eq!(sample(&[f64::NEG_INFINITY; 2], 1.0, None, 0.5), None);
        assert_eq!(sample(&[1e300, -1e300], 1e-300, None, 0.5), Some(0));
        assert_eq!(sample(&[f64::NEG_INFINITY, 0.0], 1.0, None, 0.0), Some(1));
        assert_eq!(sample(&[0.0, 0.0, f64::NEG_INFINITY], 1.0, None, 1.0), Some(1));
    }
}
