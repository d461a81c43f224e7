//! Puts kernels and products on the stream, by tensors of the plan.

use std::sync::Arc;

use super::Prepared;
use super::blas::{Blas, Epilogue, Matrix, Product};
use super::cache::Cache;
use super::driver::{Argument, Gpu};
use super::error::CudaError;
use super::kernels::{Kernels, Variant};
use super::layout::Element;
use crate::{Tensor, TensorId};

/// Threads of most blocks.
pub(super) const BLOCK: usize = 256;

/// Elements that a block of an elementwise kernel takes.
pub(super) const ELEMENTS: usize = 2048;

/// One operator after the other.
pub(super) struct Launcher<'a> {
    pub(super) gpu: &'a Arc<Gpu>,
    pub(super) kernels: &'a mut Kernels,
    pub(super) blas: &'a mut Blas,
    pub(super) cache: &'a Cache,
    pub(super) prepared: &'a Prepared,
}

/// The shape of a launch.
#[derive(Clone, Copy)]
pub(super) struct Grid {
    /// Blocks.
    pub(super) blocks: [usize; 3],
    /// Threads of a block.
    pub(super) threads: usize,
    /// Bytes of dynamic shared memory of a block.
    pub(super) shared_bytes: usize,
}

impl Grid {
    /// Blocks of [`BLOCK`] threads, side by side.
    pub(super) fn of(blocks: usize) -> Grid {
        Grid { blocks: [blocks, 1, 1], threads: BLOCK, shared_bytes: 0 }
    }

    /// Blocks enough for so many elements, [`ELEMENTS`] each.
    pub(super) fn over(elements: usize) -> Grid {
        Grid::of(elements.div_ceil(ELEMENTS))
    }
}

/// Signed integer of a size, as kernels take it.
pub(super) fn int(size: usize) -> Argument {
    Argument::Int(i32::try_from(size).expect("a dimension below 2^31"))
}

/// Signed 64-bit integer of a size, as kernels take it.
pub(super) fn long(size: usize) -> Argument {
    Argument::Long(size as i64)
}

/// What stands for an absent tensor.
pub(super) const NULL: Argument = Argument::Pointer(0);

impl Launcher<'_> {
    /// A tensor's entry in the plan.
    pub(super) fn tensor(&self, id: TensorId) -> &Tensor {
        self.prepared.plan.tensor(id)
    }

    /// Where a tensor begins.
    pub(super) fn address(&self, id: TensorId) -> u64 {
        self.prepared.arena.at(self.prepared.layout.offset(id))
    }

    /// Where a weight begins in the type that products read.
    pub(super) fn weight_address(&self, id: TensorId) -> u64 {
        match self.prepared.layout.copy(id) {
            Some(offset) => self.prepared.copies.at(offset),
            None => self.address(id),
        }
    }

    /// A tensor as an argument.
    pub(super) fn pointer(&self, id: TensorId) -> Argument {
        Argument::Pointer(self.address(id))
    }

    /// A tensor as an argument, or null.
    pub(super) fn optional(&self, id: Option<TensorId>) -> Argument {
        id.map_or(NULL, |id| self.pointer(id))
    }

    /// Scratch memory of the operator at hand, from a byte on.
    pub(super) fn scratch(&self, offset: usize) -> Argument {
        Argument::Pointer(self.prepared.scratch.at(offset))
    }

    /// A tensor as a matrix of its rows.
    pub(super) fn matrix(&self, id: TensorId) -> Matrix {
        let tensor = self.tensor(id);
        let (rows, cols) = (tensor.rows(), tensor.width());
        let element = self.prepared.layout.element(id);
        Matrix { address: self.address(id), element, rows, cols, transposed: false }
    }

    /// A weight as the matrix that products read.
    pub(super) fn weight(&self, id: TensorId) -> Matrix {
        let matrix = self.matrix(id);
        match self.prepared.layout.copy(id) {
            Some(_) => Matrix { address: self.weight_address(id), element: Element::Bf16, ..matrix },
            None => matrix,
        }
    }

    /// The scales of a weight's rows, or null where it is not kept in integers.
    pub(super) fn scales(&self, id: TensorId) -> Argument {
        let Matrix { address, element, rows, cols, .. } = self.matrix(id);
        if element == Element::I8 {
            Argument::Pointer(address + Element::scales_at(rows, cols) as u64)
        } else {
            NULL
        }
    }

    /// Puts a kernel on the stream; `arguments` are those of the list at the top of its file.
    pub(super) fn kernel(
        &mut self,
        variant: impl Into<Variant>,
        name: &'static str,
        grid: Grid,
        arguments: &[Argument],
    ) -> Result<(), CudaError> {
        let Grid { blocks, threads, shared_bytes } = grid;
        let kernel = self.kernels.get(variant.into(), name, self.cache)?;
        let blocks = blocks.map(|n| n as u32);
        // SAFETY: the plan's shapes were checked when it was built, tensors lie inside the arena at their places, and
        // the arguments are those that the kernel's file lists; the conformance suite runs every one.
        unsafe { self.gpu.launch(&kernel, blocks, threads as u32, shared_bytes as u32, arguments) }
    }

    /// Whether cuBLASLt can do a product.
    pub(super) fn can(&mut self, product: &Product) -> Result<bool, CudaError> {
        self.blas.prepare(product, self.cache)
    }

    /// Puts a product on the stream.
    pub(super) fn product(&mut self, product: &Product) -> Result<(), CudaError> {
        self.can(product)?;
        // SAFETY: as `kernel`.
        unsafe { self.blas.run(product) }
    }

    /// `c = a b`, or `c += a b`.
    pub(super) fn multiply(
        &mut self,
        c: Matrix,
        a: Matrix,
        b: Matrix,
        accumulate: bool,
    ) -> Result<(), CudaError> {
        self.product(&Product { c, a, b, accumulate, epilogue: Epilogue::None })
    }
}
