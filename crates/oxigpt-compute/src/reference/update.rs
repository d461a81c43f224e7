//! Clipping and AdamW (Loshchilov and Hutter 2019, algorithm 2).

use crate::AdamWConfig;

/// What gradients of global norm `norm` are multiplied by, so that it is at most `grad_clip`; 0 clips nothing.
pub(super) fn clip_factor(norm: f64, grad_clip: f64) -> f64 {
    if grad_clip > 0.0 && norm > grad_clip { grad_clip / (norm + 1e-6) } else { 1.0 }
}

/// The next parameter and moments: `m = b1 m + (1 - b1) g`; `v = b2 v + (1 - b2) g^2`;
/// `p = p - lr wd p - lr mhat / (sqrt(vhat) + eps)`, with `mhat = m / (1 - b1^t)`, `vhat = v / (1 - b2^t)`.
pub(super) fn adamw(
    parameter: &[f64],
    gradient: &[f64],
    m: &[f64],
    v: &[f64],
    clip: f64,
    decay: bool,
    schedule: &[f64],
    config: &AdamWConfig,
) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let &[lr, m_correction, v_correction] = schedule else { unreachable!("a schedule has three elements") };
    let AdamWConfig { beta1, beta2, eps, weight_decay, .. } = *config;
    let shrink = if decay { lr * weight_decay } else { 0.0 };
    let (mut p_next, mut m_next, mut v_next) = (Vec::new(), Vec::new(), Vec::new());
    for i in 0..parameter.len() {
        let g = gradient[i] * clip;
        m_next.push(beta1 * m[i] + (1.0 - beta1) * g);
        v_next.push(beta2 * v[i] + (1.0 - beta2) * g * g);
        let (mhat, vhat) = (m_next[i] / m_correction, v_next[i] / v_correction);
        p_next.push(parameter[i] - shrink * parameter[i] - lr * mhat / (vhat.sqrt() + eps));
    }
    (p_next, m_next, v_next)
}
