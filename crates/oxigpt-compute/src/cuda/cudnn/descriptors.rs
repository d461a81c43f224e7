//! A graph as descriptors of cuDNN's backend interface, still plain data: what is set on each, and which it refers to.
//!
//! The numbers are those of NVIDIA's cudnn_graph.h.

use std::ffi::c_int;

use super::graph::{Graph, Id, Number, Operation, Place, Pointwise, Reduction};

const POINTWISE: c_int = 0;
const OPERATION_POINTWISE: c_int = 13;
const TENSOR: c_int = 17;
const MATMUL: c_int = 18;
const OPERATION_MATMUL: c_int = 19;
const REDUCTION: c_int = 21;
const OPERATION_REDUCTION: c_int = 22;
const OPERATION_RESHAPE: c_int = 31;

/// Bytes that every tensor's address is a multiple of.
pub(super) const ALIGNMENT: usize = 16;

/// What an attribute is set to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Number(Number),
    Flag(bool),
    Integers(Vec<i64>),
    Pointwise(c_int),
    Reduction(c_int),
    /// One that comes earlier in the list.
    Descriptor(usize),
}

/// A descriptor to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Descriptor {
    /// Its kind.
    pub(super) kind: c_int,
    /// What is set, in order.
    pub(super) attributes: Vec<(c_int, Value)>,
    /// Whether it is an operation of the graph.
    pub(super) is_operation: bool,
}

/// All descriptors of a graph but its own: first its tensors, so that a tensor's number is its place; then operations in
/// their order, each after what it does.
pub(super) fn of_graph(graph: &Graph) -> Vec<Descriptor> {
    let mut list: Vec<_> = (0..graph.tensors.len()).map(|id| tensor(graph, id)).collect();
    for operation in &graph.operations {
        let at = list.len();
        let Some((kind, attributes)) = what(operation) else {
            list.push(described(operation, None));
            continue;
        };
        list.push(Descriptor { kind, attributes, is_operation: false });
        list.push(described(operation, Some(at)));
    }
    list
}

fn tensor(graph: &Graph, id: Id) -> Descriptor {
    let tensor = &graph.tensors[id];
    let integers = |values: [usize; 4]| Value::Integers(values.map(|value| value as i64).to_vec());
    let mut attributes = vec![
        (901, Value::Number(tensor.number)),
        (902, integers(tensor.dims)),
        (903, integers(tensor.strides)),
        (906, Value::Integers(vec![Graph::uid(id)])),
        (900, Value::Integers(vec![ALIGNMENT as i64])),
        (907, Value::Flag(tensor.place == Place::Virtual)),
    ];
    if matches!(tensor.place, Place::Value(_)) {
        attributes.push((908, Value::Flag(true)));
    }
    Descriptor { kind: TENSOR, attributes, is_operation: false }
}

/// What an operation does: kind and attributes of the descriptor that says it, if there is one.
fn what(operation: &Operation) -> Option<(c_int, Vec<(c_int, Value)>)> {
    Some(match *operation {
        Operation::Matmul { .. } => (MATMUL, vec![(1500, Value::Number(Number::F32))]),
        Operation::Pointwise { mode, .. } => {
            let number = if mode == Pointwise::GreaterOrEqual { Number::Bool } else { Number::F32 };
            let mut attributes = vec![(0, Value::Pointwise(code(mode))), (1, Value::Number(number))];
            if let Pointwise::Index(axis) = mode {
                attributes.push((9, Value::Integers(vec![axis as i64])));
            }
            (POINTWISE, attributes)
        }
        Operation::Reduce { reduction, .. } => {
            let code = if reduction == Reduction::Sum { 0 } else { 3 };
            (REDUCTION, vec![(1600, Value::Reduction(code)), (1601, Value::Number(Number::F32))])
        }
        Operation::Reshape { .. } => return None,
    })
}

/// An operation with its operands, and where the descriptor of what it does is.
fn described(operation: &Operation, what: Option<usize>) -> Descriptor {
    let (kind, own, operands) = match operation {
        Operation::Matmul { a, b, out } => {
            (OPERATION_MATMUL, 1523, vec![(1520, *a), (1521, *b), (1522, *out)])
        }
        Operation::Pointwise { inputs, out, .. } => {
            let inputs = [751, 752, 758].into_iter().zip(inputs.iter().copied());
            (OPERATION_POINTWISE, 750, inputs.chain([(753, *out)]).collect())
        }
        Operation::Reduce { x, out, .. } => (OPERATION_REDUCTION, 1612, vec![(1610, *x), (1611, *out)]),
        Operation::Reshape { x, out } => (OPERATION_RESHAPE, 0, vec![(2200, *x), (2201, *out)]),
    };
    let attributes = what.map(|what| (own, what)).into_iter().chain(operands);
    let attributes = attributes.map(|(attribute, at)| (attribute, Value::Descriptor(at))).collect();
    Descriptor { kind, attributes, is_operation: true }
}

fn code(mode: Pointwise) -> c_int {
    match mode {
        Pointwise::Add => 0,
        Pointwise::Multiply => 1,
        Pointwise::Divide => 6,
        Pointwise::Subtract => 9,
        Pointwise::Exp => 13,
        Pointwise::Log => 15,
        Pointwise::Identity => 21,
        Pointwise::GreaterOrEqual => 303,
        Pointwise::Index(_) => 501,
        Pointwise::Select => 601,
    }
}
