//! `oxigpt plan`: what a run will take of the machine, before it runs.

use std::collections::BTreeMap;
use std::io::{self, Write};

use anyhow::Result;
use oxigpt_data::{DatasetError, Error as DataError};
use oxigpt_train::data_sheet::{DATA_SHEETS, DataSheet};
use oxigpt_train::machine::Machine;
use oxigpt_train::settings::Settings;
use oxigpt_train::{Error, Estimate, fit_to, planned_scoring, planned_vocab_size};
use serde_json::json;

use crate::cli::PlanArgs;
use crate::configure;
use crate::fetch;
use crate::hint::CliError;
use crate::report::{bytes, duration, metric, parameters, thousands, warning};

/// Everything that the plan says of a run.
struct Outlook {
    settings: Settings,
    machine: Machine,
    estimate: Estimate,
    /// Bytes of memory that the machine has for it, where that is known.
    free_bytes: Option<u64>,
    /// Bytes of activations with each value of `recompute`; nothing where nothing is trained.
    activations: Vec<(String, usize)>,
    /// Seconds of a step at the machine's limits.
    step_seconds: f64,
    /// Floating-point operations a second, in matrix products.
    flops_per_s: f64,
    /// Bytes of memory a second, read and written.
    bytes_per_s: f64,
}

/// Prints the outlook of the run that the arguments ask for.
pub(crate) fn run(mut args: PlanArgs) -> Result<()> {
    if args.gpu.is_some() {
        args.config.flags.0.push(("device".into(), "cuda".into()));
    }
    let settings = configure::settings(&args.config)?;
    let machine = machine(&settings, args.gpu.as_deref());
    let vocab_size = vocab_size(&settings)?;
    let scored = planned_scoring(&settings, fetch::fetched_hellaswag().as_deref(), vocab_size)?;
    let settings = fit_to(settings, vocab_size, scored, &machine)?;
    let estimate = Estimate::of(&settings, vocab_size, scored)?;
    let activations =
        if settings.eval_only { Vec::new() } else { Estimate::activations(&settings, vocab_size)? };
    let flops_per_s = machine.measure_flops(settings.precision())?;
    let bytes_per_s = machine.measure_bandwidth()?;
    let step_seconds = estimate.step_seconds(flops_per_s, bytes_per_s);
    let free_bytes = machine.free_memory()?;
    let outlook = Outlook {
        settings,
        machine,
        estimate,
        free_bytes,
        activations,
        step_seconds,
        flops_per_s,
        bytes_per_s,
    };
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", outlook.json())?;
    } else {
        write!(out, "{}", outlook.table())?;
    }
    Ok(())
}

/// Where the run shall compute: on paper where a GPU is named, or asked for and not to be had here.
fn machine(settings: &Settings, gpu: Option<&str>) -> Machine {
    let machine = settings.machine();
    if let Some(data_sheet) = gpu.and_then(DataSheet::of) {
        return machine.on_paper(data_sheet);
    }
    match machine.obstacle() {
        Some(why) => {
            let stand_in = &DATA_SHEETS[0];
            warning(&format!(
                "no GPU can be used here ({why}): this is the plan for another, {}",
                stand_in.name
            ));
            machine.on_paper(stand_in)
        }
        None => machine,
    }
}

/// The vocabulary of the run's data.
fn vocab_size(settings: &Settings) -> Result<usize> {
    match planned_vocab_size(settings) {
        Err(Error::Data(DataError::Dataset(DatasetError::NoSuchDataset { dir }))) => Err(CliError::failure(
            format!("the vocabulary is not known: there is no data set {}", dir.display()),
            "prepare it first, or say how many tokens it has, with --vocab_size=N",
        )
        .into()),
        vocab_size => Ok(vocab_size?),
    }
}

impl Outlook {
    /// Steps of the run; under `eval_only`, passes over the windows of both splits, at most.
    fn steps(&self) -> usize {
        let Settings { eval_only, eval_tokens, max_iters, .. } = self.settings;
        if eval_only { 2 * eval_tokens.div_ceil(self.estimate.tokens_per_step) } else { max_iters }
    }

    fn json(&self) -> serde_json::Value {
        let estimate = &self.estimate;
        let mut memory: serde_json::Map<_, _> =
            estimate.memory.iter().map(|(role, &bytes)| (role.label().to_owned(), json!(bytes))).collect();
        memory.insert("to save from".to_owned(), json!(estimate.checkpoint_buffer_bytes));
        json!({
            "parameters": estimate.parameters.total,
            "trained_parameters": estimate.trained,
            "vocab_size": estimate.config.vocab_size,
            "tokens_per_step": estimate.tokens_per_step,
            "steps": self.steps(),
            "memory_bytes": estimate.peak_memory_bytes(),
            "memory": memory,
            "activations_by_recompute": self.activations.iter().cloned().collect::<BTreeMap<_, _>>(),
            "flops_per_step": estimate.step.flops,
            "bytes_per_step": estimate.step.bytes,
            "memory_available_bytes": self.free_bytes,
            "data_sheet": self.machine.data_sheet().map(|sheet| sheet.name),
            "peak_flops_per_s": self.flops_per_s,
            "peak_bytes_per_s": self.bytes_per_s,
            "step_ms": self.step_seconds * 1e3,
            "tokens_per_s": estimate.tokens_per_step as f64 / self.step_seconds,
            "run_s": self.step_seconds * self.steps() as f64,
        })
    }

    /// What other values of `recompute` would make of the activations.
    fn recompute(&self) -> String {
        if self.activations.is_empty() {
            return String::new();
        }
        let with = |(name, size): &(String, usize)| format!("{name} {}", bytes(*size as f64));
        let list: Vec<_> = self.activations.iter().map(with).collect();
        let chosen = self.settings.text_of("recompute").unwrap_or_default().replace('"', "");
        format!("    recompute = {chosen} ({})\n", list.join(", "))
    }

    /// How fast the machine is, and who says so.
    fn machine(&self) -> String {
        let source = match self.machine.data_sheet() {
            Some(sheet) => format!("by the data sheet of {}: no device was asked", sheet.name),
            None => "measured just now".into(),
        };
        let (flops, bytes) = (metric(self.flops_per_s, "FLOP/s"), bytes(self.bytes_per_s));
        format!("machine          {flops}, {bytes}/s at best, {source}\n")
    }

    /// What there is to say of memory where it is too little.
    fn excess(&self) -> String {
        match self.free_bytes {
            Some(free) if free < self.estimate.peak_memory_bytes() as u64 => {
                let whose = self
                    .machine
                    .data_sheet()
                    .map_or("that is free".into(), |sheet| format!("of {}", sheet.name));
                format!(", more than the {} {whose}", bytes(free as f64))
            }
            _ => String::new(),
        }
    }

    fn table(&self) -> String {
        let Self { settings, estimate, .. } = self;
        let (config, step) = (&estimate.config, estimate.step);
        let (tokens, steps) = (estimate.tokens_per_step, self.steps());
        let step_name = if settings.eval_only { "pass" } else { "step" };
        let shape = format!("{} x {}", settings.batch_size.rows(), settings.block_size);
        let memory_row = |label: &str, size: usize| format!("  {label:15}{:>12}\n", bytes(size as f64));
        let memory: Vec<_> =
            estimate.memory.iter().map(|(role, &size)| memory_row(role.label(), size)).collect();
        let rows = [
            format!(
                "model            {} layers, {} heads, width {}, context {}, vocabulary {}\n",
                config.n_layer,
                config.n_head,
                config.n_embd,
                config.block_size,
                thousands(config.vocab_size as u64),
            ),
            format!("parameters       {}\n", parameters(estimate.parameters.total, estimate.trained)),
            if settings.eval_only {
                format!(
                    "pass             {} tokens = {shape} (sequences x tokens)\n",
                    thousands(tokens as u64)
                )
            } else {
                format!(
                    "step             {} tokens = {} x {shape} (micro-batches x sequences x tokens)\n",
                    thousands(tokens as u64),
                    estimate.micro_batches,
                )
            },
            format!(
                "run              {} {}, {} tokens{}\n",
                thousands(steps as u64),
                if settings.eval_only { "passes" } else { "steps" },
                thousands(tokens.saturating_mul(steps) as u64),
                if settings.eval_only { " at most, of both splits" } else { "" },
            ),
            format!(
                "\nmemory           {:>12}{}\n",
                bytes(estimate.peak_memory_bytes() as f64),
                self.excess()
            ),
            memory.concat(),
            self.recompute(),
            if settings.eval_only {
                String::new()
            } else {
                memory_row("to save from", estimate.checkpoint_buffer_bytes)
            },
            format!(
                "\nwork             {} and {} moved in a {step_name}\n",
                metric(step.flops, "FLOP"),
                bytes(step.bytes)
            ),
            self.machine(),
            format!(
                "time             at least {} a {step_name}, {} for the run{}: {} tokens/s at most\n",
                duration(self.step_seconds),
                duration(self.step_seconds * steps as f64),
                if settings.eval_only { "" } else { ", without evaluations" },
                thousands((tokens as f64 / self.step_seconds) as u64),
            ),
        ];
        rows.concat()
    }
}
