//! Losses: the classifier (logits, cross-entropy and its gradients, one row at a time), and the squared error.
//!
//! Legend: N rows, C width, V words that count (the table may have more rows, as padding).

use super::layers::dot;

/// What the classifier gives.
pub(super) struct Classified {
    pub(super) losses_n: Vec<f64>,
    pub(super) dx_nc: Vec<f64>,
    /// As the table, padding included (zero).
    pub(super) dw_vc: Vec<f64>,
}

/// `loss = log sum exp(z) - z[target]` with `z = W x`; `dz = scale (softmax(z) - onehot(target))`;
/// `dx = W^T dz`; `dW = dz x^T`.
/// `round` is what becomes of `dz` before it is multiplied.
pub(super) fn classifier(
    x_nc: &[f64],
    w_vc: &[f64],
    targets_n: &[u32],
    vocab_size: usize,
    scale: f64,
    c: usize,
    round: impl Fn(f64) -> f64,
) -> Classified {
    let mut losses_n = Vec::new();
    let (mut dx_nc, mut dw_vc) = (vec![0.0; x_nc.len()], vec![0.0; w_vc.len()]);
    for (n, x_c) in x_nc.chunks(c).enumerate() {
        let target = targets_n[n] as usize;
        let logits_v: Vec<f64> = w_vc.chunks(c).take(vocab_size).map(|w_c| dot(w_c, x_c)).collect();
        let max = logits_v.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let lse = max + logits_v.iter().map(|z| (z - max).exp()).sum::<f64>().ln();
        losses_n.push(lse - logits_v[target]);
        for (v, z) in logits_v.iter().enumerate() {
            let dz = round(scale * ((z - lse).exp() - if v == target { 1.0 } else { 0.0 }));
            for i in 0..c {
                dx_nc[n * c + i] += dz * w_vc[v * c + i];
                dw_vc[v * c + i] += dz * x_c[i];
            }
        }
    }
    Classified { losses_n, dx_nc, dw_vc }
}

/// `loss = mean_c (x - target)^2`, `dx = 2 scale (x - target) / C`.
pub(super) fn squared_error(x_nc: &[f64], target_nc: &[f64], scale: f64, c: usize) -> (Vec<f64>, Vec<f64>) {
    let difference_nc: Vec<f64> = x_nc.iter().zip(target_nc).map(|(x, target)| x - target).collect();
    let mean_square = |row: &[f64]| row.iter().map(|d| d * d).sum::<f64>() / c as f64;
    let losses_n = difference_nc.chunks(c).map(mean_square).collect();
    (losses_n, difference_nc.iter().map(|d| 2.0 * scale * d / c as f64).collect())
}
