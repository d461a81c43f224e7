//! One GPU: memory, copies, launches, recordings and time, all on one stream, and another for copies beside it.

use std::ffi::c_int;
use std::ptr;
use std::sync::Arc;

use super::{
    Address, Api, Argument, CAPTURE_THREAD_LOCAL, Driver, EVENT_DEFAULT, GpuInfo, Graph, Handle, Kernel,
    MAX_ARGUMENTS, Memory, Module, OUT_OF_MEMORY, STREAM_NON_BLOCKING,
};
use crate::cuda::error::CudaError;

/// One GPU at work: its context and its streams.
pub(in crate::cuda) struct Gpu {
    driver: Driver,
    device: c_int,
    context: Handle,
    pub(super) stream: Handle,
    /// For copies beside the work.
    pub(super) copy_stream: Handle,
    /// What it is.
    pub(in crate::cuda) info: GpuInfo,
}

// SAFETY: the driver's functions may be called from any thread, and every method makes the context current first.
unsafe impl Send for Gpu {}
// SAFETY: as above.
unsafe impl Sync for Gpu {}

impl Gpu {
    /// Begins to use a GPU.
    pub(in crate::cuda) fn open(driver: Driver, index: usize) -> Result<Arc<Gpu>, CudaError> {
        let gpus = driver.gpus()?;
        let count = gpus.len();
        let info = gpus.into_iter().nth(index).ok_or(CudaError::NoSuchDevice { index, count })?;
        info.check()?;
        let device = driver.device(index as c_int)?;
        let mut context = ptr::null_mut();
        // SAFETY: writes one handle.
        let status = unsafe { (driver.api.context_retain)(&mut context, device) };
        driver.check("cuDevicePrimaryCtxRetain", status)?;
        let [stream, copy_stream] = [ptr::null_mut(); 2];
        // What has been made by then is given back where a stream cannot be.
        let mut gpu = Gpu { driver, device, context, stream, copy_stream, info };
        gpu.stream = gpu.new_stream()?;
        gpu.copy_stream = gpu.new_stream()?;
        Ok(Arc::new(gpu))
    }

    fn new_stream(&self) -> Result<Handle, CudaError> {
        let mut stream = ptr::null_mut();
        // SAFETY: the context is current; writes one handle.
        self.call("cuStreamCreate", |api| unsafe { (api.stream_create)(&mut stream, STREAM_NON_BLOCKING) })?;
        Ok(stream)
    }

    /// The stream, for libraries that put work on it.
    pub(in crate::cuda) fn stream(&self) -> Handle {
        self.stream
    }

    /// Makes the context the calling thread's, and calls the driver.
    pub(super) fn call(&self, name: &'static str, call: impl FnOnce(&Api) -> c_int) -> Result<(), CudaError> {
        self.make_current()?;
        self.driver.check(name, call(&self.driver.api))
    }

    /// Makes the context the calling thread's, as libraries expect it.
    pub(in crate::cuda) fn make_current(&self) -> Result<(), CudaError> {
        // SAFETY: the context is retained while `self` lives.
        let status = unsafe { (self.driver.api.context_set_current)(self.context) };
        self.driver.check("cuCtxSetCurrent", status)
    }

    /// Bytes of memory that are free.
    pub(in crate::cuda) fn free_bytes(&self) -> Result<usize, CudaError> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: writes two integers.
        self.call("cuMemGetInfo", |api| unsafe { (api.memory_info)(&mut free, &mut total) })?;
        Ok(free)
    }

    /// Zeroed memory.
    pub(in crate::cuda) fn allocate(self: &Arc<Gpu>, bytes: usize) -> Result<Memory, CudaError> {
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
    pub(in crate::cuda) fn zero(&self, address: Address, bytes: usize) -> Result<(), CudaError> {
        // SAFETY: a caller's address and length lie in one allocation (see `Memory`).
        self.call("cuMemsetD8Async", |api| unsafe { (api.fill)(address, 0, bytes, self.stream) })
    }

    /// Writes to memory, after all work before; `data` may be reused at once, because memory that is not pinned is
    /// staged before the call returns.
    pub(in crate::cuda) fn write(&self, address: Address, data: &[u8]) -> Result<(), CudaError> {
        let source = data.as_ptr().cast();
        // SAFETY: as `zero`; `data` is as long as said.
        self.call("cuMemcpyHtoDAsync", |api| unsafe { (api.write)(address, source, data.len(), self.stream) })
    }

    /// Writes the same again and again, as often as it fits.
    pub(in crate::cuda) fn write_repeated(
        &self,
        address: Address,
        bytes: usize,
        data: &[u8],
    ) -> Result<(), CudaError> {
        let mut written = data.len().min(bytes);
        self.write(address, &data[..written])?;
        while written < bytes {
            let more = written.min(bytes - written);
            let target = address + written as u64;
            // SAFETY: as `zero`; what has been written and what follows do not overlap.
            self.call("cuMemcpyDtoDAsync", |api| unsafe { (api.copy)(target, address, more, self.stream) })?;
            written += more;
        }
        Ok(())
    }

    /// Reads memory when all work before is done.
    pub(in crate::cuda) fn read(&self, address: Address, data: &mut [u8]) -> Result<(), CudaError> {
        let target = data.as_mut_ptr().cast();
        // SAFETY: as `zero`; `data` is as long as said, and lives until the stream has been waited for.
        self.call("cuMemcpyDtoHAsync", |api| unsafe {
            (api.read)(target, address, data.len(), self.stream)
        })?;
        self.synchronize()
    }

    /// Waits until all work is done.
    pub(in crate::cuda) fn synchronize(&self) -> Result<(), CudaError> {
        // SAFETY: the stream lives as long as `self`.
        self.call("cuStreamSynchronize", |api| unsafe { (api.stream_synchronize)(self.stream) })
    }

    /// Puts a kernel on the stream, unless its blocks ask for more shared memory than one can have.
    ///
    /// # Safety
    /// `arguments` have the types that the kernel takes, and what they point to is as large as it expects.
    pub(in crate::cuda) unsafe fn launch(
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
        let (needed, available) = (shared_bytes as usize, kernel.shared_bytes);
        if needed > available {
            let (device, kernel) = (self.info.name.clone(), kernel.name);
            return Err(CudaError::SharedMemory { device, kernel, needed, available });
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
    pub(in crate::cuda) fn load(self: &Arc<Gpu>, cubin: &[u8]) -> Result<Module, CudaError> {
        let mut handle = ptr::null_mut();
        // SAFETY: a cubin says itself how long it is; the driver copies it.
        self.call("cuModuleLoadData", |api| unsafe {
            (api.module_load)(&mut handle, cubin.as_ptr().cast())
        })?;
        Ok(Module { gpu: self.clone(), handle })
    }

    /// Begins to record what is put on the stream, instead of doing it.
    pub(in crate::cuda) fn begin_capture(&self) -> Result<(), CudaError> {
        // SAFETY: the stream lives as long as `self`.
        self.call("cuStreamBeginCapture", |api| unsafe {
            (api.capture_begin)(self.stream, CAPTURE_THREAD_LOCAL)
        })
    }

    /// Ends recording; gives what was recorded, ready to be launched.
    pub(in crate::cuda) fn end_capture(self: &Arc<Gpu>) -> Result<Graph, CudaError> {
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
    pub(in crate::cuda) fn time(
        &self,
        work: impl FnOnce() -> Result<(), CudaError>,
    ) -> Result<f32, CudaError> {
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
        for stream in [self.stream, self.copy_stream].into_iter().filter(|stream| !stream.is_null()) {
            // SAFETY: nothing else uses the stream, and what was loaded or allocated holds `self`.
            unsafe {
                let _ = self.call("cuStreamSynchronize", |api| (api.stream_synchronize)(stream));
                let _ = self.call("cuStreamDestroy", |api| (api.stream_destroy)(stream));
            }
        }
        // SAFETY: retained once, by `open`.
        unsafe { (self.driver.api.context_release)(self.device) };
    }
}
