//! Times the loading of a model, and says how much memory it took beside the weights themselves.
//!
//! ```text
//! cargo run --release -p oxigpt-model --example load -- write MODEL FORMAT PATH    synthetic weights, once
//! cargo run --release -p oxigpt-model --example load -- read PATH                  into a session; run it twice
//! ```
//!
//! MODEL is `gpt2`, `gpt2-medium`, `gpt2-large` or `gpt2-xl`; FORMAT is `hf`, `llmc` or `llmc-bf16`. The session holds
//! the weights and nothing else.

#![allow(clippy::print_stdout, reason = "a program for the terminal")]

use std::borrow::Cow;
use std::error::Error;
use std::time::Instant;

use oxigpt_compute::cpu::{Cpu, CpuOptions};
use oxigpt_compute::{Builder, Session};
use oxigpt_model::{
    ModelConfig, Precision, TensorSource, Trained, Weights, open_pretrained, parameter_shapes, save_llmc,
    save_pretrained,
};

/// Weights that take no time to make.
struct Synthetic<'a>(&'a ModelConfig);

impl TensorSource for Synthetic<'_> {
    fn origin(&self) -> String {
        "synthetic weights".into()
    }

    fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        parameter_shapes(self.0)
    }

    fn read(&self, name: &str) -> Result<Cow<'_, [f32]>, oxigpt_model::Error> {
        let shapes = self.shapes();
        let shape = shapes.iter().find(|(own, _)| own == name).map(|(_, shape)| shape);
        let len: usize = shape.map_or(0, |shape| shape.iter().product());
        Ok((0..len).map(|i| (i % 1000) as f32 * 1e-4).collect())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["write", model, format, path] => write(&ModelConfig::preset(model)?, format, path),
        ["read", path] => read(path),
        _ => Err("expected write MODEL FORMAT PATH, or read PATH".into()),
    }
}

fn write(config: &ModelConfig, format: &str, path: &str) -> Result<(), Box<dyn Error>> {
    let weights = Synthetic(config);
    match format {
        "hf" => {
            fs_err::create_dir_all(path)?;
            save_pretrained(path, config, &weights)?;
        }
        "llmc" => save_llmc(path, config, &weights, Precision::Float32)?,
        "llmc-bf16" => save_llmc(path, config, &weights, Precision::Bfloat16)?,
        _ => return Err("FORMAT is hf, llmc or llmc-bf16".into()),
    }
    Ok(())
}

fn read(path: &str) -> Result<(), Box<dyn Error>> {
    let start = Instant::now();
    let model = open_pretrained(path)?;
    let mut b = Builder::new();
    let weights = Weights::declare(&mut b, &model.config, Trained::All);
    let mut session = Session::new(b.finish(), Box::new(Cpu::new(CpuOptions { threads: 1, pin: false })?))?;
    weights.table.upload(&mut session, &model.weights)?;
    let seconds = start.elapsed().as_secs_f64();
    let parameter_bytes = model.config.parameter_count().total as f64 * 4.0;
    println!("{}: {seconds:.3} s for {:.0} MB of float32", model.format, parameter_bytes / 1e6);
    let peak = peak_bytes().ok_or("this system does not say how much memory was used")?;
    println!("peak memory {:.0} MB, {:.3} of the weights", peak / 1e6, peak / parameter_bytes);
    Ok(())
}

/// The most memory that this process has had, mapped files included.
fn peak_bytes() -> Option<f64> {
    let status = fs_err::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok()? * 1024.0)
}
