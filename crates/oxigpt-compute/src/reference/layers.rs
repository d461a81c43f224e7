//! Embedding, addition, layer norm, linear, GELU and dropout, with their adjoints.
//!
//! Legend: B batch, T positions, N = B*T rows, C width, O output width, V words.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

use super::MaskF64;
use crate::{Gelu, LAYER_NORM_EPS, WeightLayout};

/// `out[b,t] = wte[tokens[b,t]] + wpe[positions[b,t]]`, or `wpe[t]`.
pub(super) fn embed(
    tokens_bt: &[u32],
    positions_bt: Option<&[u32]>,
    wte_vc: &[f64],
    wpe_tc: &[f64],
    t: usize,
    c: usize,
) -> Vec<f64> {
    let mut out_btc = Vec::with_capacity(tokens_bt.len() * c);
    for (row, &token) in tokens_bt.iter().enumerate() {
        let (word, place) =
            (token as usize, positions_bt.map_or(row % t, |positions| positions[row] as usize));
        out_btc.extend((0..c).map(|i| wte_vc[word * c + i] + wpe_tc[place * c + i]));
    }
    out_btc
}

/// `dwte[tokens[b,t]] += dout[b,t]`, `dwpe[t] += dout[b,t]`.
pub(super) fn embed_backward(
    tokens_bt: &[u32],
    dout_btc: &[f64],
    words: usize,
    positions: usize,
    t: usize,
    c: usize,
) -> (Vec<f64>, Vec<f64>) {
    let (mut dwte_vc, mut dwpe_tc) = (vec![0.0; words * c], vec![0.0; positions * c]);
    for (row, &token) in tokens_bt.iter().enumerate() {
        for i in 0..c {
            dwte_vc[token as usize * c + i] += dout_btc[row * c + i];
            dwpe_tc[row % t * c + i] += dout_btc[row * c + i];
        }
    }
    (dwte_vc, dwpe_tc)
}

/// `a + b`.
pub(super) fn add(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

/// `out = (x - mean) * rstd * weight + bias`; also `mean` and `rstd` of each row.
pub(super) fn layer_norm(
    x_nc: &[f64],
    weight_c: &[f64],
    bias_c: Option<&[f64]>,
) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let c = weight_c.len();
    let (mut out_nc, mut mean_n, mut rstd_n) = (Vec::new(), Vec::new(), Vec::new());
    for x_c in x_nc.chunks(c) {
        let mean = x_c.iter().sum::<f64>() / c as f64;
        let variance = x_c.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / c as f64;
        let rstd = 1.0 / (variance + LAYER_NORM_EPS).sqrt();
        for i in 0..c {
            out_nc.push((x_c[i] - mean) * rstd * weight_c[i] + bias_c.map_or(0.0, |b| b[i]));
        }
        mean_n.push(mean);
        rstd_n.push(rstd);
    }
    (out_nc, mean_n, rstd_n)
}

/// With `xhat = (x - mean) rstd` and `g = dout * weight`, per row:
/// `dx = rstd (g - mean(g) - xhat mean(g xhat))`; `dweight = sum dout xhat`; `dbias = sum dout`.
pub(super) fn layer_norm_backward(
    dout_nc: &[f64],
    x_nc: &[f64],
    weight_c: &[f64],
    mean_n: &[f64],
    rstd_n: &[f64],
) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let c = weight_c.len();
    let (mut dx_nc, mut dweight_c, mut dbias_c) = (Vec::new(), vec![0.0; c], vec![0.0; c]);
    for (n, (dout_c, x_c)) in dout_nc.chunks(c).zip(x_nc.chunks(c)).enumerate() {
        let xhat_c: Vec<f64> = x_c.iter().map(|x| (x - mean_n[n]) * rstd_n[n]).collect();
        let g_c: Vec<f64> = dout_c.iter().zip(weight_c).map(|(d, w)| d * w).collect();
        let g_mean = g_c.iter().sum::<f64>() / c as f64;
        let g_xhat_mean = dot(&g_c, &xhat_c) / c as f64;
        for i in 0..c {
            dx_nc.push(rstd_n[n] * (g_c[i] - g_mean - xhat_c[i] * g_xhat_mean));
            dweight_c[i] += dout_c[i] * xhat_c[i];
            dbias_c[i] += dout_c[i];
        }
    }
    (dx_nc, dweight_c, dbias_c)
}

/// `x W + bias`.
pub(super) fn linear(
    x_nc: &[f64],
    w: &[f64],
    layout: WeightLayout,
    bias_o: Option<&[f64]>,
    c: usize,
    o: usize,
) -> Vec<f64> {
    let mut out_no = matmul(x_nc, &to_in_out(w, layout, c, o), c, o);
    if let Some(bias_o) = bias_o {
        for out_o in out_no.chunks_mut(o) {
            out_o.iter_mut().zip(bias_o).for_each(|(out, bias)| *out += bias);
        }
    }
    out_no
}

/// `dx = dout W^T`.
pub(super) fn linear_backward_input(
    dout_no: &[f64],
    w: &[f64],
    layout: WeightLayout,
    c: usize,
    o: usize,
) -> Vec<f64> {
    let w_oc = transpose(&to_in_out(w, layout, c, o), o);
    matmul(dout_no, &w_oc, o, c)
}

/// `dw = x^T dout`, laid out as the weights.
pub(super) fn linear_backward_weight(
    dout_no: &[f64],
    x_nc: &[f64],
    layout: WeightLayout,
    c: usize,
    o: usize,
) -> Vec<f64> {
    let n = x_nc.len() / c;
    let dw_co = matmul(&transpose(x_nc, c), dout_no, n, o);
    match layout {
        WeightLayout::InOut => dw_co,
        WeightLayout::OutIn => transpose(&dw_co, o),
    }
}

/// The sum of each of `o` columns.
pub(super) fn column_sums(x_no: &[f64], o: usize) -> Vec<f64> {
    (0..o).map(|i| x_no.iter().skip(i).step_by(o).sum()).collect()
}

/// `0.5 x (1 + tanh(u))` with `u = sqrt(2/pi) (x + 0.044715 x^3)`, or `x Phi(x)`.
pub(super) fn gelu(x: f64, kind: Gelu) -> f64 {
    match kind {
        Gelu::Tanh => 0.5 * x * (1.0 + tanh_argument(x).tanh()),
        Gelu::Erf => 0.5 * x * (1.0 + libm::erf(x * FRAC_1_SQRT_2)),
    }
}

/// `0.5 (1 + tanh u) + 0.5 x (1 - tanh^2 u) u'`, or `Phi(x) + x phi(x)`.
pub(super) fn gelu_derivative(x: f64, kind: Gelu) -> f64 {
    match kind {
        Gelu::Tanh => {
            let tanh = tanh_argument(x).tanh();
            let du = (2.0 / PI).sqrt() * (1.0 + 3.0 * 0.044715 * x * x);
            0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * du
        }
        Gelu::Erf => {
            let density = (-0.5 * x * x).exp() / (2.0 * PI).sqrt();
            0.5 * (1.0 + libm::erf(x * FRAC_1_SQRT_2)) + x * density
        }
    }
}

fn tanh_argument(x: f64) -> f64 {
    (2.0 / PI).sqrt() * (x + 0.044715 * x * x * x)
}

/// `x` times the mask's factors; rows counted over the whole batch of the step.
pub(super) fn dropout(x_btc: &[f64], mask: &MaskF64, t: usize, c: usize) -> Vec<f64> {
    let first_row = mask.first * t as u64;
    (0..x_btc.len()).map(|i| x_btc[i] * mask.factor(first_row + (i / c) as u64, i % c)).collect()
}

/// `a . b`.
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `[N, K] x [K, M]`.
fn matmul(a_nk: &[f64], b_km: &[f64], k: usize, m: usize) -> Vec<f64> {
    let mut out_nm = vec![0.0; a_nk.len() / k * m];
    for (a_k, out_m) in a_nk.chunks(k).zip(out_nm.chunks_mut(m)) {
        for (a, b_m) in a_k.iter().zip(b_km.chunks(m)) {
            out_m.iter_mut().zip(b_m).for_each(|(out, b)| *out += a * b);
        }
    }
    out_nm
}

/// `[R, C]` to `[C, R]`.
fn transpose(a_rc: &[f64], c: usize) -> Vec<f64> {
    (0..c).flat_map(|i| a_rc.iter().skip(i).step_by(c)).copied().collect()
}

/// Weights as `[C, O]`.
fn to_in_out(w: &[f64], layout: WeightLayout, c: usize, o: usize) -> Vec<f64> {
    assert_eq!(w.len(), c * o, "weights of another shape");
    match layout {
        WeightLayout::InOut => w.to_vec(),
        WeightLayout::OutIn => transpose(w, c),
    }
}
