//! Linear layers and their adjoints: matrix products with what rides on their tiles.

use std::ops::Range;

use super::elementwise;
use super::few_rows;
use super::gemm::{Operand, Product, Tile};
use super::memory::{Reals, Shared};
use super::pool::Pool;
use super::products::Products;
use super::stored::{self, Stored};
use crate::{Gelu, WeightLayout};

/// A weight matrix as `[C, O]`, whichever way it lies.
fn in_out(w: Shared, n_in: usize, n_out: usize, layout: WeightLayout) -> Operand {
    match layout {
        WeightLayout::InOut => Operand::of(Reals::F32(w), n_in, n_out),
        WeightLayout::OutIn => Operand::of(Reals::F32(w), n_out, n_in).t(),
    }
}

/// Sizes of a linear layer.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub(super) rows: usize,
    pub(super) n_in: usize,
    pub(super) n_out: usize,
    pub(super) layout: WeightLayout,
}

/// `before_gelu = x W + bias`, and `out = gelu(before_gelu)` if there is one, tile by tile.
pub(super) fn linear(
    products: &mut Products,
    sizes: Sizes,
    (x, w, bias): (Reals, Shared, Option<&[f32]>),
    gelu: Option<(Gelu, Reals)>,
    out: Reals,
    scratch: &mut [f32],
) {
    let Sizes { rows, n_in, n_out, layout } = sizes;
    let product_result = gelu.map_or(out, |(_, before)| before);
    if let (true, Reals::F32(x), Reals::F32(result)) = (few_rows(products, sizes), x, product_result) {
        // SAFETY: operands are distinct tensors, and nobody writes to these two.
        let (x, w) = unsafe { (x.all(), w.all()) };
        few_rows::linear(products.pool, sizes, (x, w, bias), result, scratch);
        if let Some((kind, before)) = gelu {
            elementwise::gelu(products.pool, kind, before, out);
        }
        return;
    }
    let of = Product {
        c: Operand::of(product_result, rows, n_out),
        a: Operand::of(x, rows, n_in),
        b: in_out(w, n_in, n_out, layout),
        accumulate: false,
        bias,
    };
    // SAFETY: operands are distinct tensors; `after` touches the rows and columns of its tile.
    unsafe {
        products.run(&of, |tile| {
            if let Some((kind, before)) = gelu {
                rows_of(tile, n_out).for_each(|range| elementwise::gelu_range(kind, before, out, range));
            }
        });
    }
}

/// The rows of a tile of a matrix that is `width` wide.
fn rows_of(tile: &Tile, width: usize) -> impl Iterator<Item = Range<usize>> {
    tile.rows.clone().map(move |row| row * width + tile.cols.start..row * width + tile.cols.end)
}

fn few_rows(products: &Products, sizes: Sizes) -> bool {
    sizes.rows <= few_rows::MAX_ROWS && products.in_float32()
}

/// The same with a stored matrix.
pub(super) fn linear_stored(
    pool: &mut Pool,
    operands: (&[f32], Stored, Option<&[f32]>),
    gelu: Option<(Gelu, Shared)>,
    out: Shared,
    tiles: &mut [u32],
) {
    let n_out = operands.1.n_out;
    let product_result = gelu.map_or(out, |(_, before)| before);
    // SAFETY: operands are distinct tensors; what follows a part of the result touches that part alone.
    unsafe {
        stored::product(pool, operands, product_result, tiles, |row, cols| {
            if let Some((kind, before)) = gelu {
                let range = row * n_out + cols.start..row * n_out + cols.end;
                elementwise::gelu_range(kind, Reals::F32(before), Reals::F32(out), range);
            }
        });
    }
}

/// `dx = dout W^T`, times `gelu'(before)` if there is a GELU, tile by tile.
pub(super) fn backward_input(
    products: &mut Products,
    sizes: Sizes,
    (dout, w): (Reals, Shared),
    gelu: Option<(Gelu, Reals)>,
    dx: Reals,
) {
    let Sizes { rows, n_in, n_out, layout } = sizes;
    let of = Product {
        c: Operand::of(dx, rows, n_in),
        a: Operand::of(dout, rows, n_out),
        b: in_out(w, n_in, n_out, layout).t(),
        accumulate: false,
        bias: None,
    };
    // SAFETY: as in `linear`.
    unsafe {
        products.run(&of, |tile| {
            if let Some((kind, before)) = gelu {
                rows_of(tile, n_in)
                    .for_each(|range| elementwise::gelu_backward_range(kind, before, dx, range));
            }
        });
    }
}

/// `dw = x^T dout`, laid out as `w`.
pub(super) fn backward_weight(
    products: &mut Products,
    sizes: Sizes,
    (dout, x): (Reals, Reals),
    (dw, accumulate): (Shared, bool),
) {
    let Sizes { rows, n_in, n_out, layout } = sizes;
    let (x, dout) = (Operand::of(x, rows, n_in), Operand::of(dout, rows, n_out));
    let (a, b) = match layout {
        WeightLayout::InOut => (x.t(), dout),
        WeightLayout::OutIn => (dout.t(), x),
    };
    let c = Operand::of(Reals::F32(dw), a.rows(), b.cols());
    // SAFETY: operands are distinct tensors.
    unsafe { products.run(&Product { c, a, b, accumulate, bias: None }, |_| {}) };
}
