//! Causal attention, over itself and over a cache, with its adjoint.
//!
//! Legend: B batch, T positions, X texts of S positions in a cache, N = B*T rows, C width, H heads, D = C/H; i query, j key.

use super::MaskF64;
use super::layers::{self, dot};
use crate::{Activation, AttentionKind, Gelu};

/// Sizes of `qkv_btc`, whose rows are 3C wide.
#[derive(Clone, Copy)]
pub(super) struct Dims {
    batch: usize,
    t: usize,
    c: usize,
    n_head: usize,
    d: usize,
}

impl Dims {
    /// From the shape `[B, T, 3C]`.
    pub(super) fn of(qkv_shape: &[usize], n_head: usize) -> Self {
        let c = qkv_shape[2] / 3;
        Dims { batch: qkv_shape[0], t: qkv_shape[1], c, n_head, d: c / n_head }
    }

    /// Where head `h` of q (0), k (1) or v (2) of row `(b, t)` begins in `qkv_btc`.
    fn at(self, part: usize, b: usize, t: usize, h: usize) -> usize {
        (b * self.t + t) * 3 * self.c + part * self.c + h * self.d
    }

    fn head(self, part: usize, b: usize, t: usize, h: usize) -> std::ops::Range<usize> {
        let start = self.at(part, b, t, h);
        start..start + self.d
    }

    /// The mask's factors of the weights `a_ij`, `j <= i`, which are row `((first + b) H + h) T + i` of it.
    fn factors(self, mask: Option<&MaskF64>, b: usize, h: usize, i: usize) -> Vec<f64> {
        let Some(mask) = mask else { return vec![1.0; i + 1] };
        let row = ((mask.first + b as u64) * self.n_head as u64 + h as u64) * self.t as u64 + i as u64;
        (0..=i).map(|j| mask.factor(row, j)).collect()
    }
}

/// The scores of a query: `q . k_j / sqrt D`, or for Gaussian kinds `-|q - k_j|^2 / (2 sqrt D)`.
fn scores<'a>(q: &[f64], keys: impl Iterator<Item = &'a [f64]>, kind: AttentionKind) -> Vec<f64> {
    let scale = 1.0 / (q.len() as f64).sqrt();
    let square = |k: &[f64]| q.iter().zip(k).map(|(q, k)| (q - k).powi(2)).sum::<f64>();
    keys.map(|k| if kind.is_gaussian() { -0.5 * scale * square(k) } else { scale * dot(q, k) }).collect()
}

fn log_sum_exp(z: &[f64]) -> f64 {
    let max = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    max + z.iter().map(|z| (z - max).exp()).sum::<f64>().ln()
}

/// The weight of a score, and its derivative, for every kind whose weights do not depend on each other.
fn weight(z: f64, kind: AttentionKind) -> (f64, f64) {
    match kind {
        AttentionKind::Softmax => unreachable!("the weights of a softmax depend on each other"),
        AttentionKind::Gaussian => (z.exp(), z.exp()),
        AttentionKind::GaussianPoly { squarings, clamp } => {
            let power = 1u32 << squarings;
            let base = 1.0 + z / f64::from(power);
            if clamp && base < 0.0 {
                return (0.0, 0.0);
            }
            (base.powi(power as i32), base.powi(power as i32 - 1))
        }
        AttentionKind::Pointwise { activation, .. } => match activation {
            Activation::Gelu => (layers::gelu(z, Gelu::Erf), layers::gelu_derivative(z, Gelu::Erf)),
            Activation::Relu => (z.max(0.0), if z > 0.0 { 1.0 } else { 0.0 }),
            Activation::Sigmoid => {
                let y = 1.0 / (1.0 + (-z).exp());
                (y, y * (1.0 - y))
            }
            Activation::Square => (z * z, 2.0 * z),
            Activation::ReluSquare => (z.max(0.0).powi(2), 2.0 * z.max(0.0)),
        },
    }
}

/// The weights of scores, to be divided by `divisor`.
fn weights(z: &[f64], kind: AttentionKind, divisor: usize) -> Vec<f64> {
    if kind == AttentionKind::Softmax {
        let lse = log_sum_exp(z);
        return z.iter().map(|z| (z - lse).exp()).collect();
    }
    z.iter().map(|&z| weight(z, kind).0 / divisor as f64).collect()
}

/// Gradients of scores whose weights are `a`, and these have gradients `da`.
fn score_gradients(z: &[f64], a: &[f64], da: &[f64], kind: AttentionKind, divisor: usize) -> Vec<f64> {
    if kind == AttentionKind::Softmax {
        let mean = dot(a, da);
        return a.iter().zip(da).map(|(a, da)| a * (da - mean)).collect();
    }
    z.iter().zip(da).map(|(&z, da)| weight(z, kind).1 / divisor as f64 * da).collect()
}

/// What attention gives: the values seen, and what the kind keeps of each row.
pub(super) struct Attended {
    pub(super) out_btc: Vec<f64>,
    /// For softmax.
    pub(super) lse_bht: Vec<f64>,
    /// For polynomials: how many scores of a row are below the range, and the lowest.
    pub(super) range_bht2: Vec<f64>,
}

/// `out_i = sum_j m_ij a_ij v_j` over `j <= i`, m being the mask's factors.
pub(super) fn attention(qkv: &[f64], dims: Dims, kind: AttentionKind, mask: Option<&MaskF64>) -> Attended {
    let Dims { batch, t, c, n_head, d } = dims;
    let (mut out_btc, mut lse_bht, mut range_bht2) = (vec![0.0; batch * t * c], Vec::new(), Vec::new());
    for b in 0..batch {
        for h in 0..n_head {
            for i in 0..t {
                let keys = (0..=i).map(|j| &qkv[dims.head(1, b, j, h)]);
                let z = scores(&qkv[dims.head(0, b, i, h)], keys, kind);
                let a = weights(&z, kind, kind.divisor(i, t));
                lse_bht.push(log_sum_exp(&z));
                let limit = kind.lowest_score().unwrap_or(f64::NEG_INFINITY);
                range_bht2.push(z.iter().filter(|&&z| z < limit).count() as f64);
                range_bht2.push(z.iter().copied().fold(f64::INFINITY, f64::min));
                let m = dims.factors(mask, b, h, i);
                let out_d = &mut out_btc[(b * t + i) * c + h * d..][..d];
                for j in 0..=i {
                    add_scaled(out_d, m[j] * a[j], &qkv[dims.head(2, b, j, h)]);
                }
            }
        }
    }
    Attended { out_btc, lse_bht, range_bht2 }
}

/// `dv_j += m_ij a_ij dout_i`; `da_ij = m_ij dout_i . v_j`; then `dz_ij` from [`score_gradients`], and
/// `dq_i += dz_ij k_j / sqrt D`, `dk_j += dz_ij q_i / sqrt D`, with `k_j - q_i` and `q_i - k_j` for Gaussian kinds.
pub(super) fn attention_backward(
    qkv: &[f64],
    dout_btc: &[f64],
    dims: Dims,
    kind: AttentionKind,
    mask: Option<&MaskF64>,
) -> Vec<f64> {
    let Dims { batch, t, c, n_head, d } = dims;
    let scale = 1.0 / (d as f64).sqrt();
    let mut dqkv = vec![0.0; qkv.len()];
    for b in 0..batch {
        for h in 0..n_head {
            for i in 0..t {
                let (q, keys) = (dims.head(0, b, i, h), (0..=i).map(|j| &qkv[dims.head(1, b, j, h)]));
                let (z, divisor) = (scores(&qkv[q.clone()], keys, kind), kind.divisor(i, t));
                let a = weights(&z, kind, divisor);
                let m = dims.factors(mask, b, h, i);
                let dout_d = &dout_btc[(b * t + i) * c + h * d..][..d];
                let da_j = |j| m[j] * dot(dout_d, &qkv[dims.head(2, b, j, h)]);
                let da: Vec<f64> = (0..=i).map(da_j).collect();
                let dz = score_gradients(&z, &a, &da, kind, divisor);
                for j in 0..=i {
                    let (k, v) = (dims.head(1, b, j, h), dims.head(2, b, j, h));
                    let ds = dz[j] * scale;
                    add_scaled(&mut dqkv[v], m[j] * a[j], dout_d);
                    add_scaled(&mut dqkv[q.clone()], ds, &qkv[k.clone()]);
                    add_scaled(&mut dqkv[k.clone()], ds, &qkv[q.clone()]);
                    if kind.is_gaussian() {
                        add_scaled(&mut dqkv[q.clone()], -ds, &qkv[q.clone()]);
                        add_scaled(&mut dqkv[k.clone()], -ds, &qkv[k]);
                    }
                }
            }
        }
    }
    dqkv
}

/// Writes the new keys and values to the texts and positions of their rows, then lets each row attend to its text up to
/// its own position. Kinds that depend on the length of the text have one a text.
pub(super) fn cached_attention(
    qkv: &[f64],
    (k_xsc, v_xsc): (&mut [f64], &mut [f64]),
    ((texts, positions), lengths): ((&[u32], &[u32]), &[u32]),
    s: usize,
    dims: Dims,
    kind: AttentionKind,
) -> Vec<f64> {
    let Dims { batch, t, c, n_head, .. } = dims;
    let all = k_xsc.len() / (s * c);
    let rows = (0..batch * t).map(|n| (n, texts[n] as usize, positions[n] as usize));
    for (n, text, position) in rows.clone() {
        let row = n * 3 * c;
        for x in if text == all { 0..all } else { text..text + 1 } {
            let place = (x * s + position) * c;
            k_xsc[place..place + c].copy_from_slice(&qkv[row + c..row + 2 * c]);
            v_xsc[place..place + c].copy_from_slice(&qkv[row + 2 * c..row + 3 * c]);
        }
    }
    let mut out_nc = vec![0.0; batch * t * c];
    for (n, text, position) in rows {
        let text = if text == all { 0 } else { text };
        let length = lengths.get(text).map_or(0, |&length| length as usize);
        for h in 0..n_head {
            let head = |row: usize| row * c + h * c / n_head..row * c + (h + 1) * c / n_head;
            let keys = (0..=position).map(|j| &k_xsc[head(text * s + j)]);
            let z = scores(&qkv[head(3 * n)], keys, kind);
            let a = weights(&z, kind, kind.divisor(position, length));
            for (j, &a) in a.iter().enumerate() {
                add_scaled(&mut out_nc[head(n)], a, &v_xsc[head(text * s + j)]);
            }
        }
    }
    out_nc
}

/// `y += a x`.
fn add_scaled(y: &mut [f64], a: f64, x: &[f64]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += a * x);
}
