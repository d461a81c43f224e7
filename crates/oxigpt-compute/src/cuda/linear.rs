//! Linear layers, their adjoints, and the classifier: products of cuBLASLt, and what rides on them.

use super::blas::{Epilogue, Matrix, Product};
use super::driver::Argument;
use super::error::CudaError;
use super::kernels::{File, Variant};
use super::launch::{Grid, Launcher, NULL, int, long};
use super::layout::Element;
use super::operators::{column_parts, gelu_number};
use crate::{Gelu, Op, Plan, Storage, TensorId, WeightLayout};

/// Layers over so few rows, as in decoding, are limited by their weights' bytes and have a kernel of their own. It sums a
/// row in one order, whatever lies beside it: texts decoded side by side are those decoded alone.
const FEW_ROWS: usize = 32;

/// Rows that the kernel takes at a time. When it comes for the next, it finds the weights in the GPU's cache.
const ROWS_AT_A_TIME: usize = 8;

/// Puts a linear layer or one of its adjoints on the stream.
pub(super) fn operator(launcher: &mut Launcher, op: &Op) -> Result<(), CudaError> {
    match *op {
        Op::Linear { x, w, layout, bias, gelu, out } => {
            if launcher.tensor(x).rows() <= FEW_ROWS {
                few_rows(launcher, (x, w, layout, bias), gelu, out)
            } else {
                linear(launcher, (x, w, layout, bias), gelu, out)
            }
        }
        Op::LinearBackwardInput { dout, w, layout, gelu, dx } => {
            let (a, b) = (launcher.matrix(dout), in_out(launcher.weight(w), layout).t());
            let c = launcher.matrix(dx);
            backward_input(
                launcher,
                Product { c, a, b, accumulate: false, epilogue: Epilogue::None },
                gelu,
                dx,
            )
        }
        Op::LinearBackwardWeight { dout, x, layout, dw, dbias, accumulate_w, accumulate_bias } => {
            let (dw, x_nc, dout_no) = (launcher.matrix(dw), launcher.matrix(x), launcher.matrix(dout));
            match layout {
                WeightLayout::InOut => launcher.multiply(dw, x_nc.t(), dout_no, accumulate_w)?,
                WeightLayout::OutIn => launcher.multiply(dw, dout_no.t(), x_nc, accumulate_w)?,
            }
            dbias.map_or(Ok(()), |dbias| column_sums(launcher, dout, dbias, accumulate_bias))
        }
        _ => unreachable!("not a linear layer"),
    }
}

/// A weight as `[C, O]`, whichever way it lies.
fn in_out(w: Matrix, layout: WeightLayout) -> Matrix {
    match layout {
        WeightLayout::InOut => w,
        WeightLayout::OutIn => w.t(),
    }
}

type Operands = (TensorId, TensorId, WeightLayout, Option<TensorId>);

fn few_rows(
    launcher: &mut Launcher,
    (x, w, layout, bias): Operands,
    gelu: Option<(Gelu, TensorId)>,
    out: TensorId,
) -> Result<(), CudaError> {
    let (rows, c) = (launcher.tensor(x).rows(), launcher.tensor(x).width());
    let o = launcher.tensor(out).width();
    let (name, columns) = match layout {
        WeightLayout::InOut => ("few_rows_in_out", 32),
        WeightLayout::OutIn => ("few_rows_out_in", 8),
    };
    let variant = Variant { weights: launcher.weight(w).element, ..File::FewRows.into() };
    let (w, scales) = (Argument::Pointer(launcher.weight_address(w)), launcher.scales(w));
    let bias = launcher.optional(bias);
    let kind = gelu_number(gelu.map(|(kind, _)| kind));
    for start in (0..rows).step_by(ROWS_AT_A_TIME) {
        let n = ROWS_AT_A_TIME.min(rows - start);
        let part = |id| Argument::Pointer(rows_of(launcher.matrix(id), start, n).address);
        let before = gelu.map_or(NULL, |(_, before)| part(before));
        let arguments = [part(out), before, part(x), w, bias, int(n), int(c), int(o), kind, scales];
        let takes = if layout == WeightLayout::OutIn { 10 } else { 9 };
        launcher.kernel(variant, name, Grid::of(o.div_ceil(columns)), &arguments[..takes])?;
    }
    Ok(())
}

fn linear(
    launcher: &mut Launcher,
    (x, w, layout, bias): Operands,
    gelu: Option<(Gelu, TensorId)>,
    out: TensorId,
) -> Result<(), CudaError> {
    let (a, w) = factors(launcher, x, w)?;
    let b = in_out(w, layout);
    let result = gelu.map_or(out, |(_, before)| before);
    let plain = Product { c: launcher.matrix(result), a, b, accumulate: false, epilogue: Epilogue::None };
    let fused = Product {
        c: launcher.matrix(out),
        epilogue: epilogue(launcher, bias, gelu, launcher.matrix(out)),
        ..plain
    };
    if fused.epilogue != Epilogue::None && launcher.can(&fused)? {
        return launcher.product(&fused);
    }
    launcher.product(&plain)?;
    let (n, o) = (launcher.tensor(out).len(), launcher.tensor(out).width());
    let (result, kind) = (launcher.pointer(result), gelu_number(gelu.map(|(kind, _)| kind)));
    let activated = if gelu.is_some() { launcher.pointer(out) } else { NULL };
    match bias {
        Some(bias) => {
            let arguments = [activated, result, launcher.pointer(bias), long(n), int(o), kind];
            launcher.kernel(File::Elementwise, "bias_gelu", Grid::over(n), &arguments)
        }
        None if gelu.is_some() => {
            launcher.kernel(File::Elementwise, "gelu", Grid::over(n), &[activated, result, long(n), kind])
        }
        None => Ok(()),
    }
}

fn backward_input(
    launcher: &mut Launcher,
    plain: Product,
    gelu: Option<(Gelu, TensorId)>,
    dx: TensorId,
) -> Result<(), CudaError> {
    let Some((kind, before)) = gelu else { return launcher.product(&plain) };
    let epilogue = Epilogue::GeluBackward { before: launcher.address(before) };
    let fused = Product { epilogue, ..plain };
    if has_epilogue(kind, plain.c) && launcher.can(&fused)? {
        return launcher.product(&fused);
    }
    launcher.product(&plain)?;
    let (n, dx, before) = (launcher.tensor(dx).len(), launcher.pointer(dx), launcher.pointer(before));
    let arguments = [dx, before, dx, long(n), gelu_number(Some(kind))];
    launcher.kernel(File::Elementwise, "gelu_backward", Grid::over(n), &arguments)
}

/// Whether cuBLASLt may have a GELU and its adjoint: its own are those of the tanh approximation, computed too coarsely for
/// float32, and keep or read its operand only in rows of whole 16 bytes.
fn has_epilogue(kind: Gelu, product: Matrix) -> bool {
    kind == Gelu::Tanh && product.element == Element::Bf16 && product.cols.is_multiple_of(8)
}

/// What cuBLASLt could do while it writes the product, if anything. Its GELU takes sums before they are rounded: one that is
/// made again from what is kept must be ours the first time, too.
fn epilogue(
    launcher: &Launcher,
    bias: Option<TensorId>,
    gelu: Option<(Gelu, TensorId)>,
    out: Matrix,
) -> Epilogue {
    let bias = bias.map(|bias| launcher.weight_address(bias));
    let is_repeated = |before| {
        let mut ops = launcher.prepared.plan.phases().flat_map(|(_, phase)| &phase.ops);
        ops.any(|op| matches!(*op, Op::Gelu { x, .. } if x == before))
    };
    match (gelu, bias) {
        (None, Some(bias)) => Epilogue::Bias(bias),
        (Some((kind, before)), bias) if has_epilogue(kind, out) && !is_repeated(before) => {
            let before = launcher.address(before);
            bias.map_or(Epilogue::Gelu { before }, |bias| Epilogue::BiasGelu { bias, before })
        }
        _ => Epilogue::None,
    }
}

/// Activations and weights in one type, as cuBLASLt multiplies them. One of them may be in scratch memory: integers as the
/// numbers that they stand for, activations rounded beside weights in bfloat16.
fn factors(launcher: &mut Launcher, x: TensorId, w: TensorId) -> Result<(Matrix, Matrix), CudaError> {
    let (x, w, scales) = (launcher.matrix(x), launcher.weight(w), launcher.scales(w));
    let address = launcher.prepared.scratch.at(0);
    let (to, from, n) =
        (Argument::Pointer(address), |m: Matrix| Argument::Pointer(m.address), |m: Matrix| m.rows * m.cols);
    if w.element == Element::I8 {
        let arguments = [to, from(w), scales, long(n(w)), int(w.cols)];
        launcher.kernel(File::Elementwise, "widen", Grid::over(n(w)), &arguments)?;
        Ok((x, Matrix { address, element: x.element, ..w }))
    } else if x.element != w.element {
        launcher.kernel(File::Elementwise, "to_bf16", Grid::over(n(x)), &[to, from(x), long(n(x))])?;
        Ok((Matrix { address, element: Element::Bf16, ..x }, w))
    } else {
        Ok((x, w))
    }
}

/// Bytes of scratch memory that [`factors`] takes.
pub(super) fn scratch_bytes(plan: &Plan, op: &Op) -> usize {
    let (x, w) = match *op {
        Op::Linear { x, .. } if plan.tensor(x).rows() <= FEW_ROWS => return 0,
        Op::Linear { x, w, .. } | Op::Classifier { x, w, .. } => (plan.tensor(x), plan.tensor(w)),
        _ => return 0,
    };
    match w.storage() {
        Some(Storage::Int8) => 4 * w.len(),
        Some(Storage::Bfloat16) => 2 * x.len(),
        Some(Storage::Float32) | None => 0,
    }
}

/// `out[c] (+)= sum over rows of x[row, c]`.
fn column_sums(
    launcher: &mut Launcher,
    x: TensorId,
    out: TensorId,
    accumulate: bool,
) -> Result<(), CudaError> {
    let (rows, c) = (launcher.tensor(x).rows(), launcher.tensor(x).width());
    let parts = column_parts(rows);
    let grid = Grid { blocks: [c.div_ceil(256), parts, 1], ..Grid::of(1) };
    let (partials, x) = (launcher.scratch(0), launcher.pointer(x));
    launcher.kernel(File::Norm, "column_sums", grid, &[partials, x, int(rows), int(c)])?;
    launcher.reduce_parts(out, 0, [parts, c, c], accumulate)
}

/// Puts a classifier on the stream: slice by slice of rows, logits, losses and their gradients in the logits' place.
pub(super) fn classifier(launcher: &mut Launcher, op: &Op) -> Result<(), CudaError> {
    let Op::Classifier { x, w, targets, vocab_size, logits, losses, grad } = *op else {
        unreachable!("not a classifier")
    };
    let (rows, slice_rows) = (launcher.tensor(x).rows(), launcher.tensor(logits).rows());
    let logits_nv = launcher.matrix(logits);
    let (x_nc, w_vc) = factors(launcher, x, w)?;
    let padded = logits_nv.cols;
    let scale = Argument::Float(grad.map_or(1.0, |grad| grad.scale as f32));
    for start in (0..rows).step_by(slice_rows) {
        let n = slice_rows.min(rows - start);
        let (x_nc, logits_nv) = (rows_of(x_nc, start, n), rows_of(logits_nv, 0, n));
        launcher.multiply(logits_nv, x_nc, w_vc.t(), false)?;
        let row = |id| Argument::Pointer(launcher.address(id) + 4 * start as u64);
        let (losses, targets, with_grad) = (row(losses), row(targets), int(grad.is_some().into()));
        let arguments =
            [launcher.pointer(logits), losses, targets, int(vocab_size), int(padded), scale, with_grad];
        let grid = Grid { threads: padded.div_ceil(8).next_multiple_of(32).min(512), ..Grid::of(n) };
        launcher.kernel(File::Classifier, "cross_entropy", grid, &arguments)?;
        if let Some(grad) = grad {
            let dx = launcher.matrix(grad.dx);
            launcher.multiply(rows_of(dx, start, n), logits_nv, w_vc, false)?;
            if let Some(dw) = grad.dw {
                let (dw, accumulate) = (launcher.matrix(dw), grad.accumulate || start > 0);
                launcher.multiply(dw, logits_nv.t(), x_nc, accumulate)?;
            }
        }
    }
    Ok(())
}

/// Rows `start..start + n` of a matrix.
fn rows_of(matrix: Matrix, start: usize, n: usize) -> Matrix {
    let address = matrix.address + (start * matrix.cols * matrix.element.bytes()) as u64;
    Matrix { address, rows: n, ..matrix }
}
