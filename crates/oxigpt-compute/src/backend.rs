//! The seam between plans and machines.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::{Error, Op, PhaseId, Plan, TensorId};

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
    /// Short name: `reference`, `cpu`, `cuda`.
    fn name(&self) -> &'static str;

    /// Takes a plan and allocates everything that executing it will need, zeroed.
    fn prepare(&mut self, plan: Arc<Plan>) -> Result<(), Error>;

    /// Who does the attention of the plan at hand, where that depends on what the machine has.
    fn attention(&self) -> Option<String> {
        None
    }

    /// Bytes that the plan takes of this backend's memory, once prepared.
    fn memory_bytes(&self) -> usize;

    /// Writes a whole tensor. Lengths and types have been checked.
    fn upload(&mut self, tensor: TensorId, data: Data) -> Result<(), Error>;

    /// Reads a whole tensor, when all operators before are done. Lengths and types have been checked. An error of an
    /// operator shows here.
    fn download(&self, tensor: TensorId, data: DataMut) -> Result<(), Error>;

    /// Executes one operator, or has it executed after those before it.
    fn execute(&mut self, op: &Op);

    /// Executes one operator alone, and tells how long it took.
    fn time(&mut self, op: &Op) -> Duration {
        let start = Instant::now();
        self.execute(op);
        // An error shows again when something is downloaded.
        let _ = self.wait();
        start.elapsed()
    }

    /// Executes the operators of a phase in order.
    fn run(&mut self, _phase: PhaseId, ops: &[Op]) {
        ops.iter().for_each(|op| self.execute(op));
    }

    /// Waits until all operators are done. An error of one shows here.
    fn wait(&self) -> Result<(), Error> {
        Ok(())
    }
}
