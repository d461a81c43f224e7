//! Operators that go once over their tensors: addition, scaling, GELU, dropout, squared error, row selection.

use std::ops::Range;

use super::bf16::Element;
use super::memory::{Reals, Shared};
use super::pool::Pool;
use super::simd::{gelu_slope, normal, sigmoid, sum, vectorised};
use crate::Gelu;
use crate::dropout::Mask;

/// Elements of one task: a quarter of a second-level cache for three operands.
const BLOCK: usize = 1 << 14;

/// Why there are only two cases of many: see [`Op::roundable`](crate::Op::roundable).
pub(super) const ONE_TYPE: &str = "the plan stores these tensors in one type";

/// Runs `task` over `0..len` in fixed blocks.
pub(super) fn blocks(pool: &mut Pool, len: usize, block: usize, task: impl Fn(Range<usize>) + Sync) {
    pool.run(len.div_ceil(block), |index, _| task(index * block..((index + 1) * block).min(len)));
}

vectorised! {
    fn add_slices<T: Element>(a: &[f32], b: &[T], out: &mut [f32]) {
        for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
            *out = a + b.get();
        }
    }
}

pub(super) fn add(pool: &mut Pool, a: Shared, b: Shared, out: Shared) {
    blocks(pool, out.len(), BLOCK, |range| {
        // SAFETY: the three tensors are distinct, and blocks do not overlap.
        unsafe { add_slices(a.read(range.clone()), b.read(range.clone()), out.write(range)) }
    });
}

vectorised! {
    fn scale_slice(factor: f32, x: &[f32], out: &mut [f32]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = factor * x;
        }
    }
}

pub(super) fn scale(pool: &mut Pool, factor: f32, x: Shared, out: Shared) {
    blocks(pool, out.len(), BLOCK, |range| {
        // SAFETY: the two tensors are distinct, and blocks do not overlap.
        unsafe { scale_slice(factor, x.read(range.clone()), out.write(range)) }
    });
}

vectorised! {
    /// Mean squared difference of a row.
    fn squared_error_row(x: &[f32], target: &[f32]) -> f32 {
        sum([x, target], |[x, target]| (x - target) * (x - target)) / x.len() as f32
    }
}

vectorised! {
    /// `dx = factor (x - target)`.
    fn squared_error_gradient(factor: f32, x: &[f32], target: &[f32], dx: &mut [f32]) {
        for ((dx, x), target) in dx.iter_mut().zip(x).zip(target) {
            *dx = factor * (x - target);
        }
    }
}

/// `losses[n] = mean_c (x - target)^2`; with `(dx, scale)`, also `dx = 2 scale (x - target) / C`.
pub(super) fn squared_error(
    pool: &mut Pool,
    (x, target): (Shared, Shared),
    losses: Shared,
    grad: Option<(Shared, f32)>,
    width: usize,
) {
    blocks(pool, losses.len(), BLOCK.div_ceil(width), |rows| {
        for row in rows {
            let range = row * width..(row + 1) * width;
            // SAFETY: the tensors are distinct, and rows do not overlap.
            unsafe {
                let (x, target) = (x.read(range.clone()), target.read(range.clone()));
                losses.write(row..row + 1)[0] = squared_error_row(x, target);
                if let Some((dx, scale)) = grad {
                    squared_error_gradient(2.0 * scale / width as f32, x, target, dx.write(range));
                }
            }
        }
    });
}

const SQRT_2_OVER_PI: f32 = 0.797_884_6;
const CUBIC: f32 = 0.044_715;

/// `2u` where GELU is `0.5 x (1 + tanh u)`, which is `x sigmoid(2u)`.
#[inline(always)]
fn doubled_tanh_argument(x: f32) -> f32 {
    2.0 * SQRT_2_OVER_PI * (CUBIC * x * x).mul_add(x, x)
}

vectorised! {
    fn gelu_slice<T: Element>(kind: Gelu, x: &[T], out: &mut [T]) {
        match kind {
            Gelu::Tanh => {
                for (out, x) in out.iter_mut().zip(x) {
                    let x = x.get();
                    *out = T::new(x * sigmoid(doubled_tanh_argument(x)));
                }
            }
            Gelu::Erf => {
                for (out, x) in out.iter_mut().zip(x) {
                    let x = x.get();
                    *out = T::new(x * normal(x));
                }
            }
        }
    }
}

vectorised! {
    /// `dx *= gelu'(x)`.
    fn gelu_backward_slice<T: Element>(kind: Gelu, x: &[T], dx: &mut [T]) {
        match kind {
            Gelu::Tanh => {
                for (dx, x) in dx.iter_mut().zip(x) {
                    let x = x.get();
                    let s = sigmoid(doubled_tanh_argument(x));
                    let du = (x * x).mul_add(6.0 * SQRT_2_OVER_PI * CUBIC, 2.0 * SQRT_2_OVER_PI);
                    *dx = T::new(dx.get() * (x * (1.0 - s) * du).mul_add(s, s));
                }
            }
            Gelu::Erf => {
                for (dx, x) in dx.iter_mut().zip(x) {
                    *dx = T::new(dx.get() * gelu_slope(x.get()));
                }
            }
        }
    }
}

/// Elements `range` of `out = gelu(x)`, both of one type.
///
/// # Safety
/// Nobody else touches these elements of `out`, and nobody writes to those of `x`, during the call.
pub(super) unsafe fn gelu_range(kind: Gelu, x: Reals, out: Reals, range: Range<usize>) {
    // SAFETY: the caller's promise.
    unsafe {
        match (x, out) {
            (Reals::F32(x), Reals::F32(out)) => gelu_slice(kind, x.read(range.clone()), out.write(range)),
            (Reals::Bf16(x), Reals::Bf16(out)) => gelu_slice(kind, x.read(range.clone()), out.write(range)),
            _ => unreachable!("{ONE_TYPE}"),
        }
    }
}

/// Elements `range` of `dx *= gelu'(x)`, both of one type.
///
/// # Safety
/// As [`gelu_range`], of `dx`.
pub(super) unsafe fn gelu_backward_range(kind: Gelu, x: Reals, dx: Reals, range: Range<usize>) {
    // SAFETY: the caller's promise.
    unsafe {
        match (x, dx) {
            (Reals::F32(x), Reals::F32(dx)) => {
                gelu_backward_slice(kind, x.read(range.clone()), dx.write(range));
            }
            (Reals::Bf16(x), Reals::Bf16(dx)) => {
                gelu_backward_slice(kind, x.read(range.clone()), dx.write(range));
            }
            _ => unreachable!("{ONE_TYPE}"),
        }
    }
}

pub(super) fn gelu(pool: &mut Pool, kind: Gelu, x: Reals, out: Reals) {
    // SAFETY: the two tensors are distinct, and blocks do not overlap.
    blocks(pool, out.len(), BLOCK, |range| unsafe { gelu_range(kind, x, out, range) });
}

pub(super) fn gelu_backward(pool: &mut Pool, kind: Gelu, x: Reals, dout: Reals, dx: Reals) {
    match (x, dout, dx) {
        (Reals::F32(x), Reals::F32(dout), Reals::F32(dx)) => gelu_backward_of(pool, kind, x, dout, dx),
        (Reals::Bf16(x), Reals::Bf16(dout), Reals::Bf16(dx)) => gelu_backward_of(pool, kind, x, dout, dx),
        _ => unreachable!("{ONE_TYPE}"),
    }
}

fn gelu_backward_of<T: Element>(pool: &mut Pool, kind: Gelu, x: Shared<T>, dout: Shared<T>, dx: Shared<T>) {
    blocks(pool, dx.len(), BLOCK, |range| {
        // SAFETY: the three tensors are distinct, and blocks do not overlap.
        unsafe {
            let dx = dx.write(range.clone());
            dx.copy_from_slice(dout.read(range.clone()));
            gelu_backward_slice(kind, x.read(range), dx);
        }
    });
}

vectorised! {
    /// Multiplies a row by the factors of its mask.
    fn drop_row<T: Element>(mask: Mask, row: u32, x: &[T], out: &mut [T]) {
        let (whole, rest) = out.as_chunks_mut::<4>();
        let (x_whole, x_rest) = x.as_chunks::<4>();
        for (block, (out, x)) in whole.iter_mut().zip(x_whole).enumerate() {
            let keep = mask.keep4(row, block as u32);
            for lane in 0..4 {
                out[lane] = T::new(if keep[lane] { x[lane].get() * mask.scale } else { 0.0 });
            }
        }
        for (i, (out, x)) in rest.iter_mut().zip(x_rest).enumerate() {
            *out = T::new(x.get() * mask.factor(row, x_whole.len() * 4 + i));
        }
    }
}

/// `first_row` is the number of the first row within the whole batch of a step.
pub(super) fn dropout(pool: &mut Pool, mask: Mask, first_row: u32, x: Reals, out: Reals, width: usize) {
    match (x, out) {
        (Reals::F32(x), Reals::F32(out)) => dropout_of(pool, mask, first_row, x, out, width),
        (Reals::Bf16(x), Reals::Bf16(out)) => dropout_of(pool, mask, first_row, x, out, width),
        _ => unreachable!("{ONE_TYPE}"),
    }
}

fn dropout_of<T: Element>(
    pool: &mut Pool,
    mask: Mask,
    first_row: u32,
    x: Shared<T>,
    out: Shared<T>,
    width: usize,
) {
    let rows_a_block = BLOCK.div_ceil(width);
    blocks(pool, out.len() / width, rows_a_block, |rows| {
        for row in rows {
            let range = row * width..(row + 1) * width;
            // SAFETY: the two tensors are distinct, and rows do not overlap.
            let (x, out) = unsafe { (x.read(range.clone()), out.write(range)) };
            drop_row(mask, first_row + row as u32, x, out);
        }
    });
}

/// `out[b] = x[b, row]` for `[B, T, C]`.
pub(super) fn select_row(x: Shared, out: Shared, t: usize, width: usize, row: usize) {
    for b in 0..out.len() / width {
        let start = (b * t + row) * width;
        // SAFETY: the two tensors are distinct, and this is the only thread at work.
        unsafe { out.write(b * width..(b + 1) * width).copy_from_slice(x.read(start..start + width)) };
    }
}
