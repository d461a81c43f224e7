//! What cuBLASLt is asked for: matrices where they lie, their product, and what happens to it before it is written.

use std::ffi::c_int;

use crate::cuda::layout::Element;

/// A row-major matrix in device memory, or its transpose.
#[derive(Clone, Copy, Debug)]
pub(in crate::cuda) struct Matrix {
    /// Of its first element.
    pub(in crate::cuda) address: u64,
    /// Of its elements.
    pub(in crate::cuda) element: Element,
    /// As it lies in memory.
    pub(in crate::cuda) rows: usize,
    /// As it lies in memory; rows follow each other without gaps.
    pub(in crate::cuda) cols: usize,
    /// Whether its transpose is meant.
    pub(in crate::cuda) transposed: bool,
}

impl Matrix {
    /// Its transpose.
    pub(in crate::cuda) fn t(self) -> Matrix {
        Matrix { transposed: !self.transposed, ..self }
    }

    /// Rows and columns as meant.
    pub(super) fn size(&self) -> (usize, usize) {
        if self.transposed { (self.cols, self.rows) } else { (self.rows, self.cols) }
    }

    pub(super) fn bytes(&self) -> usize {
        self.element.bytes_of(self.rows, self.cols)
    }

    /// Bytes that its address is a multiple of, up to what kernels can make use of.
    pub(super) fn alignment(&self) -> u32 {
        1 << self.address.trailing_zeros().min(8)
    }
}

/// What happens to a product before it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cuda) enum Epilogue {
    /// Nothing.
    None,
    /// A bias is added: address of one number a column, of the type of the result.
    Bias(u64),
    /// As `Bias`, then GELU by the tanh approximation; `before` gets what that was applied to.
    BiasGelu {
        /// One number a column.
        bias: u64,
        /// A matrix like the result.
        before: u64,
    },
    /// GELU alone.
    Gelu {
        /// A matrix like the result.
        before: u64,
    },
    /// The product is multiplied by the derivative of that GELU at `before`, which is read.
    GeluBackward {
        /// A matrix like the result.
        before: u64,
    },
}

impl Epilogue {
    pub(super) fn code(self) -> c_int {
        match self {
            Epilogue::None => 1,
            Epilogue::Bias(_) => 4,
            Epilogue::Gelu { .. } => 160,
            Epilogue::BiasGelu { .. } => 164,
            Epilogue::GeluBackward { .. } => 192,
        }
    }

    pub(super) fn bias(self) -> Option<u64> {
        match self {
            Epilogue::Bias(bias) | Epilogue::BiasGelu { bias, .. } => Some(bias),
            Epilogue::None | Epilogue::Gelu { .. } | Epilogue::GeluBackward { .. } => None,
        }
    }

    pub(super) fn before(self) -> Option<u64> {
        match self {
            Epilogue::BiasGelu { before, .. }
            | Epilogue::Gelu { before }
            | Epilogue::GeluBackward { before } => Some(before),
            Epilogue::None | Epilogue::Bias(_) => None,
        }
    }
}

/// `c = epilogue(a b)`, or `c += a b`.
#[derive(Clone, Copy, Debug)]
pub(in crate::cuda) struct Product {
    /// `[M, N]`, not transposed.
    pub(in crate::cuda) c: Matrix,
    /// `[M, K]`.
    pub(in crate::cuda) a: Matrix,
    /// `[K, N]`.
    pub(in crate::cuda) b: Matrix,
    /// Whether to add to `c`; then there is no epilogue.
    pub(in crate::cuda) accumulate: bool,
    /// What else to do.
    pub(in crate::cuda) epilogue: Epilogue,
}

/// All that the choice of an algorithm depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) transposed: [bool; 2],
    pub(super) elements: [Element; 3],
    pub(super) alignment: [u32; 3],
    pub(super) epilogue: c_int,
}

impl Key {
    pub(super) fn of(product: &Product) -> Key {
        let Product { a, b, c, epilogue, .. } = product;
        let ((m, k), (depth, n)) = (a.size(), b.size());
        assert_eq!((k, (m, n)), (depth, c.size()), "sizes of a product");
        Key {
            m,
            n,
            k,
            transposed: [a.transposed, b.transposed],
            elements: [a.element, b.element, c.element],
            alignment: [a.alignment(), b.alignment(), c.alignment()],
            epilogue: epilogue.code(),
        }
    }
}
