//! The adjoint of causal attention: pairs of a tile of queries and a block of keys, scores computed again.
//!
//! Legend as in `attention.rs`. Scores are recomputed from the saved logarithms of their sums (Dao et al. 2022,
//! "FlashAttention", section 3.1), so that everything of a pair is two tiles that stay in the second-level cache.

use super::attention::{
    Shape, TILE, WeightDropout, copy_out, fill_unseen, scores, scratch_of, take, take_words, weighted_sums,
};
use super::attention_weights::{Queries, add_sums, differentiate, distances, half_squares, subtract_own};
use super::attention_words::{Arithmetic, Floats, Pairs, left, transposed};
use super::block::{COLS, Left, Out, ROWS, Right, Size, Store, multiply};
use super::gemm::{Matrix, Operand};
use super::memory::{Reals, Shared};
use super::pool::Pool;
use super::simd::dot;
use crate::AttentionKind;

/// Floats of scratch for `t` keys, a multiple of [`TILE`], and heads `d` wide, `e` when padded.
pub(super) fn scratch_len(t: usize, d: usize, e: usize) -> usize {
    2 * t * e + 5 * t * d + TILE * (2 * d + 4 * e + 3 * TILE) + 2 * t
}

/// Operands of [`attention_backward`].
#[derive(Clone, Copy)]
pub(super) struct Backward<'a> {
    pub(super) qkv: Reals<'a>,
    /// The result, and `lse`.
    pub(super) softmax: Option<(Reals<'a>, &'a [f32])>,
    pub(super) dout: Reals<'a>,
    pub(super) dqkv: Reals<'a>,
}

pub(super) fn attention_backward(
    pool: &mut Pool,
    shape: Shape,
    operands: Backward,
    dropout: Option<WeightDropout>,
    scratch: Shared,
) {
    let Backward { qkv, softmax, dout, .. } = operands;
    if Pairs::fit([qkv, dout].into_iter().chain(softmax.map(|(out, _)| out)), shape.d) {
        backward_by::<Pairs>(pool, shape, operands, dropout, scratch);
    } else {
        backward_by::<Floats>(pool, shape, operands, dropout, scratch);
    }
}

/// One task a head, because all queries of a head add to the gradients of the same keys and values.
fn backward_by<A: Arithmetic>(
    pool: &mut Pool,
    shape: Shape,
    operands: Backward,
    dropout: Option<WeightDropout>,
    scratch: Shared,
) {
    let Shape { kind, batch, t, n_head, d } = shape;
    pool.run(batch * n_head, |index, thread| {
        let (b, h) = (index / n_head, index % n_head);
        let part = |data, part, parts| shape.head(data, t, b, h, part, parts);
        let Backward { qkv, softmax, dout, dqkv } = operands;
        let mut scratch = scratch_of(scratch, thread, super::attention::scratch_len(t, d));
        // SAFETY: nobody writes to what the adjoint reads.
        let mut read = |x| unsafe { A::read(x, take(&mut scratch, t * d)) };
        let head = Head::<A> {
            kind,
            q: read(part(qkv, 0, 3)),
            k: read(part(qkv, 1, 3)),
            v: read(part(qkv, 2, 3)),
            dout: read(part(dout, 0, 1)),
            dq: part(dqkv, 0, 3),
            dk: part(dqkv, 1, 3),
            dv: part(dqkv, 2, 3),
            softmax: softmax.map(|(out, lse)| (read(part(out, 0, 1)), &lse[(b * n_head + h) * t..][..t])),
            scale: shape.scale(),
        };
        let drop = |first: usize, first_key: usize, weights_kq: &mut [f32]| {
            if let Some(dropout) = dropout {
                dropout.apply(&shape, (b, h, first), first_key, weights_kq);
            }
        };
        // SAFETY: operands are distinct tensors, and each head writes its own columns of `dqkv`.
        unsafe { head.backward(scratch, drop) };
    });
}

/// One head of one sequence, all `[T, D]`.
struct Head<'a, A: Arithmetic> {
    kind: AttentionKind,
    q: Matrix<'a, A::Element>,
    k: Matrix<'a, A::Element>,
    v: Matrix<'a, A::Element>,
    /// The result, and `lse`.
    softmax: Option<(Matrix<'a, A::Element>, &'a [f32])>,
    dout: Matrix<'a, A::Element>,
    dq: Operand<'a>,
    dk: Operand<'a>,
    dv: Operand<'a>,
    scale: f32,
}

/// What a tile of queries and a block of keys share.
struct Pair<'a, A: Arithmetic> {
    kind: AttentionKind,
    scale: f32,
    /// Queries and gradients of their results, `[W, Q]`.
    q_wq: &'a mut [A::Word],
    dout_wq: &'a mut [A::Word],
    weights_kq: &'a mut [f32],
    dscores_kq: &'a mut [f32],
    /// Room for either as operand.
    words: &'a mut [A::Word],
}

impl<A: Arithmetic> Head<'_, A> {
    /// # Safety
    /// Nobody else touches `dq`, `dk`, `dv`, and nobody writes to the rest, during the call.
    unsafe fn backward(&self, mut scratch: &mut [f32], drop: impl Fn(usize, usize, &mut [f32])) {
        let (t, d) = (self.q.rows, self.q.cols);
        let e = d.next_multiple_of(COLS);
        let dk_te = take(&mut scratch, t.next_multiple_of(TILE) * e);
        let dv_te = take(&mut scratch, t.next_multiple_of(TILE) * e);
        let dq_qe = take(&mut scratch, TILE * e);
        let [q_copy, dout_copy, k_copy] = [(); 3].map(|()| take_words(&mut scratch, TILE * e));
        // Of Gaussian kinds: `s |k|^2 / 2`, and the sums of the gradients of a key's scores.
        let [key_halves, key_sums] = [(); 2].map(|()| take(&mut scratch, t.next_multiple_of(TILE)));
        let mut pair = Pair::<A> {
            kind: self.kind,
            scale: self.scale,
            q_wq: take_words(&mut scratch, d / A::STEP * TILE),
            dout_wq: take_words(&mut scratch, d / A::STEP * TILE),
            weights_kq: take(&mut scratch, TILE * TILE),
            dscores_kq: take(&mut scratch, TILE * TILE),
            words: take_words(&mut scratch, TILE * TILE),
        };
        let is_gaussian = self.kind.is_gaussian();
        if is_gaussian {
            // SAFETY: passed on to the caller.
            unsafe { half_squares(self.k, self.scale, key_halves) };
            key_sums.fill(0.0);
        }
        let tile = |first: usize| first..(first + TILE).min(t);
        for first in (0..t).step_by(TILE) {
            let (q_rows, dout) = (self.q.rows_part(tile(first)), self.dout.rows_part(tile(first)));
            // SAFETY: as above.
            let (queries, q, dout) = unsafe {
                transposed::<A>(q_rows, pair.q_wq);
                transposed::<A>(dout, pair.dout_wq);
                (self.queries(first), A::right(q_rows, q_copy), A::right(dout, dout_copy))
            };
            let n_queries = q_rows.rows;
            let mut query_sums = [0.0; TILE];
            for keys in (0..=first).step_by(TILE) {
                let (n_keys, seen) = (tile(keys).len(), first + 1 - keys);
                let (k, v) = (self.k.rows_part(tile(keys)), self.v.rows_part(tile(keys)));
                // SAFETY: as above.
                let (k_rows, v_rows, k) = unsafe { (left::<A>(k), left::<A>(v), A::right(k, &mut *k_copy)) };
                pair.scores((k_rows, v_rows), n_keys, seen);
                pair.weights(&queries, &key_halves[tile(keys)], seen, |weights| drop(first, keys, weights));
                if is_gaussian {
                    let dscores_kq = &pair.dscores_kq[..n_keys * TILE];
                    add_sums(dscores_kq, n_queries, &mut query_sums, &mut key_sums[tile(keys)]);
                }
                let sizes = (n_queries, n_keys, seen);
                let store = if keys < first { Store::Added } else { Store::Scaled(1.0) };
                let sums = [&mut dv_te[keys * e..], &mut dk_te[keys * e..]];
                pair.add_values_and_keys([dout, q], sizes, (sums, e), store);
                let store = if keys > 0 { Store::Added } else { Store::Scaled(1.0) };
                pair.add_queries(k, sizes, dq_qe, store);
            }
            // SAFETY: as above.
            unsafe {
                if is_gaussian {
                    subtract_own(dq_qe, e, &query_sums, q_rows);
                }
                copy_out(dq_qe, e, |_| 1.0, self.dq.rows_part(tile(first)));
            }
        }
        // SAFETY: as above.
        unsafe {
            if is_gaussian {
                subtract_own(dk_te, e, key_sums, self.k);
            }
            copy_out(dk_te, e, |_| 1.0, self.dk);
            copy_out(dv_te, e, |_| 1.0, self.dv);
        }
    }

    /// What the weights of the tile of queries from `first` on depend on.
    ///
    /// # Safety
    /// Nobody writes to what this head reads during the call.
    unsafe fn queries(&self, first: usize) -> Queries {
        let t = self.q.rows;
        let tile = first..(first + TILE).min(t);
        // SAFETY: the caller's promise.
        let mut queries =
            unsafe { Queries::of(self.kind, self.q.rows_part(tile.clone()), self.scale, (first, t)) };
        if let Some((out, lse)) = self.softmax {
            for (i, row) in tile.enumerate() {
                queries.lse[i] = lse[row];
                // sum_j weight_ij dweight_ij, by way of the output.
                // SAFETY: as above.
                queries.delta[i] = unsafe { dot(out.row(row), self.dout.row(row)) };
            }
        }
        queries
    }
}

impl<A: Arithmetic> Pair<'_, A> {
    /// Products, and gradients of weights, as far as queries see keys: the first query sees `seen` of them.
    fn scores(&mut self, (k, v): (Left<A::Word>, Left<A::Word>), n_keys: usize, seen: usize) {
        scores((k, n_keys), self.q_wq, seen, self.scale, self.weights_kq);
        scores((v, n_keys), self.dout_wq, seen, 1.0, self.dscores_kq);
    }

    /// Weights out of products, and gradients of products out of those of weights; zero where a query does not see a key.
    fn weights(&mut self, queries: &Queries, keys: &[f32], seen: usize, drop: impl Fn(&mut [f32])) {
        let weights_kq = &mut self.weights_kq[..keys.len() * TILE];
        let dscores_kq = &mut self.dscores_kq[..keys.len() * TILE];
        if self.kind.is_gaussian() {
            distances(weights_kq, keys, &queries.halves);
        }
        drop(dscores_kq);
        differentiate(self.kind, queries, self.scale, weights_kq, dscores_kq);
        fill_unseen(weights_kq, seen, 0.0);
        fill_unseen(dscores_kq, seen, 0.0);
        drop(weights_kq);
        if self.kind.is_gaussian() {
            // Their sums, which are not products, must be those of what is multiplied: the two nearly cancel.
            A::round(dscores_kq);
        }
    }

    /// Adds to the gradients of values, and to those of keys.
    fn add_values_and_keys(
        &mut self,
        [dout, q]: [Right<A::Word>; 2],
        sizes: (usize, usize, usize),
        ([dv_ke, dk_ke], e): ([&mut [f32]; 2], usize),
        store: Store,
    ) {
        for (by_kq, rows, sums_ke) in [(&*self.weights_kq, dout, dv_ke), (&*self.dscores_kq, q, dk_ke)] {
            let by_kq = A::over_queries(&by_kq[..sizes.1 * TILE], self.words);
            sums_over_queries::<A>(by_kq, rows, sizes, (sums_ke, e), store);
        }
    }

    /// Adds to the gradients of queries.
    fn add_queries(
        &mut self,
        k: Right<A::Word>,
        sizes: (usize, usize, usize),
        sums: &mut [f32],
        store: Store,
    ) {
        let dscores = A::over_keys(&self.dscores_kq[..sizes.1 * TILE], self.words);
        weighted_sums::<A>(dscores, k, sizes, sums, store);
    }
}

/// Adds the products of weights over queries with rows of queries to `[K, E]` sums: for each key over the queries that
/// see it. A key's first call writes its sums.
fn sums_over_queries<A: Arithmetic>(
    weights: &[A::Word],
    right: Right<A::Word>,
    (n_queries, n_keys, seen): (usize, usize, usize),
    (sums_ke, e): (&mut [f32], usize),
    store: Store,
) {
    let row_stride = TILE / A::STEP;
    for key in (0..n_keys).step_by(ROWS) {
        let first = (key + 1).saturating_sub(seen) / A::STEP;
        let a = Left { data: &weights[key * row_stride + first..], row_stride, k_stride: 1 };
        let b = Right { data: &right.data[first * right.stride..], ..right };
        let depth = n_queries.div_ceil(A::STEP) - first;
        let size = Size { rows: ROWS.min(n_keys - key), cols: e, depth };
        multiply(&mut Out { data: &mut sums_ke[key * e..], stride: e }, a, b, size, store);
    }
}
