//! A finished plan: tensors with their places in one arena, and phases of operators over them.

use std::collections::BTreeMap;

use crate::{Cost, Op, Precision, Role, Tensor, TensorId, arena};

/// A phase of a plan: an index into its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PhaseId(pub(crate) usize);

impl PhaseId {
    /// Position in the plan's table of phases.
    pub fn index(self) -> usize {
        self.0
    }
}

/// Operators that run together, in order.
#[derive(Clone, Debug)]
pub struct Phase {
    /// Name for people: `train`, `update`, `evaluate`, `decode`.
    pub name: String,
    /// What runs.
    pub ops: Vec<Op>,
}

/// A step as data. Built once by a [`Builder`](crate::Builder), then only executed.
#[derive(Clone, Debug)]
pub struct Plan {
    pub(crate) tensors: Vec<Tensor>,
    pub(crate) phases: Vec<Phase>,
    pub(crate) offsets: Vec<usize>,
    pub(crate) arena_bytes: usize,
    pub(crate) precision: Precision,
}

impl Plan {
    /// The same plan with the operands of its matrix products rounded, and stored so where only products and what rides
    /// on them read them.
    pub fn with_precision(self, precision: Precision) -> Plan {
        let mut tensors = self.tensors;
        precision.choose_types(&mut tensors, &self.phases);
        let (offsets, arena_bytes) =
            arena::place(&tensors, &self.phases, |id| arena::aligned(&tensors[id.index()]));
        Plan { tensors, phases: self.phases, offsets, arena_bytes, precision }
    }

    /// What the operands of matrix products are rounded to.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The tensor behind an id.
    pub fn tensor(&self, id: TensorId) -> &Tensor {
        &self.tensors[id.index()]
    }

    /// All tensors with their ids, in the order of their making.
    pub fn tensors(&self) -> impl Iterator<Item = (TensorId, &Tensor)> {
        self.tensors.iter().enumerate().map(|(i, t)| (TensorId(i as u32), t))
    }

    /// The phase behind an id.
    pub fn phase(&self, id: PhaseId) -> &Phase {
        &self.phases[id.0]
    }

    /// All phases, in the order of their making.
    pub fn phases(&self) -> impl Iterator<Item = (PhaseId, &Phase)> {
        self.phases.iter().enumerate().map(|(i, p)| (PhaseId(i), p))
    }

    /// Where a tensor begins in the arena, in bytes; a multiple of [`ALIGNMENT`](crate::Plan::ALIGNMENT).
    pub fn offset(&self, id: TensorId) -> usize {
        self.offsets[id.index()]
    }

    /// Every tensor begins at a multiple of this many bytes.
    pub const ALIGNMENT: usize = 64;

    /// Bytes of the arena that holds all tensors.
    pub fn arena_bytes(&self) -> usize {
        self.arena_bytes
    }

    /// Bytes of the arena by role. Activations and workspace share memory over time, so both are given as the
    /// one region that holds them, under [`Role::Activation`].
    pub fn memory_by_role(&self) -> BTreeMap<Role, usize> {
        let mut by_role = BTreeMap::new();
        for tensor in self.tensors.iter().filter(|t| !t.role.is_transient()) {
            *by_role.entry(tensor.role).or_insert(0) += tensor.bytes().next_multiple_of(Self::ALIGNMENT);
        }
        let persistent: usize = by_role.values().sum();
        by_role.insert(Role::Activation, self.arena_bytes - persistent);
        by_role
    }

    /// Operations and bytes of one run of a phase.
    pub fn cost(&self, phase: PhaseId) -> Cost {
        self.phase(phase).ops.iter().map(|op| op.cost(self)).sum()
    }
}
