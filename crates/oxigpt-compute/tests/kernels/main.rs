//! The kernels of the CUDA backend on a machine without a GPU: through NVIDIA's compiler (`nvrtc`), and on the CPU under an
//! address sanitizer (`bounds`). What they compute is the conformance suite's matter, on a simulated GPU
//! (`OXIGPT_TEST_DEVICE=simulated`).

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "an error here is a failed test")]
#![allow(clippy::print_stderr, reason = "a test that does nothing must say so")]

mod bounds;
mod nvrtc;

use std::path::Path;

/// A file of kernels after what belongs before it.
fn source(file: &str) -> String {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cuda/kernels");
    let of_attention = file.starts_with("attention") || file == "decode.cu";
    let before = if of_attention { &["common.cuh", "attention.cuh"][..] } else { &["common.cuh"] };
    before.iter().chain([&file]).map(|file| fs_err::read_to_string(dir.join(file)).unwrap()).collect()
}

/// What attention is compiled with; `flag`: whether weights are dropped, polynomials clamped and positions counted.
fn attention_macros(kind: usize, head: usize, flag: usize) -> String {
    format!("HEAD={head} KIND={kind} POLY=8 CLAMP={flag} DROPOUT={flag} BY_POSITION={flag}")
}
