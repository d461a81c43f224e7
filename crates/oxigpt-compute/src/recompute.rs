//! Recomputation: what the adjoints read of the forward pass is made again just before, instead of being kept till then.
//!
//! This rewrites the list of a phase after [`Builder::backward`]. Where an adjoint reads what is not kept, the operator that
//! made it is repeated, on the same operands, into a tensor of its own; liveness then frees the first one. All results
//! have the same bits, because the operators are the same: dropout draws its mask from the same counters.

use std::collections::HashMap;

use crate::{Builder, Op, Operands, TensorId};

/// What of the forward pass is made again in the backward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recompute {
    /// Nothing.
    #[default]
    None,
    /// Results of GELU and of layer norms: one pass over what they are made of, which is kept anyway.
    Gelu,
    /// All but what [`Builder::keep`] names, up to the last of these: what is made after it is read at once.
    Block,
}

impl Builder {
    /// Names a tensor that is kept for the backward pass, and that others are made from again: the input of a block.
    pub fn keep(&mut self, id: TensorId) {
        self.kept.insert(id);
    }

    /// Has the adjoints of this phase, which [`Builder::backward`] has appended, make again what they read.
    pub fn recompute(&mut self, recompute: Recompute) {
        let ops = &mut self.phases.last_mut().expect("a phase has begun").ops;
        let adjoints = ops.split_off(self.adjoints_from);
        let forward = ops.clone();
        let mut again = Again { makers: self.not_kept(&forward, recompute), copies: HashMap::new() };
        for mut op in adjoints {
            for id in op.operands_mut().reads {
                *id = again.tensor(self, *id);
            }
            self.push(op);
        }
    }

    /// What is to be made again, and by which operator.
    fn not_kept<'a>(&self, forward: &'a [Op], recompute: Recompute) -> HashMap<TensorId, &'a Op> {
        let gives_losses = |op: &Op| matches!(op, Op::Classifier { .. } | Op::SquaredError { .. });
        let results = |op: &'a Op| op.operands().writes.into_iter().map(move |id| (id, op));
        let makers: HashMap<TensorId, &Op> = match recompute {
            Recompute::None => HashMap::new(),
            Recompute::Gelu => forward.iter().filter_map(light_result).collect(),
            Recompute::Block => {
                let is_kept = |op: &Op| op.operands().writes.iter().any(|id| self.kept.contains(id));
                let end = forward.iter().rposition(is_kept).unwrap_or(0);
                forward[..end].iter().filter(|op| !gives_losses(op)).flat_map(results).collect()
            }
        };
        let is_transient = |id: TensorId| self.tensors[id.index()].role.is_transient();
        makers.into_iter().filter(|(id, _)| is_transient(*id) && !self.kept.contains(id)).collect()
    }
}

/// The result of an operator that takes little time beside a product.
fn light_result(op: &Op) -> Option<(TensorId, &Op)> {
    match op {
        Op::Linear { gelu: Some(_), out, .. } | Op::Gelu { out, .. } | Op::LayerNorm { out, .. } => {
            Some((*out, op))
        }
        _ => None,
    }
}

/// The forward pass, as far as it is repeated.
struct Again<'a> {
    /// What is not kept, by the operator that makes it.
    makers: HashMap<TensorId, &'a Op>,
    /// What has been made again, and where.
    copies: HashMap<TensorId, TensorId>,
}

impl Again<'_> {
    /// The tensor that has the value of `id`, when all operators so far have run.
    fn tensor(&mut self, b: &mut Builder, id: TensorId) -> TensorId {
        let Some(&maker) = self.makers.get(&id) else { return id };
        if let Some(&copy) = self.copies.get(&id) {
            return copy;
        }
        let mut op = self.repeated(maker);
        let Operands { reads, writes } = op.operands_mut();
        for read in reads {
            *read = self.tensor(b, *read);
        }
        for write in writes {
            let name = b.tensors[write.index()].name.clone();
            let copy = b.like(&name, *write);
            self.copies.insert(*write, copy);
            *write = copy;
        }
        b.push(op);
        self.copies[&id]
    }

    /// An operator once more, without the half of it whose result is there.
    fn repeated(&self, op: &Op) -> Op {
        let is_there = |id: TensorId| !self.makers.contains_key(&id) || self.copies.contains_key(&id);
        let mut op = op.clone();
        match &mut op {
            Op::LayerNorm { x, residual, .. } => {
                if let Some((_, sum)) = residual.take_if(|(_, sum)| is_there(*sum)) {
                    *x = sum;
                }
            }
            Op::Linear { gelu: Some((kind, before)), out, .. } if is_there(*before) => {
                return Op::Gelu { x: *before, kind: *kind, out: *out };
            }
            // It has been written, and whoever reads it asks for one.
            Op::Attention { range, .. } => *range = None,
            _ => {}
        }
        op
    }
}
