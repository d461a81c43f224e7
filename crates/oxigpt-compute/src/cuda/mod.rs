//! The CUDA backend: one GPU, one arena in its memory, one stream.
//!
//! Nothing of CUDA is needed to build or to start: the driver, the compiler NVRTC and cuBLASLt are opened when a backend is
//! made, and every one of them that is missing is an error that says where it was looked for. Matrix products are
//! cuBLASLt's, softmax attention in bfloat16 is cuDNN's where it is found, and everything else is a kernel of ours
//! (`kernels/`), compiled for the GPU at hand and kept on disk.
//!
//! Operators are put on the stream and not waited for. What goes wrong in one is told by the next download. Preparing
//! rehearses every phase on zeros: so kernels are compiled, algorithms chosen, and nothing is left to find out later.

mod attention;
mod blas;
mod cache;
mod cudnn;
mod devices;
mod driver;
mod element;
mod error;
mod kernels;
mod launch;
mod layout;
mod library;
mod linear;
mod nvrtc;
mod operators;
mod tables;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use devices::{LibraryReport, Report, attention, gpu, report};
pub use driver::GpuInfo;
pub use error::CudaError;
pub use library::Library;

use bytemuck::{cast_slice, cast_slice_mut};

use blas::{Blas, CublasLt};
use cache::Cache;
use cudnn::{Attentions, CudnnLibrary};
use driver::{Ahead, Driver, Gpu, Graph, Memory};
use kernels::Kernels;
use launch::Launcher;
use layout::{Element, Layout};
use library::SearchPath;
use nvrtc::Nvrtc;
use tables::Tables;

use crate::{Backend, Data, DataMut, Error, Op, PhaseId, Plan, Precision, Role, TensorId};

/// How the backend uses the machine.
#[derive(Clone, Debug, Default)]
pub struct CudaOptions {
    /// Which GPU, as the driver counts them.
    pub index: usize,
    /// Whether products of float32 may round their operands to 10 bits of significand (TF32), which is much faster.
    pub tf32: bool,
    /// Whether sums may be taken in another order each time, where that is faster: reruns then differ in their last bits.
    pub in_any_order: bool,
    /// Where compiled kernels and chosen algorithms are kept; nowhere, if absent.
    pub cache: Option<PathBuf>,
}

/// The CUDA backend.
pub struct Cuda {
    // Before what they are made of, because fields are dropped in their order.
    prepared: Option<Prepared>,
    kernels: Kernels,
    blas: Blas,
    /// Where there is one.
    cudnn: Option<Arc<CudnnLibrary>>,
    in_any_order: bool,
    gpu: Arc<Gpu>,
    cache: Cache,
    /// The first error of an operator: nothing after it means anything.
    failure: Option<CudaError>,
}

/// A plan in the memory of the GPU.
struct Prepared {
    graphs: Vec<Option<Graph>>,
    plan: Arc<Plan>,
    layout: Layout,
    arena: Memory,
    copies: Memory,
    scratch: Memory,
    tables: Tables,
    attentions: Attentions,
    ahead: HashMap<TensorId, Ahead>,
}

impl Cuda {
    /// Opens NVIDIA's libraries and a GPU.
    ///
    /// # Errors
    /// Where a library is missing or too old, or there is no such GPU.
    pub fn new(options: CudaOptions) -> Result<Cuda, Error> {
        let search_path = SearchPath::of_environment();
        Ok(Self::open(&search_path, options).map_err(|error| search_path.explain(error))?)
    }

    fn open(search_path: &SearchPath, options: CudaOptions) -> Result<Cuda, CudaError> {
        let driver = Driver::open(search_path)?;
        let major = driver.major();
        let gpu = Gpu::open(driver, options.index)?;
        let kernels = Kernels::new(gpu.clone(), Nvrtc::open(search_path, major)?)?;
        let cublaslt = CublasLt::open(search_path, major)?;
        let cudnn = CudnnLibrary::open(search_path, cublaslt.cuda_major()).ok().map(Arc::new);
        let CudaOptions { tf32, in_any_order, cache, .. } = options;
        let blas = Blas::new(gpu.clone(), cublaslt, tf32, in_any_order)?;
        let cache = Cache::new(cache);
        Ok(Cuda { prepared: None, kernels, blas, cudnn, in_any_order, gpu, cache, failure: None })
    }

    /// The GPU.
    pub fn gpu(&self) -> &GpuInfo {
        &self.gpu.info
    }

    /// Bytes of the GPU's memory that nobody uses.
    ///
    /// # Errors
    /// If the driver cannot say.
    pub fn free_bytes(&self) -> Result<usize, Error> {
        Ok(self.gpu.free_bytes()?)
    }

    fn prepared(&self) -> &Prepared {
        self.prepared.as_ref().expect("a session prepares its backend first")
    }

    /// Puts operators on the stream.
    fn launch<'a>(&mut self, ops: impl IntoIterator<Item = &'a Op>) {
        let prepared = self.prepared.as_ref().expect("a session prepares its backend first");
        let Cuda { kernels, blas, gpu, cache, failure, .. } = self;
        let mut launcher = Launcher { gpu, kernels, blas, cache, prepared };
        for op in ops {
            if failure.is_some() {
                return;
            }
            *failure = launcher.operator(op).err().map(|error| error.during(op.name()));
        }
    }

    /// The error of an operator, if there was one.
    fn check(&self) -> Result<(), CudaError> {
        self.failure.clone().map_or(Ok(()), Err)
    }

    /// Puts a phase on the stream; the first time, it is recorded.
    fn launch_phase(&mut self, phase: PhaseId, ops: &[Op]) -> Result<(), CudaError> {
        if self.prepared().graphs[phase.index()].is_none() {
            let graph = self.record(ops)?;
            let prepared = self.prepared.as_mut().expect("a session prepares its backend first");
            prepared.graphs[phase.index()] = Some(graph);
        }
        self.prepared().graphs[phase.index()].as_ref().map_or(Ok(()), Graph::launch)
    }

    /// Runs every phase once on zeros, and clears what that leaves behind.
    fn rehearse(&mut self) -> Result<(), CudaError> {
        let plan = self.prepared().plan.clone();
        for (_, phase) in plan.phases() {
            self.launch(&phase.ops);
        }
        self.check()?;
        self.gpu.synchronize()?;
        let Prepared { arena, copies, .. } = self.prepared();
        arena.zero()?;
        copies.zero()
    }

    /// Records a phase, to be put on the stream at once from then on.
    fn record(&mut self, ops: &[Op]) -> Result<Graph, CudaError> {
        self.gpu.begin_capture()?;
        self.launch(ops);
        let graph = self.gpu.end_capture();
        self.check()?;
        graph
    }
}

impl Backend for Cuda {
    fn name(&self) -> &'static str {
        "cuda"
    }

    fn attention(&self) -> Option<String> {
        let Prepared { plan, attentions, .. } = self.prepared();
        let mut ops = plan.phases().flat_map(|(_, phase)| &phase.ops);
        ops.any(|op| matches!(op, Op::Attention { .. })).then(|| attentions.said())
    }

    fn prepare(&mut self, plan: Arc<Plan>) -> Result<(), Error> {
        // The memory of a plan before this one.
        self.prepared = None;
        self.kernels.set_bf16(plan.precision() == Precision::Bfloat16);
        let layout = Layout::of(&plan);
        operators::check(&plan, &layout, &self.gpu.info)?;
        let arena = self.gpu.allocate(layout.arena_bytes)?;
        let copies = self.gpu.allocate(layout.copy_bytes)?;
        let planned = |library| Attentions::new(&plan, &layout, self.in_any_order, &self.gpu, library);
        let attentions = self.cudnn.as_ref().map(planned).unwrap_or_default();
        let scratch = self.gpu.allocate(scratch_bytes(&plan, &layout, self.in_any_order))?;
        let addresses = |id: TensorId| {
            (arena.at(layout.offset(id)), layout.copy(id).map_or(0, |offset| copies.at(offset)))
        };
        let tables = Tables::new(&self.gpu, &plan, addresses)?;
        let graphs = plan.phases().map(|_| None).collect();
        let ahead = inputs_ahead(&plan, &layout).map(|(id, bytes)| Ok((id, Ahead::new(&self.gpu, bytes)?)));
        let ahead = ahead.collect::<Result<_, CudaError>>()?;
        self.prepared =
            Some(Prepared { graphs, plan, layout, arena, copies, scratch, tables, attentions, ahead });
        Ok(self.rehearse()?)
    }

    fn memory_bytes(&self) -> usize {
        let Prepared { arena, copies, scratch, tables, ahead, .. } = self.prepared();
        let ahead: usize = ahead.values().map(Ahead::bytes).sum();
        arena.bytes() + copies.bytes() + scratch.bytes() + tables.bytes() + ahead + blas::WORKSPACE_BYTES
    }

    fn upload(&mut self, tensor: TensorId, data: Data) -> Result<(), Error> {
        let prepared = self.prepared.as_mut().expect("a session prepares its backend first");
        let Prepared { plan, layout, arena, copies, ahead, .. } = prepared;
        let address = arena.at(layout.offset(tensor));
        let mut write = |bytes: &[u8]| match ahead.get_mut(&tensor) {
            Some(ahead) => ahead.write(address, bytes),
            None => self.gpu.write(address, bytes),
        };
        let narrowed;
        let reals = match data {
            Data::U32(values) => return Ok(write(cast_slice(values))?),
            Data::F32(values) => values,
            Data::F64(values) => {
                narrowed = values.iter().map(|&value| value as f32).collect::<Vec<_>>();
                &narrowed
            }
        };
        let width = plan.tensor(tensor).width();
        write(&layout.element(tensor).encode(reals, width))?;
        if let Some(offset) = layout.copy(tensor) {
            self.gpu.write(copies.at(offset), &Element::Bf16.encode(reals, width))?;
        }
        Ok(())
    }

    fn download(&self, tensor: TensorId, data: DataMut) -> Result<(), Error> {
        self.check()?;
        let Prepared { plan, layout, arena, .. } = self.prepared();
        let (rows, width) = (plan.tensor(tensor).rows(), plan.tensor(tensor).width());
        let address = arena.at(layout.offset(tensor));
        let read = |values: &mut [f32]| {
            let element = layout.element(tensor);
            if element == Element::F32 {
                return self.gpu.read(address, cast_slice_mut(values));
            }
            let mut bytes = vec![0; element.bytes_of(rows, width)];
            self.gpu.read(address, &mut bytes)?;
            element.decode(&bytes, width, values);
            Ok(())
        };
        match data {
            DataMut::F32(out) => read(out)?,
            DataMut::F64(out) => {
                let mut values = vec![0f32; rows * width];
                read(&mut values)?;
                out.iter_mut().zip(values).for_each(|(out, value)| *out = value.into());
            }
        }
        Ok(())
    }

    fn execute(&mut self, op: &Op) {
        self.launch([op]);
    }

    /// By events on the stream, so that what it takes to get there does not count.
    fn time(&mut self, op: &Op) -> Duration {
        let gpu = self.gpu.clone();
        let timed = gpu.time(|| {
            self.launch([op]);
            self.check()
        });
        match timed {
            Ok(ms) => Duration::from_secs_f64(f64::from(ms) / 1e3),
            Err(error) => {
                self.failure.get_or_insert(error);
                Duration::ZERO
            }
        }
    }

    fn run(&mut self, phase: PhaseId, ops: &[Op]) {
        if self.failure.is_none() {
            self.failure = self.launch_phase(phase, ops).err();
        }
    }

    fn wait(&self) -> Result<(), Error> {
        self.check()?;
        Ok(self.gpu.synchronize()?)
    }
}

/// Bytes of scratch memory that the operators of a plan need at most, whoever does its attention.
fn scratch_bytes(plan: &Plan, layout: &Layout, in_any_order: bool) -> usize {
    operators::scratch_bytes(plan).max(cudnn::scratch_bytes(plan, layout, in_any_order))
}

/// Inputs of more bytes than this are copied beside the work that is on its way. The driver takes smaller ones along with the
/// call.
const AHEAD_BYTES: usize = 64 << 10;

/// Inputs that are copied ahead, and their bytes.
fn inputs_ahead(plan: &Plan, layout: &Layout) -> impl Iterator<Item = (TensorId, usize)> {
    let inputs = plan.tensors().filter(|(_, tensor)| tensor.role == Role::Input);
    let sized = inputs.map(|(id, t)| (id, layout.element(id).bytes_of(t.rows(), t.width())));
    sized.filter(|(_, bytes)| *bytes > AHEAD_BYTES)
}

/// Bytes that a plan takes of a GPU's memory, by role. Activations share one region; what the backend takes beside the
/// tensors is [`Role::Workspace`].
/// `in_any_order` is that of [`CudaOptions`].
pub fn memory_by_role(plan: &Plan, in_any_order: bool) -> BTreeMap<Role, usize> {
    let layout = Layout::of(plan);
    let mut by_role = BTreeMap::new();
    for (id, tensor) in plan.tensors().filter(|(_, tensor)| !tensor.role.is_transient()) {
        *by_role.entry(tensor.role).or_insert(0) += layout.bytes(plan, id);
    }
    let lasting: usize = by_role.values().sum();
    by_role.insert(Role::Activation, layout.arena_bytes - lasting);
    let ahead: usize = inputs_ahead(plan, &layout).map(|(_, bytes)| bytes).sum();
    let own = layout.copy_bytes + scratch_bytes(plan, &layout, in_any_order) + ahead + blas::WORKSPACE_BYTES;
    by_role.insert(Role::Workspace, own);
    by_role
}
