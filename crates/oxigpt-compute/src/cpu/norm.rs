//! Layer norm and its adjoint, the residual addition riding along; and the column sums that biases' gradients are.

use super::bf16::Element;
use super::elementwise::{add_slices, blocks};
use super::memory::{Reals, Shared};
use super::pool::Pool;
use super::simd::{LANES, fold, sum, vectorised};
use crate::LAYER_NORM_EPS;

/// Operands of a layer norm; see [`crate::Op::LayerNorm`].
pub(super) struct Norm<'a> {
    pub(super) x: Shared<'a>,
    pub(super) residual: Option<(Reals<'a>, Shared<'a>)>,
    pub(super) weight: &'a [f32],
    pub(super) bias: Option<&'a [f32]>,
    pub(super) out: Reals<'a>,
    pub(super) mean: Shared<'a>,
    pub(super) rstd: Shared<'a>,
}

vectorised! {
    /// Normalises one row; returns its mean and one over its standard deviation.
    fn norm_row<T: Element>(x: &[f32], weight: &[f32], bias: Option<&[f32]>, out: &mut [T]) -> (f32, f32) {
        let n = x.len();
        let mean = sum([x], |[x]| x) / n as f32;
        let variance = sum([x], |[x]| (x - mean) * (x - mean)) / n as f32;
        let rstd = 1.0 / (variance + LAYER_NORM_EPS as f32).sqrt();
        match bias {
            Some(bias) => {
                for i in 0..n {
                    out[i] = T::new(((x[i] - mean) * rstd).mul_add(weight[i], bias[i]));
                }
            }
            None => {
                for i in 0..n {
                    out[i] = T::new((x[i] - mean) * rstd * weight[i]);
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
                        let (x, out) = (norm.x.read(range.clone()), total.write(range.clone()));
                        match delta {
                            Reals::F32(delta) => add_slices(x, delta.read(range.clone()), out),
                            Reals::Bf16(delta) => add_slices(x, delta.read(range.clone()), out),
                        }
                        out
                    }
                };
                let (mean, rstd) = match norm.out {
                    Reals::F32(out) => norm_row(x, norm.weight, norm.bias, out.write(range)),
                    Reals::Bf16(out) => norm_row(x, norm.weight, norm.bias, out.write(range)),
                };
                norm.mean.write(row..row + 1)[0] = mean;
                norm.rstd.write(row..row + 1)[0] = rstd;
            }
        }
    });
}

/// Operands of the adjoint; see [`crate::Op::LayerNormBackward`].
pub(super) struct NormBackward<'a> {
    pub(super) dout: Reals<'a>,
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

impl<'a> NormBackward<'a> {
    /// # Safety
    /// Nobody writes to what the adjoint reads while the result lives.
    unsafe fn row<T>(&self, row: usize, dout: &'a [T]) -> Row<'a, T> {
        let range = row * dout.len()..(row + 1) * dout.len();
        // SAFETY: the caller's promise.
        let (addend, x) = unsafe { (self.addend.map(|a| a.read(range.clone())), self.x.read(range)) };
        Row { dout, addend, x, weight: self.weight, mean: self.mean[row], rstd: self.rstd[row] }
    }
}

/// What the adjoint of one row reads.
pub(crate) struct Row<'a, T> {
    dout: &'a [T],
    addend: Option<&'a [f32]>,
    x: &'a [f32],
    weight: &'a [f32],
    mean: f32,
    rstd: f32,
}

vectorised! {
    /// With `n = (x - mean) rstd` and `g = dout * weight`: `dx = rstd (g - mean(g) - n mean(g n))`.
    fn norm_backward_row<T: Element>(row: &Row<'_, T>, dx: &mut [f32], dweight: &mut [f32], dbias: &mut [f32]) {
        let Row { dout, addend, x, weight, mean, rstd } = *row;
        let n = dx.len();
        let (dout, x, weight) = (&dout[..n], &x[..n], &weight[..n]);
        let (dweight, dbias) = (&mut dweight[..n], &mut dbias[..n]);
        let [g_sum, gn_sum] = gradient_sums(dout, x, weight, |x| (x - mean) * rstd);
        let (g_mean, gn_mean) = (g_sum / n as f32, gn_sum / n as f32);
        for i in 0..n {
            let (dout, normalised) = (dout[i].get(), (x[i] - mean) * rstd);
            dweight[i] = dout.mul_add(normalised, dweight[i]);
            dbias[i] += dout;
            // Rounded like the mean's own terms, so that rows of one element cancel exactly.
            let g = dout * weight[i];
            dx[i] = rstd * normalised.mul_add(-gn_mean, g - g_mean);
        }
        if let Some(addend) = addend {
            for (dx, addend) in dx.iter_mut().zip(addend) {
                *dx += addend;
            }
        }
    }
}

/// Sums of `g = dout * weight` and of `g * normalised(x)`, in one pass.
#[inline(always)]
fn gradient_sums<T: Element>(
    dout: &[T],
    x: &[f32],
    weight: &[f32],
    normalised: impl Fn(f32) -> f32,
) -> [f32; 2] {
    let mut sums = [[0.0f32; LANES]; 2];
    let chunks = dout.chunks(LANES).zip(x.chunks(LANES)).zip(weight.chunks(LANES));
    for ((dout, x), weight) in chunks {
        for lane in 0..dout.len() {
            let g = dout[lane].get() * weight[lane];
            sums[0][lane] += g;
            sums[1][lane] += g * normalised(x[lane]);
        }
    }
    sums.map(|lanes| fold(lanes, |a, b| a + b))
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
                let dx = norm.dx.write(range.clone());
                match norm.dout {
                    Reals::F32(dout) => {
                        norm_backward_row(&norm.row(row, dout.read(range)), dx, dweight, dbias);
                    }
                    Reals::Bf16(dout) => {
                        norm_backward_row(&norm.row(row, dout.read(range)), dx, dweight, dbias);
                    }
                }
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
    fn add_to<T: Element>(x: &[T], out: &mut [f32]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out += x.get();
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
pub(super) fn column_sums(pool: &mut Pool, x: Reals, out: Shared, accumulate: bool, scratch: &mut [f32]) {
    let width = out.len();
    let rows = x.len() / width;
    let block = rows_a_partial(rows);
    let partials = Shared::of(&mut scratch[..rows.div_ceil(block) * width]);
    blocks(pool, rows, block, |rows| {
        let start = rows.start / block * width;
        let range = rows.start * width..rows.end * width;
        // SAFETY: each block of rows has its own partial sums; nobody writes to `x`.
        unsafe {
            let partial = partials.write(start..start + width);
            partial.fill(0.0);
            match x {
                Reals::F32(x) => x.read(range).chunks_exact(width).for_each(|row| add_to(row, partial)),
                Reals::Bf16(x) => x.read(range).chunks_exact(width).for_each(|row| add_to(row, partial)),
            }
        }
    });
    // SAFETY: the pool is idle, and gradient and scratch are distinct.
    unsafe { add_up(partials.all(), width, out.write(0..width), accumulate) };
}
