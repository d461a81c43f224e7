//! What happens in a run, as data: the lines of `metrics.jsonl`, and what whoever watches is told.

use std::collections::BTreeMap;
use std::path::PathBuf;

use oxigpt_model::ScoreRange;
use serde::Serialize;

use crate::divergence::Divergence;

/// Watches a run.
pub trait Observer {
    /// Hears what just happened.
    fn event(&mut self, event: &Event);

    /// Hears how much of an evaluation is done: of so many windows, or questions.
    fn evaluating(&mut self, _done: u64, _total: u64, _unit: &'static str) {}
}

impl<F: FnMut(&Event)> Observer for F {
    fn event(&mut self, event: &Event) {
        self(event);
    }
}

/// Something that happened. Each is one JSON object in `metrics.jsonl`, under its name as `event`.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// All is ready; training begins, or goes on.
    Started(Box<Started>),
    /// An update was made. Told for each, recorded every `log_interval`.
    Train(Train),
    /// The model was evaluated.
    Eval(Eval),
    /// The model was scored on HellaSwag.
    #[serde(rename = "hellaswag")]
    HellaSwag(HellaSwagScore),
    /// The model wrote a text.
    Sample(Sample),
    /// A checkpoint was saved.
    Checkpoint(Saved),
    /// Something that the run survives.
    Warning {
        /// Updates made so far.
        step: u64,
        /// What.
        message: String,
    },
    /// The run cannot go on.
    Failure(Box<Divergence>),
    /// The run ended, by itself or because it was asked to.
    Finished(Summary),
}

/// What a run starts with.
#[derive(Clone, Debug, Serialize)]
pub struct Started {
    /// Updates made so far; more than 0 in a run that was resumed.
    pub step: u64,
    /// Updates in the whole run.
    pub max_iters: u64,
    /// What the run began with: `scratch`, or the name of a model.
    pub init_from: String,
    /// Where everything is kept.
    pub run_dir: PathBuf,
    /// Version of this program.
    pub version: &'static str,
    /// What computes.
    pub backend: &'static str,
    /// What it runs on, for people.
    pub machine: String,
    /// Who does attention, where that depends on what the machine has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attention: Option<String>,
    /// With how many threads.
    pub threads: usize,
    /// Weights of the model.
    pub parameters: usize,
    /// Those that are trained, or of the adapters that are.
    pub trained_parameters: usize,
    /// Bytes by role.
    pub memory: BTreeMap<&'static str, usize>,
    /// Bytes in all, with the backend's own.
    pub memory_bytes: usize,
    /// Tokens of a step.
    pub tokens_per_step: usize,
    /// Micro-batches of a step.
    pub micro_batches: usize,
    /// Operations in the matrix products of a step.
    pub flops_per_step: f64,
    /// Operations a second in matrix products at best, measured just now.
    pub peak_flops_per_s: f64,
    /// The data directory.
    pub dataset: PathBuf,
    /// Identifies the data.
    pub data_hash: String,
    /// Tokens to learn from.
    pub train_tokens: u64,
    /// Tokens to be measured on.
    pub val_tokens: u64,
    /// Times that the whole run goes through the training tokens.
    pub epochs: f64,
    /// Words of the model.
    pub vocab_size: usize,
    /// Nats per token of a model that has learned nothing: `ln vocab_size`.
    pub initial_loss: f64,
}

/// One update.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Train {
    /// Which, counted from 0.
    pub step: u64,
    /// What is minimised, before the update, mean over the whole batch: nats per token, unless the run is a distillation.
    pub loss: f64,
    /// Learning rate.
    pub lr: f64,
    /// Global norm of the gradients before clipping.
    pub grad_norm: f64,
    /// Wall time of the update alone, without evaluations, samples and checkpoints.
    pub step_ms: f64,
    /// Tokens a second in it.
    pub tokens_per_s: f64,
    /// Model-FLOPs utilisation: the plan's operations in matrix products, over time and the measured peak.
    pub mfu: f64,
    /// How far attention scores went in the last micro-batch, where attention is a polynomial; in what is recorded alone.
    #[serde(flatten)]
    pub range: Option<ScoreRange>,
}

/// One evaluation, on windows that are the same each time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Eval {
    /// Updates made so far.
    pub step: u64,
    /// Nats per token on windows spread over the training tokens.
    pub train_loss: f64,
    /// Nats per token on the first windows of the validation tokens.
    pub val_loss: f64,
    /// Targets of each of the two at most.
    pub tokens: u64,
    /// Wall time of both.
    pub eval_ms: f64,
    /// How far attention scores went in both, where attention is a polynomial.
    #[serde(flatten)]
    pub range: Option<ScoreRange>,
}

/// One scoring on HellaSwag, by build-nanogpt's definition.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct HellaSwagScore {
    /// Updates made so far.
    pub step: u64,
    /// Share of the items whose right ending has the least loss.
    pub acc: f64,
    /// The same with losses over the number of an ending's tokens: what build-nanogpt logs.
    pub acc_norm: f64,
    /// The 95 % confidence interval of `acc_norm`.
    pub interval: [f64; 2],
    /// Items.
    pub items: u64,
    /// Items whose context did not fit into `block_size`.
    pub truncated: u64,
    /// Wall time.
    pub hellaswag_ms: f64,
}

/// One text of the model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sample {
    /// Updates made so far.
    pub step: u64,
    /// What was to be continued.
    pub start: String,
    /// The continuation.
    pub text: String,
}

/// One checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Saved {
    /// Updates made so far.
    pub step: u64,
    /// Name within `checkpoints/`.
    pub name: String,
    /// Whether it is the best so far.
    pub best: bool,
    /// Wall time of writing it; `null` in JSON where the run was killed before it could tell.
    pub save_ms: f64,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Updates made.
    pub step: u64,
    /// Where everything is kept.
    pub run_dir: PathBuf,
    /// Whether it was asked to stop before its end.
    pub interrupted: bool,
    /// The lowest validation loss, where there was an evaluation after an update.
    pub best_val_loss: Option<f64>,
    /// When that was.
    pub best_step: Option<u64>,
}
