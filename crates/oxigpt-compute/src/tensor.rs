//! Tensors as a plan knows them: a name, a shape, a type, and the role that decides how long it lives.

use crate::Storage;

/// A tensor of a [`Plan`](crate::Plan): an index into its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorId(pub(crate) u32);

impl TensorId {
    /// Position in the plan's table of tensors.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Element type.
///
/// `Real` is the precision of the backend: float32 on `cpu`, float64 on `reference`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// A real number in the backend's own precision; a plan counts it as 4 bytes.
    Real,
    /// A real number rounded to bfloat16. It is uploaded and downloaded as the reals are.
    Bf16,
    /// Token ids, positions, counters.
    U32,
    /// A matrix `[O, C]` of reals that no operator writes, laid out as the backend likes. It is uploaded and downloaded as
    /// reals; uploading rounds as the storage says. Its products round activations to bfloat16 if it is kept in bfloat16, whatever
    /// the precision of the plan.
    Stored(Storage),
}

/// What a tensor is for. The role decides its life: activations and workspace live from their first
/// use to their last within one phase and share memory; all others keep their own for the plan's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// A trained weight.
    Parameter,
    /// The gradient of a parameter.
    Gradient,
    /// A running moment of the optimiser.
    Moment,
    /// Keys and values of the positions decoded so far.
    Cache,
    /// Written by the caller before a phase runs.
    Input,
    /// Read by the caller after a phase has run.
    Output,
    /// An intermediate result of one phase, or its gradient.
    Activation,
    /// Scratch of one operator.
    Workspace,
}

impl Role {
    /// Whether the tensor lives only inside one phase.
    pub fn is_transient(self) -> bool {
        matches!(self, Role::Activation | Role::Workspace)
    }

    /// Plural name for tables.
    pub fn label(self) -> &'static str {
        match self {
            Role::Parameter => "parameters",
            Role::Gradient => "gradients",
            Role::Moment => "moments",
            Role::Cache => "cache",
            Role::Input => "inputs",
            Role::Output => "outputs",
            Role::Activation => "activations",
            Role::Workspace => "workspace",
        }
    }
}

/// One tensor of a plan.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Name for people: `h.0.attn.c_attn.weight`, or the operator that writes it.
    pub name: String,
    /// Sizes, outermost first, stored contiguously.
    pub shape: Vec<usize>,
    /// Element type.
    pub dtype: Dtype,
    /// Role.
    pub role: Role,
    /// For `U32` inputs: every element must be below this. Checked on upload, so that kernels may index by it.
    pub limit: Option<u32>,
}

impl Tensor {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether the tensor has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Size of the last dimension.
    pub fn width(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Number of rows: the product of all dimensions but the last.
    pub fn rows(&self) -> usize {
        self.len() / self.width().max(1)
    }

    /// Bytes in the arena.
    pub fn bytes(&self) -> usize {
        match self.dtype {
            Dtype::Real | Dtype::U32 => 4 * self.len(),
            Dtype::Bf16 => 2 * self.len(),
            Dtype::Stored(storage) => storage.bytes(self.rows(), self.width()),
        }
    }

    /// How it is stored, if it is a matrix that is only read.
    pub fn storage(&self) -> Option<Storage> {
        match self.dtype {
            Dtype::Stored(storage) => Some(storage),
            Dtype::Real | Dtype::Bf16 | Dtype::U32 => None,
        }
    }
}
