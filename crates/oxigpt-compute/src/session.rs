//! A plan on a backend: checked uploads and downloads, and phases that run.

use std::sync::Arc;
use std::time::Duration;

use crate::{Backend, Data, DataMut, Dtype, Error, PhaseId, Plan, TensorId};

/// Time spent in one operator of a phase, summed over runs while profiling.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpTime {
    /// Total.
    pub time: Duration,
    /// Runs.
    pub runs: u32,
}

/// A plan that has its memory and can run.
pub struct Session {
    plan: Arc<Plan>,
    backend: Box<dyn Backend>,
    profile: Option<Vec<Vec<OpTime>>>,
}

impl Session {
    /// Gives `plan` to `backend`, which allocates all memory that running it takes.
    pub fn new(plan: Plan, mut backend: Box<dyn Backend>) -> Result<Self, Error> {
        let plan = Arc::new(plan);
        backend.prepare(plan.clone())?;
        Ok(Session { plan, backend, profile: None })
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The backend's name.
    pub fn backend_name(&self) -> &'static str {
        self.backend.name()
    }

    /// Who does attention, where that depends on what the machine has.
    pub fn attention(&self) -> Option<String> {
        self.backend.attention()
    }

    /// All memory that the session holds: tensors, and what the backend takes beside them.
    pub fn memory_bytes(&self) -> usize {
        self.backend.memory_bytes()
    }

    /// Writes a whole tensor. Integers are checked against the tensor's limit.
    pub fn upload(&mut self, id: TensorId, data: Data) -> Result<(), Error> {
        let tensor = self.plan.tensor(id);
        let (found_type, found) = match data {
            Data::F32(d) => ("reals", d.len()),
            Data::F64(d) => ("reals", d.len()),
            Data::U32(d) => ("integers", d.len()),
        };
        check(&self.plan, id, found_type, found)?;
        if let (Data::U32(values), Some(limit)) = (data, tensor.limit)
            && let Some(index) = values.iter().position(|&v| v >= limit)
        {
            return Err(Error::Range { tensor: tensor.name.clone(), index, value: values[index], limit });
        }
        self.backend.upload(id, data)
    }

    /// Reads a whole real tensor.
    pub fn download(&self, id: TensorId, out: &mut [f32]) -> Result<(), Error> {
        check(&self.plan, id, "reals", out.len())?;
        self.backend.download(id, DataMut::F32(out))
    }

    /// Reads a whole real tensor in float64.
    pub fn download_f64(&self, id: TensorId, out: &mut [f64]) -> Result<(), Error> {
        check(&self.plan, id, "reals", out.len())?;
        self.backend.download(id, DataMut::F64(out))
    }

    /// Runs every operator of a phase in order. A device may still be at it afterwards: what is downloaded then waits.
    pub fn run(&mut self, phase: PhaseId) {
        let Session { plan, backend, profile } = self;
        let ops = &plan.phase(phase).ops;
        let Some(profile) = profile else { return backend.run(phase, ops) };
        for (op, entry) in ops.iter().zip(&mut profile[phase.0]) {
            entry.time += backend.time(op);
            entry.runs += 1;
        }
    }

    /// Waits until everything that runs is done.
    ///
    /// # Errors
    /// If a device failed meanwhile.
    pub fn wait(&self) -> Result<(), Error> {
        self.backend.wait()
    }

    /// Begins to time every operator, from zero.
    pub fn start_profile(&mut self) {
        let phases = self.plan.phases();
        self.profile = Some(phases.map(|(_, p)| vec![OpTime::default(); p.ops.len()]).collect());
    }

    /// Times of the operators of a phase, in their order, since [`Session::start_profile`].
    pub fn profile(&self, phase: PhaseId) -> Option<&[OpTime]> {
        self.profile.as_ref().map(|p| p[phase.0].as_slice())
    }
}

fn check(plan: &Plan, id: TensorId, found_type: &'static str, found: usize) -> Result<(), Error> {
    let tensor = plan.tensor(id);
    let expected = if tensor.dtype == Dtype::U32 { "integers" } else { "reals" };
    if expected != found_type {
        return Err(Error::Type { tensor: tensor.name.clone(), expected, found: found_type });
    }
    if tensor.len() != found {
        return Err(Error::Length { tensor: tensor.name.clone(), expected: tensor.len(), found });
    }
    Ok(())
}
