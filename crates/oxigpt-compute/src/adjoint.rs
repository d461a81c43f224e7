//! Reverse-mode differentiation of a phase: appends the adjoint of each operator in reverse order.
//!
//! A tensor's gradient is complete when its producer is reached, because all of its readers come later in the
//! list. Where a tensor has several readers, their contributions are added: by the layer norm's adjoint as it
//! passes (`addend`), elsewhere by an `Add`.

use std::collections::{HashMap, HashSet};

use crate::{Builder, ClassifierGrad, Dtype, Op, Role, TensorId};

/// Gradients known so far while walking back through one phase.
#[derive(Default)]
struct Walk {
    /// Of activations.
    grads: HashMap<TensorId, TensorId>,
    /// Parameters whose gradient has been written in this phase, so that the next one adds.
    written: HashSet<TensorId>,
}

impl Builder {
    /// Appends to the current phase all that computes the gradients of `scale * sum(losses)` in every
    /// parameter, `losses` being what [`Builder::classifier`] gave. Once a phase, and where every operator
    /// between the parameters and the losses has an adjoint; else it panics.
    pub fn backward(&mut self, losses: TensorId, scale: f64) {
        self.declare_gradients();
        let phase = self.phases.last_mut().expect("a phase has begun");
        let forward = std::mem::take(&mut phase.ops);
        let mut walk = Walk::default();
        let mut adjoints_of = Vec::new();
        for op in forward {
            assert!(
                !matches!(op, Op::Classifier { grad: Some(_), .. }),
                "this phase has its adjoints already"
            );
            let op = match op {
                Op::Classifier { x, w, targets, vocab_size, logits, losses: own, .. } if own == losses => {
                    let dx = self.like("d_classifier", x);
                    walk.grads.insert(x, dx);
                    let (dw, accumulate) = self.parameter_gradient(&mut walk, w);
                    let grad = Some(ClassifierGrad { dx, dw, scale, accumulate });
                    Op::Classifier { x, w, targets, vocab_size, logits, losses: own, grad }
                }
                other => other,
            };
            adjoints_of.push(op.clone());
            self.push(op);
        }
        assert!(!walk.grads.is_empty(), "`losses` is no result of a classifier of this phase");
        for op in adjoints_of.iter().rev() {
            self.append_adjoint(&mut walk, op);
        }
        for parameter in &self.parameters {
            let name = &self.tensors[parameter.index()].name;
            assert!(!walk.grads.contains_key(parameter), "parameter `{name}` is used as an activation");
        }
    }

    fn declare_gradients(&mut self) {
        for parameter in self.parameters.clone() {
            if !self.gradients.contains_key(&parameter) {
                let tensor = &self.tensors[parameter.index()];
                let (name, shape) = (format!("d.{}", tensor.name), tensor.shape.clone());
                let gradient = self.tensor(&name, &shape, Dtype::Real, Role::Gradient);
                self.gradients.insert(parameter, gradient);
            }
        }
    }

    /// The gradient of a parameter, and whether this phase has written to it before.
    fn parameter_gradient(&self, walk: &mut Walk, parameter: TensorId) -> (TensorId, bool) {
        (self.gradients[&parameter], !walk.written.insert(parameter))
    }

    /// Adds `gradient` to what is known of `of`.
    fn contribute(&mut self, walk: &mut Walk, of: TensorId, gradient: TensorId) {
        let total = match walk.grads.get(&of) {
            None => gradient,
            Some(&known) => {
                let out = self.like("d_sum", of);
                self.push(Op::Add { a: known, b: gradient, out });
                out
            }
        };
        walk.grads.insert(of, total);
    }

    fn append_adjoint(&mut self, walk: &mut Walk, op: &Op) {
        match *op {
            Op::Add { a, b, out } => {
                let Some(&dout) = walk.grads.get(&out) else { return };
                self.contribute(walk, a, dout);
                self.contribute(walk, b, dout);
            }
            Op::Embed { tokens, position, wte, wpe, out } => {
                let Some(&dout) = walk.grads.get(&out) else { return };
                assert!(position.is_none(), "embed at a position has no adjoint");
                let (dwte, accumulate_wte) = self.parameter_gradient(walk, wte);
                let (dwpe, accumulate_wpe) = self.parameter_gradient(walk, wpe);
                self.push(Op::EmbedBackward { tokens, dout, dwte, dwpe, accumulate_wte, accumulate_wpe });
            }
            Op::LayerNorm { .. } => self.layer_norm_adjoint(walk, op),
            Op::Linear { .. } => self.linear_adjoint(walk, op),
            Op::Gelu { x, kind, out } => {
                let Some(&dout) = walk.grads.get(&out) else { return };
                let dx = self.like("d_gelu", x);
                self.push(Op::GeluBackward { x, kind, dout, dx });
                self.contribute(walk, x, dx);
            }
            Op::Attention { qkv, n_head, kind, dropout, out, lse } => {
                let Some(&dout) = walk.grads.get(&out) else { return };
                let dqkv = self.like("d_attention", qkv);
                self.push(Op::AttentionBackward { qkv, out, lse, dout, n_head, kind, dropout, dqkv });
                self.contribute(walk, qkv, dqkv);
            }
            Op::Dropout { x, dropout, out } => {
                let Some(&dout) = walk.grads.get(&out) else { return };
                let dx = self.like("d_dropout", x);
                self.push(Op::Dropout { x: dout, dropout, out: dx });
                self.contribute(walk, x, dx);
            }
            // The classifier's own pass gives its gradients.
            _ => {
                let lost = op.operands().writes.iter().any(|id| walk.grads.contains_key(id));
                assert!(!lost, "{} has no adjoint", op.name());
            }
        }
    }

    fn layer_norm_adjoint(&mut self, walk: &mut Walk, op: &Op) {
        let Op::LayerNorm { x, residual, weight, bias, out, mean, rstd } = *op else { return };
        let normalised = residual.map_or(x, |(_, sum)| sum);
        let addend = walk.grads.remove(&normalised);
        let dx = match walk.grads.get(&out) {
            Some(&dout) => {
                let dx = self.like("d_layer_norm", x);
                let (dweight, accumulate) = self.parameter_gradient(walk, weight);
                let dbias = bias.map(|b| {
                    let (dbias, again) = self.parameter_gradient(walk, b);
                    assert_eq!(again, accumulate, "layer norms share a weight but not its bias");
                    dbias
                });
                self.push(Op::LayerNormBackward {
                    dout,
                    addend,
                    x: normalised,
                    weight,
                    mean,
                    rstd,
                    dx,
                    dweight,
                    dbias,
                    accumulate,
                });
                dx
            }
            None => match addend {
                Some(addend) => addend,
                None => return,
            },
        };
        self.contribute(walk, x, dx);
        if let Some((delta, _)) = residual {
            self.contribute(walk, delta, dx);
        }
    }

    fn linear_adjoint(&mut self, walk: &mut Walk, op: &Op) {
        let Op::Linear { x, w, layout, bias, gelu, out } = *op else { return };
        let Some(&dout) = walk.grads.get(&out) else { return };
        let dout = match gelu {
            None => dout,
            Some((kind, before)) => {
                let dx = self.like("d_gelu", before);
                self.push(Op::GeluBackward { x: before, kind, dout, dx });
                dx
            }
        };
        let dx = self.like("d_linear", x);
        self.push(Op::LinearBackwardInput { dout, w, layout, dx });
        let (dw, accumulate_w) = self.parameter_gradient(walk, w);
        let (dbias, accumulate_bias) = match bias.map(|b| self.parameter_gradient(walk, b)) {
            Some((dbias, accumulate)) => (Some(dbias), accumulate),
            None => (None, false),
        };
        self.push(Op::LinearBackwardWeight { dout, x, layout, dw, dbias, accumulate_w, accumulate_bias });
        self.contribute(walk, x, dx);
    }
}
