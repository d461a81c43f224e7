//! What a GPU gives out: memory, compiled kernels and their arguments, recorded work. Each keeps its GPU alive, and gives itself
//! back when dropped.

use std::ffi::{CString, c_int};
use std::ptr;
use std::sync::Arc;

use super::{Address, Gpu, Handle, MAX_DYNAMIC_SHARED_BYTES, STATIC_SHARED_BYTES};
use crate::cuda::error::CudaError;

/// Memory of a GPU; freed when dropped.
pub(in crate::cuda) struct Memory {
    pub(super) gpu: Arc<Gpu>,
    pub(super) address: Address,
    pub(super) bytes: usize,
}

impl Memory {
    /// Address of a byte of it.
    pub(in crate::cuda) fn at(&self, offset: usize) -> Address {
        assert!(offset <= self.bytes, "an offset beyond the allocation");
        self.address + offset as u64
    }

    /// Its size.
    pub(in crate::cuda) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Zeroes all of it.
    pub(in crate::cuda) fn zero(&self) -> Result<(), CudaError> {
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
pub(in crate::cuda) struct Module {
    pub(super) gpu: Arc<Gpu>,
    pub(super) handle: Handle,
}

// SAFETY: as `Gpu`.
unsafe impl Send for Module {}

impl Module {
    /// A kernel by its name, allowed to ask for all the shared memory that a block of the GPU can have beside its own.
    pub(in crate::cuda) fn kernel(&self, name: &'static str) -> Result<Kernel, CudaError> {
        let mut function = ptr::null_mut();
        let symbol = CString::new(name).expect("a name without zeros");
        // SAFETY: writes one handle.
        self.gpu.call("cuModuleGetFunction", |api| unsafe {
            (api.module_function)(&mut function, self.handle, symbol.as_ptr())
        })?;
        let mut own_bytes = 0;
        // SAFETY: a function of this module; writes one integer.
        self.gpu.call("cuFuncGetAttribute", |api| unsafe {
            (api.function_attribute)(&mut own_bytes, STATIC_SHARED_BYTES, function)
        })?;
        let shared_bytes = self.gpu.info.shared_bytes.saturating_sub(own_bytes.max(0) as usize);
        // SAFETY: a function of this module.
        self.gpu.call("cuFuncSetAttribute", |api| unsafe {
            (api.function_set_attribute)(function, MAX_DYNAMIC_SHARED_BYTES, shared_bytes as c_int)
        })?;
        Ok(Kernel { name, function, shared_bytes })
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
pub(in crate::cuda) struct Kernel {
    pub(super) name: &'static str,
    pub(super) function: Handle,
    /// Dynamic shared memory that a block of it can have.
    pub(super) shared_bytes: usize,
}

// SAFETY: as `Gpu`.
unsafe impl Send for Kernel {}

/// A recorded sequence of work.
pub(in crate::cuda) struct Graph {
    pub(super) gpu: Arc<Gpu>,
    pub(super) executable: Handle,
}

// SAFETY: as `Gpu`.
unsafe impl Send for Graph {}

impl Graph {
    /// Puts all of it on the stream.
    pub(in crate::cuda) fn launch(&self) -> Result<(), CudaError> {
        // SAFETY: what it was recorded from is alive as long as the backend that keeps the graph.
        self.gpu
            .call("cuGraphLaunch", |api| unsafe { (api.graph_launch)(self.executable, self.gpu.stream()) })
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
pub(super) const MAX_ARGUMENTS: usize = 24;

/// An argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub(in crate::cuda) enum Argument {
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
    pub(super) fn bits(self) -> u64 {
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
