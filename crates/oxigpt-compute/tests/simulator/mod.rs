//! NVIDIA's libraries without a GPU: the C++ of this folder, compiled by the compiler at hand. The backend finds them as it
//! would find the real ones, and compiles, records and launches as always; the kernels run on this CPU.
//!
//! Tests of other crates take this file by its path.

use std::env;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Once, OnceLock};

const NAMES: [&str; 9] = [
    "libcuda.so.1",
    "libnvrtc.so.13",
    "libnvrtc-builtins.so.13.0",
    "libcublasLt.so.13",
    "libcudnn.so.9",
    "libcudnn_graph.so.9",
    "libcudnn_engines_precompiled.so.9",
    "libcudnn_engines_runtime_compiled.so.9",
    "libcudnn_heuristic.so.9",
];

/// How kernels are compiled.
const KERNEL_FLAGS: &str =
    "-std=c++17 -O2 -fPIC -ftls-model=initial-exec -fno-strict-aliasing -Wno-unknown-pragmas";

/// Makes the simulated libraries the first place where this process looks for NVIDIA's.
///
/// # Panics
/// If there is no C++ compiler.
#[allow(dead_code, reason = "some tests only start processes that look there")]
pub(crate) fn install() {
    static INSTALLED: Once = Once::new();
    // SAFETY: whoever reads the environment here does so through Rust's library, which takes turns.
    INSTALLED.call_once(|| unsafe { env::set_var("OXIGPT_CUDA_PATH", directory()) });
}

/// Where the simulated libraries are, built once a process.
///
/// # Panics
/// If there is no C++ compiler.
pub(crate) fn directory() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(build)
}

fn build() -> PathBuf {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../oxigpt-compute/tests/simulator");
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("simulator-{}", std::process::id()));
    let kernels = Path::new(env!("CARGO_TARGET_TMPDIR")).join("simulated-kernels");
    // Of an earlier process of this number.
    drop(fs_err::remove_dir_all(&dir));
    for dir in [&dir, &kernels] {
        fs_err::create_dir_all(dir).unwrap();
    }
    let compiler = env::var("CXX").unwrap_or_else(|_| "c++".into());
    let quoted = |name: &str, value: &str| format!("-D{name}=\"{value}\"");
    let output = Command::new(&compiler)
        .args(["-std=c++17", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-ftls-model=initial-exec"])
        .arg(quoted("COMPILER", &format!("{compiler} {KERNEL_FLAGS}")))
        .arg(quoted("MACHINE", sources.join("machine.h").to_str().unwrap()))
        .arg(quoted("SCRATCH", kernels.to_str().unwrap()))
        .args(["libraries.cpp", "cudnn.cpp", "machine.cpp"].map(|file| sources.join(file)))
        .arg("-o")
        .arg(dir.join(NAMES[0]))
        .arg("-ldl")
        .output()
        .unwrap_or_else(|error| panic!("a simulated GPU needs a C++ compiler; `{compiler}`: {error}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for name in &NAMES[1..] {
        symlink(NAMES[0], dir.join(name)).unwrap();
    }
    dir
}
