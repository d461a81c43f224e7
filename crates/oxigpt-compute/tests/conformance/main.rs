//! Conformance: every operator of every backend against `reference`, `reference` against finite differences,
//! and what the builder promises about the plans it writes.
//!
//! A new backend is one row in [`backends`]; a new operator or attention kind is one case in `operators`.

#![allow(clippy::unwrap_used, reason = "an error here is a failed test")]

mod builder;
mod case;
mod gpt;
mod gradients;
mod masks;
mod operators;
mod session;
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

fn backends() -> Vec<Row> {
    let mut rows = vec![
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
    ];
    if std::env::var_os("OXIGPT_TEST_DEVICE").is_some_and(|device| device == "cuda") {
        rows.push(Row { variants: vec![("cuda", cuda)], tolerance: gpu, whole_step: [3e-5, 3e-2] });
    }
    rows
}

/// The first GPU. Kernels are kept for the next test.
fn cuda() -> Box<dyn Backend> {
    let cache = Some(std::env::temp_dir().join("oxigpt-test-kernels"));
    Box::new(Cuda::new(CudaOptions { cache, ..CudaOptions::default() }).unwrap())
}

/// What rounding to float32 allows; in bfloat16, operands and results have 8 bits of significand.
fn gpu(operator: &str, precision: Precision) -> Tolerance {
    match precision {
        Precision::Float32 => float32(operator, precision),
        Precision::Bfloat16 => Tolerance { relative: 1e-2, absolute: 1e-3 },
    }
}

fn cpu(threads: usize) -> Box<dyn Backend> {
    Box::new(Cpu::new(CpuOptions { threads, pin: false }).unwrap())
}

/// What rounding to float32 allows. In bfloat16, a gradient of a logit may also be rounded to the other neighbour.
fn float32(operator: &str, precision: Precision) -> Tolerance {
    let (relative, absolute) = match operator {
        "classifier" if precision == Precision::Bfloat16 => (1e-3, 1e-7),
        // A sum over the weights goes by way of the result, which is stored rounded.
        "attention_backward" if precision == Precision::Bfloat16 => (4e-3, 1e-7),
        "select_row" => (0.0, 0.0),
        "embed" | "add" | "scale" | "dropout" => (1e-7, 0.0),
        "gelu" | "embed_backward" | "grad_norm" | "adamw" => (3e-7, 1e-7),
        "layer_norm" | "add_layer_norm" | "layer_norm_backward" => (5e-7, 3e-7),
        _ => (2e-6, 1e-7),
    };
    Tolerance { relative, absolute }
}
