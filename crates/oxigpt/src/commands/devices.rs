//! `oxigpt devices`: what this machine can compute on, and what using a GPU still takes.

use std::io::{self, Write};

use anyhow::Result;
use oxigpt_compute::cuda::{self, CudaError, GpuInfo, LibraryReport, Report};
use oxigpt_train::machine::Machine;
use serde_json::{Value, json};

use crate::cli::DevicesArgs;
use crate::report::bytes;

/// Prints what is found here.
pub(crate) fn run(args: &DevicesArgs) -> Result<()> {
    let report = cuda::report();
    let attention = report.is_complete().then(|| cuda::attention(0)).and_then(Result::ok);
    let attention = attention.as_deref();
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", json_of(&report, attention))?;
    } else {
        write!(out, "{}", table(&report, attention))?;
    }
    Ok(())
}

/// `attention`: who would do it on the first GPU.
fn json_of(report: &Report, attention: Option<&str>) -> Value {
    let absent = |error: &CudaError| json!({ "error": error.to_string(), "hint": error.hint() });
    let library = |found: &Result<LibraryReport, CudaError>| match found {
        Ok(found) => {
            let passed_over: Vec<_> = found.passed_over.iter().map(ToString::to_string).collect();
            json!({ "version": found.version, "path": found.path, "passed_over": passed_over })
        }
        Err(error) => absent(error),
    };
    let libraries: serde_json::Map<_, _> =
        report.libraries.iter().map(|(name, found)| (name.key().to_owned(), library(found))).collect();
    let gpus = match &report.gpus {
        None => json!([]),
        Some(Ok(gpus)) => gpus.iter().map(gpu_json).collect(),
        Some(Err(error)) => absent(error),
    };
    json!({
        "cpu": { "threads": cpu().threads() },
        "libraries": libraries,
        "gpus": gpus,
        "attention": attention,
        "cuda": report.is_complete(),
        "misnamed": report.misnamed.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

fn gpu_json(gpu: &GpuInfo) -> Value {
    json!({
        "device": format!("cuda:{}", gpu.index),
        "name": gpu.name,
        "capability": format!("{}.{}", gpu.capability.0, gpu.capability.1),
        "multiprocessors": gpu.multiprocessors,
        "memory_bytes": gpu.memory_bytes,
    })
}

fn table(report: &Report, attention: Option<&str>) -> String {
    let mut text = format!("cpu             {} threads\n", cpu().threads());
    let mut row = |name: &str, found: String| text += &format!("{name:16}{found}\n");
    let mut hints = Vec::new();
    let mut absent = |error: &CudaError| {
        hints.extend(error.hint());
        error.to_string()
    };
    for gpu in report.gpus.iter().flatten().flatten() {
        let (major, minor) = gpu.capability;
        let memory = bytes(gpu.memory_bytes as f64);
        let units = gpu.multiprocessors;
        let what =
            format!("{}, compute capability {major}.{minor}, {units} multiprocessors, {memory}", gpu.name);
        row(&format!("cuda:{}", gpu.index), what);
    }
    for (library, found) in &report.libraries {
        match found {
            Ok(found) => {
                row(&library.to_string(), format!("{}, {}", found.version, found.path.display()));
                found.passed_over.iter().for_each(|why| row("", format!("passed over: {why}")));
            }
            Err(error) => row(&library.to_string(), absent(error)),
        }
    }
    if let Some(Err(error)) = &report.gpus {
        row("cuda", absent(error));
    }
    if let Some(who) = attention {
        row("attention", format!("softmax in bfloat16: {who}"));
    }
    report.misnamed.iter().for_each(|error| text += &format!("{error}\n"));
    text += if report.is_complete() {
        "--device=cuda computes on the first GPU\n"
    } else {
        "--device=cuda cannot be used here\n"
    };
    hints.dedup();
    text + &hints.iter().map(|hint| format!("hint: {hint}\n")).collect::<String>()
}

fn cpu() -> Machine {
    Machine::new("cpu", 0, false)
}
