//! `oxigpt plan`: what a run will take of the machine, before it runs.

use std::io::{self, Write};

use anyhow::{Context, Result};
use oxigpt_compute::{Cost, Plan};
use oxigpt_data::{DEFAULT_STORIES_BYTES, DEFAULT_STORIES_SEED, Dataset, resolve, stories};
use oxigpt_model::{ModelConfig, TrainPlan};
use oxigpt_text::Tokenizer;
use oxigpt_train::settings::Settings;
use serde_json::json;

use crate::cli::PlanArgs;
use crate::configure;
use crate::hint::CliError;
use crate::machine::Speed;
use crate::report::{bytes, duration, metric, thousands};

/// The tokens of a data set that does not say how many it has: GPT-2's.
const GPT2_VOCAB_SIZE: usize = 50257;

/// Everything that the plan says of a run.
struct Outlook {
    settings: Settings,
    config: ModelConfig,
    /// Bytes by what they are for, and all of them.
    memory: Vec<(&'static str, usize)>,
    memory_total: usize,
    /// Of one step: all its micro-batches and the update.
    step: Cost,
    step_seconds: f64,
    speed: Speed,
}

/// Prints the outlook of the run that the arguments ask for.
pub(crate) fn run(args: &PlanArgs) -> Result<()> {
    let settings = configure::settings(&args.config)?;
    let config = settings.model_config(vocab_size(&settings)?);
    let (plan, handles) = TrainPlan::build(&config, &settings.train_shape())?;
    let outlook = Outlook::new(settings, config, &plan, &handles)?;
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", outlook.json())?;
    } else {
        write!(out, "{}", outlook.table())?;
    }
    Ok(())
}

/// The vocabulary of the run's data, which need not have been prepared where it is built in.
fn vocab_size(settings: &Settings) -> Result<usize> {
    if settings.vocab_size > 0 {
        return Ok(settings.vocab_size);
    }
    let dir = resolve(&settings.dataset);
    if dir.exists() {
        return Ok(Dataset::open(&dir)?.vocab_size().unwrap_or(GPT2_VOCAB_SIZE));
    }
    if settings.dataset == "stories" {
        let text = stories(DEFAULT_STORIES_SEED, DEFAULT_STORIES_BYTES);
        return Ok(Tokenizer::chars_of(&text).context("the built-in stories")?.vocab_size());
    }
    Err(CliError::failure(
        format!("the vocabulary is not known: there is no data set {}", dir.display()),
        "prepare it first, or say how many tokens it has, with --vocab_size=N",
    )
    .into())
}

impl Outlook {
    fn new(settings: Settings, config: ModelConfig, plan: &Plan, handles: &TrainPlan) -> Result<Outlook> {
        let speed = Speed::measure(settings.threads)?;
        let phases = handles.phases;
        let more = settings.gradient_accumulation_steps - 1;
        let parts = [(phases.first, 1), (phases.more, more), (phases.norm, 1), (phases.update, 1)];
        let scaled =
            |cost: Cost, n: usize| Cost { flops: cost.flops * n as f64, bytes: cost.bytes * n as f64 };
        Ok(Outlook {
            memory: plan.memory_by_role().into_iter().map(|(role, bytes)| (role.label(), bytes)).collect(),
            memory_total: plan.arena_bytes(),
            step: parts.iter().map(|&(phase, n)| scaled(plan.cost(phase), n)).sum(),
            step_seconds: parts.iter().map(|&(phase, n)| speed.seconds(plan, phase) * n as f64).sum(),
            speed,
            settings,
            config,
        })
    }

    fn json(&self) -> serde_json::Value {
        let Self { settings, config, step, .. } = self;
        let memory: serde_json::Map<_, _> =
            self.memory.iter().map(|&(role, bytes)| (role.to_owned(), json!(bytes))).collect();
        json!({
            "parameters": config.parameter_count().total,
            "vocab_size": config.vocab_size,
            "tokens_per_step": settings.tokens_per_step(),
            "steps": settings.max_iters,
            "memory_bytes": self.memory_total,
            "memory": memory,
            "flops_per_step": step.flops,
            "bytes_per_step": step.bytes,
            "peak_flops_per_s": self.speed.flops,
            "peak_bytes_per_s": self.speed.bytes,
            "step_ms": self.step_seconds * 1e3,
            "tokens_per_s": settings.tokens_per_step() as f64 / self.step_seconds,
            "run_s": self.step_seconds * settings.max_iters as f64,
        })
    }

    fn table(&self) -> String {
        let Self { settings, config, step, .. } = self;
        let tokens = settings.tokens_per_step();
        let memory: Vec<_> = self
            .memory
            .iter()
            .map(|(role, size)| format!("  {role:15}{:>12}\n", bytes(*size as f64)))
            .collect();
        let rows = [
            format!(
                "model            {} layers, {} heads, width {}, context {}, vocabulary {}\n",
                config.n_layer,
                config.n_head,
                config.n_embd,
                config.block_size,
                thousands(config.vocab_size as u64),
            ),
            format!("parameters       {}\n", thousands(config.parameter_count().total as u64)),
            format!(
                "step             {} tokens = {} x {} x {} (micro-batches x sequences x tokens)\n",
                thousands(tokens as u64),
                settings.gradient_accumulation_steps,
                settings.batch_size,
                settings.block_size,
            ),
            format!(
                "run              {} steps, {} tokens\n",
                thousands(settings.max_iters as u64),
                thousands(tokens.saturating_mul(settings.max_iters) as u64),
            ),
            format!("\nmemory           {:>12}\n", bytes(self.memory_total as f64)),
            memory.concat(),
            format!(
                "\nwork             {} and {} moved in a step\n",
                metric(step.flops, "FLOP"),
                bytes(step.bytes)
            ),
            format!(
                "machine          {}, {}/s at best, measured just now\n",
                metric(self.speed.flops, "FLOP/s"),
                bytes(self.speed.bytes)
            ),
            format!(
                "time             at least {} a step, {} for the run, without evaluations: {} tokens/s at most\n",
                duration(self.step_seconds),
                duration(self.step_seconds * settings.max_iters as f64),
                thousands((tokens as f64 / self.step_seconds) as u64),
            ),
        ];
        rows.concat()
    }
}
