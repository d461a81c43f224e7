//! The matrix products of linear layers and the classifier, in the precision of the plan.

use super::bf16;
use super::gemm::{Product, Tile, parallel_product};
use super::memory::Shared;
use super::pool::Pool;
use crate::{Op, Plan, Precision};

/// Words for packed operands of a plan's products, beside its arena: none in float32.
pub(super) fn scratch_len(plan: &Plan, threads: usize) -> usize {
    if plan.precision() == Precision::Float32 {
        return 0;
    }
    let depth = |op: &Op| match *op {
        Op::Linear { x, .. } => plan.tensor(x).width(),
        Op::LinearBackwardInput { dout, .. } => plan.tensor(dout).width(),
        _ => 0,
    };
    let ops = plan.phases().flat_map(|(_, phase)| &phase.ops);
    // Products of other operators have float32 results, whose depth is cut.
    bf16::scratch_len(ops.map(depth).max().unwrap_or(0), threads)
}

/// A pool that multiplies.
pub(super) struct Products<'a> {
    pub(super) pool: &'a mut Pool,
    precision: Precision,
    /// [`scratch_len`] words.
    scratch: Shared<'a, u32>,
}

impl<'a> Products<'a> {
    pub(super) fn new(pool: &'a mut Pool, precision: Precision, scratch: &'a mut [u32]) -> Self {
        Products { pool, precision, scratch: Shared::of(scratch) }
    }

    pub(super) fn in_float32(&self) -> bool {
        self.precision == Precision::Float32
    }

    /// One product; `after` sees each tile on the thread that computes it.
    ///
    /// # Safety
    /// As [`parallel_product`].
    pub(super) unsafe fn run(&mut self, of: &Product, after: impl Fn(&Tile) + Sync) {
        // SAFETY: passed on to the caller; scratch is memory of the backend's own.
        unsafe {
            match self.precision {
                Precision::Float32 => parallel_product(self.pool, of, after),
                Precision::Bfloat16 => bf16::product(self.pool, of, self.scratch, after),
            }
        }
    }
}
