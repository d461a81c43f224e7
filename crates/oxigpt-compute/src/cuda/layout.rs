//! Where the tensors of a plan lie on the device, and as what.
//!
//! Under [`Precision::Bfloat16`] what operators hand to each other is stored in bfloat16: half the bytes, and the type that
//! products read. Weights, their gradients and moments, statistics and losses stay float32; a weight that is an operand of
//! a product has a copy in bfloat16 beside it. A stored matrix lies in its storage alone.

pub(super) use super::element::Element;
use crate::arena::place;
use crate::{Dtype, Op, Plan, Precision, Storage, TensorId};

/// Every tensor begins at a multiple of this many bytes.
const ALIGNMENT: usize = 256;

/// Types and places of all tensors.
pub(super) struct Layout {
    elements: Vec<Element>,
    offsets: Vec<usize>,
    /// Where a weight's copy begins among the copies.
    copies: Vec<Option<usize>>,
    /// Bytes of all tensors.
    pub(super) arena_bytes: usize,
    /// Bytes of all copies.
    pub(super) copy_bytes: usize,
}

impl Layout {
    pub(super) fn of(plan: &Plan) -> Layout {
        let mut elements: Vec<_> = plan
            .tensors
            .iter()
            .map(|tensor| match tensor.dtype {
                Dtype::U32 => Element::U32,
                Dtype::Stored(Storage::Bfloat16) => Element::Bf16,
                Dtype::Stored(Storage::Int8) => Element::I8,
                Dtype::Real | Dtype::Bf16 | Dtype::Stored(Storage::Float32) => Element::F32,
            })
            .collect();
        let ops = || plan.phases.iter().flat_map(|phase| &phase.ops);
        let is_bf16 = plan.precision() == Precision::Bfloat16;
        for id in ops().flat_map(activations).filter(|_| is_bf16) {
            elements[id.index()] = Element::Bf16;
        }
        let mut copies = vec![None; elements.len()];
        let mut copy_bytes = 0;
        for id in ops().flat_map(weights).filter(|_| is_bf16) {
            let copy = &mut copies[id.index()];
            if copy.is_none() && elements[id.index()] == Element::F32 {
                *copy = Some(copy_bytes);
                copy_bytes += (2 * plan.tensor(id).len()).next_multiple_of(ALIGNMENT);
            }
        }
        let mut layout = Layout { elements, offsets: Vec::new(), copies, arena_bytes: 0, copy_bytes };
        let (offsets, arena_bytes) = place(&plan.tensors, &plan.phases, |id| layout.bytes(plan, id));
        (layout.offsets, layout.arena_bytes) = (offsets, arena_bytes);
        layout
    }

    /// Bytes of a tensor, up to where the next may begin.
    pub(super) fn bytes(&self, plan: &Plan, id: TensorId) -> usize {
        let tensor = plan.tensor(id);
        self.element(id).bytes_of(tensor.rows(), tensor.width()).next_multiple_of(ALIGNMENT)
    }

    /// How a tensor is stored.
    pub(super) fn element(&self, id: TensorId) -> Element {
        self.elements[id.index()]
    }

    /// Where it begins.
    pub(super) fn offset(&self, id: TensorId) -> usize {
        self.offsets[id.index()]
    }

    /// Where its copy in bfloat16 begins, if it has one.
    pub(super) fn copy(&self, id: TensorId) -> Option<usize> {
        self.copies[id.index()]
    }
}

/// The operands of an operator that kernels take as activations.
fn activations(op: &Op) -> Vec<TensorId> {
    match *op {
        Op::Embed { out, .. } => vec![out],
        Op::EmbedBackward { dout, .. } => vec![dout],
        Op::Add { a, b, out } => vec![a, b, out],
        Op::LayerNorm { x, residual, out, .. } => {
            [x, out].into_iter().chain(residual.into_iter().flat_map(|(delta, sum)| [delta, sum])).collect()
        }
        Op::LayerNormBackward { dout, addend, x, dx, .. } => {
            [dout, x, dx].into_iter().chain(addend).collect()
        }
        Op::Linear { x, gelu, out, .. } => {
            [x, out].into_iter().chain(gelu.map(|(_, before)| before)).collect()
        }
        Op::LinearBackwardInput { dout, gelu, dx, .. } => {
            [dout, dx].into_iter().chain(gelu.map(|(_, before)| before)).collect()
        }
        Op::LinearBackwardWeight { dout, x, .. } => vec![dout, x],
        Op::Scale { x, out, .. }
        | Op::Gelu { x, out, .. }
        | Op::Dropout { x, out, .. }
        | Op::SelectRow { x, out, .. } => vec![x, out],
        Op::GeluBackward { x, dout, dx, .. } => vec![x, dout, dx],
        Op::Attention { qkv, out, .. } => vec![qkv, out],
        Op::AttentionBackward { qkv, softmax, dout, dqkv, .. } => {
            [qkv, dout, dqkv].into_iter().chain(softmax.map(|(out, _)| out)).collect()
        }
        Op::CachedAttention { qkv, k_cache, v_cache, out, .. } => vec![qkv, k_cache, v_cache, out],
        Op::SquaredError { x, target, grad, .. } => {
            [x, target].into_iter().chain(grad.map(|g| g.dx)).collect()
        }
        Op::Classifier { x, logits, grad, .. } => [x, logits].into_iter().chain(grad.map(|g| g.dx)).collect(),
        Op::GradNorm { .. } | Op::AdamW { .. } => Vec::new(),
    }
}

/// The weights that an operator multiplies by or adds to a product.
fn weights(op: &Op) -> Vec<TensorId> {
    match *op {
        Op::Linear { w, bias, .. } => [w].into_iter().chain(bias).collect(),
        Op::LinearBackwardInput { w, .. } | Op::Classifier { w, .. } => vec![w],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Builder, LinearWeights};

    /// Half the bytes for what operators hand on, the whole for what is kept, and copies of what multiplies.
    #[test]
    fn bfloat16_halves_activations_alone() {
        let mut b = Builder::new();
        let (wte, wpe) = (b.parameter("wte", &[64, 256]), b.parameter("wpe", &[8, 256]));
        let (w, bias) = (b.parameter("w", &[256, 256]), b.parameter("b", &[256]));
        b.begin("train");
        let tokens = b.input_u32("tokens", &[4, 8], 50);
        let targets = b.input_u32("targets", &[4, 8], 50);
        let x = b.embed(tokens, None, wte, wpe);
        let y = b.linear(x, LinearWeights { w, bias: Some(bias) });
        let losses = b.classifier(y, wte, targets, 50);
        b.backward(&[(losses, 1.0)]);
        let plan = b.finish();
        let wide = Layout::of(&plan);
        let narrow = Layout::of(&plan.with_precision(Precision::Bfloat16));
        for id in [x, y] {
            assert_eq!((wide.element(id), narrow.element(id)), (Element::F32, Element::Bf16));
        }
        for id in [wte, wpe, w, bias, losses] {
            assert_eq!((wide.element(id), narrow.element(id)), (Element::F32, Element::F32));
        }
        assert_eq!(narrow.element(tokens), Element::U32);
        let has_copy: Vec<_> = [wte, wpe, w, bias].map(|id| narrow.copy(id).is_some()).into();
        assert_eq!(has_copy, [true, false, true, true]);
        assert_eq!(narrow.copy_bytes, 2 * (64 * 256 + 256 * 256 + 256));
        assert_eq!((wide.copy_bytes, wide.copy(w)), (0, None));
        assert!(narrow.arena_bytes < wide.arena_bytes);
    }
}
