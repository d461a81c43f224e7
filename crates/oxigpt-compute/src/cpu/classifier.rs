//! Cross-entropy over the vocabulary, slice by slice of rows: products, softmax, losses and gradients while the
//! logits of a slice exist.

use super::elementwise::blocks;
use super::gemm::{Matrix, Product};
use super::memory::Shared;
use super::products::{Products, Words};
use super::simd::{exp, max, sum, vectorised};

/// Operands; see [`crate::Op::Classifier`].
pub(super) struct Classifier<'a> {
    pub(super) x: Shared<'a>,
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
    pub(super) dw: Shared<'a>,
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

pub(super) fn classifier(products: &mut Products, op: &Classifier) {
    let n_words = op.w.len() / op.width;
    let rows = op.targets.len();
    let slice_rows = op.logits.len() / n_words;
    let w = Matrix::new(op.w, n_words, op.width);
    let x = Matrix::new(op.x, rows, op.width);
    // SAFETY: nobody writes to the words.
    unsafe {
        products.keep(w.t(), Words::Forward);
        if op.grad.is_some() {
            products.keep(w, Words::Backward);
        }
    }
    for start in (0..rows).step_by(slice_rows) {
        let slice = start..(start + slice_rows).min(rows);
        let logits = Matrix::strided(op.logits, 0, slice.len(), n_words, n_words);
        let x = x.rows_part(slice.clone());
        let product = |c, a, b, accumulate| Product { c, a, b, accumulate };
        // SAFETY: operands are distinct tensors; each row of logits is one task's.
        unsafe {
            products.run_with(&product(logits, x, w.t(), false), Words::Forward);
            blocks(products.pool, slice.len(), 4, |part| {
                for i in part {
                    let (words, padding) = logits.row_mut(i).split_at_mut(op.vocab_size);
                    let row = slice.start + i;
                    let scale = op.grad.as_ref().map(|g| g.scale);
                    let loss = cross_entropy_row(words, op.targets[row] as usize, scale);
                    padding.fill(0.0);
                    op.losses.write(row..row + 1)[0] = loss;
                }
            });
            if let Some(grad) = &op.grad {
                let dx = Matrix::new(grad.dx, rows, op.width).rows_part(slice.clone());
                products.run_with(&product(dx, logits, w, false), Words::Backward);
                let dw = Matrix::new(grad.dw, n_words, op.width);
                let accumulate = grad.accumulate || start > 0;
                products.run(&product(dw, logits.t(), x, accumulate), |_| {}, |_| {});
            }
        }
    }
}
