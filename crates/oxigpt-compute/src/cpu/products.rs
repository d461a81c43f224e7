//! The matrix products of linear layers and the classifier, in the precision of the plan.

use super::bf16::{self, Packed, TALL, WIDE, pack, packed_len};
use super::gemm::{Matrix, Product, Tile, parallel_product};
use super::memory::Shared;
use super::pool::Pool;
use super::stored;
use crate::{Op, Plan, Precision, WeightLayout};

/// Pairs of packed operands: of one product, and of the classifier's words, which many products share.
#[derive(Default)]
struct Lens {
    left: usize,
    right: usize,
    words: [usize; 2],
}

impl Lens {
    /// What the operators of a plan need at most; nothing in float32.
    fn of_plan(plan: &Plan) -> Lens {
        let mut lens = Lens::default();
        if plan.precision() == Precision::Bfloat16 {
            plan.phases().flat_map(|(_, phase)| &phase.ops).for_each(|op| lens.reserve(plan, op));
        }
        lens
    }

    fn reserve(&mut self, plan: &Plan, op: &Op) {
        let size = |id| (plan.tensor(id).rows(), plan.tensor(id).width());
        let grow = |len: &mut usize, lanes, depth, width| *len = (*len).max(packed_len(lanes, depth, width));
        let mut product = |rows, cols, depth| {
            grow(&mut self.left, rows, depth, TALL);
            grow(&mut self.right, cols, depth, WIDE);
        };
        match *op {
            // Stored matrices lie as their products need them.
            Op::Linear { w, .. } | Op::Classifier { w, .. } if plan.tensor(w).storage().is_some() => {}
            Op::Linear { x, out, .. } => product(size(x).0, size(out).1, size(x).1),
            Op::LinearBackwardInput { dout, dx, .. } => product(size(dx).0, size(dx).1, size(dout).1),
            Op::LinearBackwardWeight { dout, x, layout, .. } => match layout {
                WeightLayout::InOut => product(size(x).1, size(dout).1, size(x).0),
                WeightLayout::OutIn => product(size(dout).1, size(x).1, size(x).0),
            },
            Op::Classifier { w, logits, .. } => {
                let ((words, c), (rows, _)) = (size(w), size(logits));
                product(words, c, rows);
                grow(&mut self.left, rows, c.max(words), TALL);
                grow(&mut self.words[0], words, c, WIDE);
                grow(&mut self.words[1], c, words, WIDE);
            }
            _ => {}
        }
    }

    fn bytes(&self) -> usize {
        4 * (self.left + self.right + self.words.iter().sum::<usize>())
    }
}

/// Bytes that the backend takes for packed operands of a plan's products, beside its arena.
pub fn packed_bytes(plan: &Plan) -> usize {
    Lens::of_plan(plan).bytes() + 4 * stored::scratch_len(plan)
}

/// Memory for packed operands.
pub(super) struct Packs {
    left: Vec<u32>,
    right: Vec<u32>,
    words: [Vec<u32>; 2],
}

impl Packs {
    /// For every product of a plan; `None` in float32.
    pub(super) fn for_plan(plan: &Plan) -> Option<Packs> {
        let Lens { left, right, words } = Lens::of_plan(plan);
        let packs =
            || Packs { left: vec![0; left], right: vec![0; right], words: words.map(|len| vec![0; len]) };
        (plan.precision() == Precision::Bfloat16).then(packs)
    }

    pub(super) fn bytes(&self) -> usize {
        let lens = [&self.left, &self.right, &self.words[0], &self.words[1]].map(Vec::len);
        4 * lens.iter().sum::<usize>()
    }
}

/// A pool that multiplies.
pub(super) struct Products<'a> {
    pub(super) pool: &'a mut Pool,
    packs: Option<&'a mut Packs>,
}

/// Which of the classifier's two right operands.
#[derive(Clone, Copy)]
pub(super) enum Words {
    Forward,
    Backward,
}

impl<'a> Products<'a> {
    pub(super) fn new(pool: &'a mut Pool, packs: Option<&'a mut Packs>) -> Self {
        Products { pool, packs }
    }

    pub(super) fn in_float32(&self) -> bool {
        self.packs.is_none()
    }

    /// `c = a b` (or `+=`); `before` and `after` see each tile on the thread that computes it.
    ///
    /// # Safety
    /// As [`parallel_product`].
    pub(super) unsafe fn run(
        &mut self,
        of: &Product,
        before: impl Fn(&Tile) + Sync,
        after: impl Fn(&Tile) + Sync,
    ) {
        // SAFETY: passed on to the caller; packed operands are memory of this plan's own.
        unsafe {
            let Some(packs) = &mut self.packs else {
                return parallel_product(self.pool, of, before, after);
            };
            let right = pack(self.pool, of.b.t(), WIDE, Shared::of(&mut packs.right));
            let left = pack(self.pool, of.a, TALL, Shared::of(&mut packs.left));
            bf16::packed_product(self.pool, (of.c, of.accumulate), (left, right), before, after);
        }
    }

    /// Packs a right operand that [`Products::run_with`] then takes again and again.
    ///
    /// # Safety
    /// Nobody writes to `b` during the call.
    pub(super) unsafe fn keep(&mut self, b: Matrix, as_words: Words) {
        if let Some(packs) = &mut self.packs {
            // SAFETY: passed on to the caller.
            unsafe { pack(self.pool, b.t(), WIDE, Shared::of(&mut packs.words[as_words as usize])) };
        }
    }

    /// [`Products::run`] with a right operand that has been kept.
    ///
    /// # Safety
    /// As [`parallel_product`]; `of.b` has not been written to since it was kept.
    pub(super) unsafe fn run_with(&mut self, of: &Product, words: Words) {
        // SAFETY: passed on to the caller.
        unsafe {
            let Some(packs) = &mut self.packs else {
                return parallel_product(self.pool, of, |_| {}, |_| {});
            };
            let right = Packed::kept(of.b.t(), WIDE, Shared::of(&mut packs.words[words as usize]));
            let left = pack(self.pool, of.a, TALL, Shared::of(&mut packs.left));
            bf16::packed_product(self.pool, (of.c, of.accumulate), (left, right), |_| {}, |_| {});
        }
    }
}
