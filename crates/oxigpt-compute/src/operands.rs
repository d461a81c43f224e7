//! What the operators read and write, and which of it may be stored rounded: two tables, from which liveness, costs,
//! recomputation and checks follow.

use crate::{Op, TensorId};

/// The tensors that an operator touches.
#[derive(Clone, Debug, Default)]
pub struct Operands<T = TensorId> {
    /// Read.
    pub reads: Vec<T>,
    /// Written (accumulated ones too).
    pub writes: Vec<T>,
}

impl Op {
    /// The tensors it reads and writes, in a fixed order.
    pub fn operands(&self) -> Operands {
        let mut op = self.clone();
        let Operands { reads, writes } = op.operands_mut();
        Operands {
            reads: reads.into_iter().map(|id| *id).collect(),
            writes: writes.into_iter().map(|id| *id).collect(),
        }
    }

    /// The same, to exchange them for others. The only place that lists them.
    pub(crate) fn operands_mut(&mut self) -> Operands<&mut TensorId> {
        let (reads, writes) = match self {
            Op::Embed { tokens, positions, wte, wpe, out } => {
                (vec![Some(tokens), positions.as_mut(), Some(wte), Some(wpe)], vec![Some(out)])
            }
            Op::EmbedBackward { tokens, dout, dwte, dwpe, .. } => {
                (vec![Some(tokens), Some(dout)], vec![Some(dwte), Some(dwpe)])
            }
            Op::Add { a, b, out } => (vec![Some(a), Some(b)], vec![Some(out)]),
            Op::Scale { x, out, .. } | Op::Gelu { x, out, .. } => (vec![Some(x)], vec![Some(out)]),
            Op::LayerNorm { x, residual, weight, bias, out, mean, rstd } => {
                let (delta, sum) = residual.as_mut().map(|(delta, sum)| (delta, sum)).unzip();
                (
                    vec![Some(x), delta, Some(weight), bias.as_mut()],
                    vec![sum, Some(out), Some(mean), Some(rstd)],
                )
            }
            Op::LayerNormBackward { dout, addend, x, weight, mean, rstd, dx, dweight, dbias, .. } => (
                vec![Some(dout), addend.as_mut(), Some(x), Some(weight), Some(mean), Some(rstd)],
                vec![Some(dx), dweight.as_mut(), dbias.as_mut()],
            ),
            Op::Linear { x, w, bias, gelu, out, .. } => (
                vec![Some(x), Some(w), bias.as_mut()],
                vec![gelu.as_mut().map(|(_, before)| before), Some(out)],
            ),
            Op::LinearBackwardInput { dout, w, gelu, dx, .. } => {
                (vec![Some(dout), Some(w), gelu.as_mut().map(|(_, before)| before)], vec![Some(dx)])
            }
            Op::LinearBackwardWeight { dout, x, dw, dbias, .. } => {
                (vec![Some(dout), Some(x)], vec![Some(dw), dbias.as_mut()])
            }
            Op::GeluBackward { x, dout, dx, .. } => (vec![Some(x), Some(dout)], vec![Some(dx)]),
            Op::Attention { qkv, dropout, out, lse, range, .. } => {
                let rng = dropout.as_mut().map(|dropout| &mut dropout.rng);
                (vec![Some(qkv), rng], vec![Some(out), lse.as_mut(), range.as_mut()])
            }
            Op::AttentionBackward { qkv, softmax, dout, dropout, dqkv, .. } => {
                let (out, lse) = softmax.as_mut().map(|(out, lse)| (out, lse)).unzip();
                let rng = dropout.as_mut().map(|dropout| &mut dropout.rng);
                (vec![Some(qkv), out, lse, Some(dout), rng], vec![Some(dqkv)])
            }
            Op::CachedAttention { qkv, k_cache, v_cache, places, lengths, out, .. } => (
                vec![Some(qkv), Some(&mut places.texts), Some(&mut places.positions), lengths.as_mut()],
                vec![Some(k_cache), Some(v_cache), Some(out)],
            ),
            Op::Dropout { x, dropout, out } => (vec![Some(x), Some(&mut dropout.rng)], vec![Some(out)]),
            Op::Classifier { x, w, targets, logits, losses, grad, .. } => {
                let (dx, dw) = grad.as_mut().map(|grad| (&mut grad.dx, grad.dw.as_mut())).unzip();
                (vec![Some(x), Some(w), Some(targets)], vec![Some(logits), Some(losses), dx, dw.flatten()])
            }
            Op::SquaredError { x, target, losses, grad } => {
                let dx = grad.as_mut().map(|grad| &mut grad.dx);
                (vec![Some(x), Some(target)], vec![Some(losses), dx])
            }
            Op::SelectRow { x, row, out } => (vec![Some(x), Some(row)], vec![Some(out)]),
            Op::GradNorm { gradients, norm } => (gradients.iter_mut().map(Some).collect(), vec![Some(norm)]),
            Op::AdamW { slots, norm, schedule, .. } => {
                let (mut reads, mut writes) = (Vec::new(), Vec::new());
                for slot in slots {
                    reads.push(Some(&mut slot.gradient));
                    writes.extend([&mut slot.parameter, &mut slot.m, &mut slot.v].map(Some));
                }
                reads.extend([norm, schedule].map(Some));
                (reads, writes)
            }
        };
        Operands {
            reads: reads.into_iter().flatten().collect(),
            writes: writes.into_iter().flatten().collect(),
        }
    }

    /// Operands that may be stored as [`Dtype::Bf16`](crate::Dtype::Bf16), in groups that must be of one type: operands and
    /// results of products, and what elementwise operators make of these. All others are float32.
    pub fn roundable(&self) -> Vec<Vec<TensorId>> {
        match *self {
            Op::LayerNorm { residual, out, .. } => {
                residual.iter().map(|r| vec![r.0]).chain([vec![out]]).collect()
            }
            Op::LayerNormBackward { dout, .. } => vec![vec![dout]],
            Op::Linear { x, gelu, out, .. } => vec![vec![x], gelu.iter().map(|g| g.1).chain([out]).collect()],
            Op::LinearBackwardInput { dout, gelu, dx, .. } => {
                vec![vec![dout], gelu.iter().map(|g| g.1).chain([dx]).collect()]
            }
            Op::LinearBackwardWeight { dout, x, .. } => vec![vec![dout], vec![x]],
            Op::Gelu { x, out, .. } | Op::Dropout { x, out, .. } => vec![vec![x, out]],
            Op::GeluBackward { x, dout, dx, .. } => vec![vec![x, dout, dx]],
            Op::Attention { qkv, out, .. } => vec![vec![qkv], vec![out]],
            Op::AttentionBackward { qkv, softmax, dout, dqkv, .. } => {
                [Some(qkv), softmax.map(|s| s.0), Some(dout), Some(dqkv)]
                    .iter()
                    .flatten()
                    .map(|&x| vec![x])
                    .collect()
            }
            Op::Classifier { x, .. } => vec![vec![x]],
            _ => Vec::new(),
        }
    }
}
