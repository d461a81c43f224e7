//! Linear layers over a few rows, as in decoding: every weight is read once, so all that counts is to read them in
//! the order in which they lie.

use super::elementwise::blocks;
use super::linear::Sizes;
use super::memory::Shared;
use super::pool::Pool;
use super::simd::{dot, vectorised};
use crate::WeightLayout;

/// Most rows that are worth this path; from here on a matrix product is faster.
pub(super) const MAX_ROWS: usize = 4;

/// Parts of the inner dimension with sums of their own, for weights that lie as `[C, O]`.
const PARTS: usize = 16;

/// Floats of scratch for a layer with `n_out` outputs.
pub(super) fn scratch_len(n_out: usize) -> usize {
    PARTS * MAX_ROWS * n_out
}

vectorised! {
    /// `out += x0 w0 + x1 w1 + x2 w2 + x3 w3`, the four rows of `w` one after another.
    fn add_four_rows(x: &[f32; 4], w: &[f32], out: &mut [f32]) {
        let n = out.len();
        let (w0, w1, w2, w3) = (&w[..n], &w[n..2 * n], &w[2 * n..3 * n], &w[3 * n..4 * n]);
        for i in 0..n {
            let first = w0[i].mul_add(x[0], out[i]);
            let second = w1[i].mul_add(x[1], first);
            out[i] = w3[i].mul_add(x[3], w2[i].mul_add(x[2], second));
        }
    }
}

vectorised! {
    fn add_row(x: f32, w: &[f32], out: &mut [f32]) {
        for (out, w) in out.iter_mut().zip(w) {
            *out = w.mul_add(x, *out);
        }
    }
}

/// `out = x W + bias`.
pub(super) fn linear(
    pool: &mut Pool,
    sizes: Sizes,
    (x, w, bias): (&[f32], &[f32], Option<&[f32]>),
    out: Shared,
    scratch: &mut [f32],
) {
    match sizes.layout {
        WeightLayout::OutIn => by_outputs(pool, sizes, (x, w, bias), out),
        WeightLayout::InOut => by_inputs(pool, sizes, (x, w, bias), out, scratch),
    }
}

/// Weights `[O, C]`: each output is a dot product with a row.
fn by_outputs(pool: &mut Pool, sizes: Sizes, (x, w, bias): (&[f32], &[f32], Option<&[f32]>), out: Shared) {
    let Sizes { rows, n_in, n_out, .. } = sizes;
    blocks(pool, n_out, (1 << 16) / n_in + 1, |outputs| {
        for o in outputs {
            for row in 0..rows {
                let product = dot(&x[row * n_in..(row + 1) * n_in], &w[o * n_in..(o + 1) * n_in]);
                let at = row * n_out + o;
                // SAFETY: each output is one task's.
                unsafe { out.write(at..at + 1)[0] = product + bias.map_or(0.0, |b| b[o]) };
            }
        }
    });
}

/// Weights `[C, O]`: each part of the inputs adds up its rows of weights; the parts are added in order.
fn by_inputs(
    pool: &mut Pool,
    sizes: Sizes,
    (x, w, bias): (&[f32], &[f32], Option<&[f32]>),
    out: Shared,
    scratch: &mut [f32],
) {
    let Sizes { rows, n_in, n_out, .. } = sizes;
    let part_len = n_in.div_ceil(PARTS).next_multiple_of(4);
    let n_parts = n_in.div_ceil(part_len);
    let sums = Shared::of(&mut scratch[..n_parts * rows * n_out]);
    blocks(pool, n_in, part_len, |inputs| {
        let start = inputs.start / part_len * rows * n_out;
        // SAFETY: each part has its own sums.
        let sums = unsafe { sums.write(start..start + rows * n_out) };
        sums.fill(0.0);
        for four in inputs.clone().step_by(4) {
            let end = (four + 4).min(inputs.end);
            let w = &w[four * n_out..end * n_out];
            for (row, sums) in sums.chunks_exact_mut(n_out).enumerate() {
                let x = &x[row * n_in + four..row * n_in + end];
                match x.try_into() {
                    Ok(x) => add_four_rows(x, w, sums),
                    Err(_) => x.iter().zip(w.chunks_exact(n_out)).for_each(|(&x, w)| add_row(x, w, sums)),
                }
            }
        }
    });
    // SAFETY: the pool is idle; scratch and result are distinct.
    let (sums, out) = unsafe { (sums.all(), out.write(0..rows * n_out)) };
    for out in out.chunks_exact_mut(n_out) {
        match bias {
            Some(bias) => out.copy_from_slice(bias),
            None => out.fill(0.0),
        }
    }
    sums.chunks_exact(rows * n_out).for_each(|part| add_row(1.0, part, out));
}
