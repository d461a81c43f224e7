//! The seam between plans and machines.

use std::sync::Arc;

use crate::{Error, Op, Plan, TensorId};

/// Elements going up to a backend.
#[derive(Clone, Copy, Debug)]
pub enum Data<'a> {
    /// Reals in float32.
    F32(&'a [f32]),
    /// Reals in float64, rounded where the backend is coarser.
    F64(&'a [f64]),
    /// Integers.
    U32(&'a [u32]),
}

/// Elements coming down from a backend.
#[derive(Debug)]
pub enum DataMut<'a> {
    /// Reals in float32, rounded where the backend is finer.
    F32(&'a mut [f32]),
    /// Reals in float64.
    F64(&'a mut [f64]),
}

/// A machine that holds the tensors of one plan and executes its operators.
///
/// A backend is given its plan once. It may prepare it as it likes (pack weights, choose algorithms, capture a
/// graph), but the result of [`Backend::execute`] depends on nothing except the operator and the tensors:
/// the same bits for the same input, whatever the number of threads.
pub trait Backend: Send {
    /// Short name: `reference`, `cpu`.
    fn name(&self) -> &'static str;

    /// Takes a plan and allocates everything that executing it will need, zeroed.
    fn prepare(&mut self, plan: Arc<Plan>) -> Result<(), Error>;

    /// Bytes this backend holds beside the plan's arena, once prepared.
    fn workspace_bytes(&self) -> usize;

    /// Writes a whole tensor. Lengths and types have been checked.
    fn upload(&mut self, tensor: TensorId, data: Data);

    /// Reads a whole tensor. Lengths and types have been checked.
    fn download(&self, tensor: TensorId, data: DataMut);

    /// Executes one operator.
    fn execute(&mut self, op: &Op);
}
