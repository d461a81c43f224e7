//! Which attentions of a plan cuDNN does, what they take, and putting them on the stream.

use std::collections::HashMap;
use std::sync::Arc;

use super::descriptors::ALIGNMENT;
use super::graph::Operand;
use super::{Cudnn, CudnnLibrary, Graph, Plan, graphs};
use crate::cuda::attention::Sizes;
use crate::cuda::driver::Gpu;
use crate::cuda::error::CudaError;
use crate::cuda::launch::Launcher;
use crate::cuda::layout::{Element, Layout};
use crate::{AttentionKind, Op};

/// Widest head that cuDNN takes on every GPU, and what widths are multiples of.
const WIDEST: usize = 128;
const WIDTH_STEP: usize = 8;

/// What the adjoint may take as a workspace: it keeps the gradients of all scores of a part of the batch there.
const MOST_WORKSPACE_BYTES: usize = 256 << 20;

/// What a graph does: an attention or its adjoint, of sizes that are those of a part of the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Task {
    pub(super) sizes: Sizes,
    pub(super) is_adjoint: bool,
}

impl Task {
    /// The graph of an operator, if cuDNN may have one, and how many parts of the batch it does in turn.
    fn of(plan: &crate::Plan, layout: &Layout, op: &Op) -> Option<(Task, usize)> {
        let (qkv, heads, is_adjoint) = match *op {
            Op::Attention { qkv, n_head, kind: AttentionKind::Softmax, dropout: None, .. } => {
                (qkv, n_head, false)
            }
            Op::AttentionBackward { qkv, n_head, kind: AttentionKind::Softmax, dropout: None, .. } => {
                (qkv, n_head, true)
            }
            _ => return None,
        };
        let sizes = Sizes::of(plan, qkv, heads);
        if layout.element(qkv) != Element::Bf16 || sizes.d > WIDEST || !sizes.d.is_multiple_of(WIDTH_STEP) {
            return None;
        }
        Task { sizes, is_adjoint }.in_parts()
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
        if self.is_adjoint { graphs::backward(self.sizes) } else { graphs::forward(self.sizes) }
    }

    /// What cuDNN may take as a workspace. On Ampere and Hopper, an adjoint keeps a bfloat16 for each pair of its tiles.
    pub(super) fn workspace_bytes(&self) -> usize {
        let Sizes { batch, t, heads, .. } = self.sizes;
        let pairs = batch * heads * t.next_multiple_of(64) * t.next_multiple_of(128);
        256 + if self.is_adjoint { 2 * pairs } else { 0 }
    }

    /// Bytes of scratch memory before the workspace: those of an adjoint's sums over rows.
    fn delta_bytes(&self) -> usize {
        let Sizes { batch, t, heads, .. } = self.sizes;
        if self.is_adjoint { (4 * batch * heads * t).next_multiple_of(256) } else { 0 }
    }

    fn prepare(&self, cudnn: &Cudnn) -> Result<Plan, CudaError> {
        let refused = |reason| Err(CudaError::Refused { reason });
        let (major, _) = cudnn.gpu.info.capability;
        if self.is_adjoint && !(8..=9).contains(&major) {
            return refused(format!("the order of its sums is not known on compute capability {major}"));
        }
        let plan = cudnn.plan(&self.graph())?;
        if plan.workspace_bytes > self.workspace_bytes() {
            return refused(format!("it takes a workspace of {} bytes", plan.workspace_bytes));
        }
        Ok(plan)
    }
}

fn tasks<'a>(plan: &'a crate::Plan, layout: &'a Layout) -> impl Iterator<Item = Task> + 'a {
    let ops = plan.phases().flat_map(|(_, phase)| &phase.ops);
    ops.filter_map(|op| Some(Task::of(plan, layout, op)?.0))
}

/// Bytes of scratch memory that the attentions of a plan take at most where cuDNN does them.
pub(in crate::cuda) fn scratch_bytes(plan: &crate::Plan, layout: &Layout) -> usize {
    tasks(plan, layout).map(|task| task.delta_bytes() + task.workspace_bytes()).max().unwrap_or(0)
}

/// The attentions of a plan that cuDNN does.
#[derive(Default)]
pub(in crate::cuda) struct Attentions {
    // Before the handle that they were made with, because fields are dropped in their order.
    plans: HashMap<Task, Plan>,
    cudnn: Option<Cudnn>,
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
        gpu: &Arc<Gpu>,
        library: &Arc<CudnnLibrary>,
    ) -> Attentions {
        let is_attention = |op: &&Op| matches!(op, Op::Attention { .. } | Op::AttentionBackward { .. });
        let ops = plan.phases().flat_map(|(_, phase)| &phase.ops).filter(is_attention);
        Attentions::of(ops.map(|op| Task::of(plan, layout, op).map(|(task, _)| task)), gpu, library)
    }

    /// Those of a GPT-2 with one text in a batch.
    pub(in crate::cuda) fn of_gpt2(gpu: &Arc<Gpu>, library: &Arc<CudnnLibrary>) -> Attentions {
        let sizes = Sizes { batch: 1, t: 1024, heads: 12, d: 64 };
        let tasks = [false, true].map(|is_adjoint| Some(Task { sizes, is_adjoint }));
        Attentions::of(tasks.into_iter(), gpu, library)
    }

    /// `None` is an attention that is not for cuDNN.
    fn of(
        tasks: impl Iterator<Item = Option<Task>>,
        gpu: &Arc<Gpu>,
        library: &Arc<CudnnLibrary>,
    ) -> Attentions {
        let mut attentions = Attentions::default();
        for task in tasks {
            let Some(task) = task else {
                attentions.leaves_some = true;
                continue;
            };
            if attentions.plans.contains_key(&task) {
                continue;
            }
            if let Err(error) = attentions.prepare(task, gpu, library) {
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
        match &self.refusal {
            Some(refusal) => format!("{who} ({refusal})"),
            None => who,
        }
    }
}

/// Puts an attention on the stream, if it is one that cuDNN does.
pub(in crate::cuda) fn operator(launcher: &Launcher, op: &Op) -> Option<Result<(), CudaError>> {
    let prepared = launcher.prepared;
    let (task, parts) = Task::of(&prepared.plan, &prepared.layout, op)?;
    let plan = prepared.attentions.plans.get(&task)?;
    let cudnn = prepared.attentions.cudnn.as_ref()?;
    let parts = (0..parts).map(|part| {
        let workspace = prepared.scratch.at(task.delta_bytes());
        // SAFETY: tensors of the plan lie inside the arena, as their shapes say and the graph describes them; scratch
        // memory has room for the sums over rows and the workspace after them.
        unsafe { cudnn.run(plan, |operand| address(launcher, op, task.sizes, part, operand), workspace) }
    });
    Some(parts.collect())
}

/// Where an operand of a part of the batch begins.
fn address(launcher: &Launcher, op: &Op, sizes: Sizes, part: usize, operand: Operand) -> u64 {
    let (qkv, out, lse, adjoint) = match *op {
        Op::Attention { qkv, out, lse: Some(lse), .. } => (qkv, out, lse, None),
        Op::AttentionBackward { qkv, softmax: Some((out, lse)), dout, dqkv, .. } => {
            (qkv, out, lse, Some((dout, dqkv)))
        }
        _ => unreachable!("a softmax has sums"),
    };
    // Only an adjoint asks for these.
    let (dout, dqkv) = adjoint.unwrap_or((out, qkv));
    let tensor = match operand {
        Operand::Q | Operand::K | Operand::V => qkv,
        Operand::Dq | Operand::Dk | Operand::Dv => dqkv,
        Operand::Out => out,
        Operand::Dout => dout,
        Operand::Lse => lse,
        Operand::Delta => return launcher.prepared.scratch.at(0),
    };
    launcher.address(tensor) + offset(sizes, part, operand) as u64
}

/// Bytes from the beginning of a tensor to an operand of a part of the batch.
pub(super) fn offset(Sizes { batch, t, heads, d }: Sizes, part: usize, operand: Operand) -> usize {
    let (first, row) = (part * batch * t, 2 * heads * d);
    match operand {
        Operand::Q | Operand::Dq => first * 3 * row,
        Operand::K | Operand::Dk => first * 3 * row + row,
        Operand::V | Operand::Dv => first * 3 * row + 2 * row,
        Operand::Out | Operand::Dout => first * row,
        Operand::Lse | Operand::Delta => first * 4 * heads,
    }
}
