//! The arena of the CPU backend, and shared access to slices of it.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

use memmap2::MmapMut;

use crate::bfloat16::Bf16;
use crate::{Dtype, Error, Plan, TensorId};

/// One zeroed block of memory that holds every tensor of a plan.
pub(crate) struct Arena {
    plan: Arc<Plan>,
    memory: MmapMut,
}

impl Arena {
    pub(crate) fn new(plan: Arc<Plan>) -> Result<Arena, Error> {
        let bytes = plan.arena_bytes().max(Plan::ALIGNMENT);
        let memory = MmapMut::map_anon(bytes).map_err(|_| Error::OutOfMemory { backend: "cpu", bytes })?;
        // Large pages save a good part of the address translation; a system without them works all the same.
        #[cfg(target_os = "linux")]
        let _ = memory.advise(memmap2::Advice::HugePage);
        Ok(Arena { plan, memory })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.memory.len()
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    fn address(&self, id: TensorId) -> *mut u8 {
        let (offset, bytes) = (self.plan.offset(id), self.plan.tensor(id).bytes());
        assert!(offset + bytes <= self.memory.len());
        // SAFETY: the offset lies inside the block, as just checked.
        unsafe { self.memory.as_ptr().add(offset).cast_mut() }
    }

    /// A tensor of reals in float32, to read and write from several threads.
    pub(crate) fn real(&self, id: TensorId) -> Shared<'_> {
        assert_eq!(self.plan.tensor(id).dtype, Dtype::Real);
        Shared { ptr: self.address(id).cast(), len: self.plan.tensor(id).len(), arena: PhantomData }
    }

    /// The memory of a stored matrix.
    pub(crate) fn stored(&self, id: TensorId) -> Shared<'_, u32> {
        assert!(self.plan.tensor(id).storage().is_some());
        Shared { ptr: self.address(id).cast(), len: self.plan.tensor(id).bytes() / 4, arena: PhantomData }
    }

    /// A tensor of reals in whatever type it has.
    pub(crate) fn reals(&self, id: TensorId) -> Reals<'_> {
        match self.plan.tensor(id).dtype {
            Dtype::Bf16 => {
                let (ptr, len) = (self.address(id).cast(), self.plan.tensor(id).len());
                Reals::Bf16(Shared { ptr, len, arena: PhantomData })
            }
            _ => Reals::F32(self.real(id)),
        }
    }

    /// An integer tensor. Integer tensors are inputs: no operator writes them.
    pub(crate) fn integers(&self, id: TensorId) -> &[u32] {
        assert_eq!(self.plan.tensor(id).dtype, Dtype::U32);
        // SAFETY: the tensor lies inside the block, aligned to 64 bytes, and is written only by `upload`,
        // which takes the backend, and so this arena, exclusively.
        unsafe { std::slice::from_raw_parts(self.address(id).cast(), self.plan.tensor(id).len()) }
    }

    /// An integer tensor, to upload to.
    pub(crate) fn integers_mut(&mut self, id: TensorId) -> &mut [u32] {
        assert_eq!(self.plan.tensor(id).dtype, Dtype::U32);
        // SAFETY: inside the block and aligned; `self` is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.address(id).cast(), self.plan.tensor(id).len()) }
    }
}

/// A tensor that several threads write to at once, each its own part.
#[derive(Clone, Copy)]
pub(crate) struct Shared<'a, T = f32> {
    ptr: *mut T,
    len: usize,
    arena: PhantomData<&'a T>,
}

// SAFETY: plain memory; who takes slices of it promises that they do not conflict.
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Shared<'_, T> {}

/// A tensor of reals, of the type that it has in memory.
#[derive(Clone, Copy)]
pub(crate) enum Reals<'a> {
    F32(Shared<'a>),
    Bf16(Shared<'a, Bf16>),
}

impl Reals<'_> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Reals::F32(data) => data.len(),
            Reals::Bf16(data) => data.len(),
        }
    }
}

impl<'a, T> Shared<'a, T> {
    pub(crate) fn of(slice: &'a mut [T]) -> Shared<'a, T> {
        Shared { ptr: slice.as_mut_ptr(), len: slice.len(), arena: PhantomData }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn ptr(&self) -> *mut T {
        self.ptr
    }

    /// Elements `range`, to read.
    ///
    /// # Safety
    /// Nobody writes to them while the slice lives.
    pub(crate) unsafe fn read(&self, range: Range<usize>) -> &'a [T] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: in bounds, as just checked; the caller excludes writers.
        unsafe { std::slice::from_raw_parts(self.ptr.add(range.start), range.len()) }
    }

    /// Elements `range`, to write.
    ///
    /// # Safety
    /// Nobody else reads or writes them while the slice lives.
    #[allow(clippy::mut_from_ref, reason = "the caller promises exclusive ranges")]
    pub(crate) unsafe fn write(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: in bounds, as just checked; the caller excludes all others.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(range.start), range.len()) }
    }

    /// The whole tensor, to read.
    ///
    /// # Safety
    /// As [`Shared::read`].
    pub(crate) unsafe fn all(&self) -> &'a [T] {
        // SAFETY: passed on to the caller.
        unsafe { self.read(0..self.len) }
    }
}
