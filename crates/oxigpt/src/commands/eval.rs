//! `oxigpt eval`: how good a model is on a data set.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::time::Instant;

use anyhow::Result;
use oxigpt_data::{EvalWindows, Split, eval_windows};
use oxigpt_eval::{Loss, evaluate, target_bytes};
use oxigpt_model::eval_plan;
use oxigpt_train::settings::Settings;
use oxigpt_train::{Model, machine, open_dataset};
use serde_json::json;

use crate::cli::EvalArgs;
use crate::configure;
use crate::hint::CliError;
use crate::report::{self, WindowBar, duration, thousands};

/// What an evaluation found.
struct Found {
    loss: Loss,
    block_size: usize,
    /// Nothing where the text of the tokens is not known.
    bits_per_byte: Option<f64>,
    seconds: f64,
}

/// Measures the model on every window, and prints the numbers.
pub(crate) fn run(args: EvalArgs) -> Result<()> {
    let split = if args.split == "train" { Split::Train } else { Split::Val };
    let (limit, json) = (args.limit_windows, args.json);
    let (settings, model) = configure::evaluation(args)?;
    let dataset = open_dataset(&settings.dataset)?;
    let tokenizer = model.tokenizer_for(&dataset)?;
    dataset.validate_split(split, model.config.vocab_size)?;
    let limit = limit.map(|windows| windows.get().saturating_mul(settings.block_size as u64));
    let windows = eval_windows(dataset.split(split), settings.block_size, limit)?;
    report::note(&format!(
        "{} on {} ({}): {} windows of {} tokens",
        model.name,
        dataset.dir().display(),
        split.name(),
        thousands(windows.len()),
        thousands(settings.block_size as u64),
    ));
    let began = Instant::now();
    let loss = measure(&settings, &model, &windows)?;
    if !loss.nats_per_token.is_finite() {
        let message = format!("the loss of {} is {}", model.name, loss.nats_per_token);
        let hint = "its weights are damaged, or its training has diverged: use an earlier checkpoint";
        return Err(CliError::failure(message, hint).into());
    }
    let bits_per_byte = tokenizer.map(|tokenizer| {
        let bytes = target_bytes(&windows, &tokenizer);
        loss.bits_per_byte(bytes as f64 / loss.tokens as f64)
    });
    let found = Found {
        loss,
        block_size: settings.block_size,
        bits_per_byte,
        seconds: began.elapsed().as_secs_f64(),
    };
    let text = if json { format!("{}\n", found.json()) } else { found.table() };
    io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

fn measure(settings: &Settings, model: &Model, windows: &EvalWindows) -> Result<Loss> {
    let rows = windows.len().min(settings.batch_size as u64) as usize;
    let mut config = model.config.clone();
    config.crop_block_size(settings.block_size)?;
    let (plan, parameters, pass) = eval_plan(&config, rows, settings.block_size)?;
    let mut session = machine::session(plan.with_precision(settings.precision()), settings.threads)?;
    parameters.upload(&mut session, &model.weights)?;
    let bar = WindowBar::new(windows.len());
    let mut progress = |done| {
        bar.show(done);
        ControlFlow::Continue(())
    };
    let loss = evaluate(&mut session, &pass, windows, &mut progress)?;
    bar.finish();
    Ok(loss.expect("nothing broke it off"))
}

impl Found {
    fn json(&self) -> serde_json::Value {
        json!({
            "loss": self.loss.nats_per_token,
            "perplexity": self.loss.perplexity(),
            "bits_per_byte": self.bits_per_byte,
            "tokens": self.loss.tokens,
            "windows": self.loss.windows,
            "seconds": self.seconds,
        })
    }

    fn table(&self) -> String {
        let Loss { nats_per_token, tokens, windows } = self.loss;
        let bits = match self.bits_per_byte {
            Some(bits) => format!("{bits:.4}"),
            None => "not known: neither the model nor the data has a tokenizer".to_owned(),
        };
        format!(
            "loss           {nats_per_token:.4} nats per token\n\
             perplexity     {:.2}\n\
             bits per byte  {bits}\n\
             over           {} tokens in {} windows of {}\n\
             time           {}, {} tokens/s\n",
            self.loss.perplexity(),
            thousands(tokens),
            thousands(windows),
            thousands(self.block_size as u64),
            duration(self.seconds),
            thousands((tokens as f64 / self.seconds) as u64),
        )
    }
}
