//! Attention of a single query over a cache, as for each new token: keys and values are read once, where they lie.

use super::gemm::Matrix;
use super::simd::{sum, vectorised};

/// Values that are added to the result at once.
const AT_ONCE: usize = 4;

vectorised! {
    /// `scale * q . k` for keys `stride` apart.
    fn dot_products(q: &[f32], keys: &[f32], stride: usize, scale: f32, scores: &mut [f32]) {
        for (score, key) in scores.iter_mut().zip(keys.chunks(stride)) {
            *score = scale * sum([q, &key[..q.len()]], |[q, k]| q * k);
        }
    }
}

vectorised! {
    /// Sum of values `stride` apart, each times its weight.
    fn weighted_sum(weights: &[f32], values: &[f32], stride: usize, out: &mut [f32]) {
        out.fill(0.0);
        let n = out.len();
        for (weights, values) in weights.chunks(AT_ONCE).zip(values.chunks(AT_ONCE * stride)) {
            match *weights {
                [a, b, c, d] => {
                    let row = |i: usize| &values[i * stride..i * stride + n];
                    let rows = row(0).iter().zip(row(1)).zip(row(2)).zip(row(3));
                    for (out, (((&v0, &v1), &v2), &v3)) in out.iter_mut().zip(rows) {
                        *out = d.mul_add(v3, c.mul_add(v2, b.mul_add(v1, a.mul_add(v0, *out))));
                    }
                }
                _ => {
                    for (&weight, value) in weights.iter().zip(values.chunks(stride)) {
                        out.iter_mut().zip(value).for_each(|(out, &v)| *out = weight.mul_add(v, *out));
                    }
                }
            }
        }
    }
}

/// Scores of one query, `scale * q K^T`.
///
/// # Safety
/// Nobody writes to `q` or `k`, and nobody else touches `scores`, during the call.
pub(super) unsafe fn scores(q: Matrix, k: Matrix, scale: f32, scores: Matrix) {
    // SAFETY: passed on to the caller.
    let (q, (keys, stride), scores) = unsafe { (q.row(0), k.span(), scores.row_mut(0)) };
    dot_products(q, keys, stride, scale, scores);
}

/// What one query sees, `weights V`.
///
/// # Safety
/// Nobody writes to `weights` or `v`, and nobody else touches `out`, during the call.
pub(super) unsafe fn seen(weights: Matrix, v: Matrix, out: Matrix) {
    // SAFETY: passed on to the caller.
    let (weights, (values, stride), out) = unsafe { (weights.row(0), v.span(), out.row_mut(0)) };
    weighted_sum(weights, values, stride, out);
}
