//! What a plan rounds: the operands of its products, and the tensors that it therefore stores rounded.

use std::collections::HashSet;

use crate::{Dtype, Op, Phase, Tensor, TensorId};

/// What the operands of matrix products in linear layers and the classifier are rounded to, and activations that are read
/// by no others ([`Op::roundable`](crate::Op::roundable)) as they are stored. Sums, the residual stream, norms, softmax,
/// losses, weights, gradients and moments stay in the precision of the backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// Not at all.
    #[default]
    Float32,
    /// To the nearest bfloat16 (8 bits of significand), ties to even.
    Bfloat16,
}

impl Precision {
    /// What an operand becomes.
    pub fn round(self, x: f32) -> f32 {
        match self {
            Precision::Float32 => x,
            Precision::Bfloat16 => f32::from_bits(crate::bfloat16::rounded(x) & 0xffff_0000),
        }
    }

    /// Chooses between [`Dtype::Real`] and [`Dtype::Bf16`] for every tensor that lives within a phase: the latter where
    /// all operators that touch it, and all that must be of its type, can do with it.
    pub(crate) fn choose_types(self, tensors: &mut [Tensor], phases: &[Phase]) {
        for tensor in tensors.iter_mut().filter(|tensor| tensor.dtype == Dtype::Bf16) {
            tensor.dtype = Dtype::Real;
        }
        if self == Precision::Bfloat16 {
            for id in roundable(tensors, phases) {
                tensors[id.index()].dtype = Dtype::Bf16;
            }
        }
    }
}

fn roundable(tensors: &[Tensor], phases: &[Phase]) -> HashSet<TensorId> {
    let transient = |id: TensorId| tensors[id.index()].role.is_transient();
    let ops = || phases.iter().flat_map(|phase| &phase.ops);
    // Products with stored matrices pack activations in ways of their own.
    let groups_of = |op: &Op| {
        let stored = op.operands().reads.iter().any(|id| tensors[id.index()].storage().is_some());
        if stored { Vec::new() } else { op.roundable() }
    };
    let groups: Vec<Vec<TensorId>> = ops().flat_map(groups_of).collect();
    let mut rounded: HashSet<TensorId> =
        groups.iter().flatten().copied().filter(|&id| transient(id)).collect();
    for op in ops() {
        let can: HashSet<TensorId> = groups_of(op).into_iter().flatten().collect();
        let operands = op.operands();
        for id in operands.reads.iter().chain(&operands.writes).filter(|id| !can.contains(id)) {
            rounded.remove(id);
        }
    }
    // One tensor of a group that cannot be rounded keeps back the others, and they those of their other groups.
    loop {
        let before = rounded.len();
        for group in &groups {
            if group.iter().any(|id| !rounded.contains(id)) {
                rounded.retain(|id| !group.contains(id));
            }
        }
        if rounded.len() == before {
            return rounded;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Builder, Gelu, LinearWeights, NormWeights, Plan, Role};

    fn dtype(plan: &Plan, name: &str) -> Vec<Dtype> {
        plan.tensors().filter(|(_, t)| t.name == name).map(|(_, t)| t.dtype).collect()
    }

    /// `y = x + gelu(norm(x) w1) w2`, and the classifier of its norm.
    fn block(read_elsewhere: bool) -> Plan {
        let mut b = Builder::new();
        let wte = b.parameter("wte", &[64, 8]);
        let norm = NormWeights { weight: b.parameter("ln", &[8]), bias: None };
        let [up, down] = [("up", [8, 16]), ("down", [16, 8])]
            .map(|(name, shape)| LinearWeights { w: b.parameter(name, &shape), bias: None });
        b.begin("train");
        let x = b.input("x", &[3, 8]);
        let targets = b.input_u32("targets", &[3], 64);
        let normed = b.layer_norm(x, norm);
        let wide = b.linear(normed, up);
        let active = b.gelu(wide, Gelu::Tanh);
        let y = b.linear(active, down);
        let sum = b.add(x, y);
        let sum = if read_elsewhere { b.add(normed, sum) } else { sum };
        let out = b.layer_norm(sum, norm);
        let losses = b.classifier(out, wte, targets, 64);
        b.backward(&[(losses, 1.0)]);
        b.finish().with_precision(Precision::Bfloat16)
    }

    #[test]
    fn what_only_products_read_is_stored_rounded() {
        let plan = block(false);
        for name in ["layer_norm", "linear", "gelu", "d_gelu", "d_linear"] {
            assert!(dtype(&plan, name).iter().all(|&d| d == Dtype::Bf16), "{name}");
        }
        for name in ["x", "add", "mean", "rstd", "d_layer_norm", "d_classifier", "logits", "losses", "up"] {
            assert!(dtype(&plan, name).iter().all(|&d| d == Dtype::Real), "{name}");
        }
        let float32 = plan.clone().with_precision(Precision::Float32);
        assert!(float32.tensors().all(|(_, t)| t.dtype != Dtype::Bf16));
        assert!(plan.memory_by_role()[&Role::Activation] < float32.memory_by_role()[&Role::Activation]);
    }

    #[test]
    fn what_a_sum_reads_is_not() {
        assert_eq!(dtype(&block(true), "layer_norm"), [Dtype::Real, Dtype::Bf16]);
    }

    /// Every operator gets its groups whole.
    #[test]
    fn groups_have_one_type() {
        for plan in [block(false), block(true)] {
            let ops = plan.phases().flat_map(|(_, phase)| &phase.ops);
            for group in ops.flat_map(Op::roundable) {
                let dtypes: HashSet<bool> =
                    group.iter().map(|&id| plan.tensor(id).dtype == Dtype::Bf16).collect();
                assert_eq!(dtypes.len(), 1);
            }
        }
    }
}
