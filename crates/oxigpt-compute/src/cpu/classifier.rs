//! Cross-entropy over the vocabulary, slice by slice of rows: products, softmax, losses and gradients while the
//! logits of a slice exist.

use super::elementwise::blocks;
use super::gemm::{Matrix, Operand, Product};
use super::memory::{Reals, Shared};
use super::pool::Pool;
use super::products::Products;
use super::simd::{exp, max, sum, vectorised};
use super::stored::{self, Stored};

/// Operands; see [`crate::Op::Classifier`].
pub(super) struct Classifier<'a> {
    pub(super) x: Reals<'a>,
    pub(super) w: Shared<'a>,
    pub(super) targets: &'a [u32],
    pub(super) vocab_size: usize,
    pub(super) width: usize,
    pub(super) logits: Shared<'a>,
    pub(super) losses: Shared<'a>,
    pub(super) grad: Option<Grad<'a>>,
}

/// Operands of its gradients.
pub(super) struct Grad<'a> {
    pub(super) dx: Shared<'a>,
    pub(super) dw: Option<Shared<'a>>,
    pub(super) scale: f32,
    pub(super) accumulate: bool,
}

vectorised! {
    /// The loss of one row of logits; with `scale`, also its gradient in their place.
    fn cross_entropy_row(logits: &mut [f32], target: usize, scale: Option<f32>) -> f32 {
        let largest = max(logits);
        let at_target = logits[target];
        let Some(scale) = scale else {
            return largest - at_target + sum([logits], |[logit]| exp(logit - largest)).ln();
        };
        for logit in logits.iter_mut() {
            *logit = exp(*logit - largest);
        }
        let total = sum([logits], |[logit]| logit);
        let factor = scale / total;
        for logit in logits.iter_mut() {
            *logit *= factor;
        }
        logits[target] -= scale;
        largest - at_target + total.ln()
    }
}

/// Losses of rows of logits; with `scale`, also their gradients in their place.
///
/// # Safety
/// Nobody else touches the logits during the call.
unsafe fn cross_entropy(
    pool: &mut Pool,
    logits: Matrix,
    (targets, vocab_size): (&[u32], usize),
    scale: Option<f32>,
    losses: &mut [f32],
) {
    let losses = Shared::of(losses);
    blocks(pool, targets.len(), 4, |rows| {
        for row in rows {
            // SAFETY: each row is one task's.
            let (logits, loss) = unsafe { (logits.row_mut(row), losses.write(row..row + 1)) };
            let (words, padding) = logits.split_at_mut(vocab_size);
            loss[0] = cross_entropy_row(words, targets[row] as usize, scale);
            padding.fill(0.0);
        }
    });
}

/// Losses alone, with a stored table of words.
pub(super) fn classifier_stored(
    pool: &mut Pool,
    (x, w): (&[f32], Stored),
    (targets, vocab_size): (&[u32], usize),
    (logits, losses): (Shared, Shared),
    tiles: &mut [u32],
) {
    let slice_rows = logits.len() / w.n_out;
    for start in (0..targets.len()).step_by(slice_rows) {
        let slice = start..(start + slice_rows).min(targets.len());
        let x = &x[slice.start * w.n_in..slice.end * w.n_in];
        // SAFETY: operands are distinct tensors.
        unsafe {
            stored::product(pool, (x, w, None), logits, tiles, |_, _| {});
            let logits = Matrix::strided(logits, 0, slice.len(), w.n_out, w.n_out);
            cross_entropy(pool, logits, (&targets[slice.clone()], vocab_size), None, losses.write(slice));
        }
    }
}

pub(super) fn classifier(products: &mut Products, op: &Classifier) {
    let n_words = op.w.len() / op.width;
    let rows = op.targets.len();
    let slice_rows = op.logits.len() / n_words;
    let w = Operand::of(Reals::F32(op.w), n_words, op.width);
    let x = Operand::of(op.x, rows, op.width);
    for start in (0..rows).step_by(slice_rows) {
        let slice = start..(start + slice_rows).min(rows);
        let logits = Matrix::strided(op.logits, 0, slice.len(), n_words, n_words);
        let x = x.rows_part(slice.clone());
        let product = |c, a, b, accumulate| Product { c, a, b, accumulate, bias: None };
        // SAFETY: operands are distinct tensors; each row of logits is one task's.
        unsafe {
            products.run(&product(Operand::F32(logits), x, w.t(), false), |_| {});
            let losses = op.losses.write(slice.clone());
            let scale = op.grad.as_ref().map(|g| g.scale);
            let targets = &op.targets[slice.clone()];
            cross_entropy(products.pool, logits, (targets, op.vocab_size), scale, losses);
            if let Some(grad) = &op.grad {
                let logits = Operand::F32(logits);
                let dx = Operand::of(Reals::F32(grad.dx), rows, op.width).rows_part(slice.clone());
                products.run(&product(dx, logits, w, false), |_| {});
                if let Some(dw) = grad.dw {
                    let dw = Operand::of(Reals::F32(dw), n_words, op.width);
                    products.run(&product(dw, logits.t(), x, grad.accumulate || start > 0), |_| {});
                }
            }
        }
    }
}
