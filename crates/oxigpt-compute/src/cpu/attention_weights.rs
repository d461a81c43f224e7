//! What a kind of attention makes of scores: weights; and of the gradients of weights, those of scores. The tiling
//! around it is one for all kinds.
//!
//! Legend as in `attention.rs`. Blocks of scores are keys by queries, `[K, TILE]`; while decoding they are rows of one
//! query's keys. Gaussian kinds first turn products into `z = s q.k - s|q|^2/2 - s|k|^2/2`, at most zero.

use super::attention::{TILE, fill_unseen};
use super::bf16::Element;
use super::gemm::Matrix;
use super::simd::{LANES, dot, exp, gelu_slope, max, normal, sigmoid, sum, vectorised};
use crate::{Activation, AttentionKind};

/// What the weights of a tile of queries depend on beside their scores.
pub(super) struct Queries {
    /// One over what weights are divided by.
    pub(super) factors: [f32; TILE],
    /// `s |q|^2 / 2`, for Gaussian kinds.
    pub(super) halves: [f32; TILE],
    /// For softmax: logarithms of the sums of exponentials.
    pub(super) lse: [f32; TILE],
    /// For softmax: sums of weights times their gradients.
    pub(super) delta: [f32; TILE],
}

impl Queries {
    /// Queries `q` from position `first` on, of a text of `length`.
    ///
    /// # Safety
    /// Nobody writes to `q` during the call.
    pub(super) unsafe fn of<T: Element>(
        kind: AttentionKind,
        q: Matrix<T>,
        scale: f32,
        (first, length): (usize, usize),
    ) -> Queries {
        let mut halves = [0.0; TILE];
        if kind.is_gaussian() {
            // SAFETY: the caller's promise.
            unsafe { half_squares(q, scale, &mut halves) };
        }
        let factors = std::array::from_fn(|i| 1.0 / kind.divisor(first + i, length) as f32);
        Queries { factors, halves, lse: [0.0; TILE], delta: [0.0; TILE] }
    }
}

/// `s |x|^2 / 2` of each row.
///
/// # Safety
/// Nobody writes to `rows` during the call.
pub(super) unsafe fn half_squares<T: Element>(rows: Matrix<T>, scale: f32, halves: &mut [f32]) {
    for (i, half) in halves[..rows.rows].iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        let row = unsafe { rows.row(i) };
        *half = 0.5 * scale * dot(row, row);
    }
}

vectorised! {
    /// Products become scores of a Gaussian kind. A difference of large numbers may be a little above zero.
    fn distances(scores: &mut [f32], row_halves: &[f32], column_halves: &[f32]) {
        for (row, half) in scores.chunks_exact_mut(column_halves.len()).zip(row_halves) {
            for (score, column) in row.iter_mut().zip(column_halves) {
                let z = *score - half - column;
                *score = if z > 0.0 { 0.0 } else { z };
            }
        }
    }
}

vectorised! {
    /// For each query, how many scores are below `lowest`, and the lowest of all; side by side.
    fn score_range(scores_kq: &[f32], lowest: f32, range: &mut [f32; 2 * TILE]) {
        for first in (0..TILE).step_by(LANES) {
            let (mut counts, mut least) = ([0.0f32; LANES], [0.0f32; LANES]);
            for row in scores_kq.chunks_exact(TILE) {
                for (i, &z) in row[first..first + LANES].iter().enumerate() {
                    counts[i] += if z < lowest { 1.0 } else { 0.0 };
                    least[i] = if z < least[i] { z } else { least[i] };
                }
            }
            for i in 0..LANES {
                range[2 * (first + i)] = counts[i];
                range[2 * (first + i) + 1] = least[i];
            }
        }
    }
}

/// `(1 + z/2^n)^(2^n)`, and its derivative, the power with one factor less.
///
/// Squaring doubles relative errors, so most squarings are of `1 + x` as `x -> 2x + x^2`, which keeps what a small `x`
/// says; the last few, where powers may be far below 1, are of the power itself.
#[inline(always)]
fn power(z: [f32; LANES], squarings: u32, clamp: bool) -> ([f32; LANES], [f32; LANES]) {
    let last = squarings.min(3);
    let inverse = 1.0 / (1u32 << squarings) as f32;
    let (mut x, mut slope) = ([0.0; LANES], [1.0f32; LANES]);
    for i in 0..LANES {
        x[i] = z[i] * inverse;
        x[i] = if clamp && x[i] < -1.0 { -1.0 } else { x[i] };
    }
    for _ in last..squarings {
        for i in 0..LANES {
            slope[i] = slope[i].mul_add(x[i], slope[i]);
            x[i] = x[i].mul_add(x[i], x[i] + x[i]);
        }
    }
    for i in 0..LANES {
        x[i] += 1.0;
    }
    for _ in 0..last {
        for i in 0..LANES {
            slope[i] *= x[i];
            x[i] *= x[i];
        }
    }
    (x, slope)
}

#[inline(always)]
fn positive(z: f32) -> f32 {
    // A number that is none stays none.
    if z < 0.0 { 0.0 } else { z }
}

#[inline(always)]
fn each(scores: &mut [f32], f: impl Fn(f32) -> f32) {
    for score in scores {
        *score = f(*score);
    }
}

vectorised! {
    /// Scores become weights, not divided yet: for every kind but softmax, whose weights depend on each other.
    fn weigh(kind: AttentionKind, scores: &mut [f32]) {
        match kind {
            AttentionKind::Softmax => unreachable!("softmax needs whole rows"),
            AttentionKind::Gaussian => each(scores, exp),
            AttentionKind::GaussianPoly { squarings, clamp } => {
                let (whole, rest) = scores.as_chunks_mut::<LANES>();
                for z in whole {
                    *z = power(*z, squarings, clamp).0;
                }
                let mut padded = [0.0; LANES];
                padded[..rest.len()].copy_from_slice(rest);
                rest.copy_from_slice(&power(padded, squarings, clamp).0[..rest.len()]);
            }
            AttentionKind::Pointwise { activation, .. } => match activation {
                Activation::Gelu => each(scores, |z| z * normal(z)),
                Activation::Relu => each(scores, positive),
                Activation::Sigmoid => each(scores, sigmoid),
                Activation::Square => each(scores, |z| z * z),
                Activation::ReluSquare => each(scores, |z| positive(z) * positive(z)),
            },
        }
    }
}

/// Scores and gradients of weights become weights and gradients of scores: `f(query, score, dweight)` gives both.
#[inline(always)]
fn pairs(weights_kq: &mut [f32], dscores_kq: &mut [f32], f: impl Fn(usize, f32, f32) -> (f32, f32)) {
    for (weights, dscores) in weights_kq.chunks_exact_mut(TILE).zip(dscores_kq.chunks_exact_mut(TILE)) {
        for i in 0..TILE {
            (weights[i], dscores[i]) = f(i, weights[i], dscores[i]);
        }
    }
}

vectorised! {
    /// Scores become weights, and gradients of weights gradients of products `q . k`.
    fn differentiate(kind: AttentionKind, queries: &Queries, scale: f32, scores_kq: &mut [f32], dweights_kq: &mut [f32]) {
        let Queries { factors, lse, delta, .. } = queries;
        // Of kinds whose weights do not depend on each other: `(weight, derivative)`.
        macro_rules! own {
            ($curve:expr) => {
                pairs(scores_kq, dweights_kq, |i, z, dweight| {
                    let (weight, slope) = $curve(z);
                    (factors[i] * weight, factors[i] * slope * dweight * scale)
                })
            };
        }
        match kind {
            AttentionKind::Softmax => pairs(scores_kq, dweights_kq, |i, z, dweight| {
                let weight = exp(z - lse[i]);
                (weight, weight * (dweight - delta[i]) * scale)
            }),
            AttentionKind::Gaussian => own!(|z| (exp(z), exp(z))),
            AttentionKind::GaussianPoly { squarings, clamp } => {
                let rows = scores_kq.as_chunks_mut::<LANES>().0.iter_mut();
                for (z, dweights) in rows.zip(dweights_kq.as_chunks_mut::<LANES>().0) {
                    let (weights, slope) = power(*z, squarings, clamp);
                    for i in 0..LANES {
                        (z[i], dweights[i]) = (weights[i], slope[i] * dweights[i] * scale);
                    }
                }
            }
            AttentionKind::Pointwise { activation, .. } => match activation {
                Activation::Gelu => own!(|z| (z * normal(z), gelu_slope(z))),
                Activation::Relu => own!(|z| (positive(z), if z > 0.0 { 1.0 } else { 0.0 })),
                Activation::Sigmoid => own!(|z| {
                    let y = sigmoid(z);
                    (y, y * (1.0 - y))
                }),
                Activation::Square => own!(|z| (z * z, 2.0 * z)),
                Activation::ReluSquare => own!(|z| (positive(z) * positive(z), 2.0 * positive(z))),
            },
        }
    }
}

vectorised! {
    /// Turns the scores of each query into their exponentials, the largest of which is 1. Gives one over the sum of these,
    /// and the logarithm of the sum of the scores' own exponentials.
    fn exponentials(scores_kq: &mut [f32], factors: &mut [f32; TILE], lse: &mut [f32; TILE]) {
        for first in (0..TILE).step_by(LANES) {
            let mut largest = [f32::NEG_INFINITY; LANES];
            for row in scores_kq.chunks_exact(TILE) {
                for (largest, &score) in largest.iter_mut().zip(&row[first..first + LANES]) {
                    *largest = if score > *largest { score } else { *largest };
                }
            }
            let mut total = [0.0; LANES];
            for row in scores_kq.chunks_exact_mut(TILE) {
                for (i, score) in row[first..first + LANES].iter_mut().enumerate() {
                    *score = exp(*score - largest[i]);
                    total[i] += *score;
                }
            }
            for i in 0..LANES {
                factors[first + i] = 1.0 / total[i];
                lse[first + i] = largest[i] + total[i].ln();
            }
        }
    }
}

/// Turns products of a tile's queries with all keys that one of them sees into weights, up to each query's factor; zero
/// where a query does not see a key. The first query sees `seen` keys. Gives [`Op::Attention`](crate::Op)'s `range`.
///
/// `keys` are for Gaussian kinds: `s |k|^2 / 2`.
pub(super) fn weights(
    kind: AttentionKind,
    queries: &mut Queries,
    keys: &[f32],
    seen: usize,
    scores_kq: &mut [f32],
) -> [f32; 2 * TILE] {
    let mut range = [0.0; 2 * TILE];
    if kind == AttentionKind::Softmax {
        fill_unseen(scores_kq, seen, f32::NEG_INFINITY);
        exponentials(scores_kq, &mut queries.factors, &mut queries.lse);
        return range;
    }
    if kind.is_gaussian() {
        distances(scores_kq, keys, &queries.halves);
    }
    if let Some(lowest) = kind.lowest_score() {
        fill_unseen(scores_kq, seen, 0.0);
        score_range(scores_kq, lowest as f32, &mut range);
    }
    weigh(kind, scores_kq);
    fill_unseen(scores_kq, seen, 0.0);
    range
}

/// The same for one query and the keys that it sees, whole weights.
pub(super) fn row_weights(kind: AttentionKind, half: f32, keys: &[f32], factor: f32, scores: &mut [f32]) {
    if kind == AttentionKind::Softmax {
        return softmax_row(scores);
    }
    if kind.is_gaussian() {
        distances(scores, &[half], &keys[..scores.len()]);
    }
    weigh(kind, scores);
    scale_row(scores, factor);
}

vectorised! {
    fn scale_row(row: &mut [f32], factor: f32) {
        each(row, |x| factor * x);
    }
}

vectorised! {
    /// Turns scores into their softmax.
    fn softmax_row(scores: &mut [f32]) {
        let largest = max(scores);
        for score in scores.iter_mut() {
            *score = exp(*score - largest);
        }
        let inverse = 1.0 / sum([scores], |[score]| score);
        for score in scores.iter_mut() {
            *score *= inverse;
        }
    }
}

vectorised! {
    /// Adds the gradients of scores up, for each query over keys and for each key over the first `n_queries`.
    fn add_sums(dscores_kq: &[f32], n_queries: usize, queries: &mut [f32; TILE], keys: &mut [f32]) {
        for (row, key) in dscores_kq.chunks_exact(TILE).zip(keys) {
            for (query, dscore) in queries.iter_mut().zip(row) {
                *query += dscore;
            }
            *key += sum([&row[..n_queries]], |[dscore]| dscore);
        }
    }
}

vectorised! {
    fn subtract_scaled<T: Element>(to: &mut [f32], factor: f32, from: &[T]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to -= factor * from.get();
        }
    }
}

/// The other half of a Gaussian kind's gradients: takes from the rows of `gradients`, `width` apart, those of `from` times
/// their sums.
///
/// # Safety
/// Nobody writes to `from` during the call.
pub(super) unsafe fn subtract_own<T: Element>(
    gradients: &mut [f32],
    width: usize,
    sums: &[f32],
    from: Matrix<T>,
) {
    for (i, gradient) in gradients.chunks_exact_mut(width).take(from.rows).enumerate() {
        // SAFETY: the caller's promise.
        subtract_scaled(gradient, sums[i], unsafe { from.row(i) });
    }
}
