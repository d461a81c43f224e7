//! The NVIDIA driver: devices, memory, streams, kernels. Only this file and those below it call it.
//!
//! Work is put on one stream and runs in its order, inputs come to it beside that (`ahead.rs`); reading memory back waits for it. An error of a kernel shows in a
//! later call, as CUDA reports it.

mod ahead;
mod gpu;
mod owned;

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr;

use super::error::CudaError;
use super::library::{Found, Library, SearchPath, functions};
pub(super) use ahead::Ahead;
pub(super) use gpu::Gpu;
use owned::MAX_ARGUMENTS;
pub(super) use owned::{Argument, Graph, Kernel, Memory, Module};

/// Oldest CUDA version of a driver.
const NEEDED_MAJOR: i32 = 12;

/// Compute capability that our kernels need: bfloat16 came with Ampere.
const NEEDED_CAPABILITY: (i32, i32) = (8, 0);

const OUT_OF_MEMORY: c_int = 2;
const NO_DEVICE: c_int = 100;
const STREAM_NON_BLOCKING: c_uint = 1;
const EVENT_DEFAULT: c_uint = 0;
const EVENT_NO_TIMING: c_uint = 2;
const CAPTURE_THREAD_LOCAL: c_int = 1;
const MULTIPROCESSOR_COUNT: c_int = 16;
const CAPABILITY_MAJOR: c_int = 75;
const CAPABILITY_MINOR: c_int = 76;
const SHARED_BYTES_OF_BLOCK: c_int = 97;
const STATIC_SHARED_BYTES: c_int = 1;
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
        allocate_host = cuMemAllocHost_v2(*mut *mut c_void, usize);
        free_host = cuMemFreeHost(*mut c_void);
        fill = cuMemsetD8Async(Address, u8, usize, Handle);
        write = cuMemcpyHtoDAsync_v2(Address, *const c_void, usize, Handle);
        read = cuMemcpyDtoHAsync_v2(*mut c_void, Address, usize, Handle);
        copy = cuMemcpyDtoDAsync_v2(Address, Address, usize, Handle);
        stream_create = cuStreamCreate(*mut Handle, c_uint);
        stream_destroy = cuStreamDestroy_v2(Handle);
        stream_synchronize = cuStreamSynchronize(Handle);
        stream_wait = cuStreamWaitEvent(Handle, Handle, c_uint);
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
        function_attribute = cuFuncGetAttribute(*mut c_int, c_int, Handle);
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
    pub(super) found: Found,
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
    /// Bytes of shared memory that a block can have.
    pub shared_bytes: usize,
}

impl GpuInfo {
    /// Refuses a GPU that our kernels cannot run on.
    pub(super) fn check(&self) -> Result<(), CudaError> {
        if self.capability >= NEEDED_CAPABILITY {
            return Ok(());
        }
        let (name, found) = (self.name.clone(), self.capability);
        Err(CudaError::OldDevice { name, found, needed: NEEDED_CAPABILITY })
    }
}

impl Driver {
    /// Opens the driver and asks for its version; needs no GPU.
    pub(super) fn open(search_path: &SearchPath) -> Result<Driver, CudaError> {
        let (api, found) = search_path.open(Library::Driver, NEEDED_MAJOR, |library| Api::load(library))?;
        let mut driver = Driver { api, found, version: 0 };
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
        if status == NO_DEVICE {
            return Err(CudaError::NoDevice { reason: self.reason(NO_DEVICE) });
        }
        self.check("cuInit", status)?;
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
            shared_bytes: attribute(SHARED_BYTES_OF_BLOCK)?.max(0) as usize,
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
