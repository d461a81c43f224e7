//! A run that only evaluates, once: the losses of a model, a checkpoint or random weights, without the memory that
//! training takes.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use oxigpt_model::eval_plan;

use crate::error::Error;
use crate::event::{Eval, Event, Observer};
use crate::job::{Job, Origin};
use crate::machine;
use crate::metrics::Metrics;
use crate::run_dir::RunDir;

/// Evaluates, and records it. Nothing where it was asked to stop meanwhile. The configuration of a run that exists stays
/// as it is.
pub(crate) fn run(job: Job, stop: &AtomicBool, observer: &mut dyn Observer) -> Result<Option<Eval>, Error> {
    let Job { settings, dir, corpus, config, origin, warnings } = job;
    let (plan, parameters, pass) = eval_plan(&config, settings.batch_size, settings.block_size)?;
    let plan = plan.with_precision(settings.precision());
    let mut session = machine::session(plan, settings.threads)?;
    origin.upload(&mut session, &parameters, &config, settings.seed)?;
    // Of a run that exists nothing is taken back; of an evaluation before this one, all.
    let (step, kept) = match &origin {
        Origin::Checkpoint(checkpoint) => (checkpoint.state.step, u64::MAX),
        Origin::Random | Origin::Model(_) => (0, 0),
    };
    let dir = match dir {
        Some(dir) => dir,
        None => {
            let mut dir = RunDir::create(Path::new(&settings.out_dir), &settings)?;
            dir.describe(&settings, &corpus)?;
            dir
        }
    };
    let mut metrics = Metrics::open(dir.root(), kept, false)?;
    for message in warnings {
        let event = Event::Warning { step, message };
        metrics.record(&event)?;
        observer.event(&event);
    }
    let began = Instant::now();
    let windows = corpus.train_windows.len() + corpus.val_windows.len();
    observer.evaluating(0, windows);
    let mut progress = |done| {
        observer.evaluating(done, windows);
        if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let Some([train, val]) = corpus.losses(&mut session, &pass, &mut progress)? else { return Ok(None) };
    let eval = Eval {
        step,
        train_loss: train.nats_per_token,
        val_loss: val.nats_per_token,
        tokens: val.tokens,
        eval_ms: began.elapsed().as_secs_f64() * 1e3,
    };
    metrics.record(&Event::Eval(eval))?;
    observer.event(&Event::Eval(eval));
    metrics.sync()?;
    Ok(Some(eval))
}
