//! Flash attention by cuDNN: its library, and graphs made into plans that run on the stream.
//!
//! Optional in every way: where the library is missing, or refuses a graph, our own kernels do the same.

mod attention;
mod descriptors;
mod graph;
mod graphs;

use std::env;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;
use std::sync::Arc;

pub(super) use attention::{Attentions, operator, scratch_bytes};

use super::driver::Gpu;
use super::error::CudaError;
use super::library::{Found, Library, SearchPath, functions};
use descriptors::{Descriptor, Value};
use graph::{Graph, Number, Operand, Place};

type Handle = *mut c_void;

/// A variable that is `off` (or `no`, `false`, `0`) where attention is to be done without cuDNN.
const SWITCH: &str = "OXIGPT_CUDNN";

/// Oldest version whose attention in bfloat16 is right: NVIDIA's own frontend refuses it on the two before.
const NEEDED: usize = 91_002;

/// Oldest version whose adjoint reads nothing beyond texts whose length is no multiple of [`ADJOINT_STEP`] when it is
/// replayed in a CUDA graph (release notes of cudnn-frontend 1.16).
const NEEDED_FOR_ANY_LENGTH: usize = 91_501;
const ADJOINT_STEP: usize = 128;

/// Whether an adjoint may read beyond texts of `t` tokens.
fn reads_beyond(version: usize, t: usize) -> bool {
    version < NEEDED_FOR_ANY_LENGTH && !t.is_multiple_of(ADJOINT_STEP)
}

/// Parts that graphs need. The library asks for them by name alone, and ends the process where it does not find one.
const PARTS: [&str; 4] = ["graph", "engines_precompiled", "engines_runtime_compiled", "heuristic"];

/// Names of attributes' types.
const HANDLE: c_int = 0;
const NUMBER: c_int = 1;
const FLAG: c_int = 2;
const INTEGER: c_int = 3;
const POINTER: c_int = 6;
const HEURISTIC: c_int = 8;
const POINTWISE: c_int = 14;
const DESCRIPTOR: c_int = 15;
const REDUCTION: c_int = 18;

/// Kinds of descriptors that are not part of a graph.
const ENGINE_CONFIGURATION: c_int = 3;
const HEURISTICS: c_int = 4;
const EXECUTION_PLAN: c_int = 5;
const OPERATION_GRAPH: c_int = 15;
const VARIANT_PACK: c_int = 16;

/// Configurations that are tried for a graph.
const CANDIDATES: usize = 8;

functions! {
    /// Functions of libcudnn.so.9.
    Api {
        version = cudnnGetVersion() -> usize;
        cuda_version = cudnnGetCudartVersion() -> usize;
        error_string = cudnnGetErrorString(c_int) -> *const c_char;
        last_error = cudnnGetLastErrorString(*mut c_char, usize) -> ();
        create = cudnnCreate(*mut Handle);
        destroy = cudnnDestroy(Handle);
        set_stream = cudnnSetStream(Handle, Handle);
        descriptor_create = cudnnBackendCreateDescriptor(c_int, *mut Handle);
        descriptor_destroy = cudnnBackendDestroyDescriptor(Handle);
        set = cudnnBackendSetAttribute(Handle, c_int, c_int, i64, *const c_void);
        get = cudnnBackendGetAttribute(Handle, c_int, c_int, i64, *mut i64, *mut c_void);
        finalize = cudnnBackendFinalize(Handle);
        execute = cudnnBackendExecute(Handle, Handle, Handle);
    }
}

/// An open cuDNN without a GPU.
pub(super) struct CudnnLibrary {
    api: Api,
    /// The library.
    pub(super) found: Found,
    /// `9.19.0`.
    pub(super) version: String,
    /// 91900 of the same.
    number: usize,
}

impl CudnnLibrary {
    /// Opens the library, which must have been built for the CUDA of the cuBLASLt that is open: it ends the process where it
    /// does not find that one.
    pub(super) fn open(search_path: &SearchPath, cuda_major: i32) -> Result<CudnnLibrary, CudaError> {
        let is_no = |value: String| ["off", "no", "false", "0"].contains(&value.to_lowercase().as_str());
        if env::var(SWITCH).is_ok_and(is_no) {
            return Err(CudaError::Unwanted);
        }
        let ((api, version, number), found) = search_path.open(Library::Cudnn, cuda_major, |library| {
            let path = library.path.clone();
            for part in PARTS {
                library.open_also(&path.with_file_name(format!("libcudnn_{part}.so.9")))?;
            }
            let api = Api::load(library)?;
            // SAFETY: no conditions.
            let (number, cuda) = unsafe { ((api.version)(), (api.cuda_version)()) };
            let version = format!("{}.{}.{}", number / 10_000, number / 100 % 100, number % 100);
            if number < NEEDED {
                return Err(CudaError::OldCudnn { path, version });
            }
            match cuda / 1000 {
                found if found == cuda_major as usize => Ok((api, version, number)),
                found => Err(CudaError::OtherCuda { path, found, needed: cuda_major }),
            }
        })?;
        Ok(CudnnLibrary { api, found, version, number })
    }

    fn check(&self, call: &'static str, status: c_int) -> Result<(), CudaError> {
        if status == 0 {
            return Ok(());
        }
        let mut last = [0u8; 1024];
        // SAFETY: gives a text for every status, which is never freed; writes at most as many bytes as it is told.
        let text = unsafe {
            (self.api.last_error)(last.as_mut_ptr().cast(), last.len());
            (self.api.error_string)(status)
        };
        // SAFETY: as above, checked.
        let text = (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy());
        let last = CStr::from_bytes_until_nul(&last).unwrap_or_default().to_string_lossy();
        let said = [text.unwrap_or_default(), last];
        let reason = said.iter().filter(|text| !text.is_empty()).map(|text| text.trim()).collect::<Vec<_>>();
        Err(CudaError::Call { call, code: status, reason: reason.join(": "), operator: None })
    }

    /// An empty descriptor.
    fn create(self: &Arc<Self>, kind: c_int) -> Result<Made, CudaError> {
        let mut pointer = ptr::null_mut();
        // SAFETY: writes one handle.
        let status = unsafe { (self.api.descriptor_create)(kind, &mut pointer) };
        self.check("cudnnBackendCreateDescriptor", status)?;
        Ok(Made { library: self.clone(), pointer })
    }

    /// The descriptors of a list, and which of them are a graph's operations.
    fn make(self: &Arc<Self>, list: &[Descriptor]) -> Result<(Vec<Made>, Vec<Handle>), CudaError> {
        let (mut made, mut operations) = (Vec::<Made>::with_capacity(list.len()), Vec::new());
        for described in list {
            let descriptor = self.create(described.kind)?;
            for (attribute, value) in &described.attributes {
                match value {
                    Value::Number(number) => descriptor.set(*attribute, NUMBER, &[code(*number)])?,
                    Value::Flag(flag) => descriptor.set(*attribute, FLAG, &[*flag])?,
                    Value::Integers(integers) => descriptor.set(*attribute, INTEGER, integers)?,
                    Value::Pointwise(mode) => descriptor.set(*attribute, POINTWISE, &[*mode])?,
                    Value::Reduction(reduction) => descriptor.set(*attribute, REDUCTION, &[*reduction])?,
                    Value::Descriptor(at) => descriptor.set(*attribute, DESCRIPTOR, &[made[*at].pointer])?,
                }
            }
            descriptor.finalize()?;
            if described.is_operation {
                operations.push(descriptor.pointer);
            }
            made.push(descriptor);
        }
        Ok((made, operations))
    }
}

/// A descriptor of cuDNN; given back when dropped.
struct Made {
    library: Arc<CudnnLibrary>,
    pointer: Handle,
}

impl Made {
    fn set<T>(&self, attribute: c_int, kind: c_int, values: &[T]) -> Result<(), CudaError> {
        let (count, first) = (values.len() as i64, values.as_ptr().cast());
        // SAFETY: as many values as said, of the type that `kind` names; they are copied.
        let status = unsafe { (self.library.api.set)(self.pointer, attribute, kind, count, first) };
        self.library.check("cudnnBackendSetAttribute", status)
    }

    /// At most as many values as there is room for; gives how many there are.
    fn get<T>(&self, attribute: c_int, kind: c_int, room: &mut [T]) -> Result<usize, CudaError> {
        let (mut count, first) = (0, room.as_mut_ptr().cast());
        // SAFETY: writes at most as many values as said, of the type that `kind` names, and one integer.
        let status = unsafe {
            (self.library.api.get)(self.pointer, attribute, kind, room.len() as i64, &mut count, first)
        };
        self.library.check("cudnnBackendGetAttribute", status)?;
        Ok((count.max(0) as usize).min(room.len()))
    }

    fn finalize(&self) -> Result<(), CudaError> {
        // SAFETY: a descriptor that is alive, as all are that it refers to.
        let status = unsafe { (self.library.api.finalize)(self.pointer) };
        self.library.check("cudnnBackendFinalize", status)
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        // SAFETY: created by us, and no longer used.
        unsafe { (self.library.api.descriptor_destroy)(self.pointer) };
    }
}

fn code(number: Number) -> c_int {
    match number {
        Number::F32 => 0,
        Number::I32 => 4,
        Number::Bf16 => 9,
        Number::Bool => 11,
    }
}

/// What a plan is for.
enum Target {
    /// The GPU of a handle.
    Gpu(Handle),
    /// One that is only described.
    #[cfg(test)]
    Described(Made),
}

impl Target {
    /// Sets on a descriptor which GPU it is for; `attributes` are those of a handle and of a description, 0 for none.
    fn set_on(&self, descriptor: &Made, attributes: [c_int; 2]) -> Result<(), CudaError> {
        let (attribute, kind, pointer) = match self {
            Target::Gpu(handle) => (attributes[0], HANDLE, *handle),
            #[cfg(test)]
            Target::Described(device) => (attributes[1], DESCRIPTOR, device.pointer),
        };
        if attribute == 0 { Ok(()) } else { descriptor.set(attribute, kind, &[pointer]) }
    }

    /// The first of the configurations that cuDNN proposes for a graph which it can also make.
    fn plan(&self, library: &Arc<CudnnLibrary>, graph: &Graph) -> Result<Plan, CudaError> {
        let (mut made, operations) = library.make(&descriptors::of_graph(graph))?;
        let whole = library.create(OPERATION_GRAPH)?;
        whole.set(801, DESCRIPTOR, &operations)?;
        self.set_on(&whole, [800, 0])?;
        whole.finalize()?;
        let heuristics = library.create(HEURISTICS)?;
        heuristics.set(201, DESCRIPTOR, &[whole.pointer])?;
        // What is expected to be fastest comes first.
        heuristics.set(200, HEURISTIC, &[3])?;
        self.set_on(&heuristics, [0, 204])?;
        heuristics.finalize()?;
        let room: Vec<Made> =
            (0..CANDIDATES).map(|_| library.create(ENGINE_CONFIGURATION)).collect::<Result<_, _>>()?;
        let mut pointers: Vec<Handle> = room.iter().map(|made| made.pointer).collect();
        let count = heuristics.get(202, DESCRIPTOR, &mut pointers)?;
        let mut refusal = CudaError::Call {
            call: "cudnnBackendGetAttribute",
            code: 0,
            reason: "no engine does this graph".into(),
            operator: None,
        };
        made.extend(room);
        made.extend([whole, heuristics]);
        for configuration in &pointers[..count] {
            match self.plan_of(library, *configuration) {
                Ok((plan, workspace_bytes)) => {
                    return Ok(Plan { plan, workspace_bytes, bound: bound(graph), _made: made });
                }
                Err(error) => refusal = error,
            }
        }
        Err(refusal)
    }

    fn plan_of(
        &self,
        library: &Arc<CudnnLibrary>,
        configuration: Handle,
    ) -> Result<(Made, usize), CudaError> {
        let plan = library.create(EXECUTION_PLAN)?;
        plan.set(401, DESCRIPTOR, &[configuration])?;
        self.set_on(&plan, [400, 407])?;
        plan.finalize()?;
        let mut workspace = [0i64];
        plan.get(402, INTEGER, &mut workspace)?;
        Ok((plan, workspace[0].max(0) as usize))
    }
}

/// The tensors of a graph that are given when it runs, by their names to cuDNN.
fn bound(graph: &Graph) -> Vec<(i64, Place)> {
    let places = graph.tensors.iter().enumerate().map(|(id, tensor)| (Graph::uid(id), tensor.place));
    places.filter(|(_, place)| *place != Place::Virtual).collect()
}

/// A graph that is ready to run.
struct Plan {
    plan: Made,
    workspace_bytes: usize,
    bound: Vec<(i64, Place)>,
    /// What the plan was made from, which it may refer to.
    _made: Vec<Made>,
}

// SAFETY: descriptors may be used by one thread at a time, whichever it is.
unsafe impl Send for Plan {}

/// cuDNN at work on one GPU.
pub(super) struct Cudnn {
    gpu: Arc<Gpu>,
    library: Arc<CudnnLibrary>,
    handle: Handle,
}

// SAFETY: a handle may be used by one thread at a time, whichever it is.
unsafe impl Send for Cudnn {}

impl Cudnn {
    pub(super) fn new(gpu: Arc<Gpu>, library: Arc<CudnnLibrary>) -> Result<Cudnn, CudaError> {
        gpu.make_current()?;
        let mut handle = ptr::null_mut();
        // SAFETY: writes one handle.
        library.check("cudnnCreate", unsafe { (library.api.create)(&mut handle) })?;
        let cudnn = Cudnn { gpu, library, handle };
        // SAFETY: the stream lives as long as the GPU, which `cudnn` holds.
        let status = unsafe { (cudnn.library.api.set_stream)(handle, cudnn.gpu.stream()) };
        cudnn.library.check("cudnnSetStream", status)?;
        Ok(cudnn)
    }

    fn plan(&self, graph: &Graph) -> Result<Plan, CudaError> {
        self.gpu.make_current()?;
        Target::Gpu(self.handle).plan(&self.library, graph)
    }

    /// Puts a graph on the stream.
    ///
    /// # Safety
    /// Tensors are at their addresses, as the graph describes them, and the workspace is as large as the plan says.
    unsafe fn run(
        &self,
        plan: &Plan,
        address: impl Fn(Operand) -> u64,
        workspace: u64,
    ) -> Result<(), CudaError> {
        self.gpu.make_current()?;
        let values: Vec<f32> = plan
            .bound
            .iter()
            .map(|(_, place)| if let Place::Value(value) = place { *value } else { 0.0 })
            .collect();
        let pointers = plan.bound.iter().zip(&values).map(|((_, place), value)| match place {
            Place::Memory(operand) => address(*operand) as *const c_void,
            Place::Value(_) | Place::Virtual => ptr::from_ref(value).cast(),
        });
        let pointers: Vec<_> = pointers.collect();
        let uids: Vec<i64> = plan.bound.iter().map(|(uid, _)| *uid).collect();
        let pack = self.library.create(VARIANT_PACK)?;
        pack.set(1000, INTEGER, &uids)?;
        pack.set(1001, POINTER, &pointers)?;
        pack.set(1003, POINTER, &[workspace as *const c_void])?;
        pack.finalize()?;
        // SAFETY: as the caller promises; single numbers are read before the call returns.
        let status = unsafe { (self.library.api.execute)(self.handle, plan.plan.pointer, pack.pointer) };
        self.library.check("cudnnBackendExecute", status)
    }
}

impl Drop for Cudnn {
    fn drop(&mut self) {
        let _ = self.gpu.synchronize();
        // SAFETY: created by us, and no longer used.
        unsafe { (self.library.api.destroy)(self.handle) };
    }
}

#[cfg(test)]
mod tests;
