//! Inputs that go to the GPU while it works: the next batch is there when this one is done.
//!
//! Each has a place to wait in on both sides. It goes from host to device on a stream of copies, beside the work, and from
//! there to its tensor on the stream of work, after all work that reads what the tensor held before. Two events keep
//! whoever writes to a place from being faster than who reads it.

use std::ptr::{self, NonNull};
use std::sync::Arc;

use super::{Address, EVENT_NO_TIMING, Gpu, Handle, Memory};
use crate::cuda::error::CudaError;

/// The way of one input to the GPU.
pub(in crate::cuda) struct Ahead {
    gpu: Arc<Gpu>,
    /// Memory of the host that the GPU reads without the processor's help.
    pinned: NonNull<u8>,
    staged: Memory,
    /// The data is in `staged`, so `pinned` is free again.
    arrived: Handle,
    /// The data is in the tensor, so `staged` is free again.
    taken: Handle,
}

// SAFETY: as `Gpu`; the pinned memory is this one's alone.
unsafe impl Send for Ahead {}

impl Ahead {
    /// A way for so many bytes.
    pub(in crate::cuda) fn new(gpu: &Arc<Gpu>, bytes: usize) -> Result<Ahead, CudaError> {
        let staged = gpu.allocate(bytes)?;
        let mut pinned = ptr::null_mut();
        // SAFETY: writes one address.
        gpu.call("cuMemAllocHost", |api| unsafe { (api.allocate_host)(&mut pinned, bytes) })?;
        let pinned = NonNull::new(pinned.cast()).expect("memory that was allocated");
        let (arrived, taken) = (ptr::null_mut(), ptr::null_mut());
        // What has been made by then is given back where an event cannot be.
        let mut ahead = Ahead { gpu: gpu.clone(), pinned, staged, arrived, taken };
        for event in [&mut ahead.arrived, &mut ahead.taken] {
            // SAFETY: writes one handle.
            gpu.call("cuEventCreate", |api| unsafe { (api.event_create)(event, EVENT_NO_TIMING) })?;
        }
        Ok(ahead)
    }

    /// Bytes of the GPU's memory.
    pub(in crate::cuda) fn bytes(&self) -> usize {
        self.staged.bytes()
    }

    /// Writes to memory after all work that has been put on the stream, but copies beside it; `data` may be reused at once.
    pub(in crate::cuda) fn write(&mut self, address: Address, data: &[u8]) -> Result<(), CudaError> {
        assert_eq!(data.len(), self.staged.bytes(), "an input is written whole");
        let Ahead { gpu, pinned, arrived, taken, .. } = self;
        let (copies, work) = (gpu.copy_stream, gpu.stream);
        // SAFETY: an event that was never recorded has happened.
        gpu.call("cuEventSynchronize", |api| unsafe { (api.event_synchronize)(*arrived) })?;
        // SAFETY: as long as was allocated, and nobody reads it: the copy before has arrived.
        unsafe { ptr::copy_nonoverlapping(data.as_ptr(), pinned.as_ptr(), data.len()) };
        let (source, staged, bytes) = (pinned.as_ptr().cast_const().cast(), self.staged.at(0), data.len());
        // SAFETY: streams, events and memory live as long as `self`; the caller's address and length lie in one allocation
        // (see `Memory`).
        unsafe {
            gpu.call("cuStreamWaitEvent", |api| (api.stream_wait)(copies, *taken, 0))?;
            gpu.call("cuMemcpyHtoDAsync", |api| (api.write)(staged, source, bytes, copies))?;
            gpu.call("cuEventRecord", |api| (api.event_record)(*arrived, copies))?;
            gpu.call("cuStreamWaitEvent", |api| (api.stream_wait)(work, *arrived, 0))?;
            gpu.call("cuMemcpyDtoDAsync", |api| (api.copy)(address, staged, bytes, work))?;
            gpu.call("cuEventRecord", |api| (api.event_record)(*taken, work))
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        // What fails here has nobody to be told.
        // SAFETY: the stream lives as long as the GPU; what is given back is ours, and no longer used.
        unsafe {
            let _ =
                self.gpu.call("cuStreamSynchronize", |api| (api.stream_synchronize)(self.gpu.copy_stream));
            let _ = self.gpu.synchronize();
            for event in [self.arrived, self.taken].into_iter().filter(|event| !event.is_null()) {
                let _ = self.gpu.call("cuEventDestroy", |api| (api.event_destroy)(event));
            }
            let _ = self.gpu.call("cuMemFreeHost", |api| (api.free_host)(self.pinned.as_ptr().cast()));
        }
    }
}
