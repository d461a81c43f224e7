//! A graph as cuDNN takes it, as plain data: four-dimensional tensors with strides, and what is done to them in order.

/// Number of a tensor in its graph.
pub(super) type Id = usize;

/// How a number is stored, or kept between two operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Number {
    F32,
    Bf16,
    I32,
    Bool,
}

/// What whoever runs a graph of attention gives the address of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operand {
    Q,
    K,
    V,
    Out,
    /// The logarithm of each row's sum of exponentials.
    Lse,
    Dout,
    Dq,
    Dk,
    Dv,
    /// The sum of `out * dout` of each row.
    Delta,
    /// The gradient of `q` before it is rounded, as `[B, H, T, D]`.
    DqSums,
}

/// Where a tensor is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Place {
    /// In memory of the GPU.
    Memory(Operand),
    /// Nowhere: cuDNN hands it from one operation to the next.
    Virtual,
    /// One number, for all elements.
    Value(f32),
}

/// A tensor; strides are in elements.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tensor {
    pub(super) dims: [usize; 4],
    pub(super) strides: [usize; 4],
    pub(super) number: Number,
    pub(super) place: Place,
}

/// What is done element by element; dimensions of 1 are repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pointwise {
    Identity,
    Add,
    Subtract,
    Multiply,
    Divide,
    Exp,
    Log,
    /// The index along a dimension, whatever the input.
    Index(usize),
    GreaterOrEqual,
    /// The first input where the third holds, else the second.
    Select,
}

/// What a row becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reduction {
    Sum,
    Max,
}

/// An operation; its result is a tensor of the graph too.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Operation {
    /// `out = a b` of the last two dimensions.
    Matmul { a: Id, b: Id, out: Id },
    /// One to three inputs.
    Pointwise { mode: Pointwise, inputs: Vec<Id>, out: Id },
    /// Over the dimensions that are 1 in `out`.
    Reduce { reduction: Reduction, x: Id, out: Id },
    /// The same elements as `x`, in the order in which they lie in memory.
    Reshape { x: Id, out: Id },
}

/// Tensors and operations.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Graph {
    pub(super) tensors: Vec<Tensor>,
    pub(super) operations: Vec<Operation>,
}

impl Graph {
    /// A tensor's name to cuDNN.
    pub(super) fn uid(id: Id) -> i64 {
        id as i64 + 1
    }

    /// Declares a tensor.
    pub(super) fn tensor(&mut self, tensor: Tensor) -> Id {
        self.tensors.push(tensor);
        self.tensors.len() - 1
    }

    /// Appends a product; gives its result.
    pub(super) fn matmul(&mut self, a: Id, b: Id, out: Id) -> Id {
        self.operations.push(Operation::Matmul { a, b, out });
        out
    }

    /// Appends an operation on elements; gives its result.
    pub(super) fn pointwise(&mut self, mode: Pointwise, inputs: &[Id], out: Id) -> Id {
        self.operations.push(Operation::Pointwise { mode, inputs: inputs.to_vec(), out });
        out
    }

    /// Appends a reduction; gives its result.
    pub(super) fn reduce(&mut self, reduction: Reduction, x: Id, out: Id) -> Id {
        self.operations.push(Operation::Reduce { reduction, x, out });
        out
    }

    /// Appends another view of a tensor; gives its result.
    pub(super) fn reshape(&mut self, x: Id, out: Id) -> Id {
        self.operations.push(Operation::Reshape { x, out });
        out
    }
}
