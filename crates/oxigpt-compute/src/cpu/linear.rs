//! Linear layers and their adjoints: matrix products with what rides on their tiles.

use super::elementwise::{self, gelu_slice};
use super::few_rows;
use super::gemm::{Matrix, Product};
use super::memory::Shared;
use super::pool::Pool;
use super::products::Products;
use super::stored::{self, Stored};
use crate::{Gelu, WeightLayout};

/// A weight matrix as `[C, O]`, whichever way it lies.
fn in_out(w: Shared, n_in: usize, n_out: usize, layout: WeightLayout) -> Matrix {
    match layout {
        WeightLayout::InOut => Matrix::new(w, n_in, n_out),
        WeightLayout::OutIn => Matrix::new(w, n_out, n_in).t(),
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
    (x, w, bias): (Shared, Shared, Option<Shared>),
    gelu: Option<(Gelu, Shared)>,
    out: Shared,
    scratch: &mut [f32],
) {
    let Sizes { rows, n_in, n_out, layout } = sizes;
    let product_result = gelu.map_or(out, |(_, before)| before);
    // SAFETY: nobody writes to the bias.
    let bias = bias.map(|bias| unsafe { bias.all() });
    if rows <= few_rows::MAX_ROWS && products.in_float32() {
        // SAFETY: operands are distinct tensors, and nobody writes to these two.
        let (x, w) = unsafe { (x.all(), w.all()) };
        few_rows::linear(products.pool, sizes, (x, w, bias), product_result, scratch);
        if let Some((kind, before)) = gelu {
            elementwise::gelu(products.pool, kind, before, out);
        }
        return;
    }
    let c = Matrix::new(product_result, rows, n_out);
    let of = Product {
        c,
        a: Matrix::new(x, rows, n_in),
        b: in_out(w, n_in, n_out, layout),
        accumulate: bias.is_some(),
    };
    // SAFETY: operands are distinct tensors; `before` and `after` touch the rows and columns of their tile.
    unsafe {
        products.run(
            &of,
            |tile| {
                if let Some(bias) = bias {
                    for row in tile.rows.clone() {
                        let start = row * n_out;
                        let out = product_result.write(start + tile.cols.start..start + tile.cols.end);
                        out.copy_from_slice(&bias[tile.cols.clone()]);
                    }
                }
            },
            |tile| {
                if let Some((kind, before)) = gelu {
                    for row in tile.rows.clone() {
                        let range = row * n_out + tile.cols.start..row * n_out + tile.cols.end;
                        gelu_slice(kind, before.read(range.clone()), out.write(range));
                    }
                }
            },
        );
    }
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
                gelu_slice(kind, before.read(range.clone()), out.write(range));
            }
        });
    }
}

/// `dx = dout W^T`.
pub(super) fn backward_input(products: &mut Products, sizes: Sizes, (dout, w): (Shared, Shared), dx: Shared) {
    let Sizes { rows, n_in, n_out, layout } = sizes;
    let of = Product {
        c: Matrix::new(dx, rows, n_in),
        a: Matrix::new(dout, rows, n_out),
        b: in_out(w, n_in, n_out, layout).t(),
        accumulate: false,
    };
    // SAFETY: operands are distinct tensors.
    unsafe { products.run(&of, |_| {}, |_| {}) };
}

/// `dw = x^T dout`, laid out as `w`.
pub(super) fn backward_weight(
    products: &mut Products,
    sizes: Sizes,
    (dout, x): (Shared, Shared),
    (dw, accumulate): (Shared, bool),
) {
    let Sizes { rows, n_in, n_out, layout } = sizes;
    let (x, dout) = (Matrix::new(x, rows, n_in), Matrix::new(dout, rows, n_out));
    let of = match layout {
        WeightLayout::InOut => Product { c: Matrix::new(dw, n_in, n_out), a: x.t(), b: dout, accumulate },
        WeightLayout::OutIn => Product { c: Matrix::new(dw, n_out, n_in), a: dout.t(), b: x, accumulate },
    };
    // SAFETY: operands are distinct tensors.
    unsafe { products.run(&of, |_| {}, |_| {}) };
}
