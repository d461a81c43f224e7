//! Causal attention in tiles: scores of some queries of one head, never a T x T matrix.
//!
//! Scores lie with queries side by side, a row a key. So keys and values are multiplied where they lie and only the
//! tile's queries are transposed, and what happens to a score happens to a vector of queries at once. What lies beyond
//! the diagonal is left out in steps of a few queries.
//!
//! Scores and weights are float32, and so are their products. What is stored as bfloat16 is widened tile by tile.
//!
//! Legend: B batch, T positions, H heads, C width, D = C/H, E = D rounded up to [`COLS`], Q = [`TILE`] queries, K keys.
//! Row `(b,t)` of `qkv` is q, k, v side by side.

use super::attention_row;
use super::attention_weights::{Queries, half_squares, row_weights, weights};
use super::bf16::Element;
use super::block::{COLS, Left, Out, ROWS, Right, Size, multiply};
use super::gemm::{Matrix, Operand, product};
use super::memory::{Reals, Shared};
use super::pool::Pool;
use super::simd::vectorised;
use crate::AttentionKind;
use crate::dropout::Mask;

/// Queries of a tile, and keys of a block.
pub(super) const TILE: usize = 64;

/// Floats in a line of cache.
const ALIGNMENT: usize = 16;

/// Floats of scratch that each thread needs for attention and its adjoint over `t` keys, heads `d` wide.
pub(super) fn scratch_len(t: usize, d: usize) -> usize {
    let (t, e) = (t.next_multiple_of(TILE), d.next_multiple_of(COLS));
    let forward = TILE * (2 * d + 2 * e + t) + 2 * t * d + t;
    let cached = TILE * t + t;
    forward.max(cached).max(super::attention_backward::scratch_len(t, d, e)) + ALIGNMENT
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

/// A matrix in float32: where it lies, or in a copy.
///
/// # Safety
/// Nobody writes to `from` while the result lives.
pub(super) unsafe fn widened<'a>(from: Operand<'a>, copy: &'a mut [f32]) -> Matrix<'a> {
    match from {
        Operand::F32(from) => from,
        Operand::Bf16(from) => {
            let copy = &mut copy[..from.rows * from.cols];
            for (i, to) in copy.chunks_exact_mut(from.cols).enumerate() {
                // SAFETY: the caller's promise.
                scale_row(unsafe { from.row(i) }, 1.0, to);
            }
            Matrix::new(Shared::of(copy), from.rows, from.cols)
        }
    }
}

/// Up to [`TILE`] rows as the columns of a `[D, TILE]` matrix, times `scale`; zeros in the columns left over.
///
/// # Safety
/// Nobody writes to `from` during the call.
pub(super) unsafe fn transpose(from: Matrix, scale: f32, to: &mut [f32]) {
    let mut rows: [&[f32]; TILE] = [&[]; TILE];
    for (i, row) in rows[..from.rows].iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        *row = unsafe { from.row(i) };
    }
    transpose_rows(&rows[..from.rows], scale, &mut to[..from.cols * TILE]);
}

vectorised! {
    fn transpose_rows(rows: &[&[f32]], scale: f32, to: &mut [f32]) {
        for (c, column) in to.chunks_exact_mut(TILE).enumerate() {
            for (to, row) in column.iter_mut().zip(rows) {
                *to = scale * row[c];
            }
            column[rows.len()..].fill(0.0);
        }
    }
}

/// A matrix as right operand: where it lies, or in a padded copy if its rows are no whole number of vectors.
///
/// # Safety
/// Nobody writes to `from` while the result lives.
pub(super) unsafe fn as_right<'a>(from: Matrix<'a>, copy: &'a mut [f32]) -> Right<'a> {
    // SAFETY: the caller's promise.
    let (data, stride) = unsafe { from.span() };
    if from.cols.is_multiple_of(COLS) {
        return Right { data, stride };
    }
    let e = from.cols.next_multiple_of(COLS);
    for (to, from_row) in copy.chunks_exact_mut(e).zip(data.chunks(stride)) {
        to[..from.cols].copy_from_slice(&from_row[..from.cols]);
        to[from.cols..].fill(0.0);
    }
    Right { data: copy, stride: e }
}

/// A matrix as left operand.
///
/// # Safety
/// Nobody writes to `from` while the result lives.
pub(super) unsafe fn as_left(from: Matrix) -> Left {
    // SAFETY: the caller's promise.
    let (data, row_stride) = unsafe { from.span() };
    Left { data, row_stride, k_stride: 1 }
}

/// `[keys, TILE]` products of keys (or values) with transposed queries, as far as these see them: query `i` sees the
/// first `seen + i` keys.
pub(super) fn scores(keys: Left, n_keys: usize, queries_dq: &[f32], seen: usize, out: &mut [f32]) {
    let depth = queries_dq.len() / TILE;
    for key in (0..n_keys).step_by(ROWS) {
        let first_query = (key + 1).saturating_sub(seen) / COLS * COLS;
        if first_query >= TILE {
            return;
        }
        let a = Left { data: &keys.data[key * keys.row_stride..], ..keys };
        let b = Right { data: &queries_dq[first_query..], stride: TILE };
        let mut out = Out { data: &mut out[key * TILE + first_query..], stride: TILE };
        let size = Size { rows: ROWS.min(n_keys - key), cols: TILE - first_query, depth };
        multiply(&mut out, a, b, size, false);
    }
}

/// Puts `value` where a query does not see a key.
pub(super) fn fill_unseen(scores_kq: &mut [f32], seen: usize, value: f32) {
    for (key, row) in scores_kq.chunks_exact_mut(TILE).enumerate().skip(seen) {
        row[..(key + 1 - seen).min(TILE)].fill(value);
    }
}

/// Adds the products of weights `[K, TILE]` with the rows of `right` to `[TILE, E]` sums: for each query over the keys
/// it sees. The first call writes the sums.
pub(super) fn weighted_sums(
    weights_kq: &[f32],
    right: Right,
    (n_queries, n_keys, seen): (usize, usize, usize),
    sums_qe: &mut [f32],
    add: bool,
) {
    let e = sums_qe.len() / TILE;
    for query in (0..n_queries).step_by(ROWS) {
        let rows = ROWS.min(n_queries - query);
        let a = Left { data: &weights_kq[query..], row_stride: 1, k_stride: TILE };
        let size = Size { rows, cols: e, depth: (seen + query + rows - 1).min(n_keys) };
        multiply(&mut Out { data: &mut sums_qe[query * e..], stride: e }, a, right, size, add);
    }
}

vectorised! {
    /// `out = scale * x`, in float32.
    fn scale_row<T: Element>(x: &[T], scale: f32, out: &mut [f32]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = scale * x.get();
        }
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
struct Tile<'a> {
    kind: AttentionKind,
    q: Operand<'a>,
    k: Operand<'a>,
    v: Operand<'a>,
    out: Operand<'a>,
    first: usize,
    length: usize,
    scale: f32,
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
unsafe fn attend(tile: Tile, mut scratch: &mut [f32], drop: impl Fn(&mut [f32])) -> Kept {
    let Tile { kind, q, k, v, out, first, length, scale } = tile;
    let (d, e, n_keys) = (q.cols(), q.cols().next_multiple_of(COLS), k.rows());
    // SAFETY: passed on to the caller.
    let [q, k, v] = [q, k, v].map(|x| unsafe { widened(x, take(&mut scratch, x.rows() * d)) });
    let q_dq = take(&mut scratch, d * TILE);
    let sums_qe = take(&mut scratch, TILE * e);
    let v_copy = take(&mut scratch, TILE * e);
    let weights_kq = take(&mut scratch, n_keys * TILE);
    let key_halves = take(&mut scratch, n_keys);
    // SAFETY: passed on to the caller.
    let (mut queries, left) = unsafe {
        transpose(q, scale, q_dq);
        if kind.is_gaussian() {
            half_squares(k, scale, key_halves);
        }
        (Queries::of(kind, q, scale, (first, length)), as_left(k))
    };
    scores(left, n_keys, q_dq, first + 1, weights_kq);
    let range = weights(kind, &mut queries, key_halves, first + 1, weights_kq);
    drop(weights_kq);
    for keys in (0..n_keys).step_by(TILE) {
        let block = keys..(keys + TILE).min(n_keys);
        let sizes = (q.rows, block.len(), first + 1 - keys);
        // SAFETY: as above.
        let v = unsafe { as_right(v.rows_part(block), &mut *v_copy) };
        weighted_sums(&weights_kq[keys * TILE..], v, sizes, sums_qe, keys > 0);
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
            let kept = attend(tile, scratch, |weights_kq| {
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

/// Attention of few queries over a cache: as [`attend`], in general products that read the cache where it lies.
///
/// # Safety
/// As [`attend`].
unsafe fn attend_in_place(tile: Tile, weights: Matrix, key_halves: &mut [f32]) {
    let Tile { kind, first, length, scale, .. } = tile;
    let [q, k, v, out] = [tile.q, tile.k, tile.v, tile.out].map(Operand::f32);
    // SAFETY: passed on to the caller.
    unsafe {
        if kind.is_gaussian() {
            half_squares(k, scale, key_halves);
        }
        let queries = Queries::of(kind, q, scale, (first, length));
        if q.rows == 1 {
            attention_row::scores(q, k, scale, weights);
        } else {
            product(weights, q, k.t(), scale, false);
        }
        for i in 0..q.rows {
            let (seen, future) = weights.row_mut(i).split_at_mut(first + i + 1);
            row_weights(kind, queries.halves[i], key_halves, queries.factors[i], seen);
            future.fill(0.0);
        }
        if q.rows == 1 {
            attention_row::seen(weights, v, out);
        } else {
            product(out, weights, v, 1.0, false);
        }
    }
}

/// Attention of T new positions over a cache of S; for kinds that depend on it, with the length of each text.
pub(super) fn cached_attention(
    pool: &mut Pool,
    shape: Shape,
    (qkv, k_cache, v_cache, out): (Shared, Shared, Shared, Shared),
    (position, cached, lengths): (usize, usize, &[u32]),
    scratch: Shared,
) {
    let Shape { kind, batch, t, n_head, .. } = shape;
    let c = shape.c();
    let caches = k_cache.len() / (cached * c);
    for (b, row) in (0..caches).flat_map(|b| (0..t).map(move |row| (b, row))) {
        let (from, to) = ((b % batch * t + row) * 3 * c, (b * cached + position + row) * c);
        // SAFETY: this thread alone is at work, and the tensors are distinct.
        unsafe {
            k_cache.write(to..to + c).copy_from_slice(qkv.read(from + c..from + 2 * c));
            v_cache.write(to..to + c).copy_from_slice(qkv.read(from + 2 * c..from + 3 * c));
        }
    }
    let n_tiles = t.div_ceil(TILE);
    let [qkv, k_cache, v_cache, out] = [qkv, k_cache, v_cache, out].map(Reals::F32);
    pool.run(batch * n_head * n_tiles, |index, thread| {
        let (b, h, tile) = (index / (n_head * n_tiles), index / n_tiles % n_head, index % n_tiles);
        let (start, end) = (tile * TILE, ((tile + 1) * TILE).min(t));
        let tile = Tile {
            kind,
            q: shape.head(qkv, t, b, h, 0, 3).rows_part(start..end),
            k: shape.head(k_cache, cached, b, h, 0, 1).rows_part(0..position + end),
            v: shape.head(v_cache, cached, b, h, 0, 1).rows_part(0..position + end),
            out: shape.head(out, t, b, h, 0, 1).rows_part(start..end),
            first: position + start,
            length: lengths.get(b).map_or(0, |&length| length as usize),
            scale: shape.scale(),
        };
        let mut scratch = scratch_of(scratch, thread, scratch_len(cached, shape.d));
        let key_halves = take(&mut scratch, (position + end).next_multiple_of(ALIGNMENT));
        let weights = Matrix::strided(Shared::of(scratch), 0, end - start, position + end, position + end);
        // SAFETY: each tile writes its own rows and columns of `out`, and its thread's scratch.
        unsafe { attend_in_place(tile, weights, key_halves) };
    });
}
