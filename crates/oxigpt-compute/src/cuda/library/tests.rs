//! The loader against directories laid out like Python's packages, with libraries of a few lines; the machine's C compiler
//! makes them, and where there is none these tests show nothing. And against NVIDIA's own NVRTC, where a variable names it.

use std::env;
use std::process::Command;

use tempfile::TempDir;

use super::search_path::python_dirs;
use super::*;
use crate::cuda::blas::CublasLt;
use crate::cuda::cudnn::CudnnLibrary;
use crate::cuda::devices::{self, LibraryReport, Report};
use crate::cuda::driver::{Driver, Gpu, GpuInfo};
use crate::cuda::nvrtc::Nvrtc;

const NVRTC: &str = "
    int nvrtcVersion(int *major, int *minor) { *major = VERSION; *minor = 2; return 0; }
    int nvrtcGetErrorString(int s) { return 0; } int nvrtcGetNumSupportedArchs(int *n) { *n = 0; return 0; }
    int nvrtcGetSupportedArchs(int *n) { return 0; } int nvrtcCreateProgram() { return 1; }
    int nvrtcCompileProgram() { return 1; } int nvrtcGetProgramLogSize() { return 1; }
    int nvrtcGetProgramLog() { return 1; } int nvrtcGetCUBINSize() { return 1; }
    int nvrtcGetCUBIN() { return 1; } int nvrtcDestroyProgram() { return 0; }";

/// A shared library made of C, or nothing where there is no compiler.
fn library(path: &Path, source: &str, defines: &[&str]) -> Option<()> {
    fs_err::create_dir_all(path.parent()?).unwrap();
    let file = path.with_extension("c");
    fs_err::write(&file, source).unwrap();
    let mut compiler = Command::new("cc");
    compiler.args(["-w", "-shared", "-fPIC", "-o"]).arg(path).args(defines).arg(&file);
    compiler.status().ok().filter(std::process::ExitStatus::success).map(drop)
}

/// An NVRTC of a major version, with its builtins beside it.
fn nvrtc(dir: &Path, major: usize) -> Option<PathBuf> {
    let path = dir.join(format!("libnvrtc.so.{major}"));
    library(&path, NVRTC, &[&format!("-DVERSION={major}")])?;
    library(&dir.join(format!("libnvrtc-builtins.so.{major}.2")), "", &[])?;
    Some(path)
}

fn refusal<T>(result: Result<T, CudaError>) -> String {
    let error = result.err().expect("an error");
    format!("{error} | {}", error.hint().unwrap())
}

#[test]
fn what_is_missing_is_named_with_its_places_and_its_remedy() {
    let dir = TempDir::new().unwrap();
    let search_path =
        SearchPath::new(vec![dir.path().into(), dir.path().join("no such directory"), dir.path().into()]);
    let shown = dir.path().display();
    assert_eq!(
        refusal(search_path.open(Library::Nvrtc, 99, |_| Ok(()))),
        format!(
            "no NVRTC was found: looked for libnvrtc.so.13 or libnvrtc.so.12 in {shown} | `pip install \
             nvidia-cuda-nvrtc` (nvidia-cuda-nvrtc-cu12 for CUDA 12) in the Python environment at hand, or name the \
             directory of the library in OXIGPT_CUDA_PATH"
        )
    );
    // What is newer than the driver is not looked for.
    let message = refusal(search_path.open(Library::CublasLt, 12, |_| Ok(())));
    assert!(message.starts_with("no cuBLASLt was found: looked for libcublasLt.so.12 in"), "{message}");
}

#[test]
fn python_packages_of_both_layouts_are_found() {
    for (package, version) in [("cu13", 13), ("cuda_nvrtc", 12)] {
        let dir = TempDir::new().unwrap();
        let packages = dir.path().join("lib/python3.12/site-packages/nvidia");
        let Some(path) = nvrtc(&packages.join(package).join("lib"), version) else { return };
        let search_path = SearchPath::new(python_dirs(dir.path()));
        let nvrtc = Nvrtc::open(&search_path, 13).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((nvrtc.version, nvrtc.found.path), (format!("{version}.2"), path));
    }
}

/// The major version decides before the place does, and a library that cannot be loaded is passed over.
#[test]
fn the_best_that_works_is_taken() {
    let dir = TempDir::new().unwrap();
    let [first, second] = ["first", "second"].map(|name| dir.path().join(name));
    let Some(_) = nvrtc(&first, 12) else { return };
    nvrtc(&second, 13).unwrap();
    let search_path = SearchPath::new(vec![first.clone(), second.clone()]);
    assert_eq!(Nvrtc::open(&search_path, 13).ok().unwrap().version, "13.2");
    assert_eq!(Nvrtc::open(&search_path, 12).ok().unwrap().version, "12.2");
    fs_err::write(first.join("libnvrtc.so.13"), "no library").unwrap();
    let nvrtc = Nvrtc::open(&search_path, 13).ok().unwrap();
    assert_eq!(nvrtc.version, "13.2");
    let passed_over = nvrtc.found.passed_over.iter().map(ToString::to_string).collect::<String>();
    assert!(passed_over.contains("first/libnvrtc.so.13"), "{passed_over}");
    fs_err::write(second.join("libcublasLt.so.12"), "no library").unwrap();
    let message = refusal(search_path.open(Library::CublasLt, 12, |_| Ok(())));
    assert!(message.starts_with("the cuBLASLt library cannot be loaded: "), "{message}");
    assert!(
        message.contains("libcublasLt.so.12") && message.contains("| install a current version"),
        "{message}"
    );
}

/// Touching a page behind the end of a file would end the process.
#[test]
fn a_library_that_is_cut_off_is_passed_over() {
    let dir = TempDir::new().unwrap();
    let [first, second] = ["first", "second"].map(|name| dir.path().join(name));
    let Some(whole) = nvrtc(&first, 13) else { return };
    let bytes = fs_err::read(&whole).unwrap();
    let search_path = SearchPath::new(vec![first.clone()]);
    for len in [4, 63, 64, 200, 3000, bytes.len() / 2] {
        fs_err::write(&whole, &bytes[..len]).unwrap();
        let message = refusal(Nvrtc::open(&search_path, 13));
        assert!(message.starts_with("the NVRTC library cannot be loaded: "), "{len}: {message}");
    }
    nvrtc(&second, 13).unwrap();
    assert_eq!(Nvrtc::open(&SearchPath::new(vec![first, second]), 13).ok().unwrap().version, "13.2");
}

/// An older version in a directory that was asked for comes before a newer one elsewhere.
#[test]
fn directories_that_were_asked_for_come_first() {
    let dir = TempDir::new().unwrap();
    let [first, second] = ["first", "second"].map(|name| dir.path().join(name));
    let Some(_) = nvrtc(&first, 12) else { return };
    nvrtc(&second, 13).unwrap();
    let search_path = SearchPath::of(&|name| match name {
        "OXIGPT_CUDA_PATH" => Some(first.clone().into()),
        "LD_LIBRARY_PATH" => Some(second.clone().into()),
        _ => None,
    });
    assert_eq!(Nvrtc::open(&search_path, 13).ok().unwrap().version, "12.2");
}

/// One that lacks a function blocks none that stands behind it, and nothing of it stays open.
#[test]
fn a_library_that_lacks_a_function_is_passed_over_and_named() {
    let dir = TempDir::new().unwrap();
    let [first, second] = ["first", "second"].map(|name| dir.path().join(name));
    let path = first.join("libcublasLt.so.13");
    let Some(()) = library(&path, "int cublasLtGetVersion(void) { return 1; }", &[]) else { return };
    let search_path = SearchPath::new(vec![first, second.clone()]);
    let lacking = format!("{} has no function `cublasLtGetStatusString`", path.display());
    let message = refusal(CublasLt::open(&search_path, 13));
    assert!(message.starts_with(&format!("{lacking} | ")), "{message}");
    let source = functions_of(include_str!("../blas.rs"), " = cublasLt")
        .map(|name| format!("int {name}() {{ return 130100; }}\n"))
        .collect::<String>();
    library(&second.join("libcublasLt.so.13"), &source, &[]).unwrap();
    let search_path = SearchPath::new([search_path.dirs, vec![second]].concat());
    let found = CublasLt::open(&search_path, 13).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(found.version, "13.1.0");
    let passed_over: Vec<_> = found.found.passed_over.iter().map(ToString::to_string).collect();
    assert_eq!(passed_over, [lacking]);
}

/// Without its builtins, a compiler fails at the first kernel.
#[test]
fn a_compiler_without_its_builtins_is_passed_over() {
    let dir = TempDir::new().unwrap();
    let [first, second] = ["first", "second"].map(|name| dir.path().join(name));
    let Some(_) = nvrtc(&first, 13) else { return };
    let builtins = first.join("libnvrtc-builtins.so.13.2");
    fs_err::rename(&builtins, first.join("libnvrtc-builtins.so.13.1")).unwrap();
    let message = refusal(Nvrtc::open(&SearchPath::new(vec![first.clone()]), 13));
    let start = format!("the NVRTC library cannot be loaded: {}: ", builtins.display());
    assert!(message.starts_with(&start), "{message}");
    let path = nvrtc(&second, 13).unwrap();
    let found = Nvrtc::open(&SearchPath::new(vec![first, second]), 13).ok().unwrap().found;
    assert_eq!((found.path, found.passed_over.len()), (path, 1));
}

/// What our own variable names and is not there is told with the error that may come of it.
#[test]
fn misnamed_places_are_told() {
    let dir = TempDir::new().unwrap();
    let gone = dir.path().join("gone");
    let own = env::join_paths([dir.path().into(), gone.clone(), PathBuf::new()]).unwrap();
    let search_path = SearchPath::of(&|name| (name == "OXIGPT_CUDA_PATH").then(|| own.clone()));
    let told = format!("OXIGPT_CUDA_PATH names {}, which is no directory", gone.display());
    let report = devices::of_search_path(&search_path);
    assert_eq!(report.misnamed.iter().map(ToString::to_string).collect::<Vec<_>>(), [&told[..]]);
    let missing = CudaError::Missing { library: Library::Nvrtc, names: "it".into(), looked_in: vec![] };
    let message = refusal::<()>(Err(search_path.explain(missing)));
    assert!(message.contains(&format!("; {told} | `pip install nvidia-cuda-nvrtc`")), "{message}");
    let other = CudaError::NoSuchDevice { index: 1, count: 1 };
    assert_eq!(search_path.explain(other.clone()).to_string(), other.to_string());
}

/// Interpreters behind links and shims, environments, and packages that are named.
#[cfg(unix)]
#[test]
fn packages_of_every_python_at_hand_are_found() {
    use std::os::unix::fs::symlink;
    let dir = TempDir::new().unwrap();
    let at = |path: &str| dir.path().join(path);
    let prefixes = [
        "active",
        "conda",
        "venv",
        "base",
        "linked",
        "pyenv/versions/3.12.1",
        "asdf/installs/python/3.11",
        "home/.local",
    ];
    let mut expected: Vec<PathBuf> =
        prefixes.map(|prefix| at(prefix).join("lib/python3.12/site-packages/nvidia/cu13/lib")).into();
    expected.extend([at("conda/lib"), at("named/nvidia/cu13/lib")]);
    for dir in expected.iter().chain(&["bin", "venv/bin", "linked/bin", "conda/conda-meta"].map(at)) {
        fs_err::create_dir_all(dir).unwrap();
    }
    for shims in ["pyenv/shims", "asdf/shims"] {
        fs_err::create_dir_all(at(shims)).unwrap();
        fs_err::write(at(shims).join("python3"), "#!/bin/sh").unwrap();
    }
    fs_err::write(at("linked/bin/python3.12"), "").unwrap();
    symlink("../linked/bin/python3.12", at("bin/python3")).unwrap();
    fs_err::write(at("venv/bin/python"), "").unwrap();
    fs_err::write(at("venv/pyvenv.cfg"), format!("home = {}\n", at("base/bin").display())).unwrap();
    let path = env::join_paths(["bin", "venv/bin", "pyenv/shims", "asdf/shims"].map(at)).unwrap();
    let search_path = SearchPath::of(&|name| match name {
        "PATH" => Some(path.clone()),
        "VIRTUAL_ENV" => Some(at("active").into()),
        "CONDA_PREFIX" => Some(at("conda").into()),
        "PYTHONPATH" => Some(at("named").into()),
        "HOME" => Some(at("home").into()),
        _ => None,
    });
    let is_found = |dir: &&PathBuf| {
        search_path.dirs.iter().any(|found| found.canonicalize().unwrap() == dir.canonicalize().unwrap())
    };
    let missed: Vec<_> = expected.iter().filter(|dir| !is_found(dir)).collect();
    assert!(missed.is_empty(), "{missed:?} of {:?}", search_path.dirs);
}

/// cuDNN is refused where it is too old, for another CUDA, not whole, or lacks a function; and nothing needs it.
#[test]
fn a_cudnn_that_does_not_fit_is_refused() {
    let refused = |defines: &[&str], parts: &[&str], source: &str| {
        let dir = TempDir::new().unwrap();
        for name in ["", "_graph", "_engines_precompiled", "_engines_runtime_compiled", "_heuristic"] {
            if !parts.contains(&name) {
                library(&dir.path().join(format!("libcudnn{name}.so.9")), source, defines)?;
            }
        }
        let found = CudnnLibrary::open(&SearchPath::new(vec![dir.path().into()]), 13);
        Some(refusal(found).replace(dir.path().to_str().unwrap(), "DIR"))
    };
    let source = functions_of(include_str!("../cudnn.rs"), " = cudnn")
        .filter(|name| !["cudnnGetVersion", "cudnnGetCudartVersion"].contains(name))
        .map(|name| format!("int {name}() {{ return 0; }}\n"))
        .collect::<String>()
        + "long cudnnGetVersion() { return VERSION; } long cudnnGetCudartVersion() { return CUDA; }";
    let remedy = Library::Cudnn.remedy();
    let Some(message) = refused(&["-DVERSION=90501", "-DCUDA=13000"], &[], &source) else { return };
    assert_eq!(message, format!("DIR/libcudnn.so.9 is cuDNN 9.5.1, but 9.10.2 is needed | {remedy}"));
    let message = refused(&["-DVERSION=91900", "-DCUDA=12080"], &[], &source).unwrap();
    let expected = "DIR/libcudnn.so.9 was built for CUDA 12, but the other libraries are of CUDA 13";
    assert_eq!(message, format!("{expected} | {remedy}"));
    let message = refused(&["-DVERSION=91900", "-DCUDA=13000"], &["_graph"], &source).unwrap();
    let start = "the cuDNN library cannot be loaded: DIR/libcudnn_graph.so.9";
    assert!(message.starts_with(start), "{message}");
    let message = refused(&[], &[], "long cudnnGetVersion() { return 91900; }").unwrap();
    assert!(message.starts_with("DIR/libcudnn.so.9 has no function `cudnnGetCudartVersion` | "), "{message}");
    let message = refusal(CudnnLibrary::open(&SearchPath::new(vec![]), 13));
    assert!(message.starts_with("no cuDNN was found: looked for libcudnn.so.9 in"), "{message}");
    assert!(message.contains("nothing fails without it"), "{message}");
}

/// The functions that a file declares, whose names begin as given.
fn functions_of<'a>(source: &'a str, start: &'a str) -> impl Iterator<Item = &'a str> {
    source.match_indices(start).map(|(at, _)| {
        let name = &source[at + 3..];
        &name[..name.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap()]
    })
}

/// A driver in C, whose functions that the source does not have answer with a status.
fn driver_of(dir: &TempDir, source: &str, status: u32) -> Option<SearchPath> {
    let names = functions_of(include_str!("../driver.rs"), " = cu");
    let others = names.filter(|name| !source.contains(&format!("int {name}(")));
    let others: String = others.map(|name| format!("int {name}() {{ return {status}; }}\n")).collect();
    library(&dir.path().join("libcuda.so.1"), &format!("{source}\n{others}"), &[])?;
    Some(SearchPath::new(vec![dir.path().into()]))
}

/// A driver whose every function answers like that of a machine without a GPU.
fn driver(dir: &TempDir, version: &str) -> Option<SearchPath> {
    let source = format!(
        "int cuDriverGetVersion(int *version) {{ *version = {version}; return 0; }}
         int cuGetErrorName(int s, const char **text) {{ *text = \"CUDA_ERROR_NO_DEVICE\"; return 0; }}
         int cuGetErrorString(int s, const char **text) {{ return 1; }}"
    );
    driver_of(dir, &source, 100)
}

/// Where the second stream cannot be made, the first is given back.
#[test]
fn a_gpu_that_is_half_opened_leaves_nothing_behind() {
    let dir = TempDir::new().unwrap();
    let source = "int alive, made;
        int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
        int cuDeviceGetCount(int *count) { *count = 1; return 0; }
        int cuDeviceGetAttribute(int *value, int attribute, int device) { *value = 9; return 0; }
        int cuGetErrorName(int s, const char **text) { return 1; }
        int cuGetErrorString(int s, const char **text) { return 1; }
        int cuStreamCreate(void **stream, unsigned f) {
            if (made++) return 2;
            *stream = &made; alive++; return 0;
        }
        int cuStreamDestroy_v2(void *stream) { alive--; return 0; }
        int cuDevicePrimaryCtxRetain(void **context, int device) { alive++; return 0; }
        int cuDevicePrimaryCtxRelease_v2(int device) { alive--; return 0; }";
    let Some(search_path) = driver_of(&dir, source, 0) else { return };
    let driver = Driver::open(&search_path).unwrap_or_else(|error| panic!("{error}"));
    let message = refusal(Gpu::open(driver, 0));
    assert!(message.starts_with("cuStreamCreate failed: "), "{message}");
    // SAFETY: the library has these two integers, and no initialiser.
    let [alive, made] = unsafe {
        let library = libloading::Library::new(dir.path().join("libcuda.so.1")).unwrap();
        [&b"alive"[..], b"made"].map(|name| **library.get::<*const std::ffi::c_int>(name).unwrap())
    };
    assert_eq!((alive, made), (0, 2));
}

#[test]
fn drivers_without_a_gpu_and_old_ones_are_told_apart() {
    let dir = TempDir::new().unwrap();
    let Some(search_path) = driver(&dir, "13000") else { return };
    let found = Driver::open(&search_path).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((found.version, found.major()), (13000, 13));
    assert_eq!(
        refusal(found.gpus()),
        "the NVIDIA driver finds no GPU (CUDA_ERROR_NO_DEVICE) | check nvidia-smi and CUDA_VISIBLE_DEVICES; \
         --device=cpu runs without a GPU"
    );
    let report = devices::of_search_path(&search_path);
    assert!(matches!(report.obstacle(), Some(CudaError::NoDevice { .. })));

    let old = TempDir::new().unwrap();
    let search_path = driver(&old, "11080").unwrap();
    assert_eq!(
        refusal(Driver::open(&search_path)),
        "the NVIDIA driver supports CUDA 11.8, but 12.0 is needed | update the NVIDIA driver (580 or newer has CUDA 13)"
    );
}

/// Of all that is amiss, the first is what is told: a driver, a GPU that is new enough, then the libraries.
#[test]
fn the_first_obstacle_is_told() {
    let gpu = |capability| {
        let name = "Some GPU".to_owned();
        let (index, multiprocessors, memory_bytes, shared_bytes) = (0, 1, 1, 1);
        GpuInfo { index, name, capability, multiprocessors, memory_bytes, shared_bytes }
    };
    let found = || Ok(LibraryReport { path: "/there".into(), version: "1".into(), passed_over: vec![] });
    let missing = |library| Err(CudaError::Missing { library, names: "it".into(), looked_in: vec![] });
    let told = |gpus, nvrtc, cudnn| {
        let libraries = vec![(Library::Driver, found()), (Library::Nvrtc, nvrtc), (Library::Cudnn, cudnn)];
        Report { libraries, gpus: Some(gpus), misnamed: vec![] }.obstacle().map(|error| error.to_string())
    };
    let [old, new] = [(7, 5), (8, 0)].map(|capability| Ok(vec![gpu(capability)]));
    let no_nvrtc = || missing(Library::Nvrtc);
    assert_eq!(
        told(old, no_nvrtc(), found()).unwrap(),
        "Some GPU has compute capability 7.5, but 8.0 is needed"
    );
    assert!(told(new.clone(), no_nvrtc(), found()).unwrap().starts_with("no NVRTC was found"));
    assert_eq!(told(new, found(), missing(Library::Cudnn)), None);
}

/// NVIDIA's NVRTC in a directory that `OXIGPT_TEST_NVRTC` names compiles every file of ours, without a driver.
#[test]
#[cfg(unix)]
#[ignore = "needs NVRTC: OXIGPT_TEST_NVRTC=site-packages/nvidia/cu13/lib"]
fn the_real_compiler_is_found_and_works() {
    let dir = env::var_os("OXIGPT_TEST_NVRTC").expect("OXIGPT_TEST_NVRTC names a directory");
    // One without its builtins is closed, and does no harm by that.
    let alone = TempDir::new().unwrap();
    let link = alone.path().join("libnvrtc.so.13");
    std::os::unix::fs::symlink(Path::new(&dir).join("libnvrtc.so.13"), link).unwrap();
    let search_path = SearchPath::new(vec![alone.path().into(), dir.into()]);
    let nvrtc = Nvrtc::open(&search_path, 13).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(nvrtc.found.passed_over.len(), 1);
    for capability in [(8, 0), (9, 0), (10, 0)] {
        let architecture = nvrtc.architecture(capability).unwrap_or_else(|error| panic!("{error}"));
        crate::cuda::kernels::compile_all(&nvrtc, &architecture).unwrap_or_else(|error| panic!("{error}"));
    }
}
