//! Attention of new rows over a cache of keys and values.
//!
//! Rows side by side that go on with one text are a run; its scores are general products that read the cache where it
//! lies. The keys and values of all rows are in the cache before any of them attends.
//!
//! Legend: X texts of S positions in a cache, C width.

use super::attention::{ALIGNMENT, Shape, TILE, Tile, scratch_of, take};
use super::attention_row;
use super::attention_weights::{Queries, half_squares, row_weights};
use super::gemm::{Matrix, Operand, product};
use super::memory::{Reals, Shared};
use super::pool::Pool;

/// Floats of scratch that each thread needs for a cache of `s` positions.
pub(super) fn scratch_len(s: usize) -> usize {
    TILE * s + s
}

/// Keys and values of texts, `[X, S, C]` each.
#[derive(Clone, Copy)]
pub(super) struct Cache<'a> {
    pub(super) k: Shared<'a>,
    pub(super) v: Shared<'a>,
    /// X and S.
    pub(super) shape: [usize; 2],
    /// `[X]` tokens of each whole text, for kinds that depend on it.
    pub(super) lengths: &'a [u32],
}

/// The text (X for all of them) and the position of each row.
#[derive(Clone, Copy)]
pub(super) struct Places<'a> {
    pub(super) texts: &'a [u32],
    pub(super) positions: &'a [u32],
}

impl Places<'_> {
    /// End of the run that begins at row `start`, at most `end`: rows of one text, one after the other.
    fn run_end(&self, start: usize, end: usize) -> usize {
        let goes_on = |&row: &usize| {
            self.texts[row] == self.texts[row - 1] && self.positions[row] == self.positions[row - 1] + 1
        };
        start + 1 + (start + 1..end).take_while(goes_on).count()
    }
}

/// Attention of the rows of `qkv` and of what is in the cache before them.
pub(super) fn cached_attention(
    pool: &mut Pool,
    shape: Shape,
    (qkv, out): (Shared, Shared),
    cache: Cache,
    places: Places,
    scratch: Shared,
) {
    let Shape { batch, t, n_head, .. } = shape;
    let [texts, s] = cache.shape;
    write(cache, places, qkv);
    let n_tiles = t.div_ceil(TILE);
    let [qkv, k, v, out] = [qkv, cache.k, cache.v, out].map(Reals::F32);
    pool.run(batch * n_head * n_tiles, |index, thread| {
        let (b, h, tile) = (index / (n_head * n_tiles), index / n_tiles % n_head, index % n_tiles);
        let (mut start, end) = (b * t + tile * TILE, b * t + ((tile + 1) * TILE).min(t));
        while start < end {
            let run = start..places.run_end(start, end);
            // What belongs to all texts is alike in all, the first among them.
            let text = places.texts[start] as usize % texts;
            let first = places.positions[start] as usize;
            let keys = first + run.len();
            let tile = Tile {
                kind: shape.kind,
                q: shape.head(qkv, batch * t, 0, h, 0, 3).rows_part(run.clone()),
                k: shape.head(k, s, text, h, 0, 1).rows_part(0..keys),
                v: shape.head(v, s, text, h, 0, 1).rows_part(0..keys),
                out: shape.head(out, batch * t, 0, h, 0, 1).rows_part(run.clone()),
                first,
                length: cache.lengths.get(text).map_or(0, |&length| length as usize),
                scale: shape.scale(),
            };
            let mut scratch = scratch_of(scratch, thread, super::attention::scratch_len(s, shape.d));
            let key_halves = take(&mut scratch, keys.next_multiple_of(ALIGNMENT));
            let weights = Matrix::strided(Shared::of(scratch), 0, run.len(), keys, keys);
            // SAFETY: each run writes its own rows and columns of `out`, and its thread's scratch.
            unsafe { attend_in_place(tile, weights, key_halves) };
            start = run.end;
        }
    });
}

/// Puts the keys and values of rows into the texts that they belong to.
fn write(cache: Cache, places: Places, qkv: Shared) {
    let [texts, s] = cache.shape;
    let c = cache.k.len() / (texts * s);
    for (row, (&text, &position)) in places.texts.iter().zip(places.positions).enumerate() {
        let (from, text) = (row * 3 * c, text as usize);
        for x in if text == texts { 0..texts } else { text..text + 1 } {
            let to = (x * s + position as usize) * c;
            // SAFETY: this thread alone is at work, and the tensors are distinct.
            unsafe {
                cache.k.write(to..to + c).copy_from_slice(qkv.read(from + c..from + 2 * c));
                cache.v.write(to..to + c).copy_from_slice(qkv.read(from + 2 * c..from + 3 * c));
            }
        }
    }
}

/// As [`attend`](super::attention), for few queries, in general products that read the cache where it lies.
///
/// # Safety
/// As there.
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
