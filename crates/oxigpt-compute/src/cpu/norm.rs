//! Layer norm and its adjoint, the residual addition riding along; and the column sums that biases' gradients are.

use super::elementwise::{add_slices, blocks};
use super::memory::Shared;
use super::pool::Pool;
use super::simd::{sum, vectorised};
use crate::LAYER_NORM_EPS;

/// Operands of a layer norm; see [`crate::Op::LayerNorm`].
pub(super) struct Norm<'a> {
    pub(super) x: Shared<'a>,
    pub(super) residual: Option<(Shared<'a>, Shared<'a>)>,
    pub(super) weight: &'a [f32],
    pub(super) bias: Option<&'a [f32]>,
    pub(super) out: Shared<'a>,
    pub(super) mean: Shared<'a>,
    pub(super) rstd: Shared<'a>,
}

vectorised! {
    /// Normalises one row; returns its mean and one over its standard deviation.
    fn norm_row(x: &[f32], weight: &[f32], bias: Option<&[f32]>, out: &mut [f32]) -> (f32, f32) {
        let n = x.len();
        let mean = sum([x], |[x]| x) / n as f32;
        let variance = sum([x], |[x]| (x - mean) * (x - mean)) / n as f32;
        let rstd = 1.0 / (variance + LAYER_NORM_EPS as f32).sqrt();
        match bias {
            Some(bias) => {
                for i in 0..n {
                    out[i] = ((x[i] - mean) * rstd).mul_add(weight[i], bias[i]);
                }
            }
            None => {
                for i in 0..n {
                    out[i] = (x[i] - mean) * rstd * weight[i];
                }
            }
        }
        (mean, rstd)
    }
}

pub(super) fn layer_norm(pool: &mut Pool, norm: &Norm) {
    let width = norm.weight.len();
    let rows = norm.out.len() / width;
    blocks(pool, rows, (8192 / width).max(1), |rows| {
        for row in rows {
            let range = row * width..(row + 1) * width;
            // SAFETY: operands are distinct tensors, and rows do not overlap.
            unsafe {
                let x = match norm.residual {
                    None => norm.x.read(range.clone()),
                    Some((delta, total)) => {
                        let out = total.write(range.clone());
                        add_slices(norm.x.read(range.clone()), delta.read(range.clone()), out);
                        out
                    }
                };
                let (mean, rstd) = norm_row(x, norm.weight, norm.bias, norm.out.write(range));
                norm.mean.write(row..row + 1)[0] = mean;
                norm.rstd.write(row..row + 1)[0] = rstd;
            }
        }
    });
}

/// Operands of the adjoint; see [`crate::Op::LayerNormBackward`].
pub(super) struct NormBackward<'a> {
    pub(super) dout: Shared<'a>,
    pub(super) addend: Option<Shared<'a>>,
    pub(super) x: Shared<'a>,
    pub(super) weight: &'a [f32],
    pub(super) mean: &'a [f32],
    pub(super) rstd: &'a [f32],
    pub(super) dx: Shared<'a>,
    pub(super) dweight: Option<Shared<'a>>,
    pub(super) dbias: Option<Shared<'a>>,
    pub(super) accumulate: bool,
}

/// What the adjoint of one row reads.
pub(crate) struct Row<'a> {
    dout: &'a [f32],
    addend: Option<&'a [f32]>,
    x: &'a [f32],
    weight: &'a [f32],
    mean: f32,
    rstd: f32,
}

vectorised! {
    /// With `n = (x - mean) rstd` and `g = dout * weight`: `dx = rstd (g - mean(g) - n mean(g n))`.
    fn norm_backward_row(row: &Row<'_>, dx: &mut [f32], dweight: &mut [f32], dbias: &mut [f32]) {
        let Row { dout, addend, x, weight, mean, rstd } = *row;
        let n = dx.len();
        let (dout, x, weight) = (&dout[..n], &x[..n], &weight[..n]);
        let (dweight, dbias) = (&mut dweight[..n], &mut dbias[..n]);
        let g_mean = sum([dout, weight], |[dout, weight]| dout * weight) / n as f32;
        let gn_mean = sum([dout, weight, x], |[dout, weight, x]| dout * weight * ((x - mean) * rstd)) / n as f32;
        for i in 0..n {
            let normalised = (x[i] - mean) * rstd;
            dweight[i] = dout[i].mul_add(normalised, dweight[i]);
            dbias[i] += dout[i];
            // Rounded like the mean's own terms, so that rows of one element cancel exactly.
            let g = dout[i] * weight[i];
            dx[i] = rstd * normalised.mul_add(-gn_mean, g - g_mean);
        }
        if let Some(addend) = addend {
            for (dx, addend) in dx.iter_mut().zip(addend) {
                *dx += addend;
            }
        }
    }
}

/// Blocks of rows whose partial column sums are kept apart and added in order.
const PARTIALS: usize = 32;

/// Floats of scratch that [`layer_norm_backward`] and [`column_sums`] need for tensors of this width.
pub(super) fn partials_len(width: usize) -> usize {
    2 * PARTIALS * width
}

fn rows_a_partial(rows: usize) -> usize {
    rows.div_ceil(PARTIALS).max(16)
}

pub(super) fn layer_norm_backward(pool: &mut Pool, norm: &NormBackward, scratch: &mut [f32]) {
    let width = norm.weight.len();
    let rows = norm.dx.len() / width;
    let block = rows_a_partial(rows);
    let n_blocks = rows.div_ceil(block);
    let partials = Shared::of(&mut scratch[..2 * n_blocks * width]);
    blocks(pool, rows, block, |rows| {
        let start = 2 * (rows.start / block) * width;
        // SAFETY: each block of rows has its own partial sums.
        let (dweight, dbias) = unsafe {
            (partials.write(start..start + width), partials.write(start + width..start + 2 * width))
        };
        dweight.fill(0.0);
        dbias.fill(0.0);
        for row in rows {
            let range = row * width..(row + 1) * width;
            // SAFETY: operands are distinct tensors, and rows do not overlap.
            unsafe {
                let operands = Row {
                    dout: norm.dout.read(range.clone()),
                    addend: norm.addend.map(|a| a.read(range.clone())),
                    x: norm.x.read(range.clone()),
                    weight: norm.weight,
                    mean: norm.mean[row],
                    rstd: norm.rstd[row],
                };
                norm_backward_row(&operands, norm.dx.write(range), dweight, dbias);
            }
        }
    });
    // SAFETY: the pool is idle, and gradients and scratch are distinct.
    unsafe {
        let partials = partials.all();
        if let Some(dweight) = norm.dweight {
            add_up(partials, 2 * width, dweight.write(0..width), norm.accumulate);
        }
        if let Some(dbias) = norm.dbias {
            add_up(&partials[width..], 2 * width, dbias.write(0..width), norm.accumulate);
        }
    }
}

vectorised! {
    fn add_to(x: &[f32], out: &mut [f32]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out += x;
        }
    }
}

/// Adds up partial sums that begin `stride` apart, in order.
fn add_up(partials: &[f32], stride: usize, out: &mut [f32], accumulate: bool) {
    if !accumulate {
        out.fill(0.0);
    }
    for partial in partials.chunks(stride) {
        add_to(&partial[..out.len()], out);
    }
}

/// `out = sum over rows of x`, for the gradient of a bias.
pub(super) fn column_sums(pool: &mut Pool, x: Shared, out: Shared, accumulate: bool, scratch: &mut [f32]) {
    let width = out.len();
    let rows = x.len() / width;
    let block = rows_a_partial(rows);
    let partials = Shared::of(&mut scratch[..rows.div_ceil(block) * width]);
    blocks(pool, rows, block, |rows| {
        let start = rows.start / block * width;
        // SAFETY: each block of rows has its own partial sums; nobody writes to `x`.
        let (partial, x) =
            unsafe { (partials.write(start..start + width), x.read(rows.start * width..rows.end * width)) };
        partial.fill(0.0);
        x.chunks_exact(width).for_each(|row| add_to(row, partial));
    });
    // SAFETY: the pool is idle, and gradient and scratch are distinct.
    unsafe { add_up(partials.all(), width, out.write(0..width), accumulate) };
}
