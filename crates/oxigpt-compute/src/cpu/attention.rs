//! Causal attention in tiles: scores of some queries of one head, never a T x T matrix.
//!
//! Scores lie with queries side by side, a row a key. So keys and values are multiplied where they lie and only the
//! tile's queries are transposed, and what happens to a score happens to a vector of queries at once. What lies beyond
//! the diagonal is left out in steps of a few queries.
//!
//! Scores and weights are float32; what they are products of, `attention_words.rs` says.
//!
//! Legend: B batch, T positions, H heads, C width, D = C/H, E = D rounded up to [`COLS`], Q = [`TILE`] queries, K keys.
//! Row `(b,t)` of `qkv` is q, k, v side by side.

use bytemuck::Pod;

use super::attention_weights::{Queries, half_squares, weights};
use super::attention_words::{Arithmetic, Floats, Pairs, left, transposed};
use super::bf16::Element;
use super::block::{COLS, Left, Out, ROWS, Right, Size, Store, Word, multiply};
use super::gemm::{Matrix, Operand};
use super::memory::{Reals, Shared};
use super::pool::Pool;
use super::simd::vectorised;
use crate::AttentionKind;
use crate::dropout::Mask;

/// Queries of a tile, and keys of a block.
pub(super) const TILE: usize = 64;

/// Floats in a line of cache.
pub(super) const ALIGNMENT: usize = 16;

/// Floats of scratch that each thread needs for attention and its adjoint over `t` keys, heads `d` wide.
pub(super) fn scratch_len(t: usize, d: usize) -> usize {
    let (t, e) = (t.next_multiple_of(TILE), d.next_multiple_of(COLS));
    let forward = TILE * (2 * d + 2 * e + 2 * t) + 2 * t * d + t;
    forward.max(super::cached_attention::scratch_len(t)).max(super::attention_backward::scratch_len(t, d, e))
        + ALIGNMENT
}

/// Shape and kind of an attention.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) kind: AttentionKind,
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

    pub(super) fn scale(&self) -> f32 {
        1.0 / (self.d as f32).sqrt()
    }

    /// The columns of head `h` in the `part`-th of `parts` equal blocks of columns, for all rows of entry `b`.
    pub(super) fn head<'a>(
        &self,
        data: Reals<'a>,
        rows: usize,
        b: usize,
        h: usize,
        part: usize,
        parts: usize,
    ) -> Operand<'a> {
        let stride = parts * self.c();
        let start = b * rows * stride + part * self.c() + h * self.d;
        match data {
            Reals::F32(data) => Operand::F32(Matrix::strided(data, start, rows, self.d, stride)),
            Reals::Bf16(data) => Operand::Bf16(Matrix::strided(data, start, rows, self.d, stride)),
        }
    }
}

/// Dropout of attention weights: the mask, and the number of the batch's first sequence within the step's.
#[derive(Clone, Copy)]
pub(super) struct WeightDropout {
    pub(super) mask: Mask,
    pub(super) first: usize,
}

impl WeightDropout {
    /// Drops weights `[K, TILE]` of keys from `first_key` on, a multiple of 4, for the queries of head `h` of sequence
    /// `b` from `first` on.
    pub(super) fn apply(
        &self,
        shape: &Shape,
        (b, h, first): (usize, usize, usize),
        first_key: usize,
        weights_kq: &mut [f32],
    ) {
        let row = ((self.first + b) * shape.n_head + h) * shape.t + first;
        drop_columns(self.mask, row as u32, first_key, weights_kq);
    }
}

vectorised! {
    /// Multiplies column `i` by the factors of row `first_row + i` of a mask.
    fn drop_columns(mask: Mask, first_row: u32, first_key: usize, weights_kq: &mut [f32]) {
        for (block, weights) in weights_kq.chunks_mut(4 * TILE).enumerate() {
            for i in 0..TILE {
                let keep = mask.keep4(first_row.wrapping_add(i as u32), (first_key / 4 + block) as u32);
                for (row, keep) in weights.chunks_exact_mut(TILE).zip(keep) {
                    row[i] = if keep { row[i] * mask.scale } else { 0.0 };
                }
            }
        }
    }
}

/// Scratch of thread `thread`, beginning at a line of cache.
pub(super) fn scratch_of<'a>(scratch: Shared<'a>, thread: usize, len: usize) -> &'a mut [f32] {
    // SAFETY: every thread takes its own part, and only while it runs a task.
    let part = unsafe { scratch.write(thread * len..(thread + 1) * len) };
    let skip = part.as_ptr().align_offset(4 * ALIGNMENT).min(ALIGNMENT);
    &mut part[skip..]
}

/// The first `len` floats of what is left of a scratch.
pub(super) fn take<'a>(rest: &mut &'a mut [f32], len: usize) -> &'a mut [f32] {
    rest.split_off_mut(..len).expect("scratch is sized for every operator of a plan")
}

/// The same, as words.
pub(super) fn take_words<'a, W: Pod>(rest: &mut &'a mut [f32], len: usize) -> &'a mut [W] {
    bytemuck::cast_slice_mut(take(rest, len))
}

/// `[keys, TILE]` products of keys (or values) with transposed queries, times `scale`, as far as these see them: query
/// `i` sees the first `seen + i` keys.
pub(super) fn scores<W: Word>(
    (keys, n_keys): (Left<W>, usize),
    queries_wq: &[W],
    seen: usize,
    scale: f32,
    out: &mut [f32],
) {
    let depth = queries_wq.len() / TILE;
    for key in (0..n_keys).step_by(ROWS) {
        let first_query = (key + 1).saturating_sub(seen) / COLS * COLS;
        if first_query >= TILE {
            return;
        }
        let a = Left { data: &keys.data[key * keys.row_stride..], ..keys };
        let b = Right { data: &queries_wq[first_query..], stride: TILE };
        let mut out = Out { data: &mut out[key * TILE + first_query..], stride: TILE };
        let size = Size { rows: ROWS.min(n_keys - key), cols: TILE - first_query, depth };
        multiply(&mut out, a, b, size, Store::Scaled(scale));
    }
}

/// Puts `value` where a query does not see a key.
pub(super) fn fill_unseen(scores_kq: &mut [f32], seen: usize, value: f32) {
    for (key, row) in scores_kq.chunks_exact_mut(TILE).enumerate().skip(seen) {
        row[..(key + 1 - seen).min(TILE)].fill(value);
    }
}

/// Adds the products of weights over keys with the rows of `right` to `[TILE, E]` sums: for each query over the keys it
/// sees. The first call writes the sums.
pub(super) fn weighted_sums<A: Arithmetic>(
    weights: &[A::Word],
    right: Right<A::Word>,
    (n_queries, n_keys, seen): (usize, usize, usize),
    sums_qe: &mut [f32],
    store: Store,
) {
    let e = sums_qe.len() / TILE;
    for query in (0..n_queries).step_by(ROWS) {
        let rows = ROWS.min(n_queries - query);
        let a = Left { data: &weights[query..], row_stride: 1, k_stride: TILE };
        let depth = (seen + query + rows - 1).min(n_keys).div_ceil(A::STEP);
        let size = Size { rows, cols: e, depth };
        multiply(&mut Out { data: &mut sums_qe[query * e..], stride: e }, a, right, size, store);
    }
}

vectorised! {
    /// `out = scale * x`, rounded as it is stored.
    fn store_row<T: Element>(x: &[f32], scale: f32, out: &mut [T]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = T::new(scale * x);
        }
    }
}

/// Copies rows `width` floats apart to a matrix, without their padding, times a scale each.
///
/// # Safety
/// Nobody else touches `to` during the call.
pub(super) unsafe fn copy_out(from: &[f32], width: usize, scale: impl Fn(usize) -> f32, to: Operand) {
    let (rows, cols) = (to.rows(), to.cols());
    for (i, from) in from.chunks_exact(width).take(rows).enumerate() {
        let (from, scale) = (&from[..cols], scale(i));
        // SAFETY: the caller's promise.
        unsafe {
            match to {
                Operand::F32(to) => store_row(from, scale, to.row_mut(i)),
                Operand::Bf16(to) => store_row(from, scale, to.row_mut(i)),
            }
        }
    }
}

/// A tile of queries at positions `first..` of a text of `length`, and all keys and values up to the last of them.
#[derive(Clone, Copy)]
pub(super) struct Tile<'a> {
    pub(super) kind: AttentionKind,
    pub(super) q: Operand<'a>,
    pub(super) k: Operand<'a>,
    pub(super) v: Operand<'a>,
    pub(super) out: Operand<'a>,
    pub(super) first: usize,
    pub(super) length: usize,
    pub(super) scale: f32,
}

/// What attention keeps of a tile's queries beside its result.
struct Kept {
    lse: [f32; TILE],
    range: [f32; 2 * TILE],
}

/// Attention of one tile. `drop(weights)` sees the weights before they meet the values.
///
/// # Safety
/// Nobody else touches `out`, and nobody writes to `q`, `k`, `v`, during the call.
unsafe fn attend<A: Arithmetic>(tile: Tile, mut scratch: &mut [f32], drop: impl Fn(&mut [f32])) -> Kept {
    let Tile { kind, q, k, v, out, first, length, scale } = tile;
    let (d, e, n_keys) = (q.cols(), q.cols().next_multiple_of(COLS), k.rows());
    // SAFETY: passed on to the caller.
    let [q, k, v] = [q, k, v].map(|x| unsafe { A::read(x, take(&mut scratch, x.rows() * d / A::STEP)) });
    let q_wq = take_words(&mut scratch, d / A::STEP * TILE);
    let sums_qe = take(&mut scratch, TILE * e);
    let v_copy = take_words(&mut scratch, TILE * e);
    let weights_kq = take(&mut scratch, n_keys * TILE);
    let key_halves = take(&mut scratch, n_keys);
    // SAFETY: passed on to the caller.
    let (mut queries, keys) = unsafe {
        transposed::<A>(q, q_wq);
        if kind.is_gaussian() {
            half_squares(k, scale, key_halves);
        }
        (Queries::of(kind, q, scale, (first, length)), left::<A>(k))
    };
    scores((keys, n_keys), q_wq, first + 1, scale, weights_kq);
    let range = weights(kind, &mut queries, key_halves, first + 1, weights_kq);
    drop(weights_kq);
    let rounded = take_words(&mut scratch, n_keys.div_ceil(A::STEP) * TILE);
    let weights = A::over_keys(weights_kq, rounded);
    for keys in (0..n_keys).step_by(TILE) {
        let block = keys..(keys + TILE).min(n_keys);
        let sizes = (q.rows, block.len(), first + 1 - keys);
        let store = if keys > 0 { Store::Added } else { Store::Scaled(1.0) };
        // SAFETY: as above.
        let v = unsafe { A::right(v.rows_part(block), &mut *v_copy) };
        weighted_sums::<A>(&weights[keys / A::STEP * TILE..], v, sizes, sums_qe, store);
    }
    // SAFETY: as above.
    unsafe { copy_out(sums_qe, e, |i| queries.factors[i], out) };
    Kept { lse: queries.lse, range }
}

/// Operands of [`attention`].
#[derive(Clone, Copy)]
pub(super) struct Forward<'a> {
    pub(super) qkv: Reals<'a>,
    pub(super) out: Reals<'a>,
    pub(super) lse: Option<Shared<'a>>,
    pub(super) range: Option<Shared<'a>>,
}

pub(super) fn attention(
    pool: &mut Pool,
    shape: Shape,
    operands: Forward,
    dropout: Option<WeightDropout>,
    scratch: Shared,
) {
    if Pairs::fit([operands.qkv], shape.d) {
        attention_by::<Pairs>(pool, shape, operands, dropout, scratch);
    } else {
        attention_by::<Floats>(pool, shape, operands, dropout, scratch);
    }
}

fn attention_by<A: Arithmetic>(
    pool: &mut Pool,
    shape: Shape,
    operands: Forward,
    dropout: Option<WeightDropout>,
    scratch: Shared,
) {
    let Shape { kind, batch, t, n_head, d } = shape;
    let Forward { qkv, out, lse, range } = operands;
    let n_tiles = t.div_ceil(TILE);
    pool.run(batch * n_head * n_tiles, |index, thread| {
        // The longest tiles of a head first, so that the last tasks are short.
        let (b, h, tile) =
            (index / (n_head * n_tiles), index / n_tiles % n_head, n_tiles - 1 - index % n_tiles);
        let (start, end) = (tile * TILE, ((tile + 1) * TILE).min(t));
        let tile = Tile {
            kind,
            q: shape.head(qkv, t, b, h, 0, 3).rows_part(start..end),
            k: shape.head(qkv, t, b, h, 1, 3).rows_part(0..end),
            v: shape.head(qkv, t, b, h, 2, 3).rows_part(0..end),
            out: shape.head(out, t, b, h, 0, 1).rows_part(start..end),
            first: start,
            length: t,
            scale: shape.scale(),
        };
        let scratch = scratch_of(scratch, thread, scratch_len(t, d));
        // SAFETY: each tile writes its own rows and columns of `out`, its own part of what is kept, and its thread's
        // scratch.
        unsafe {
            let kept = attend::<A>(tile, scratch, |weights_kq| {
                if let Some(dropout) = dropout {
                    dropout.apply(&shape, (b, h, start), 0, weights_kq);
                }
            });
            let (at, n) = ((b * n_head + h) * t + start, end - start);
            if let Some(lse) = lse {
                lse.write(at..at + n).copy_from_slice(&kept.lse[..n]);
            }
            if let Some(range) = range {
                range.write(2 * at..2 * (at + n)).copy_from_slice(&kept.range[..2 * n]);
            }
        }
    });
}
