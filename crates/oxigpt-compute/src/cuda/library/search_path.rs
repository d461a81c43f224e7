//! Where NVIDIA's libraries may lie on this machine, in order, and the first of them that does.
//!
//! `OXIGPT_CUDA_PATH`, `LD_LIBRARY_PATH`, `CUDA_HOME`, the Python environments at hand (their `nvidia-*` packages, and
//! conda's own), the usual places, and at last wherever the system's own loader looks. Python is not run: where its
//! packages are is read off where it lies itself.

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsString;
use std::iter;
use std::path::{self, Path, PathBuf};

use super::{Library, Opened};
use crate::cuda::error::CudaError;

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

/// Links that an interpreter may be behind.
const MAX_LINKS: usize = 8;

/// Directories to look into, in order.
#[derive(Default)]
pub(in crate::cuda) struct SearchPath {
    pub(super) dirs: Vec<PathBuf>,
    /// How many of them, at the beginning, our own variable names: any version of a library there comes before others.
    asked_for: usize,
    /// What our own variable names and is no directory.
    absent: Vec<PathBuf>,
    /// Whether to ask the system's loader at last, which has a list of its own.
    and_system: bool,
}

/// Where a library was found.
pub(in crate::cuda) struct Found {
    /// Its path, or its bare name where only the system knows.
    pub(in crate::cuda) path: PathBuf,
    /// What came before it and did not do.
    pub(in crate::cuda) passed_over: Vec<CudaError>,
}

impl SearchPath {
    /// That of this process's environment and this machine.
    pub(in crate::cuda) fn of_environment() -> SearchPath {
        SearchPath::of(&|name| env::var_os(name))
    }

    /// That of an environment, given by its variables.
    pub(super) fn of(variable: &dyn Fn(&str) -> Option<OsString>) -> SearchPath {
        let listed = |name: &str| -> Vec<PathBuf> {
            let value = variable(name).unwrap_or_default();
            env::split_paths(&value).filter(|dir| !dir.as_os_str().is_empty()).collect()
        };
        let below =
            |roots: &[PathBuf]| roots.iter().flat_map(|root| libraries_below(root)).collect::<Vec<_>>();
        let own = listed(OWN_VARIABLE);
        let mut dirs = [&own[..], &below(&own)].concat();
        let asked_for = SearchPath::new(dirs.clone()).dirs.len();
        dirs.extend(listed("LD_LIBRARY_PATH"));
        dirs.extend(below(&[listed("CUDA_HOME"), listed("CUDA_PATH")].concat()));
        dirs.extend(listed("PYTHONPATH").iter().flat_map(|packages| nvidia_dirs(packages)));
        dirs.extend(python_prefixes(&listed).iter().flat_map(|prefix| python_dirs(prefix)));
        dirs.extend(SYSTEM_DIRS.map(PathBuf::from));
        let absent = own.into_iter().filter(|dir| !dir.is_dir()).collect();
        SearchPath { and_system: true, asked_for, absent, ..SearchPath::new(dirs) }
    }

    /// Those of `dirs` that exist, each once.
    pub(in crate::cuda) fn new(dirs: Vec<PathBuf>) -> SearchPath {
        let mut seen = BTreeSet::new();
        let dirs = dirs.into_iter().filter_map(|dir| path::absolute(dir).ok());
        let mut is_new = |dir: &PathBuf| dir.canonicalize().is_ok_and(|real| seen.insert(real));
        let dirs = dirs.filter(|dir| dir.is_dir() && is_new(dir)).collect();
        SearchPath { dirs, ..SearchPath::default() }
    }

    /// Opens the first library that `load` takes, for the life of the process. One that is found and does not do is closed
    /// and passed over.
    pub(in crate::cuda) fn open<T>(
        &self,
        library: Library,
        driver_major: i32,
        load: impl Fn(&mut Opened) -> Result<T, CudaError>,
    ) -> Result<(T, Found), CudaError> {
        let names = library.names(driver_major);
        let mut passed_over = Vec::new();
        for path in self.candidates(&names) {
            let loaded = Opened::open(library, &path).and_then(|mut opened| Ok((load(&mut opened)?, opened)));
            match loaded {
                Ok((loaded, opened)) => {
                    opened.keep();
                    return Ok((loaded, Found { path, passed_over }));
                }
                // The system's loader need not know it, or comes to the same file again.
                Err(CudaError::Unusable { .. }) if path.is_relative() => {}
                Err(error) if path.is_absolute() || passed_over.is_empty() => passed_over.push(error),
                Err(_) => {}
            }
        }
        if passed_over.is_empty() {
            let (names, looked_in) = (names.join(" or "), self.dirs.clone());
            passed_over.push(CudaError::Missing { library, names, looked_in });
        }
        Err(CudaError::of_all(passed_over))
    }

    /// Files that may be a library, and its names for the system's loader.
    fn candidates(&self, names: &[String]) -> Vec<PathBuf> {
        let (asked_for, others) = self.dirs.split_at(self.asked_for);
        let below = |dirs: &[PathBuf]| -> Vec<PathBuf> {
            let files = names.iter().flat_map(|name| dirs.iter().map(move |dir| dir.join(name)));
            files.filter(|file| file.exists()).collect()
        };
        let known = names.iter().filter(|_| self.and_system).map(PathBuf::from).collect();
        [below(asked_for), below(others), known].concat()
    }

    /// What is amiss with our own variable.
    pub(in crate::cuda) fn absent(&self) -> Vec<CudaError> {
        self.absent.iter().map(|path| CudaError::NoDirectory { path: path.clone() }).collect()
    }

    /// An error, with what is amiss with our own variable where that may be why.
    pub(in crate::cuda) fn explain(&self, error: CudaError) -> CudaError {
        match error {
            CudaError::Missing { .. }
            | CudaError::Unusable { .. }
            | CudaError::Symbol { .. }
            | CudaError::Several { .. } => CudaError::of_all([vec![error], self.absent()].concat()),
            error => error,
        }
    }
}

fn libraries_below(root: &Path) -> impl Iterator<Item = PathBuf> {
    LIBRARY_DIRS.iter().map(|dir| root.join(dir))
}

/// Roots of the Python installations and environments at hand, those in use first.
fn python_prefixes(listed: &dyn Fn(&str) -> Vec<PathBuf>) -> Vec<PathBuf> {
    let mut prefixes = [listed("VIRTUAL_ENV"), listed("CONDA_PREFIX")].concat();
    for bin in listed("PATH") {
        let pythons =
            ["python3", "python"].map(|name| bin.join(name)).into_iter().filter(|path| path.exists());
        prefixes.extend(pythons.flat_map(|python| prefixes_of(&python)));
        // In front of every version of pyenv and asdf stands a script.
        if let Some(root) = bin.parent().filter(|_| bin.ends_with("shims")) {
            prefixes.extend(["versions", "installs/python"].iter().flat_map(|dir| entries(&root.join(dir))));
        }
    }
    let bases: Vec<_> = prefixes.iter().filter_map(|prefix| base_of(prefix)).collect();
    prefixes.extend(bases);
    prefixes.extend(listed("PYTHONUSERBASE"));
    prefixes.extend(listed("HOME").into_iter().map(|home| home.join(".local")));
    // Where Debian's Python keeps what pip installs for all.
    prefixes.push("/usr/local".into());
    prefixes
}

/// The root that an interpreter belongs to, and those of what it is a link to.
fn prefixes_of(python: &Path) -> Vec<PathBuf> {
    let target = |link: &PathBuf| Some(link.parent()?.join(link.read_link().ok()?));
    let links = iter::successors(Some(python.to_owned()), target).take(MAX_LINKS);
    links.filter_map(|python| Some(python.parent()?.parent()?.to_owned())).collect()
}

/// The installation that an environment was made from, whose packages it may share.
fn base_of(prefix: &Path) -> Option<PathBuf> {
    let text = fs_err::read_to_string(prefix.join("pyvenv.cfg")).ok()?;
    let value = |line: &str| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == "home").then(|| PathBuf::from(value.trim()))
    };
    Some(text.lines().find_map(value)?.parent()?.to_owned())
}

/// Where an installation of Python has libraries of NVIDIA's: in its packages, and of conda's, among those of all programs.
pub(super) fn python_dirs(prefix: &Path) -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    for lib in ["lib", "lib64"].map(|lib| prefix.join(lib)) {
        let is_python = |path: &PathBuf| {
            path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("python3"))
        };
        for python in entries(&lib).filter(is_python) {
            let packages = ["site-packages", "dist-packages"].map(|packages| python.join(packages));
            dirs.extend(packages.iter().flat_map(|packages| nvidia_dirs(packages)));
        }
    }
    if prefix.join("conda-meta").is_dir() {
        dirs.extend(libraries_below(prefix));
    }
    dirs
}

/// `nvidia/*/lib` among packages: `cu13` holds most libraries of CUDA 13, and older versions have a directory for each.
fn nvidia_dirs(packages: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    entries(&packages.join("nvidia")).map(|package| package.join("lib"))
}

/// What a directory holds, newest names first; nothing where it cannot be read.
fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let found: BTreeSet<PathBuf> =
        dir.read_dir().into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    found.into_iter().rev()
}
