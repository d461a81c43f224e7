//! The NVIDIA driver: devices, memory, one stream, kernels. The only file that calls it.
//!
//! Work is put on one stream and runs in its order; reading memory back waits for it. An error of a kernel shows in a
//! later call, as CUDA reports it.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::path::PathBuf;
use std::ptr;
use std::sync::Arc;

use super::error::CudaError;
use super::library::{Library, Places, functions};

/// Oldest CUDA version of a driver.
const NEEDED_MAJOR: i32 = 12;

/// Compute capability that our kernels need: bfloat16 came with Ampere.
const NEEDED_CAPABILITY: (i32, i32) = (8, 0);

const OUT_OF_MEMORY: c_int = 2;
const NO_DEVICE: c_int = 100;
const STREAM_NON_BLOCKING: c_uint = 1;
const EVENT_DEFAULT: c_uint = 0;
const CAPTURE_THREAD_LOCAL: c_int = 1;
const MULTIPROCESSOR_COUNT: c_int = 16;
const CAPABILITY_MAJOR: c_int = 75;
const CAPABILITY_MINOR: c_int = 76;
const MAX_DYNAMIC_SHARED_BYTES: c_int = 8;

type Handle = *mut c_void;
type Address = u64;

functions! {
    /// Functions of libcuda.so.1.
    Api {
        init = cuInit(c_uint);
        driver_version = cuDriverGetVersion(*mut c_int);
        error_name = cuGetErrorName(c_int, *mut *const c_char);
        error_string = cuGetErrorString(c_int, *mut *const c_char);
        device_count = cuDeviceGetCount(*mut c_int);
        device = cuDeviceGet(*mut c_int, c_int);
        device_name = cuDeviceGetName(*mut c_char, c_int, c_int);
        device_attribute = cuDeviceGetAttribute(*mut c_int, c_int, c_int);
        device_memory = cuDeviceTotalMem_v2(*mut usize, c_int);
        context_retain = cuDevicePrimaryCtxRetain(*mut Handle, c_int);
        context_release = cuDevicePrimaryCtxRelease_v2(c_int);
        context_set_current = cuCtxSetCurrent(Handle);
        memory_info = cuMemGetInfo_v2(*mut usize, *mut usize);
        allocate = cuMemAlloc_v2(*mut Address, usize);
        free = cuMemFree_v2(Address);
        fill = cuMemsetD8Async(Address, u8, usize, Handle);
        write = cuMemcpyHtoDAsync_v2(Address, *const c_void, usize, Handle);
        read = cuMemcpyDtoHAsync_v2(*mut c_void, Address, usize, Handle);
        stream_create = cuStreamCreate(*mut Handle, c_uint);
        stream_destroy = cuStreamDestroy_v2(Handle);
        stream_synchronize = cuStreamSynchronize(Handle);
        capture_begin = cuStreamBeginCapture_v2(Handle, c_int);
        capture_end = cuStreamEndCapture(Handle, *mut Handle);
        graph_instantiate = cuGraphInstantiateWithFlags(*mut Handle, Handle, u64);
        graph_destroy = cuGraphDestroy(Handle);
        graph_launch = cuGraphLaunch(Handle, Handle);
        graph_exec_destroy = cuGraphExecDestroy(Handle);
        event_create = cuEventCreate(*mut Handle, c_uint);
        event_record = cuEventRecord(Handle, Handle);
        event_synchronize = cuEventSynchronize(Handle);
        event_elapsed = cuEventElapsedTime(*mut f32, Handle, Handle);
        event_destroy = cuEventDestroy_v2(Handle);
        module_load = cuModuleLoadData(*mut Handle, *const c_void);
        module_unload = cuModuleUnload(Handle);
        module_function = cuModuleGetFunction(*mut Handle, Handle, *const c_char);
        function_set_attribute = cuFuncSetAttribute(Handle, c_int, c_int);
        launch = cuLaunchKernel(
            Handle, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Handle, *mut *mut c_void, *mut *mut c_void,
        );
    }
}

/// An open driver.
pub(super) struct Driver {
    api: Api,
    /// The library.
    pub(super) path: PathBuf,
    /// CUDA version that it supports: 13000 is 13.0.
    pub(super) version: i32,
}

/// A GPU as the driver describes it.
#[derive(Clone, Debug)]
pub struct GpuInfo {
    /// Its number, as `cuda:N` names it.
    pub index: usize,
    /// Its product name.
    pub name: String,
    /// Compute capability: 9.0 is Hopper.
    pub capability: (i32, i32),
    /// Streaming multiprocessors.
    pub multiprocessors: i32,
    /// Bytes of its memory.
    pub memory_bytes: usize,
}

impl Driver {
    /// Opens the driver and asks for its version; needs no GPU.
    pub(super) fn open(places: &Places) -> Result<Driver, CudaError> {
        let library = places.open(Library::Driver, NEEDED_MAJOR)?;
        let api = Api::load(&library)?;
        let mut driver = Driver { api, path: library.path, version: 0 };
        let mut version = 0;
        // SAFETY: writes one integer.
        let status = unsafe { (driver.api.driver_version)(&mut version) };
        driver.check("cuDriverGetVersion", status)?;
        driver.version = version;
        if driver.major() < NEEDED_MAJOR {
            return Err(CudaError::OldDriver { version, needed: NEEDED_MAJOR });
        }
        Ok(driver)
    }

    /// Major version of CUDA that it supports.
    pub(super) fn major(&self) -> i32 {
        self.version / 1000
    }

    /// Every GPU that it shows.
    pub(super) fn gpus(&self) -> Result<Vec<GpuInfo>, CudaError> {
        // SAFETY: no conditions.
        let status = unsafe { (self.api.init)(0) };
        if status != 0 {
            return Err(CudaError::NoDevice { reason: self.reason(status) });
        }
        let mut count = 0;
        // SAFETY: writes one integer.
        let status = unsafe { (self.api.device_count)(&mut count) };
        if status == NO_DEVICE || (status == 0 && count == 0) {
            return Err(CudaError::NoDevice { reason: self.reason(NO_DEVICE) });
        }
        self.check("cuDeviceGetCount", status)?;
        (0..count).map(|index| self.info(index)).collect()
    }

    fn info(&self, index: c_int) -> Result<GpuInfo, CudaError> {
        let device = self.device(index)?;
        let mut name = [0u8; 256];
        let mut memory_bytes = 0;
        // SAFETY: each writes to a variable of the size that it is told.
        unsafe {
            self.check("cuDeviceGetName", (self.api.device_name)(name.as_mut_ptr().cast(), 256, device))?;
            self.check("cuDeviceTotalMem", (self.api.device_memory)(&mut memory_bytes, device))?;
        }
        let attribute = |attribute| {
            let mut value = 0;
            // SAFETY: writes one integer.
            let status = unsafe { (self.api.device_attribute)(&mut value, attribute, device) };
            self.check("cuDeviceGetAttribute", status).map(|()| value)
        };
        Ok(GpuInfo {
            index: index as usize,
            name: CStr::from_bytes_until_nul(&name).unwrap_or_default().to_string_lossy().into_owned(),
            capability: (attribute(CAPABILITY_MAJOR)?, attribute(CAPABILITY_MINOR)?),
            multiprocessors: attribute(MULTIPROCESSOR_COUNT)?,
            memory_bytes,
        })
    }

    fn device(&self, index: c_int) -> Result<c_int, CudaError> {
        let mut device = 0;
        // SAFETY: writes one integer.
        let status = unsafe { (self.api.device)(&mut device, index) };
        self.check("cuDeviceGet", status).map(|()| device)
    }

    fn check(&self, call: &'static str, status: c_int) -> Result<(), CudaError> {
        if status == 0 {
            return Ok(());
        }
        Err(CudaError::Call { call, code: status, reason: self.reason(status), operator: None })
    }

    /// What the driver says of a status.
    fn reason(&self, status: c_int) -> String {
        let said = |function: unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int| {
            let mut text = ptr::null();
            // SAFETY: writes one pointer, to a text that is never freed, or null.
            unsafe {
                (function(status, &mut text) == 0 && !text.is_null())
                    .then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
            }
        };
        match (said(self.api.error_name), said(self.api.error_string)) {
            (Some(name), Some(text)) => format!("{name}: {text}"),
            (Some(text), None) | (None, Some(text)) => text,
            (None, None) => "an error that the driver has no name for".into(),
        }
    }
}

/// One GPU at work: its context and a stream.
pub(super) struct Gpu {
    driver: Driver,
    device: c_int,
    context: Handle,
    stream: Handle,
    /// What it is.
    pub(super) info: GpuInfo,
}

// SAFETY: the driver's functions may be called from any thread, and every method makes the context current first.
unsafe impl Send for Gpu {}
// SAFETY: as above.
unsafe impl Sync for Gpu {}

impl Gpu {
    /// Begins to use a GPU.
    pub(super) fn open(driver: Driver, index: usize) -> Result<Arc<Gpu>, CudaError> {
        let gpus = driver.gpus()?;
        let count = gpus.len();
        let info = gpus.into_iter().nth(index).ok_or(CudaError::NoSuchDevice { index, count })?;
        if info.capability < NEEDED_CAPABILITY {
            let (name, found) = (info.name, info.capability);
            return Err(CudaError::OldDevice { name, found, needed: NEEDED_CAPABILITY });
        }
        let device = driver.device(index as c_int)?;
        let mut context = ptr::null_mut();
        // SAFETY: writes one handle.
        let status = unsafe { (driver.api.context_retain)(&mut context, device) };
        driver.check("cuDevicePrimaryCtxRetain", status)?;
        let mut gpu = Gpu { driver, device, context, stream: ptr::null_mut(), info };
        let mut stream = ptr::null_mut();
        // SAFETY: the context is current; writes one handle.
        gpu.call("cuStreamCreate", |api| unsafe { (api.stream_create)(&mut stream, STREAM_NON_BLOCKING) })?;
        gpu.stream = stream;
        Ok(Arc::new(gpu))
    }

    /// The stream, for libraries that put work on it.
    pub(super) fn stream(&self) -> Handle {
        self.stream
    }

    /// Makes the context the calling thread's, and calls the driver.
    fn call(&self, name: &'static str, call: impl FnOnce(&Api) -> c_int) -> Result<(), CudaError> {
        self.make_current()?;
        self.driver.check(name, call(&self.driver.api))
    }

    /// Makes the context the calling thread's, as libraries expect it.
    pub(super) fn make_current(&self) -> Result<(), CudaError> {
        // SAFETY: the context is retained while `self` lives.
        let status = unsafe { (self.driver.api.context_set_current)(self.context) };
        self.driver.check("cuCtxSetCurrent", status)
    }

    /// Bytes of memory that are free.
    pub(super) fn free_bytes(&self) -> Result<usize, CudaError> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: writes two integers.
        self.call("cuMemGetInfo", |api| unsafe { (api.memory_info)(&mut free, &mut total) })?;
        Ok(free)
    }

    /// Zeroed memory.
    pub(super) fn allocate(self: &Arc<Gpu>, bytes: usize) -> Result<Memory, CudaError> {
        let mut address = 0;
        let bytes = bytes.max(1);
        // SAFETY: writes one address.
        let allocated = self.call("cuMemAlloc", |api| unsafe { (api.allocate)(&mut address, bytes) });
        if let Err(CudaError::Call { code: OUT_OF_MEMORY, .. }) = allocated {
            let free = self.free_bytes().unwrap_or(0);
            return Err(CudaError::OutOfMemory { device: self.info.name.clone(), bytes, free });
        }
        allocated?;
        let memory = Memory { gpu: self.clone(), address, bytes };
        self.zero(address, bytes)?;
        Ok(memory)
    }

    /// Zeroes memory.
    pub(super) fn zero(&self, address: Address, bytes: usize) -> Result<(), CudaError> {
        // SAFETY: a caller's address and length lie in one allocation (see `Memory`).
        self.call("cuMemsetD8Async", |api| unsafe { (api.fill)(address, 0, bytes, self.stream) })
    }

    /// Writes to memory, after all work before; `data` may be reused at once, because memory that is not pinned is
    /// staged before the call returns.
    pub(super) fn write(&self, address: Address, data: &[u8]) -> Result<(), CudaError> {
        let source = data.as_ptr().cast();
        // SAFETY: as `zero`; `data` is as long as said.
        self.call("cuMemcpyHtoDAsync", |api| unsafe { (api.write)(address, source, data.len(), self.stream) })
    }

    /// Reads memory when all work before is done.
    pub(super) fn read(&self, address: Address, data: &mut [u8]) -> Result<(), CudaError> {
        let target = data.as_mut_ptr().cast();
        // SAFETY: as `zero`; `data` is as long as said, and lives until the stream has been waited for.
        self.call("cuMemcpyDtoHAsync", |api| unsafe {
            (api.read)(target, address, data.len(), self.stream)
        })?;
        self.synchronize()
    }

    /// Waits until all work is done.
    pub(super) fn synchronize(&self) -> Result<(), CudaError> {
        // SAFETY: the stream lives as long as `self`.
        self.call("cuStreamSynchronize", |api| unsafe { (api.stream_synchronize)(self.stream) })
    }

    /// Puts a kernel on the stream.
    ///
    /// # Safety
    /// `arguments` have the types that the kernel takes, and what they point to is as large as it expects.
    pub(super) unsafe fn launch(
        &self,
        kernel: &Kernel,
        grid: [u32; 3],
        block: u32,
        shared_bytes: u32,
        arguments: &[Argument],
    ) -> Result<(), CudaError> {
        let mut values = [0u64; MAX_ARGUMENTS];
        let mut pointers = [ptr::null_mut(); MAX_ARGUMENTS];
        assert!(arguments.len() <= MAX_ARGUMENTS, "{} takes too many arguments", kernel.name);
        for (i, argument) in arguments.iter().enumerate() {
            values[i] = argument.bits();
            pointers[i] = (&raw mut values[i]).cast();
        }
        let pointers = pointers.as_mut_ptr();
        // SAFETY: as the caller promises; the driver copies the values before it returns.
        self.call("cuLaunchKernel", |api| unsafe {
            let [x, y, z] = grid;
            let extra = ptr::null_mut();
            (api.launch)(kernel.function, x, y, z, block, 1, 1, shared_bytes, self.stream, pointers, extra)
        })
    }

    /// Loads a cubin.
    pub(super) fn load(self: &Arc<Gpu>, cubin: &[u8]) -> Result<Module, CudaError> {
        let mut handle = ptr::null_mut();
        // SAFETY: a cubin says itself how long it is; the driver copies it.
        self.call("cuModuleLoadData", |api| unsafe {
            (api.module_load)(&mut handle, cubin.as_ptr().cast())
        })?;
        Ok(Module { gpu: self.clone(), handle })
    }

    /// Begins to record what is put on the stream, instead of doing it.
    pub(super) fn begin_capture(&self) -> Result<(), CudaError> {
        // SAFETY: the stream lives as long as `self`.
        self.call("cuStreamBeginCapture", |api| unsafe {
            (api.capture_begin)(self.stream, CAPTURE_THREAD_LOCAL)
        })
    }

    /// Ends recording; gives what was recorded, ready to be launched.
    pub(super) fn end_capture(self: &Arc<Gpu>) -> Result<Graph, CudaError> {
        let (mut graph, mut executable) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: writes a handle.
        self.call("cuStreamEndCapture", |api| unsafe { (api.capture_end)(self.stream, &mut graph) })?;
        // SAFETY: writes a handle; the graph is ours, and no longer needed once it has been made executable.
        self.call("cuGraphInstantiate", |api| unsafe {
            let status = (api.graph_instantiate)(&mut executable, graph, 0);
            (api.graph_destroy)(graph);
            status
        })?;
        Ok(Graph { gpu: self.clone(), executable })
    }

    /// Milliseconds that `work` takes on the stream.
    pub(super) fn time(&self, work: impl FnOnce() -> Result<(), CudaError>) -> Result<f32, CudaError> {
        let mut events = [ptr::null_mut(); 2];
        for event in &mut events {
            // SAFETY: writes one handle.
            self.call("cuEventCreate", |api| unsafe { (api.event_create)(event, EVENT_DEFAULT) })?;
        }
        let [start, end] = events;
        let mut ms = 0.0;
        // SAFETY: events and stream are alive.
        let record =
            |event| self.call("cuEventRecord", |api| unsafe { (api.event_record)(event, self.stream) });
        let timed = record(start).and_then(|()| work()).and_then(|()| record(end)).and_then(|()| {
            // SAFETY: both events have been recorded; writes one number.
            self.call("cuEventSynchronize", |api| unsafe { (api.event_synchronize)(end) })?;
            // SAFETY: as above.
            self.call("cuEventElapsedTime", |api| unsafe { (api.event_elapsed)(&mut ms, start, end) })
        });
        for event in events {
            // SAFETY: no longer used.
            self.call("cuEventDestroy", |api| unsafe { (api.event_destroy)(event) })?;
        }
        timed.map(|()| ms)
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // What fails here has nobody to be told.
        let _ = self.synchronize();
        // SAFETY: nothing else uses the stream, and what was loaded or allocated holds `self`.
        let _ = self.call("cuStreamDestroy", |api| unsafe { (api.stream_destroy)(self.stream) });
        // SAFETY: retained once, by `open`.
        unsafe { (self.driver.api.context_release)(self.device) };
    }
}

/// Memory of a GPU; freed when dropped.
pub(super) struct Memory {
    gpu: Arc<Gpu>,
    address: Address,
    bytes: usize,
}

impl Memory {
    /// Address of a byte of it.
    pub(super) fn at(&self, offset: usize) -> Address {
        assert!(offset <= self.bytes, "an offset beyond the allocation");
        self.address + offset as u64
    }

    /// Its size.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Zeroes all of it.
    pub(super) fn zero(&self) -> Result<(), CudaError> {
        self.gpu.zero(self.address, self.bytes)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // Kernels may still use it.
        let _ = self.gpu.synchronize();
        // SAFETY: ours, and no longer used.
        let _ = self.gpu.call("cuMemFree", |api| unsafe { (api.free)(self.address) });
    }
}

/// Compiled kernels on a GPU.
pub(super) struct Module {
    gpu: Arc<Gpu>,
    handle: Handle,
}

// SAFETY: as `Gpu`.
unsafe impl Send for Module {}

impl Module {
    /// A kernel by its name, allowed to ask for `shared_bytes` of dynamic shared memory.
    pub(super) fn kernel(&self, name: &'static str, shared_bytes: u32) -> Result<Kernel, CudaError> {
        let mut function = ptr::null_mut();
        let symbol = CString::new(name).expect("a name without zeros");
        // SAFETY: writes one handle.
        self.gpu.call("cuModuleGetFunction", |api| unsafe {
            (api.module_function)(&mut function, self.handle, symbol.as_ptr())
        })?;
        if shared_bytes > 48 << 10 {
            // SAFETY: a function of this module.
            self.gpu.call("cuFuncSetAttribute", |api| unsafe {
                (api.function_set_attribute)(function, MAX_DYNAMIC_SHARED_BYTES, shared_bytes as c_int)
            })?;
        }
        Ok(Kernel { name, function })
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        let _ = self.gpu.synchronize();
        // SAFETY: nothing runs, and kernels are used only by who holds the module.
        let _ = self.gpu.call("cuModuleUnload", |api| unsafe { (api.module_unload)(self.handle) });
    }
}

/// A kernel of a module that is loaded.
#[derive(Clone, Copy)]
pub(super) struct Kernel {
    name: &'static str,
    function: Handle,
}

// SAFETY: as `Gpu`.
unsafe impl Send for Kernel {}

/// A recorded sequence of work.
pub(super) struct Graph {
    gpu: Arc<Gpu>,
    executable: Handle,
}

// SAFETY: as `Gpu`.
unsafe impl Send for Graph {}

impl Graph {
    /// Puts all of it on the stream.
    pub(super) fn launch(&self) -> Result<(), CudaError> {
        // SAFETY: what it was recorded from is alive as long as the backend that keeps the graph.
        self.gpu.call("cuGraphLaunch", |api| unsafe { (api.graph_launch)(self.executable, self.gpu.stream) })
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        let _ = self.gpu.synchronize();
        // SAFETY: nothing runs.
        let _ =
            self.gpu.call("cuGraphExecDestroy", |api| unsafe { (api.graph_exec_destroy)(self.executable) });
    }
}

/// Arguments of a kernel at most.
const MAX_ARGUMENTS: usize = 24;

/// An argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub(super) enum Argument {
    /// An address, null for what is absent.
    Pointer(Address),
    /// `int`.
    Int(i32),
    /// `unsigned`.
    Unsigned(u32),
    /// `long long`.
    Long(i64),
    /// `float`.
    Float(f32),
    /// `double`.
    Double(f64),
}

impl Argument {
    /// The value in the lowest bytes, where a little-endian machine looks for it.
    fn bits(self) -> u64 {
        match self {
            Argument::Pointer(address) => address,
            Argument::Int(value) => u64::from(value as u32),
            Argument::Unsigned(value) => u64::from(value),
            Argument::Long(value) => value as u64,
            Argument::Float(value) => u64::from(value.to_bits()),
            Argument::Double(value) => value.to_bits(),
        }
    }
}
