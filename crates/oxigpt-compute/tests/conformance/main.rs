//! Conformance: every operator of every backend against `reference`, `reference` against finite differences,
//! and what the builder promises about the plans it writes.
//!
//! A new backend is one row in [`backends`]; a new operator is one case in `operators`, a new kind of
//! attention one in `attention`.

#![allow(clippy::unwrap_used, reason = "an error here is a failed test")]

mod attention;
mod builder;
mod case;
#[cfg(unix)]
mod cudnn;
mod gpt;
mod gradients;
mod masks;
mod operators;
mod recomputation;
mod session;
#[cfg(unix)]
#[path = "../simulator/mod.rs"]
mod simulator;
mod steps;
mod stored;

use oxigpt_compute::cpu::{Cpu, CpuOptions};
use oxigpt_compute::cuda::{Cuda, CudaOptions};
use oxigpt_compute::reference::Reference;
use oxigpt_compute::{Backend, Precision};

/// Makes a fresh backend.
type Make = fn() -> Box<dyn Backend>;

/// A backend under test.
struct Row {
    /// The same backend with other settings (threads): all must give the same bits. The first is compared
    /// with `reference`.
    variants: Vec<(&'static str, Make)>,
    /// Largest errors of an operator, by its name.
    tolerance: fn(&str, Precision) -> Tolerance,
    /// Largest relative error after a whole step, in float32 and in bfloat16: there, some dozens of roundings to 1/512 each
    /// fall to the other side.
    whole_step: [f64; 2],
}

/// The L2 error of a tensor of n elements may be at most `relative * norm + absolute * sqrt(n)`.
#[derive(Clone, Copy)]
struct Tolerance {
    relative: f64,
    absolute: f64,
}

/// Every backend; with `OXIGPT_TEST_DEVICE=cuda` that of the first GPU alone, with `simulated` that of a GPU which is
/// none (see `tests/simulator`).
fn backends() -> Vec<Row> {
    match device().as_deref() {
        None => {}
        Some("cuda") => return vec![gpu(vec![("cuda", || cuda(0))])],
        #[cfg(unix)]
        Some("simulated") => {
            simulator::install();
            return vec![gpu(vec![
                ("cuda, simulated", || cuda(0)),
                ("cuda, threads in reverse", || cuda(1)),
            ])];
        }
        Some(other) => panic!("OXIGPT_TEST_DEVICE is {other:?}, not `cuda` or `simulated`"),
    }
    vec![
        Row {
            variants: vec![("reference", || Box::new(Reference::new()))],
            tolerance: |_, _| Tolerance { relative: 0.0, absolute: 0.0 },
            whole_step: [1e-12; 2],
        },
        Row {
            variants: vec![
                ("cpu, 1 thread", || cpu(1)),
                ("cpu, 2 threads", || cpu(2)),
                ("cpu, 3 threads", || cpu(3)),
            ],
            tolerance: float32,
            whole_step: [1e-5, 2e-2],
        },
    ]
}

fn cpu(threads: usize) -> Box<dyn Backend> {
    Box::new(Cpu::new(CpuOptions { threads, pin: false }).unwrap())
}

fn device() -> Option<String> {
    std::env::var("OXIGPT_TEST_DEVICE").ok()
}

fn is_simulated() -> bool {
    device().is_some_and(|device| device == "simulated")
}

fn gpu(variants: Vec<(&'static str, Make)>) -> Row {
    Row { variants, tolerance: of_gpu, whole_step: [3e-5, 3e-2] }
}

/// Kernels of a real GPU are kept for the next test.
fn cuda(index: usize) -> Box<dyn Backend> {
    let is_real = device().is_some_and(|device| device == "cuda");
    let cache = is_real.then(|| std::env::temp_dir().join("oxigpt-test-kernels"));
    Box::new(Cuda::new(CudaOptions { index, cache, ..CudaOptions::default() }).unwrap())
}

/// What rounding to float32 allows, in sums of other orders than the CPU's; in bfloat16, operands and results have 8
/// bits of significand.
fn of_gpu(operator: &str, precision: Precision) -> Tolerance {
    let Tolerance { relative, absolute } = float32(operator, precision);
    match precision {
        Precision::Float32 => Tolerance { relative: 2.0 * relative, absolute: 2.0 * absolute },
        // A mean is that of a sum as it is stored: each element of the row is off by up to 2^-9 of itself, however little
        // is left of all.
        Precision::Bfloat16 if operator == "add_layer_norm" => Tolerance { relative: 1e-2, absolute: 4e-3 },
        Precision::Bfloat16 => Tolerance { relative: 1e-2, absolute: 1e-3 },
    }
}

/// What rounding to float32 allows. In bfloat16, a gradient of a logit may also be rounded to the other neighbour.
fn float32(operator: &str, precision: Precision) -> Tolerance {
    let (relative, absolute) = match operator {
        "classifier" if precision == Precision::Bfloat16 => (1e-3, 1e-7),
        // Weights, and the gradients of scores, are rounded to 2^-9 before they are multiplied; a sum over the weights
        // goes by way of the result, which is stored rounded.
        "attention" | "attention_backward" if precision == Precision::Bfloat16 => (4e-3, 1e-7),
        "select_row" => (0.0, 0.0),
        "embed" | "add" | "scale" | "dropout" => (1e-7, 0.0),
        "gelu" | "embed_backward" | "grad_norm" | "adamw" => (3e-7, 1e-7),
        "layer_norm" | "add_layer_norm" | "layer_norm_backward" => (5e-7, 3e-7),
        _ => (2e-6, 1e-7),
    };
    Tolerance { relative, absolute }
}
