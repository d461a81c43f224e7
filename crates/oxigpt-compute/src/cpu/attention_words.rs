//! The two arithmetics of attention's products: float32, and bfloat16 with float32 sums.
//!
//! Products take words (see `block/`): one float32, or two bfloat16 that are neighbours along the inner dimension. What
//! is stored in bfloat16 is multiplied where it lies if that dimension runs along its rows. Scores are exact products
//! then, as they would be in float32; weights and gradients of scores are rounded before they are multiplied.
//!
//! Legend as in `attention.rs`. W words of a row of some length: that length in float32, half of it in bfloat16.

use bytemuck::{Pod, cast_slice};

use super::attention::TILE;
use super::bf16::{Element, has_bfloat16, pairs_across, pairs_along};
use super::block::{COLS, Left, Right, Word};
use super::gemm::{Matrix, Operand};
use super::memory::{Reals, Shared};
use super::simd::vectorised;
use crate::bfloat16::Bf16;

/// How attention multiplies.
pub(super) trait Arithmetic {
    /// What its operands are stored in.
    type Element: Element + Pod;
    type Word: Word + Pod;
    /// Elements in a word.
    const STEP: usize;

    /// An operand, where it lies or in a copy.
    ///
    /// # Safety
    /// Nobody writes to `from` while the result lives.
    unsafe fn read<'a>(from: Operand<'a>, copy: &'a mut [f32]) -> Matrix<'a, Self::Element>;

    /// Rows as right operand, with the inner dimension across them: `[rows / STEP, E]`.
    ///
    /// # Safety
    /// Nobody writes to `from` while the result lives.
    unsafe fn right<'a>(from: Matrix<'a, Self::Element>, copy: &'a mut [Self::Word])
    -> Right<'a, Self::Word>;

    /// Weights `[K, TILE]` with the inner dimension over keys: `[K / STEP, TILE]`.
    fn over_keys<'a>(weights_kq: &'a [f32], copy: &'a mut [Self::Word]) -> &'a [Self::Word];

    /// Weights `[K, TILE]` with the inner dimension over queries: `[K, TILE / STEP]`.
    fn over_queries<'a>(weights_kq: &'a [f32], copy: &'a mut [Self::Word]) -> &'a [Self::Word];

    /// Makes of numbers what they are as operands.
    fn round(numbers: &mut [f32]);
}

/// float32, also of what is stored in bfloat16.
pub(super) struct Floats;

/// bfloat16, by instructions of the processor's own.
pub(super) struct Pairs;

impl Pairs {
    /// Whether operands whose heads are `d` wide can be multiplied so.
    pub(super) fn fit<'a>(operands: impl IntoIterator<Item = Reals<'a>>, d: usize) -> bool {
        let are_stored = operands.into_iter().all(|data| matches!(data, Reals::Bf16(_)));
        are_stored && d.is_multiple_of(Self::STEP) && has_bfloat16()
    }
}

impl Arithmetic for Floats {
    type Element = f32;
    type Word = f32;
    const STEP: usize = 1;

    unsafe fn read<'a>(from: Operand<'a>, copy: &'a mut [f32]) -> Matrix<'a> {
        match from {
            Operand::F32(from) => from,
            Operand::Bf16(from) => {
                let copy = &mut copy[..from.rows * from.cols];
                for (i, to) in copy.chunks_exact_mut(from.cols).enumerate() {
                    // SAFETY: the caller's promise.
                    widen_row(unsafe { from.row(i) }, to);
                }
                Matrix::new(Shared::of(copy), from.rows, from.cols)
            }
        }
    }

    unsafe fn right<'a>(from: Matrix<'a>, copy: &'a mut [f32]) -> Right<'a> {
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

    fn over_keys<'a>(weights_kq: &'a [f32], _: &'a mut [f32]) -> &'a [f32] {
        weights_kq
    }

    fn over_queries<'a>(weights_kq: &'a [f32], _: &'a mut [f32]) -> &'a [f32] {
        weights_kq
    }

    fn round(_: &mut [f32]) {}
}

impl Arithmetic for Pairs {
    type Element = Bf16;
    type Word = u32;
    const STEP: usize = 2;

    unsafe fn read<'a>(from: Operand<'a>, _: &'a mut [f32]) -> Matrix<'a, Bf16> {
        match from {
            Operand::Bf16(from) => from,
            Operand::F32(_) => unreachable!("checked before"),
        }
    }

    unsafe fn right<'a>(from: Matrix<'a, Bf16>, copy: &'a mut [u32]) -> Right<'a, u32> {
        // SAFETY: the caller's promise.
        let (data, stride) = unsafe { from.span() };
        let e = from.cols.next_multiple_of(COLS);
        pairs_across(data, (from.rows, from.cols, stride), e, copy);
        Right { data: copy, stride: e }
    }

    fn over_keys<'a>(weights_kq: &'a [f32], copy: &'a mut [u32]) -> &'a [u32] {
        pairs_across(weights_kq, (weights_kq.len() / TILE, TILE, TILE), TILE, copy);
        copy
    }

    fn over_queries<'a>(weights_kq: &'a [f32], copy: &'a mut [u32]) -> &'a [u32] {
        let copy = &mut copy[..weights_kq.len() / 2];
        pairs_along(weights_kq, copy);
        copy
    }

    fn round(numbers: &mut [f32]) {
        round_all(numbers);
    }
}

/// Rows as left operand, with the inner dimension along them.
///
/// # Safety
/// Nobody writes to `from` while the result lives.
pub(super) unsafe fn left<A: Arithmetic>(from: Matrix<A::Element>) -> Left<A::Word> {
    // SAFETY: the caller's promise.
    let (data, stride) = unsafe { from.span() };
    Left { data: cast_slice(data), row_stride: stride / A::STEP, k_stride: 1 }
}

/// Up to [`TILE`] rows as right operand, with the inner dimension along them: `[W, TILE]`, zeros in the columns left over.
///
/// # Safety
/// Nobody writes to `from` during the call.
pub(super) unsafe fn transposed<A: Arithmetic>(from: Matrix<A::Element>, to: &mut [A::Word]) {
    let mut rows: [&[A::Word]; TILE] = [&[]; TILE];
    for (i, row) in rows[..from.rows].iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        *row = cast_slice(unsafe { from.row(i) });
    }
    transpose_rows(&rows[..from.rows], to);
}

vectorised! {
    fn transpose_rows<W: Pod>(rows: &[&[W]], to: &mut [W]) {
        for (c, column) in to.chunks_exact_mut(TILE).enumerate() {
            for (to, row) in column.iter_mut().zip(rows) {
                *to = row[c];
            }
            column[rows.len()..].fill(W::zeroed());
        }
    }
}

vectorised! {
    fn widen_row<T: Element>(x: &[T], out: &mut [f32]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = x.get();
        }
    }
}

vectorised! {
    fn round_all(numbers: &mut [f32]) {
        for x in numbers {
            *x = Bf16::new(*x).get();
        }
    }
}
