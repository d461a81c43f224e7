//! Which attentions of a plan cuDNN does, what they take, and putting them on the stream.

use std::collections::HashMap;
use std::sync::Arc;

use super::descriptors::ALIGNMENT;
use super::graph::Operand;
use super::{Cudnn, CudnnLibrary, Graph, Plan, graphs, reads_beyond};
use crate::cuda::attention::Sizes;
use crate::cuda::driver::Gpu;
use crate::cuda::error::CudaError;
use crate::cuda::launch::Launcher;
use crate::cuda::layout::{Element, Layout};
use crate::{AttentionKind, Op, TensorId};

/// Widest head that cuDNN takes on every GPU, and what widths are multiples of.
const WIDEST: usize = 128;
const WIDTH_STEP: usize = 8;

/// What the adjoint may take as a workspace: it keeps the gradients of all scores of a part of the batch there.
const MOST_WORKSPACE_BYTES: usize = 256 << 20;

/// What a graph does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Work {
    Attention,
    Adjoint,
    /// With sums that have another order each time.
    AdjointInAnyOrder,
}

/// A graph to be made; its sizes are those of a part of the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Task {
    pub(super) sizes: Sizes,
    pub(super) work: Work,
}

impl Task {
    /// The graph of an operator, if it is one for cuDNN, and how many parts of the batch it does in turn.
    pub(super) fn of(
        plan: &crate::Plan,
        layout: &Layout,
        in_any_order: bool,
        op: &Op,
    ) -> Result<Option<(Task, usize)>, CudaError> {
        let adjoint = if in_any_order { Work::AdjointInAnyOrder } else { Work::Adjoint };
        let (qkv, heads, work) = match *op {
            Op::Attention { qkv, n_head, kind: AttentionKind::Softmax, dropout: None, .. } => {
                (qkv, n_head, Work::Attention)
            }
            Op::AttentionBackward { qkv, n_head, kind: AttentionKind::Softmax, dropout: None, .. } => {
                (qkv, n_head, adjoint)
            }
            _ => return Ok(None),
        };
        let sizes = Sizes::of(plan, qkv, heads);
        if layout.element(qkv) != Element::Bf16 || sizes.d > WIDEST || !sizes.d.is_multiple_of(WIDTH_STEP) {
            return Ok(None);
        }
        let too_large = || {
            let most = MOST_WORKSPACE_BYTES >> 20;
            let reason = format!("its workspace would be over {most} MiB for texts of {} tokens", sizes.t);
            CudaError::Refused { reason }
        };
        Task { sizes, work }.in_parts().map(Some).ok_or_else(too_large)
    }

    /// The same for as large a part of the batch as the workspace allows, and how many parts there are. Every part begins
    /// where the graph may expect it to.
    pub(super) fn in_parts(self) -> Option<(Task, usize)> {
        let Sizes { batch, .. } = self.sizes;
        let parts = (1..=batch).filter(|parts| batch.is_multiple_of(*parts));
        let of_parts = |parts| (Task { sizes: Sizes { batch: batch / parts, ..self.sizes }, ..self }, parts);
        parts.map(of_parts).find(|(task, parts)| {
            let is_aligned = offset(task.sizes, 1, Operand::Lse).is_multiple_of(ALIGNMENT);
            task.workspace_bytes() <= MOST_WORKSPACE_BYTES && (*parts == 1 || is_aligned)
        })
    }

    pub(super) fn graph(&self) -> Graph {
        match self.work {
            Work::Attention => graphs::forward(self.sizes),
            Work::Adjoint => graphs::backward(self.sizes, false),
            Work::AdjointInAnyOrder => graphs::backward(self.sizes, true),
        }
    }

    /// What cuDNN may take as a workspace. On Ampere and Hopper, an adjoint keeps a bfloat16 for each pair of its tiles, or, on
    /// Ampere, its sums once more.
    pub(super) fn workspace_bytes(&self) -> usize {
        let Sizes { batch, t, heads, .. } = self.sizes;
        let pairs = batch * heads * t.next_multiple_of(64) * t.next_multiple_of(128);
        256 + if self.work == Work::Adjoint { 2 * pairs } else { self.sums_bytes() }
    }

    /// Bytes of scratch memory for an adjoint's sums over rows, which come first.
    fn delta_bytes(&self) -> usize {
        let Sizes { batch, t, heads, .. } = self.sizes;
        if self.work == Work::Attention { 0 } else { (4 * batch * heads * t).next_multiple_of(256) }
    }

    /// Bytes of scratch memory for gradients before they are rounded, which come between those and the workspace.
    fn sums_bytes(&self) -> usize {
        let Sizes { batch, t, heads, d } = self.sizes;
        let elements = if self.work == Work::AdjointInAnyOrder { batch * heads * t * d } else { 0 };
        (4 * elements).next_multiple_of(256)
    }

    fn prepare(&self, cudnn: &Cudnn) -> Result<Plan, CudaError> {
        let refused = |reason| Err(CudaError::Refused { reason });
        let (major, _) = cudnn.gpu.info.capability;
        if self.work == Work::Adjoint && !(8..=9).contains(&major) {
            return refused(format!("the order of its sums is not known on compute capability {major}"));
        }
        let t = self.sizes.t;
        if self.work != Work::Attention && reads_beyond(cudnn.library.number, t) {
            let version = &cudnn.library.version;
            return refused(format!("{version} may read beyond texts of {t} tokens (9.15.1 does not)"));
        }
        let plan = cudnn.plan(&self.graph())?;
        if plan.workspace_bytes > self.workspace_bytes() {
            return refused(format!("it takes a workspace of {} bytes", plan.workspace_bytes));
        }
        Ok(plan)
    }
}

/// Bytes of scratch memory that the attentions of a plan take at most where cuDNN does them.
pub(in crate::cuda) fn scratch_bytes(plan: &crate::Plan, layout: &Layout, in_any_order: bool) -> usize {
    let ops = plan.phases().flat_map(|(_, phase)| &phase.ops);
    let tasks = ops.filter_map(|op| Some(Task::of(plan, layout, in_any_order, op).ok()??.0));
    tasks.map(|task| task.delta_bytes() + task.sums_bytes() + task.workspace_bytes()).max().unwrap_or(0)
}

/// The attentions of a plan that cuDNN does.
#[derive(Default)]
pub(in crate::cuda) struct Attentions {
    // Before the handle that they were made with, because fields are dropped in their order.
    plans: HashMap<Task, Plan>,
    cudnn: Option<Cudnn>,
    /// Whether sums may be taken so.
    in_any_order: bool,
    /// Whether there are others.
    leaves_some: bool,
    /// Why it does not do some that it might.
    refusal: Option<CudaError>,
}

impl Attentions {
    /// Those of a plan.
    pub(in crate::cuda) fn new(
        plan: &crate::Plan,
        layout: &Layout,
        in_any_order: bool,
        gpu: &Arc<Gpu>,
        library: &Arc<CudnnLibrary>,
    ) -> Attentions {
        let is_attention = |op: &&Op| matches!(op, Op::Attention { .. } | Op::AttentionBackward { .. });
        let ops = plan.phases().flat_map(|(_, phase)| &phase.ops).filter(is_attention);
        let tasks = ops.map(|op| Ok(Task::of(plan, layout, in_any_order, op)?.map(|(task, _)| task)));
        Attentions { in_any_order, ..Attentions::of(tasks, gpu, library) }
    }

    /// Those of a GPT-2 with one text in a batch.
    pub(in crate::cuda) fn of_gpt2(gpu: &Arc<Gpu>, library: &Arc<CudnnLibrary>) -> Attentions {
        let sizes = Sizes { batch: 1, t: 1024, heads: 12, d: 64 };
        let tasks = [Work::Attention, Work::Adjoint].map(|work| Ok(Some(Task { sizes, work })));
        Attentions::of(tasks.into_iter(), gpu, library)
    }

    /// `None` is an attention that is not for cuDNN.
    fn of(
        tasks: impl Iterator<Item = Result<Option<Task>, CudaError>>,
        gpu: &Arc<Gpu>,
        library: &Arc<CudnnLibrary>,
    ) -> Attentions {
        let mut attentions = Attentions::default();
        for task in tasks {
            let done = match task {
                Ok(Some(task)) if attentions.plans.contains_key(&task) => Ok(()),
                Ok(Some(task)) => attentions.prepare(task, gpu, library),
                Ok(None) => {
                    attentions.leaves_some = true;
                    Ok(())
                }
                Err(error) => Err(error),
            };
            if let Err(error) = done {
                attentions.leaves_some = true;
                attentions.refusal.get_or_insert(error);
            }
        }
        attentions
    }

    fn prepare(&mut self, task: Task, gpu: &Arc<Gpu>, library: &Arc<CudnnLibrary>) -> Result<(), CudaError> {
        if self.cudnn.is_none() {
            self.cudnn = Some(Cudnn::new(gpu.clone(), library.clone())?);
        }
        let plan = task.prepare(self.cudnn.as_ref().expect("made above"))?;
        self.plans.insert(task, plan);
        Ok(())
    }

    /// Who does attention, and why where cuDNN was asked and does not do all.
    pub(in crate::cuda) fn said(&self) -> String {
        const OWN: &str = "kernels of our own";
        let version = self.cudnn.as_ref().map_or("", |cudnn| &cudnn.library.version);
        let who = match (self.plans.is_empty(), self.leaves_some) {
            (true, _) => OWN.into(),
            (false, true) => format!("cuDNN {version} and {OWN}"),
            (false, false) => format!("cuDNN {version}"),
        };
        let has = |task: &Task| task.work == Work::AdjointInAnyOrder;
        let order = if self.plans.keys().any(has) { ", sums in any order" } else { "" };
        match &self.refusal {
            Some(refusal) => format!("{who}{order} ({refusal})"),
            None => format!("{who}{order}"),
        }
    }
}

/// Puts an attention on the stream, if it is one that cuDNN does.
pub(in crate::cuda) fn operator(launcher: &Launcher, op: &Op) -> Option<Result<(), CudaError>> {
    let prepared = launcher.prepared;
    let attentions = &prepared.attentions;
    let (task, parts) = Task::of(&prepared.plan, &prepared.layout, attentions.in_any_order, op).ok()??;
    let (plan, cudnn) = (attentions.plans.get(&task)?, attentions.cudnn.as_ref()?);
    let sums = prepared.scratch.at(task.delta_bytes());
    let workspace = prepared.scratch.at(task.delta_bytes() + task.sums_bytes());
    let parts = (0..parts).map(|part| {
        let address = |operand| match operand {
            Operand::Delta => prepared.scratch.at(0),
            Operand::DqSums => sums,
            _ => launcher.address(tensor(op, operand)) + offset(task.sizes, part, operand) as u64,
        };
        // SAFETY: tensors of the plan lie inside the arena, as their shapes say and the graph describes them; scratch
        // memory has room for all sums and the workspace after them.
        unsafe { cudnn.run(plan, address, workspace) }
    });
    Some(parts.collect())
}

/// The tensor of the plan that an operand lies in.
fn tensor(op: &Op, operand: Operand) -> TensorId {
    let (qkv, out, lse, adjoint) = match *op {
        Op::Attention { qkv, out, lse: Some(lse), .. } => (qkv, out, lse, None),
        Op::AttentionBackward { qkv, softmax: Some((out, lse)), dout, dqkv, .. } => {
            (qkv, out, lse, Some((dout, dqkv)))
        }
        _ => unreachable!("a softmax has sums"),
    };
    // Only an adjoint asks for these.
    let (dout, dqkv) = adjoint.unwrap_or((out, qkv));
    match operand {
        Operand::Q | Operand::K | Operand::V => qkv,
        Operand::Dq | Operand::Dk | Operand::Dv => dqkv,
        Operand::Out => out,
        Operand::Dout => dout,
        Operand::Lse => lse,
        Operand::Delta | Operand::DqSums => unreachable!("no tensor of a plan"),
    }
}

/// Bytes from the beginning of a tensor to an operand of a part of the batch.
pub(super) fn offset(Sizes { batch, t, heads, d }: Sizes, part: usize, operand: Operand) -> usize {
    let (first, row) = (part * batch * t, 2 * heads * d);
    match operand {
        Operand::Q | Operand::Dq => first * 3 * row,
        Operand::K | Operand::Dk => first * 3 * row + row,
        Operand::V | Operand::Dv => first * 3 * row + 2 * row,
        Operand::Out | Operand::Dout => first * row,
        Operand::Lse => first * 4 * heads,
        Operand::Delta | Operand::DqSums => 0,
    }
}
