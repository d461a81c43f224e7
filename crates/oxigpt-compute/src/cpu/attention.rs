//! Causal attention in tiles: a strip of scores for some queries of one head, never a T x T matrix.
//!
//! Legend: B batch, T positions, H heads, C width, D = C/H. Row `(b,t)` of `qkv` is q, k, v side by side.

use super::elementwise::drop_row_in_place;
use super::gemm::{Matrix, product};
use super::memory::Shared;
use super::pool::Pool;
use super::simd::{dot, exp, max, sum, vectorised};
use crate::dropout::Mask;

/// Queries of one tile.
const TILE: usize = 64;

/// Floats of scratch that each thread needs for sequences of `t` keys.
pub(super) fn scratch_len(t: usize) -> usize {
    2 * TILE * t
}

/// Shape of an attention.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) batch: usize,
    pub(super) t: usize,
    pub(super) n_head: usize,
    /// Width of a head.
    pub(super) d: usize,
}

impl Shape {
    fn c(&self) -> usize {
        self.n_head * self.d
    }

    fn scale(&self) -> f32 {
        1.0 / (self.d as f32).sqrt()
    }

    /// The columns of head `h` in the `part`-th of `parts` equal blocks of columns, for all rows of entry `b`.
    fn head<'a>(
        &self,
        data: Shared<'a>,
        rows: usize,
        b: usize,
        h: usize,
        part: usize,
        parts: usize,
    ) -> Matrix<'a> {
        let stride = parts * self.c();
        Matrix::strided(data, b * rows * stride + part * self.c() + h * self.d, rows, self.d, stride)
    }
}

/// Dropout of attention weights: the mask, and the number of the batch's first sequence within the step's.
#[derive(Clone, Copy)]
pub(super) struct WeightDropout {
    pub(super) mask: Mask,
    pub(super) first: usize,
}

impl WeightDropout {
    fn row(&self, shape: &Shape, b: usize, h: usize, i: usize) -> u32 {
        (((self.first + b) * shape.n_head + h) * shape.t + i) as u32
    }
}

vectorised! {
    /// Turns scores into their softmax; returns the logarithm of the sum of exponentials.
    fn softmax_row(scores: &mut [f32]) -> f32 {
        let largest = max(scores);
        for score in scores.iter_mut() {
            *score = exp(*score - largest);
        }
        let total = sum([scores], |[score]| score);
        let inverse = 1.0 / total;
        for score in scores.iter_mut() {
            *score *= inverse;
        }
        largest + total.ln()
    }
}

vectorised! {
    /// Turns scores into their softmax, given the logarithm of the sum of exponentials.
    fn softmax_again(scores: &mut [f32], lse: f32) {
        for score in scores.iter_mut() {
            *score = exp(*score - lse);
        }
    }
}

vectorised! {
    /// `dscores = weights * (dweights - delta) * scale`, into `dweights`.
    fn softmax_backward_row(weights: &[f32], dweights: &mut [f32], delta: f32, scale: f32) {
        for (dweight, weight) in dweights.iter_mut().zip(weights) {
            *dweight = weight * (*dweight - delta) * scale;
        }
    }
}

/// A strip of `rows x keys` at the front of a thread's scratch.
fn strip(scratch: Shared<'_>, offset: usize, rows: usize, keys: usize) -> Matrix<'_> {
    Matrix::strided(scratch, offset, rows, keys, keys)
}

/// Scratch of thread `thread`.
fn scratch_of<'a>(scratch: Shared<'a>, thread: usize, len: usize) -> Shared<'a> {
    // SAFETY: every thread takes its own part, and only while it runs a task.
    Shared::of(unsafe { scratch.write(thread * len..(thread + 1) * len) })
}

/// Attention of queries `q` at positions `first..` over `first + q.rows` keys. `on_row(i, scores, lse)` sees each row
/// of weights before they meet the values.
///
/// # Safety
/// Nobody else touches `out` or `weights`, and nobody writes to `q`, `k`, `v`, during the call.
unsafe fn attend(
    (q, k, v): (Matrix, Matrix, Matrix),
    first: usize,
    weights: Matrix,
    out: Matrix,
    scale: f32,
    on_row: impl Fn(usize, &mut [f32], f32),
) {
    // SAFETY: passed on to the caller.
    unsafe {
        product(weights, q, k.t(), scale, false);
        for i in 0..q.rows {
            let row = weights.row_mut(i);
            let (seen, future) = row.split_at_mut(first + i + 1);
            let lse = softmax_row(seen);
            future.fill(0.0);
            on_row(i, seen, lse);
        }
        product(out, weights, v, 1.0, false);
    }
}

pub(super) fn attention(
    pool: &mut Pool,
    shape: Shape,
    (qkv, out, lse): (Shared, Shared, Shared),
    dropout: Option<WeightDropout>,
    scratch: Shared,
) {
    let Shape { batch, t, n_head, .. } = shape;
    let n_tiles = t.div_ceil(TILE);
    pool.run(batch * n_head * n_tiles, |index, thread| {
        // The longest tiles of a head first, so that the last tasks are short.
        let (b, h, tile) =
            (index / (n_head * n_tiles), index / n_tiles % n_head, n_tiles - 1 - index % n_tiles);
        let (start, end) = (tile * TILE, ((tile + 1) * TILE).min(t));
        let q = shape.head(qkv, t, b, h, 0, 3).rows_part(start..end);
        let k = shape.head(qkv, t, b, h, 1, 3).rows_part(0..end);
        let v = shape.head(qkv, t, b, h, 2, 3).rows_part(0..end);
        let out = shape.head(out, t, b, h, 0, 1).rows_part(start..end);
        let weights = strip(scratch_of(scratch, thread, scratch_len(t)), 0, end - start, end);
        // SAFETY: each tile writes its own rows and columns of `out`, its own part of `lse`, and its thread's scratch.
        unsafe {
            attend((q, k, v), start, weights, out, shape.scale(), |i, row, row_lse| {
                let at = (b * n_head + h) * t + start + i;
                lse.write(at..at + 1)[0] = row_lse;
                if let Some(dropout) = dropout {
                    drop_row_in_place(dropout.mask, dropout.row(&shape, b, h, start + i), row);
                }
            });
        }
    });
}

/// Operands of [`attention_backward`].
#[derive(Clone, Copy)]
pub(super) struct Backward<'a> {
    pub(super) qkv: Shared<'a>,
    pub(super) out: Shared<'a>,
    pub(super) lse: &'a [f32],
    pub(super) dout: Shared<'a>,
    pub(super) dqkv: Shared<'a>,
}

/// One task a head, because all tiles of queries of a head add to the gradients of the same keys and values.
pub(super) fn attention_backward(
    pool: &mut Pool,
    shape: Shape,
    operands: Backward,
    dropout: Option<WeightDropout>,
    scratch: Shared,
) {
    let Shape { batch, t, n_head, .. } = shape;
    pool.run(batch * n_head, |index, thread| {
        let (b, h) = (index / n_head, index % n_head);
        let scratch = scratch_of(scratch, thread, scratch_len(t));
        // The last tile reaches all keys, so it writes their gradients, and the others add.
        for tile in (0..t.div_ceil(TILE)).rev() {
            let queries = tile * TILE..((tile + 1) * TILE).min(t);
            // SAFETY: each head writes its own columns of `dqkv`, and its thread's scratch.
            unsafe { backward_tile(shape, operands, dropout, scratch, (b, h), queries) };
        }
    });
}

/// # Safety
/// Nobody else touches the columns of head `h` of `dqkv`, or `scratch`, during the call.
unsafe fn backward_tile(
    shape: Shape,
    operands: Backward,
    dropout: Option<WeightDropout>,
    scratch: Shared,
    (b, h): (usize, usize),
    queries: std::ops::Range<usize>,
) {
    let Backward { qkv, out, lse, dout, dqkv } = operands;
    let t = shape.t;
    let (start, end, rows) = (queries.start, queries.end, queries.len());
    let head = |data, part, parts| shape.head(data, t, b, h, part, parts);
    let (q, k, v) = (
        head(qkv, 0, 3).rows_part(queries.clone()),
        head(qkv, 1, 3).rows_part(0..end),
        head(qkv, 2, 3).rows_part(0..end),
    );
    let (out, dout) =
        (head(out, 0, 1).rows_part(queries.clone()), head(dout, 0, 1).rows_part(queries.clone()));
    let dq = head(dqkv, 0, 3).rows_part(queries);
    let (dk, dv) = (head(dqkv, 1, 3).rows_part(0..end), head(dqkv, 2, 3).rows_part(0..end));
    let (weights, dweights) = (strip(scratch, 0, rows, end), strip(scratch, rows * end, rows, end));
    let accumulate = end < t;
    // SAFETY: operands are distinct tensors; the rest is the caller's promise.
    unsafe {
        product(weights, q, k.t(), shape.scale(), false);
        product(dweights, dout, v.t(), 1.0, false);
        for i in 0..rows {
            let (seen, future) = weights.row_mut(i).split_at_mut(start + i + 1);
            softmax_again(seen, lse[(b * shape.n_head + h) * t + start + i]);
            future.fill(0.0);
            let (dseen, dfuture) = dweights.row_mut(i).split_at_mut(start + i + 1);
            dfuture.fill(0.0);
            if let Some(dropout) = dropout {
                drop_row_in_place(dropout.mask, dropout.row(&shape, b, h, start + i), dseen);
            }
            // sum_j weight_ij dweight_ij, by way of the output (Dao et al. 2022, section 3.1).
            softmax_backward_row(seen, dseen, dot(out.row(i), dout.row(i)), shape.scale());
            if let Some(dropout) = dropout {
                drop_row_in_place(dropout.mask, dropout.row(&shape, b, h, start + i), seen);
            }
        }
        product(dv, weights.t(), dout, 1.0, accumulate);
        product(dq, dweights, k, 1.0, false);
        product(dk, dweights.t(), q, 1.0, accumulate);
    }
}

/// Attention of T new positions over a cache of S.
pub(super) fn cached_attention(
    pool: &mut Pool,
    shape: Shape,
    (qkv, k_cache, v_cache, out): (Shared, Shared, Shared, Shared),
    (position, cached): (usize, usize),
    scratch: Shared,
) {
    let Shape { batch, t, n_head, .. } = shape;
    let c = shape.c();
    for (b, row) in (0..batch).flat_map(|b| (0..t).map(move |row| (b, row))) {
        let (from, to) = ((b * t + row) * 3 * c, (b * cached + position + row) * c);
        // SAFETY: this thread alone is at work, and the tensors are distinct.
        unsafe {
            k_cache.write(to..to + c).copy_from_slice(qkv.read(from + c..from + 2 * c));
            v_cache.write(to..to + c).copy_from_slice(qkv.read(from + 2 * c..from + 3 * c));
        }
    }
    let n_tiles = t.div_ceil(TILE);
    pool.run(batch * n_head * n_tiles, |index, thread| {
        let (b, h, tile) = (index / (n_head * n_tiles), index / n_tiles % n_head, index % n_tiles);
        let (start, end) = (tile * TILE, ((tile + 1) * TILE).min(t));
        let q = shape.head(qkv, t, b, h, 0, 3).rows_part(start..end);
        let k = shape.head(k_cache, cached, b, h, 0, 1).rows_part(0..position + end);
        let v = shape.head(v_cache, cached, b, h, 0, 1).rows_part(0..position + end);
        let out = shape.head(out, t, b, h, 0, 1).rows_part(start..end);
        let scratch = scratch_of(scratch, thread, scratch_len(cached));
        let weights = strip(scratch, 0, end - start, position + end);
        // SAFETY: each tile writes its own rows and columns of `out`, and its thread's scratch.
        unsafe { attend((q, k, v), position + start, weights, out, shape.scale(), |_, _, _| {}) };
    });
}
