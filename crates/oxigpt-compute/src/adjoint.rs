//! Reverse-mode differentiation of a phase: appends the adjoint of each operator in reverse order.
//!
//! Only what leads to the gradient of a trained parameter is computed: operators that a parameter's frozenness makes
//! useless are never appended.
//!
//! A tensor's gradient is complete when its producer is reached, because all of its readers come later in the
//! list. Where a tensor has several readers, their contributions are added: by the layer norm's adjoint as it
//! passes (`addend`), elsewhere by an `Add`.

use std::collections::{HashMap, HashSet};

use crate::{Builder, ClassifierGrad, Dtype, Gelu, Op, Operands, Role, SquaredErrorGrad, TensorId};

/// Gradients known so far while walking back through one phase.
#[derive(Default)]
struct Walk {
    /// Of activations.
    grads: HashMap<TensorId, TensorId>,
    /// Activations whose gradients are wanted: those that come from a trained parameter, or from a real input.
    wanted: HashSet<TensorId>,
    /// Parameters whose gradient has been written in this phase, so that the next one adds.
    written: HashSet<TensorId>,
    /// Results of GELUs that a single operator reads: its adjoint takes theirs along.
    gelus: HashMap<TensorId, (Gelu, TensorId)>,
}

impl Builder {
    /// Appends to the current phase all that computes the gradients of the sum of all `(losses, scale)`, each
    /// `scale * sum(losses)`, in every trained parameter; `losses` is what [`Builder::classifier`] or
    /// [`Builder::squared_error`] gave. Once a phase, and where every operator between the parameters and the
    /// losses has an adjoint; else it panics.
    pub fn backward(&mut self, objective: &[(TensorId, f64)]) {
        self.declare_gradients();
        let phase = self.phases.last_mut().expect("a phase has begun");
        let forward = std::mem::take(&mut phase.ops);
        let mut walk = Walk { wanted: self.wanted(&forward), gelus: gelus(&forward), ..Walk::default() };
        let mut adjoints_of = Vec::new();
        for op in forward {
            let op = self.with_gradient(&mut walk, op, objective);
            adjoints_of.push(op.clone());
            self.push(op);
        }
        for op in &adjoints_of {
            match *op {
                Op::Classifier { x, grad: Some(grad), .. } => self.contribute(&mut walk, x, grad.dx),
                Op::SquaredError { x, grad: Some(grad), .. } => self.contribute(&mut walk, x, grad.dx),
                _ => {}
            }
        }
        assert!(!walk.grads.is_empty(), "no losses here are results of this phase");
        self.adjoints_from = adjoints_of.len();
        for op in adjoints_of.iter().rev() {
            self.append_adjoint(&mut walk, op);
        }
        for parameter in &self.parameters {
            let name = &self.tensors[parameter.index()].name;
            assert!(!walk.grads.contains_key(parameter), "parameter `{name}` is used as an activation");
        }
    }

    /// The activations that trained parameters and real inputs have a part in.
    fn wanted(&self, forward: &[Op]) -> HashSet<TensorId> {
        let is_real_input = |id: TensorId| {
            let tensor = &self.tensors[id.index()];
            tensor.role == Role::Input && tensor.dtype == Dtype::Real
        };
        let mut wanted = HashSet::new();
        for op in forward {
            let Operands { reads, writes } = op.operands();
            let starts = |id: &TensorId| self.gradients.contains_key(id) || is_real_input(*id);
            if reads.iter().any(|id| wanted.contains(id) || starts(id)) {
                wanted.extend(reads.into_iter().filter(starts));
                wanted.extend(writes);
            }
        }
        wanted
    }

    /// An operator that gives losses also gives their gradient, where the objective has these losses.
    fn with_gradient(&mut self, walk: &mut Walk, op: Op, objective: &[(TensorId, f64)]) -> Op {
        let scale_of = |losses| objective.iter().find(|(id, _)| *id == losses).map(|(_, scale)| *scale);
        match op {
            Op::Classifier { grad: Some(_), .. } | Op::SquaredError { grad: Some(_), .. } => {
                panic!("this phase has its adjoints already")
            }
            Op::Classifier { x, w, targets, vocab_size, logits, losses, grad: None } => {
                let grad = scale_of(losses).map(|scale| {
                    let dx = self.like("d_classifier", x);
                    let (dw, accumulate) = self.parameter_gradient(walk, w).unzip();
                    ClassifierGrad { dx, dw, scale, accumulate: accumulate.unwrap_or(false) }
                });
                Op::Classifier { x, w, targets, vocab_size, logits, losses, grad }
            }
            Op::SquaredError { x, target, losses, grad: None } => {
                let grad = scale_of(losses).map(|scale| {
                    let dx = self.like("d_squared_error", x);
                    SquaredErrorGrad { dx, scale }
                });
                Op::SquaredError { x, target, losses, grad }
            }
            other => other,
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

    /// The gradient of a parameter, and whether this phase has written to it before; nothing where it is frozen.
    fn parameter_gradient(&self, walk: &mut Walk, parameter: TensorId) -> Option<(TensorId, bool)> {
        let gradient = *self.gradients.get(&parameter)?;
        Some((gradient, !walk.written.insert(parameter)))
    }

    /// Adds `gradient` to what is known of `of`, if that is wanted.
    fn contribute(&mut self, walk: &mut Walk, of: TensorId, gradient: TensorId) {
        if !walk.wanted.contains(&of) {
            return;
        }
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
            Op::Embed { tokens, positions, wte, wpe, out } => {
                let Some(&dout) = walk.grads.get(&out) else { return };
                assert!(positions.is_none(), "embed at positions of one's own has no adjoint");
                let gradients = [wte, wpe].map(|table| self.parameter_gradient(walk, table));
                let [Some((dwte, accumulate_wte)), Some((dwpe, accumulate_wpe))] = gradients else {
                    panic!("only one of two embeddings is frozen");
                };
                self.push(Op::EmbedBackward { tokens, dout, dwte, dwpe, accumulate_wte, accumulate_wpe });
            }
            Op::Scale { x, factor, out } => {
                let Some(&dout) = walk.grads.get(&out) else { return };
                let dx = self.like("d_scale", x);
                self.push(Op::Scale { x: dout, factor, out: dx });
                self.contribute(walk, x, dx);
            }
            Op::LayerNorm { .. } => self.layer_norm_adjoint(walk, op),
            Op::Linear { .. } => self.linear_adjoint(walk, op),
            Op::Gelu { x, kind, out } => {
                let Some(&dout) = walk.grads.get(&out) else { return };
                let dx = self.like("d_gelu", x);
                self.push(Op::GeluBackward { x, kind, dout, dx });
                self.contribute(walk, x, dx);
            }
            Op::Attention { qkv, n_head, kind, dropout, out, lse, range: _ } => {
                let Some(&dout) = walk.grads.get(&out) else { return };
                let dqkv = self.like("d_attention", qkv);
                let softmax = lse.map(|lse| (out, lse));
                self.push(Op::AttentionBackward { qkv, softmax, dout, n_head, kind, dropout, dqkv });
                self.contribute(walk, qkv, dqkv);
            }
            Op::Dropout { x, dropout, out } => {
                let Some(&dout) = walk.grads.get(&out) else { return };
                let dx = self.like("d_dropout", x);
                self.push(Op::Dropout { x: dout, dropout, out: dx });
                self.contribute(walk, x, dx);
            }
            // The classifier's own pass gives its gradients, and so does that of the squared error.
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
                let (dweight, accumulate) = self.parameter_gradient(walk, weight).unzip();
                let (dbias, again) = bias.and_then(|bias| self.parameter_gradient(walk, bias)).unzip();
                assert!(
                    bias.is_none() || again == accumulate,
                    "a layer norm's weight is alone, shared or frozen"
                );
                let accumulate = accumulate.unwrap_or(false);
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
        if let (Some((kind, before)), Some(&dout)) = (gelu, walk.grads.get(&out)) {
            let dx = self.like("d_gelu", before);
            self.push(Op::GeluBackward { x: before, kind, dout, dx });
            self.contribute(walk, before, dx);
        }
        let product = gelu.map_or(out, |(_, before)| before);
        let Some(&dout) = walk.grads.get(&product) else { return };
        if walk.wanted.contains(&x) {
            let gelu = walk.gelus.get(&x).copied();
            let (name, of) = gelu.map_or(("d_linear", x), |(_, before)| ("d_gelu", before));
            let dx = self.like(name, of);
            self.push(Op::LinearBackwardInput { dout, w, layout, gelu, dx });
            self.contribute(walk, of, dx);
        }
        let Some((dw, accumulate_w)) = self.parameter_gradient(walk, w) else {
            let bias = bias.and_then(|bias| self.parameter_gradient(walk, bias));
            assert!(bias.is_none(), "a bias is trained without its weights");
            return;
        };
        let (dbias, accumulate_bias) = bias.and_then(|bias| self.parameter_gradient(walk, bias)).unzip();
        let accumulate_bias = accumulate_bias.unwrap_or(false);
        self.push(Op::LinearBackwardWeight { dout, x, layout, dw, dbias, accumulate_w, accumulate_bias });
    }
}

/// Every GELU whose result is read once, and what it is applied to.
fn gelus(forward: &[Op]) -> HashMap<TensorId, (Gelu, TensorId)> {
    let mut readers: HashMap<TensorId, usize> = HashMap::new();
    for id in forward.iter().flat_map(|op| op.operands().reads) {
        *readers.entry(id).or_default() += 1;
    }
    let results = forward.iter().filter_map(|op| match *op {
        Op::Linear { gelu: Some(gelu), out, .. } => Some((out, gelu)),
        Op::Gelu { x, kind, out } => Some((out, (kind, x))),
        _ => None,
    });
    results.filter(|(out, _)| readers.get(out) == Some(&1)).collect()
}
