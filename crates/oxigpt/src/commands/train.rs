//! `oxigpt train`: carries out a configuration, and shows how it goes.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use oxigpt_train::{Outcome, Request, train};

use crate::cli::TrainArgs;
use crate::configure::{self, Configured};
use crate::report;
use crate::watch::Watch;

/// What a shell expects of a program that was interrupted.
const INTERRUPTED: u8 = 130;

/// Trains until the end of the run, or until it is asked to stop.
pub(crate) fn run(args: &TrainArgs) -> Result<ExitCode> {
    let Configured { settings, model, hellaswag } = configure::run(&args.config)?;
    report::note(&settings.to_toml());
    let stop = Arc::new(AtomicBool::new(false));
    stop_on_signal(stop.clone(), settings.eval_only)?;
    let mut watch = Watch::new(settings.log_interval);
    let outcome = train(Request { settings, model, hellaswag, stop, peak_flops: None }, &mut watch);
    watch.finish();
    let (told, code) = match outcome? {
        Outcome::Finished(summary) => (serde_json::to_string(&summary)?, ExitCode::SUCCESS),
        Outcome::Interrupted(summary) => (serde_json::to_string(&summary)?, ExitCode::from(INTERRUPTED)),
        Outcome::Evaluated(Some(eval)) => (serde_json::to_string(&eval)?, ExitCode::SUCCESS),
        Outcome::Evaluated(None) => return Ok(ExitCode::from(INTERRUPTED)),
    };
    if args.json {
        writeln!(io::stdout(), "{told}")?;
    }
    Ok(code)
}

/// The first signal asks the run to finish its step and save; a second one ends the program at once.
fn stop_on_signal(stop: Arc<AtomicBool>, eval_only: bool) -> Result<()> {
    ctrlc::set_handler(move || {
        if stop.swap(true, Ordering::Relaxed) {
            std::process::exit(i32::from(INTERRUPTED));
        }
        if !eval_only {
            report::warning("finishing this step, then saving; once more to stop at once");
        }
    })
    .context("cannot listen for interruptions")
}
