//! Finding and opening NVIDIA's libraries at run time: nothing of them is needed to build, and a machine without them
//! runs everything else.
//!
//! Libraries are opened by absolute path, from the first place that has one: `OXIGPT_CUDA_PATH`, `LD_LIBRARY_PATH`,
//! `CUDA_HOME`, the Python environments at hand (their `nvidia-*` packages), the usual places, and at last wherever the
//! system's own loader looks. Names with a major version that the driver does not support are not considered.

use std::collections::BTreeSet;
use std::env;
use std::ffi::c_void;
use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::error::CudaError;

/// Directories that come before all others, separated like those of `PATH`.
const OWN_VARIABLE: &str = "OXIGPT_CUDA_PATH";

/// Directories below the root of a CUDA toolkit that hold libraries.
const LIBRARY_DIRS: [&str; 4] = ["lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib"];

/// Where systems keep libraries.
const SYSTEM_DIRS: [&str; 10] = [
    "/usr/local/nvidia/lib64",
    "/usr/local/cuda/lib64",
    "/usr/local/cuda/targets/x86_64-linux/lib",
    "/usr/local/cuda/targets/sbsa-linux/lib",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/lib/wsl/lib",
    "/run/opengl-driver/lib",
];

/// Newest and oldest major version of CUDA that we know how to talk to.
const CUDA_MAJORS: std::ops::RangeInclusive<i32> = 12..=13;

/// Parts of cuDNN that graphs need.
const CUDNN_PARTS: [&str; 4] = ["graph", "engines_precompiled", "engines_runtime_compiled", "heuristic"];

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

/// Where to look, in order.
pub(super) struct Places {
    dirs: Vec<PathBuf>,
    /// How many of them, at the beginning, our own variable names: any version of a library there comes before others.
    asked_for: usize,
    /// Whether to ask the system's loader at last, which has a list of its own.
    and_system: bool,
}

impl Places {
    /// Those of this process's environment and this machine.
    pub(super) fn of_environment() -> Places {
        let of_variable = |name: &str| -> Vec<PathBuf> {
            env::var_os(name).map_or_else(Vec::new, |value| env::split_paths(&value).collect())
        };
        let below = |roots: Vec<PathBuf>| -> Vec<PathBuf> {
            roots.iter().flat_map(|root| LIBRARY_DIRS.map(|dir| root.join(dir))).collect()
        };
        let mut dirs = of_variable(OWN_VARIABLE);
        dirs.extend(below(dirs.clone()));
        let asked_for = Places::new(dirs.clone()).dirs.len();
        dirs.extend(of_variable("LD_LIBRARY_PATH"));
        dirs.extend(below([of_variable("CUDA_HOME"), of_variable("CUDA_PATH")].concat()));
        let mut prefixes = [of_variable("VIRTUAL_ENV"), of_variable("CONDA_PREFIX")].concat();
        let has_python = |dir: &&PathBuf| dir.join("python3").exists() || dir.join("python").exists();
        let path = of_variable("PATH");
        prefixes.extend(path.iter().filter(has_python).filter_map(|bin| Some(bin.parent()?.to_owned())));
        prefixes.extend(of_variable("HOME").into_iter().map(|home| home.join(".local")));
        // Where Debian's Python keeps what pip installs for all.
        prefixes.push("/usr/local".into());
        dirs.extend(prefixes.iter().flat_map(|prefix| python_dirs(prefix)));
        dirs.extend(SYSTEM_DIRS.map(PathBuf::from));
        Places { and_system: true, asked_for, ..Places::new(dirs) }
    }

    /// Those of `dirs` that exist, each once.
    pub(super) fn new(dirs: Vec<PathBuf>) -> Places {
        let mut seen = BTreeSet::new();
        let dirs = dirs.into_iter().filter(|dir| dir.is_dir() && seen.insert(dir.clone())).collect();
        Places { dirs, asked_for: 0, and_system: false }
    }

    /// Opens a library. One that is found but cannot be loaded is passed over for the next.
    pub(super) fn open(&self, library: Library, driver_major: i32) -> Result<Opened, CudaError> {
        let names = library.names(driver_major);
        let mut refusal = None;
        let (asked_for, others) = self.dirs.split_at(self.asked_for);
        let below = |dirs: &'_ [PathBuf]| -> Vec<PathBuf> {
            names.iter().flat_map(|name| dirs.iter().map(move |dir| dir.join(name))).collect()
        };
        for path in [asked_for, others].into_iter().flat_map(below) {
            if path.exists() {
                match Opened::open(&path) {
                    Ok(opened) => return Ok(opened),
                    Err(reason) => refusal = refusal.or(Some(reason)),
                }
            }
        }
        let by_name = |name: &String| Opened::open(Path::new(name)).ok();
        if let Some(opened) = names.iter().filter(|_| self.and_system).find_map(by_name) {
            return Ok(opened);
        }
        Err(match refusal {
            Some(reason) => CudaError::Unusable { library, reason },
            None => CudaError::Missing { library, names: names.join(" or "), looked_in: self.dirs.clone() },
        })
    }
}

/// `nvidia/*/lib` in the packages of a Python environment: `cu13` holds most libraries of CUDA 13, and older versions
/// have a directory for each.
fn python_dirs(prefix: &Path) -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    for lib in ["lib", "lib64"].map(|lib| prefix.join(lib)) {
        for python in entries(&lib).filter(|path| is_named(path, "python3")) {
            for packages in ["site-packages", "dist-packages"] {
                dirs.extend(
                    entries(&python.join(packages).join("nvidia")).map(|package| package.join("lib")),
                );
            }
        }
    }
    dirs
}

fn is_named(path: &Path, start: &str) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(start))
}

/// What a directory holds, newest names first; nothing where it cannot be read.
fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> {
    let found: BTreeSet<PathBuf> =
        dir.read_dir().into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    found.into_iter().rev()
}

/// An open library. Stays open for the life of the process: others may hold on to what it gave them.
pub(super) struct Opened {
    /// Where it lies, or its bare name where only the system knows.
    pub(super) path: PathBuf,
    library: &'static libloading::Library,
}

impl Opened {
    fn open(path: &Path) -> Result<Opened, String> {
        // NVRTC asks for this one by name alone, when it compiles.
        if is_named(path, "libnvrtc.so") {
            let builtins =
                entries(path.parent().unwrap_or(path)).filter(|p| is_named(p, "libnvrtc-builtins.so"));
            builtins.for_each(|path| drop(open_globally(&path)));
        }
        let library = open_globally(path)?;
        // cuDNN asks for its parts by name alone, and ends the process where it does not find one.
        if is_named(path, "libcudnn.so") {
            for part in CUDNN_PARTS {
                let part = path.with_file_name(format!("libcudnn_{part}.so.9"));
                open_globally(&part)?;
            }
        }
        Ok(Opened { path: path.to_owned(), library })
    }

    /// The address of a function.
    pub(super) fn symbol(&self, symbol: &'static str) -> Result<*mut c_void, CudaError> {
        // SAFETY: only the address is taken here; whoever calls it knows its type.
        let found = unsafe { self.library.get::<*mut c_void>(symbol.as_bytes()) };
        found.map(|found| *found).map_err(|_| CudaError::Symbol { path: self.path.clone(), symbol })
    }
}

fn open_globally(path: &Path) -> Result<&'static libloading::Library, String> {
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

fn load(path: &Path) -> Result<&'static libloading::Library, libloading::Error> {
    #[cfg(unix)]
    {
        use libloading::os::unix;
        // Visible to all, because these libraries look each other up by name.
        let flags = unix::RTLD_NOW | unix::RTLD_GLOBAL;
        // SAFETY: the initialisers of NVIDIA's libraries have no conditions.
        let library = unsafe { unix::Library::open(Some(path), flags) }?;
        Ok(Box::leak(Box::new(library.into())))
    }
    #[cfg(not(unix))]
    {
        // SAFETY: as above.
        Ok(Box::leak(Box::new(unsafe { libloading::Library::new(path) }?)))
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
