//! The machine that a run computes on: its backend, and how fast it is.

use std::time::Instant;

use anyhow::Result;
use oxigpt_compute::cpu::{Cpu, CpuOptions};
use oxigpt_compute::{Backend, Builder, Cost, Data, LinearWeights, Op, PhaseId, Plan, Session, TensorId};

/// The backend of a run on `threads` threads; 0 = one per core.
pub(crate) fn backend(threads: usize) -> Result<Box<dyn Backend>> {
    let all = CpuOptions::all_cores();
    let options = if threads > 0 { CpuOptions { threads, ..all } } else { all };
    Ok(Box::new(Cpu::new(options)?))
}

/// What a machine can do at best.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Speed {
    /// Floating-point operations a second, in matrix products.
    pub(crate) flops: f64,
    /// Bytes of memory a second, read and written.
    pub(crate) bytes: f64,
}

/// Runs of a measurement, of which the fastest counts.
const RUNS: usize = 5;

impl Speed {
    /// Measures a large matrix product and a large sum; takes a fraction of a second.
    pub(crate) fn measure(threads: usize) -> Result<Speed> {
        let product = fastest(threads, |b| {
            let x = b.input("x", &[1, 1024, 1024]);
            let w = b.parameter("w", &[1024, 1024]);
            vec![x, w, b.linear(x, LinearWeights { w, bias: None })]
        })?;
        // Too large for any cache.
        let sum = fastest(threads, |b| {
            let (x, y) = (b.input("x", &[1, 2048, 4096]), b.input("y", &[1, 2048, 4096]));
            vec![x, y, b.add(x, y)]
        })?;
        Ok(Speed { flops: product.0.flops / product.1, bytes: sum.0.bytes / sum.1 })
    }

    /// The seconds that a phase takes where every operator runs at the machine's limit.
    pub(crate) fn seconds(&self, plan: &Plan, phase: PhaseId) -> f64 {
        let seconds = |op: &Op| {
            let cost = op.cost(plan);
            (cost.flops / self.flops).max(cost.bytes / self.bytes)
        };
        plan.phase(phase).ops.iter().map(seconds).sum()
    }
}

/// What one operator costs, and its seconds at best; `declare` gives its operands and then its result.
fn fastest(threads: usize, declare: impl Fn(&mut Builder) -> Vec<TensorId>) -> Result<(Cost, f64)> {
    let mut b = Builder::new();
    let phase = b.begin("measurement");
    let mut operands = declare(&mut b);
    operands.pop().into_iter().for_each(|result| b.mark_output(result));
    let mut session = Session::new(b.finish(), backend(threads)?)?;
    // Memory that was never written is not really there, and reads faster.
    for operand in operands {
        let ones = vec![1.0; session.plan().tensor(operand).len()];
        session.upload(operand, Data::F32(&ones))?;
    }
    let mut seconds = || {
        let start = Instant::now();
        session.run(phase);
        start.elapsed().as_secs_f64()
    };
    let best = (0..RUNS).map(|_| seconds()).fold(f64::INFINITY, f64::min);
    Ok((session.plan().cost(phase), best))
}
