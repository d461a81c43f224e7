//! Finding and opening NVIDIA's libraries at run time: nothing of them is needed to build, and a machine without them
//! runs everything else.
//!
//! Libraries are opened by absolute path, from the first place of a [`SearchPath`] that has one which does. Names with a
//! major version that the driver does not support are not considered.

mod search_path;

use std::ffi::c_void;
use std::fmt;
use std::io::{self, Read};
use std::mem;
use std::path::{Path, PathBuf};

use super::error::CudaError;
pub(super) use search_path::{Found, SearchPath};

/// Newest and oldest major version of CUDA that we know how to talk to.
const CUDA_MAJORS: std::ops::RangeInclusive<i32> = 12..=13;

/// One of NVIDIA's libraries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Library {
    /// The driver's own.
    Driver,
    /// The compiler of our kernels.
    Nvrtc,
    /// Matrix products.
    CublasLt,
    /// Attention; optional.
    Cudnn,
}

impl Library {
    /// File names that would do with a driver of this CUDA version, the best first.
    pub(super) fn names(self, driver_major: i32) -> Vec<String> {
        let by_cuda = |stem: &str| -> Vec<String> {
            let newest = driver_major.min(*CUDA_MAJORS.end());
            (*CUDA_MAJORS.start()..=newest).rev().map(|major| format!("{stem}.so.{major}")).collect()
        };
        match self {
            Library::Driver => vec!["libcuda.so.1".into()],
            Library::Nvrtc => by_cuda("libnvrtc"),
            Library::CublasLt => by_cuda("libcublasLt"),
            Library::Cudnn => vec!["libcudnn.so.9".into()],
        }
    }

    /// Whether everything works without it.
    pub fn is_optional(self) -> bool {
        self == Library::Cudnn
    }

    /// A name for programs.
    pub fn key(self) -> &'static str {
        match self {
            Library::Driver => "driver",
            Library::Nvrtc => "nvrtc",
            Library::CublasLt => "cublaslt",
            Library::Cudnn => "cudnn",
        }
    }

    /// How to get it.
    pub(super) fn remedy(self) -> &'static str {
        match self {
            Library::Driver => {
                "install the NVIDIA driver (in a container: start it with the GPU passed through), \
                 or name the directory of libcuda.so.1 in OXIGPT_CUDA_PATH; --device=cpu runs without a GPU"
            }
            Library::Nvrtc => {
                "`pip install nvidia-cuda-nvrtc` (nvidia-cuda-nvrtc-cu12 for CUDA 12) in the Python \
                 environment at hand, or name the directory of the library in OXIGPT_CUDA_PATH"
            }
            Library::CublasLt => {
                "`pip install nvidia-cublas` (nvidia-cublas-cu12 for CUDA 12) in the Python environment \
                 at hand, or name the directory of the library in OXIGPT_CUDA_PATH"
            }
            Library::Cudnn => {
                "nothing fails without it; for faster attention, `pip install nvidia-cudnn-cu13` \
                 (nvidia-cudnn-cu12 for CUDA 12), or name its directory in OXIGPT_CUDA_PATH"
            }
        }
    }
}

impl fmt::Display for Library {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(match self {
            Library::Driver => "NVIDIA driver",
            Library::Nvrtc => "NVRTC",
            Library::CublasLt => "cuBLASLt",
            Library::Cudnn => "cuDNN",
        })
    }
}

/// An open library, and others that it asks for by name alone. Closed when dropped, so that none of a library that is passed
/// over gets into the one that is taken; but for good when that is this one, because others may hold on to what it gave
/// them.
pub(super) struct Opened {
    library: Library,
    /// Where it lies, or its bare name where only the system knows.
    pub(super) path: PathBuf,
    /// Itself first.
    handles: Vec<libloading::Library>,
}

impl Opened {
    fn open(library: Library, path: &Path) -> Result<Opened, CudaError> {
        let mut opened = Opened { library, path: path.to_owned(), handles: Vec::new() };
        opened.open_also(path)?;
        Ok(opened)
    }

    /// Opens what it will ask for.
    pub(super) fn open_also(&mut self, path: &Path) -> Result<(), CudaError> {
        let library = self.library;
        self.handles.push(open_globally(path).map_err(|reason| CudaError::Unusable { library, reason })?);
        Ok(())
    }

    /// The address of a function.
    pub(super) fn symbol(&self, symbol: &'static str) -> Result<*mut c_void, CudaError> {
        // SAFETY: only the address is taken here; whoever calls it knows its type.
        let found = unsafe { self.handles[0].get::<*mut c_void>(symbol.as_bytes()) };
        found.map(|found| *found).map_err(|_| CudaError::Symbol { path: self.path.clone(), symbol })
    }

    fn keep(self) {
        self.handles.into_iter().for_each(mem::forget);
    }
}

fn open_globally(path: &Path) -> Result<libloading::Library, String> {
    if path.is_absolute() && path.exists() && !is_whole(path).map_err(|error| error.to_string())? {
        return Err(format!("{}: the file is cut off", path.display()));
    }
    load(path).map_err(|error| with_causes(&error))
}

/// Whether a file has all bytes that its program headers map: touching what is missing would end the process. What is no
/// library of 64 bits is left to the loader, which says so.
fn is_whole(path: &Path) -> io::Result<bool> {
    let metadata = fs_err::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::other(format!("{}: no plain file", path.display())));
    }
    let (file, len) = (fs_err::File::open(path)?, metadata.len());
    let mut head = Vec::new();
    file.take(1 << 16).read_to_end(&mut head)?;
    let number = |at: usize, bytes: usize| {
        let mut number = [0; 8];
        head.get(at..at + bytes).map(|found| {
            number[..bytes].copy_from_slice(found);
            u64::from_le_bytes(number)
        })
    };
    const LOADED: u64 = 1;
    let ends = || {
        let (first, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        let header = |i| usize::try_from(first.checked_add(i * size)?).ok();
        let end = |at: usize| match number(at, 4)? {
            LOADED => number(at + 8, 8)?.checked_add(number(at + 32, 8)?),
            _ => Some(0),
        };
        (0..count).map(|i| end(header(i)?)).collect::<Option<Vec<_>>>()
    };
    Ok(!head.starts_with(b"\x7fELF\x02\x01") || ends().is_some_and(|ends| ends.iter().all(|end| *end <= len)))
}

fn load(path: &Path) -> Result<libloading::Library, libloading::Error> {
    #[cfg(unix)]
    {
        use libloading::os::unix;
        // Visible to all, because these libraries look each other up by name.
        let flags = unix::RTLD_NOW | unix::RTLD_GLOBAL;
        // SAFETY: the initialisers of NVIDIA's libraries have no conditions.
        Ok(unsafe { unix::Library::open(Some(path), flags) }?.into())
    }
    #[cfg(not(unix))]
    {
        // SAFETY: as above.
        unsafe { libloading::Library::new(path) }
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => with_causes(source),
        None => error.to_string(),
    }
}

/// Declares a table of functions that one library holds, each with its exact C signature and an integer status.
macro_rules! functions {
    ($(#[$doc:meta])* $table:ident { $($field:ident = $symbol:ident($($argument:ty),* $(,)?) $(-> $result:ty)?;)+ }) => {
        $(#[$doc])*
        struct $table {
            $($field: unsafe extern "C" fn($($argument),*) -> functions!(@status $($result)?),)+
        }

        impl $table {
            fn load(from: &super::library::Opened) -> Result<$table, super::error::CudaError> {
                Ok($table {
                    $($field: {
                        let address = from.symbol(stringify!($symbol))?;
                        // SAFETY: the signature is that of the function in NVIDIA's documentation.
                        unsafe {
                            std::mem::transmute::<
                                *mut std::ffi::c_void,
                                unsafe extern "C" fn($($argument),*) -> functions!(@status $($result)?),
                            >(address)
                        }
                    },)+
                })
            }
        }
    };
    (@status) => { std::ffi::c_int };
    (@status $result:ty) => { $result };
}
pub(super) use functions;

#[cfg(test)]
mod tests;
