//! Causal attention, over itself and over a cache, with its adjoint.
//!
//! Legend: B batch, T positions, S cached positions, C width, H heads, D = C/H; i query, j key.

use super::MaskF64;
use super::layers::dot;
use crate::AttentionKind;

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

/// `a_j = exp(s_j) / sum exp(s)` with `s_j = q . k_j / sqrt D`, and `log sum exp(s)`.
fn weights<'a>(q: &[f64], keys: impl Iterator<Item = &'a [f64]>, kind: AttentionKind) -> (Vec<f64>, f64) {
    let AttentionKind::Softmax = kind;
    let scale = 1.0 / (q.len() as f64).sqrt();
    let scores: Vec<f64> = keys.map(|k| dot(q, k) * scale).collect();
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let lse = max + scores.iter().map(|s| (s - max).exp()).sum::<f64>().ln();
    (scores.iter().map(|s| (s - lse).exp()).collect(), lse)
}

/// `out_i = sum_j m_ij a_ij v_j` over `j <= i`, m being the mask's factors; and each row's `lse`.
pub(super) fn attention(
    qkv: &[f64],
    dims: Dims,
    kind: AttentionKind,
    mask: Option<&MaskF64>,
) -> (Vec<f64>, Vec<f64>) {
    let Dims { batch, t, c, n_head, d } = dims;
    let (mut out_btc, mut lse_bht) = (vec![0.0; batch * t * c], Vec::new());
    for b in 0..batch {
        for h in 0..n_head {
            for i in 0..t {
                let keys = (0..=i).map(|j| &qkv[dims.head(1, b, j, h)]);
                let (a, lse) = weights(&qkv[dims.head(0, b, i, h)], keys, kind);
                lse_bht.push(lse);
                let m = dims.factors(mask, b, h, i);
                let out_d = &mut out_btc[(b * t + i) * c + h * d..][..d];
                for j in 0..=i {
                    add_scaled(out_d, m[j] * a[j], &qkv[dims.head(2, b, j, h)]);
                }
            }
        }
    }
    (out_btc, lse_bht)
}

/// `dv_j += m_ij a_ij dout_i`; `da_ij = m_ij dout_i . v_j`; `ds_ij = a_ij (da_ij - sum_k a_ik da_ik)`;
/// `dq_i += ds_ij k_j / sqrt D`; `dk_j += ds_ij q_i / sqrt D`.
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
                let (a, _) = weights(&qkv[q.clone()], keys, kind);
                let m = dims.factors(mask, b, h, i);
                let dout_d = &dout_btc[(b * t + i) * c + h * d..][..d];
                let da_j = |j| m[j] * dot(dout_d, &qkv[dims.head(2, b, j, h)]);
                let da: Vec<f64> = (0..=i).map(da_j).collect();
                let mean = dot(&a, &da);
                for j in 0..=i {
                    let ds = a[j] * (da[j] - mean);
                    let (k, v) = (dims.head(1, b, j, h), dims.head(2, b, j, h));
                    add_scaled(&mut dqkv[v], m[j] * a[j], dout_d);
                    add_scaled(&mut dqkv[q.clone()], ds * scale, &qkv[k.clone()]);
                    add_scaled(&mut dqkv[k], ds * scale, &qkv[q.clone()]);
                }
            }
        }
    }
    dqkv
}

/// Writes the new keys and values to the caches at `position..`, then attends to `0..=position + t`.
pub(super) fn cached_attention(
    qkv: &[f64],
    (k_bsc, v_bsc): (&mut [f64], &mut [f64]),
    position: usize,
    dims: Dims,
    kind: AttentionKind,
) -> Vec<f64> {
    let Dims { batch, t, c, n_head, d } = dims;
    let s = k_bsc.len() / (batch * c);
    assert!(position + t <= s, "positions {position}..{} of a cache of {s}", position + t);
    let mut out_btc = vec![0.0; batch * t * c];
    for b in 0..batch {
        for i in 0..t {
            let row = dims.at(0, b, i, 0);
            let place = (b * s + position + i) * c;
            k_bsc[place..place + c].copy_from_slice(&qkv[row + c..row + 2 * c]);
            v_bsc[place..place + c].copy_from_slice(&qkv[row + 2 * c..row + 3 * c]);
        }
        for h in 0..n_head {
            let cached = |j: usize| (b * s + j) * c + h * d..(b * s + j) * c + (h + 1) * d;
            for i in 0..t {
                let keys = (0..=position + i).map(|j| &k_bsc[cached(j)]);
                let (a, _) = weights(&qkv[dims.head(0, b, i, h)], keys, kind);
                let out_d = &mut out_btc[(b * t + i) * c + h * d..][..d];
                for (j, &a) in a.iter().enumerate() {
                    add_scaled(out_d, a, &v_bsc[cached(j)]);
                }
            }
        }
    }
    out_btc
}

/// `y += a x`.
fn add_scaled(y: &mut [f64], a: f64, x: &[f64]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += a * x);
}
