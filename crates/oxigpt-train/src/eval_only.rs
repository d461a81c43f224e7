//! A run that only evaluates, once: the losses of a model, a checkpoint or random weights, without the memory that
//! training takes.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use oxigpt_model::{ScoreRange, eval_plan, score_plan};

use crate::error::Error;
use crate::event::{Eval, Event, Observer};
use crate::hellaswag;
use crate::job::{Job, Origin};
use crate::metrics::Metrics;
use crate::run::go_on;
use crate::run_dir::RunDir;

/// Evaluates, and records it. Nothing where it was asked to stop meanwhile. The configuration of a run that exists stays
/// as it is.
pub(crate) fn run(job: Job, stop: &AtomicBool, observer: &mut dyn Observer) -> Result<Option<Eval>, Error> {
    let Job { settings, dir, corpus, config, origin, questions, warnings, .. } = job;
    let (plan, parameters, pass) =
        eval_plan(&config, settings.batch_size.rows(), settings.block_size, settings.eval_storage())?;
    let plan = plan.with_precision(settings.precision());
    let mut session = settings.machine().session(plan)?;
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
    let windows = corpus.eval_windows();
    observer.evaluating(0, windows, "windows");
    let mut progress = |done| go_on(stop, observer, done, windows, "windows");
    let Some([train, val]) = corpus.losses(&mut session, &pass, &mut progress)? else { return Ok(None) };
    let eval = Eval {
        step,
        train_loss: train.nats_per_token,
        val_loss: val.nats_per_token,
        tokens: val.tokens,
        eval_ms: began.elapsed().as_secs_f64() * 1e3,
        range: ScoreRange::merge(train.range, val.range),
    };
    metrics.record(&Event::Eval(eval))?;
    observer.event(&Event::Eval(eval));
    if let Some(questions) = questions {
        drop(session);
        let [rows, positions] = hellaswag::shape(&questions);
        let (plan, parameters, scorer) = score_plan(&config, rows, positions, settings.eval_storage())?;
        let mut session = settings.machine().session(plan.with_precision(settings.precision()))?;
        origin.upload(&mut session, &parameters, &config, settings.seed)?;
        let total = questions.len() as u64;
        let mut progress = |done| go_on(stop, observer, done, total, "questions");
        let scored = hellaswag::score(&mut session, &scorer, &questions, step, &mut progress)?;
        let Some(event) = scored else { return Ok(None) };
        metrics.record(&event)?;
        observer.event(&event);
    }
    metrics.sync()?;
    Ok(Some(eval))
}
