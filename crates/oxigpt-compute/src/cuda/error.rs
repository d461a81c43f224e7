//! What can go wrong between this program and a GPU, each with what to do about it.

use std::path::PathBuf;

use thiserror::Error;

use super::library::Library;

/// Errors of the CUDA backend.
#[derive(Clone, Debug, Error)]
pub enum CudaError {
    /// A shared library is in none of the places where it could be.
    #[error("no {library} was found: looked for {names} in {}", places(.looked_in))]
    Missing {
        /// Which.
        library: Library,
        /// File names that would do.
        names: String,
        /// Directories that were looked into.
        looked_in: Vec<PathBuf>,
    },
    /// A shared library is there, but the system's loader refuses it.
    #[error("the {library} library cannot be loaded: {reason}")]
    Unusable {
        /// Which.
        library: Library,
        /// What the system's loader said, which names the file.
        reason: String,
    },
    /// A shared library lacks a function: it is too old, or something else.
    #[error("{} has no function `{symbol}`", path.display())]
    Symbol {
        /// The library.
        path: PathBuf,
        /// The function.
        symbol: &'static str,
    },
    /// An entry of `OXIGPT_CUDA_PATH` that cannot be looked into.
    #[error("OXIGPT_CUDA_PATH names {}, which is no directory", path.display())]
    NoDirectory {
        /// The entry.
        path: PathBuf,
    },
    /// Several libraries were found and none does, or there is more than one reason.
    #[error("{}", list(.reasons))]
    Several {
        /// The first weighs most.
        reasons: Vec<CudaError>,
    },
    /// The driver knows an older CUDA than we need.
    #[error("the NVIDIA driver supports CUDA {}.{}, but {needed}.0 is needed", version / 1000, version % 1000 / 10)]
    OldDriver {
        /// As the driver says it: 1000 times the major and 10 times the minor version.
        version: i32,
        /// Major version that is needed.
        needed: i32,
    },
    /// There is a driver, but no GPU that it would give us.
    #[error("the NVIDIA driver finds no GPU ({reason})")]
    NoDevice {
        /// What the driver said.
        reason: String,
    },
    /// There is no GPU of this number.
    #[error("there is no GPU {index}: the NVIDIA driver shows {count}")]
    NoSuchDevice {
        /// The number asked for.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// A GPU whose instructions are older than our kernels need.
    #[error("{name} has compute capability {}.{}, but {}.{} is needed", found.0, found.1, needed.0, needed.1)]
    OldDevice {
        /// The GPU.
        name: String,
        /// What it has.
        found: (i32, i32),
        /// What is needed.
        needed: (i32, i32),
    },
    /// Not enough memory on the device.
    #[error("{device}: cannot allocate {:.2} GiB, {:.2} GiB are free", gib(*.bytes), gib(*.free))]
    OutOfMemory {
        /// The GPU.
        device: String,
        /// Bytes asked for.
        bytes: usize,
        /// Bytes free.
        free: usize,
    },
    /// A call failed.
    #[error("{call} failed{}: {reason} ({code})", within(.operator))]
    Call {
        /// The function.
        call: &'static str,
        /// Its status.
        code: i32,
        /// What the library says of the status.
        reason: String,
        /// The operator that was executed, if it was one.
        operator: Option<&'static str>,
    },
    /// Our own kernels do not compile.
    #[error("NVRTC cannot compile {file} for {architecture}:\n{log}")]
    Compile {
        /// The source.
        file: &'static str,
        /// For which GPU.
        architecture: String,
        /// What the compiler said.
        log: String,
    },
    /// Attention heads that no kernel of ours can do.
    #[error(
        "attention heads of width {d} are too wide for the GPU kernels, which end at {widest} on {device}"
    )]
    WideHead {
        /// The GPU.
        device: String,
        /// What was asked for.
        d: usize,
        /// What can be done, with the shared memory that a block has there.
        widest: usize,
    },
    /// A cache of keys and values whose scores no block has room for.
    #[error(
        "a context of {positions} tokens is too long to decode on {device}: its kernel ends at {most}, with heads of \
         width {d}"
    )]
    LongCache {
        /// The GPU.
        device: String,
        /// What was asked for.
        positions: usize,
        /// What a block has room for.
        most: usize,
        /// Width of a head.
        d: usize,
    },
    /// A launch whose blocks ask for more shared memory than one can have.
    #[error("{kernel} needs {needed} bytes of shared memory a block, and {device} has {available}")]
    SharedMemory {
        /// The GPU.
        device: String,
        /// The kernel.
        kernel: &'static str,
        /// Bytes that it needs.
        needed: usize,
        /// Bytes that there are.
        available: usize,
    },
    /// A cuDNN older than the attention that we ask for.
    #[error("{} is cuDNN {version}, but 9.10.2 is needed", path.display())]
    OldCudnn {
        /// The library.
        path: PathBuf,
        /// Its version.
        version: String,
    },
    /// A cuDNN for another CUDA than that of the other libraries.
    #[error("{} was built for CUDA {found}, but the other libraries are of CUDA {needed}", path.display())]
    OtherCuda {
        /// The library.
        path: PathBuf,
        /// Major version that it was built for.
        found: usize,
        /// Major version of cuBLASLt.
        needed: i32,
    },
    /// Whoever runs this does not want cuDNN.
    #[error("OXIGPT_CUDNN=off")]
    Unwanted,
    /// cuDNN could do an attention, but not as we want it.
    #[error("cuDNN does not suit: {reason}")]
    Refused {
        /// What is amiss.
        reason: String,
    },
    /// cuBLASLt knows no way to do a product.
    #[error("cuBLASLt has no algorithm for the product {product}")]
    NoAlgorithm {
        /// Shapes, types and layouts.
        product: String,
    },
}

impl CudaError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            CudaError::Missing { library, .. } => library.remedy(),
            CudaError::Unusable { .. } | CudaError::Symbol { .. } => {
                "install a current version of it, or name the directory of one in OXIGPT_CUDA_PATH; \
                 `oxigpt devices` shows what was found"
            }
            CudaError::NoDirectory { .. } => "correct the variable, or unset it",
            CudaError::Several { reasons } => return reasons.first()?.hint(),
            CudaError::OldDriver { .. } => "update the NVIDIA driver (580 or newer has CUDA 13)",
            CudaError::NoDevice { .. } => {
                "check nvidia-smi and CUDA_VISIBLE_DEVICES; --device=cpu runs without a GPU"
            }
            CudaError::NoSuchDevice { .. } => "`oxigpt devices` lists them; --device=cuda takes the first",
            CudaError::OldDevice { .. } => "use another GPU (Ampere or newer), or --device=cpu",
            CudaError::OutOfMemory { .. } => {
                "lower batch_size (total_batch_size keeps the step the same) or block_size; \
                 `oxigpt plan` shows where the memory goes, nvidia-smi who else uses the GPU"
            }
            CudaError::Call { .. } => {
                "nvidia-smi shows whether the driver and the GPU are well; compute-sanitizer finds what a kernel did wrong"
            }
            CudaError::OldCudnn { .. } | CudaError::OtherCuda { .. } => Library::Cudnn.remedy(),
            CudaError::Unwanted | CudaError::Refused { .. } => return None,
            CudaError::WideHead { .. } => "use more heads (n_head), or --device=cpu",
            CudaError::LongCache { .. } => "lower block_size, or generate fewer tokens; or use --device=cpu",
            CudaError::SharedMemory { .. } => "use a narrower model (n_embd), or --device=cpu",
            CudaError::Compile { .. } | CudaError::NoAlgorithm { .. } => {
                "this is a mistake of ours or a version that we do not know: please report it with the \
                 output of `oxigpt devices`"
            }
        };
        Some(hint.into())
    }

    /// One error of all, of which there is at least one.
    pub(super) fn of_all(mut reasons: Vec<CudaError>) -> CudaError {
        if reasons.len() == 1 { reasons.remove(0) } else { CudaError::Several { reasons } }
    }

    /// The same error, met while executing an operator.
    pub(super) fn during(mut self, name: &'static str) -> CudaError {
        if let CudaError::Call { operator, .. } = &mut self {
            operator.get_or_insert(name);
        }
        self
    }
}

fn places(looked_in: &[PathBuf]) -> String {
    let places: Vec<_> = looked_in.iter().map(|dir| dir.display().to_string()).collect();
    if places.is_empty() { "the system's library path".into() } else { places.join(", ") }
}

fn list(reasons: &[CudaError]) -> String {
    reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn within(operator: &Option<&str>) -> String {
    operator.map_or_else(String::new, |operator| format!(" in `{operator}`, or before it"))
}

fn gib(bytes: usize) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}
