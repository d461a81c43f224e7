//! What can go wrong between a plan and a backend.

use thiserror::Error;

use crate::cuda::CudaError;

/// Errors of sessions and backends.
#[derive(Debug, Error)]
pub enum Error {
    /// The arena does not fit.
    #[error("{backend}: cannot allocate {bytes} bytes for the plan ({gib:.2} GiB)", gib = *bytes as f64 / f64::from(1 << 30))]
    OutOfMemory {
        /// Backend that refused.
        backend: &'static str,
        /// Bytes asked for.
        bytes: usize,
    },
    /// Data of the wrong length for a tensor.
    #[error("tensor `{tensor}` has {expected} elements, but {found} were given")]
    Length {
        /// Tensor.
        tensor: String,
        /// Elements it has.
        expected: usize,
        /// Elements given.
        found: usize,
    },
    /// Data of the wrong type for a tensor.
    #[error("tensor `{tensor}` holds {expected}, not {found}")]
    Type {
        /// Tensor.
        tensor: String,
        /// What it holds.
        expected: &'static str,
        /// What was given.
        found: &'static str,
    },
    /// An integer input that kernels could not index by.
    #[error("`{tensor}`[{index}] is {value}, but must be below {limit}")]
    Range {
        /// Tensor.
        tensor: String,
        /// Which element.
        index: usize,
        /// Its value.
        value: u32,
        /// Exclusive limit.
        limit: u32,
    },
    /// A GPU, or what it takes to use one.
    #[error(transparent)]
    Cuda(#[from] CudaError),
    /// The threads of the worker pool could not be started.
    #[error("cannot start {threads} worker threads: {source}")]
    Threads {
        /// Threads asked for.
        threads: usize,
        /// What the system said.
        source: std::io::Error,
    },
}

impl Error {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::OutOfMemory { .. } => Some(
                "lower batch_size (total_batch_size keeps the step the same) or block_size; \
                 `oxigpt plan` shows where the memory goes"
                    .into(),
            ),
            Error::Range { .. } => {
                Some("the data was prepared for a larger vocabulary than the model has".into())
            }
            Error::Cuda(error) => error.hint(),
            Error::Threads { .. } => Some("ask for fewer with --threads=N".into()),
            Error::Length { .. } | Error::Type { .. } => None,
        }
    }
}
