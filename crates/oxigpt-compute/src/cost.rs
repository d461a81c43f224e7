//! What an operator costs: floating-point operations, and bytes that must move at least once.
//!
//! Operations count a multiply and an add as two, for matrix products alone: everything else is bounded by its
//! bytes. Causal attention counts the half that is computed.

use std::iter::Sum;
use std::ops::Add;

use crate::{Op, Plan, TensorId};

/// Cost of an operator or a phase.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Floating-point operations in matrix products.
    pub flops: f64,
    /// Bytes read and written, each operand once.
    pub bytes: f64,
}

impl Add for Cost {
    type Output = Cost;

    fn add(self, other: Cost) -> Cost {
        Cost { flops: self.flops + other.flops, bytes: self.bytes + other.bytes }
    }
}

impl Sum for Cost {
    fn sum<I: Iterator<Item = Cost>>(iter: I) -> Cost {
        iter.fold(Cost::default(), Add::add)
    }
}

impl Op {
    /// Cost of one execution in `plan`.
    pub fn cost(&self, plan: &Plan) -> Cost {
        let operands = self.operands();
        let bytes = operands.reads.iter().chain(&operands.writes).map(|&t| plan.tensor(t).bytes() as f64);
        Cost { flops: self.flops(plan), bytes: bytes.sum() }
    }

    fn flops(&self, plan: &Plan) -> f64 {
        let len = |t: TensorId| plan.tensor(t).len() as f64;
        let rows = |t: TensorId| plan.tensor(t).rows() as f64;
        // Products of a T x T half with T x C, over a batch.
        let causal = |qkv: TensorId| {
            let shape = &plan.tensor(qkv).shape;
            let (batch, t, c) = (shape[0] as f64, shape[1] as f64, shape[2] as f64 / 3.0);
            batch * t * (t + 1.0) * c
        };
        match *self {
            Op::Linear { x, w, .. } => 2.0 * rows(x) * len(w),
            Op::LinearBackwardInput { dout, w, .. } => 2.0 * rows(dout) * len(w),
            Op::LinearBackwardWeight { x, dw, .. } => 2.0 * rows(x) * len(dw),
            Op::Attention { qkv, .. } => 2.0 * causal(qkv),
            Op::AttentionBackward { qkv, .. } => 5.0 * causal(qkv),
            Op::CachedAttention { qkv, k_cache, .. } => {
                4.0 * rows(qkv) * len(k_cache) / plan.tensor(k_cache).shape[0] as f64
            }
            Op::Classifier { x, w, grad, .. } => {
                let products = grad.map_or(1.0, |grad| if grad.dw.is_some() { 3.0 } else { 2.0 });
                2.0 * products * rows(x) * len(w)
            }
            _ => 0.0,
        }
    }
}
