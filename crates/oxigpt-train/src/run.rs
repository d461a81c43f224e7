//! A run from its beginning to its end: everything is checked, then made, then the loop.
//!
//! "After `step` updates" is the one clock of a run. What is due then (an evaluation, a sample, a checkpoint) happens
//! before the next update, and none of it touches the weights or the order of the data.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use oxigpt_compute::Session;
use oxigpt_data::Split;
use oxigpt_eval::tasks::hellaswag::Questions;
use oxigpt_model::{ModelConfig, ScoreRange};

use crate::base::Base;
use crate::checkpoint::{self, Best, Checkpoint, State};
use crate::corpus::Corpus;
use crate::error::Error;
use crate::estimate::Estimate;
use crate::eval_only;
use crate::event::{Eval, Event, Observer, Saved, Started, Summary, Train};
use crate::fit::fit;
use crate::hellaswag;
use crate::job::{Job, Origin, Planned};
use crate::metrics::Metrics;
use crate::model::Model;
use crate::resume;
use crate::run_dir::RunDir;
use crate::sampler::Sampler;
use crate::schedule::learning_rate;
use crate::settings::Settings;
use crate::trainer::Trainer;

/// What is to be trained.
pub struct Request {
    /// The configuration; need not be resolved yet.
    pub settings: Settings,
    /// The model that `init_from` names, where it names one.
    pub model: Option<Model>,
    /// The published file of HellaSwag, where the settings ask for that.
    pub hellaswag: Option<PathBuf>,
    /// Set from outside to end the run after the step at hand, with a checkpoint.
    pub stop: Arc<AtomicBool>,
    /// Operations a second that utilisation is relative to; measured where absent.
    pub peak_flops: Option<f64>,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// All updates were made.
    Finished(Summary),
    /// It was asked to stop, and can be resumed.
    Interrupted(Summary),
    /// Under `eval_only`; nothing where it was asked to stop meanwhile.
    Evaluated(Option<Eval>),
}

/// Trains, or goes on training where `init_from` is `resume`; under `eval_only`, evaluates once.
///
/// All that can be wrong with the request is found before anything is allocated or written, but for built-in data,
/// which are prepared when they are used first.
///
/// # Errors
/// If the request cannot be carried out, a file cannot be written, or training diverges. Checkpoints that were
/// saved before stay as they are.
pub fn train(request: Request, observer: &mut dyn Observer) -> Result<Outcome, Error> {
    let Request { settings, model, hellaswag, stop, peak_flops } = request;
    let settings = fit(settings.resolve()?, hellaswag.as_deref())?;
    let mut job = Job::check(settings, model, hellaswag.as_deref())?;
    if job.settings.eval_only {
        return eval_only::run(job, &stop, observer).map(Outcome::Evaluated);
    }
    let planned = job.plan()?;
    let (machine, precision) = (job.settings.machine(), job.settings.precision());
    let peak_flops = peak_flops.map_or_else(|| machine.measure_flops(precision), Ok)?;
    let mut run = Run::begin(job, planned, peak_flops, stop, observer)?;
    let result = run.go();
    if let Err(Error::Diverged(report)) = &result {
        // Where even that cannot be written, what went wrong first is what to tell.
        let _ = run.tell(&Event::Failure(report.clone()));
    }
    result
}

/// A run at work.
struct Run<'a> {
    settings: Settings,
    corpus: Corpus,
    config: ModelConfig,
    estimate: Estimate,
    sampler: Option<Sampler>,
    questions: Option<Questions>,
    /// What the run needs beside its checkpoints.
    base: Option<Base>,
    dir: RunDir,
    trainer: Trainer,
    metrics: Metrics,
    state: State,
    /// Step of the last checkpoint that nothing more is due after.
    saved_at: Option<u64>,
    peak_flops: f64,
    /// Whether a word has been said about scores that the attention has no room for.
    warned_of_scores: bool,
    stop: Arc<AtomicBool>,
    observer: &'a mut dyn Observer,
}

impl<'a> Run<'a> {
    fn begin(
        job: Job,
        planned: Planned,
        peak_flops: f64,
        stop: Arc<AtomicBool>,
        observer: &'a mut dyn Observer,
    ) -> Result<Run<'a>, Error> {
        let Job { settings, dir, corpus, config, origin, questions, base, warnings } = job;
        let Planned { plan, handles, estimate, sampler } = planned;
        let session = Session::new(plan, settings.machine().backend()?)?;
        let mut trainer = Trainer::new(&settings, session, handles, corpus.loader.clone());
        origin.upload_all(&mut trainer.session, &trainer.plan, &config, settings.seed)?;
        let state = match origin {
            Origin::Checkpoint(checkpoint) => restore(&mut trainer, *checkpoint)?,
            Origin::Random | Origin::Model(_) => State::new(settings.seed, &corpus.hash),
        };
        let mut dir = match dir {
            Some(dir) => dir,
            None => RunDir::create(Path::new(&settings.out_dir), &settings)?,
        };
        dir.describe(&settings, &corpus)?;
        let mut metrics = Metrics::open(dir.root(), state.step, state.settled)?;
        // A run that was killed between a checkpoint and its event.
        if state.step > 0 && !Metrics::has(dir.root(), "checkpoint", state.step)? {
            metrics.record(&Event::Checkpoint(saved(&state, f64::NAN)))?;
        }
        let saved_at = Some(state.step).filter(|_| state.settled);
        let mut run = Run {
            settings,
            corpus,
            config,
            estimate,
            sampler,
            questions,
            base,
            dir,
            trainer,
            metrics,
            state,
            saved_at,
            peak_flops,
            warned_of_scores: false,
            stop,
            observer,
        };
        run.tell(&run.started())?;
        for message in warnings {
            run.warn(message)?;
        }
        Ok(run)
    }

    fn go(&mut self) -> Result<Outcome, Error> {
        let end = self.settings.max_iters as u64;
        loop {
            if !self.state.settled && !self.stopping() {
                self.settle(self.trainer.step == end)?;
            }
            if self.trainer.step == end && self.state.settled {
                return self.finish(false).map(Outcome::Finished);
            }
            if self.stopping() {
                self.save()?;
                return self.finish(true).map(Outcome::Interrupted);
            }
            self.update()?;
        }
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Makes one update.
    fn update(&mut self) -> Result<(), Error> {
        let step = self.trainer.step;
        let lr = learning_rate(&self.settings, step);
        let began = Instant::now();
        let report = self.trainer.step(lr).map_err(|error| self.with_last_checkpoint(error))?;
        let seconds = began.elapsed().as_secs_f64();
        self.state.settled = false;
        let is_last = self.trainer.step == self.settings.max_iters as u64;
        let is_logged = is_last || step.is_multiple_of(self.settings.log_interval as u64);
        let range = if is_logged { self.trainer.score_range()? } else { None };
        let event = Event::Train(Train {
            step,
            loss: report.loss,
            lr,
            grad_norm: report.grad_norm,
            step_ms: seconds * 1e3,
            tokens_per_s: self.estimate.tokens_per_step as f64 / seconds,
            mfu: self.estimate.step.flops / seconds / self.peak_flops,
            range,
        });
        if is_logged {
            self.metrics.record(&event)?;
        }
        self.observer.event(&event);
        self.warn_of_scores(range)
    }

    /// Says once if scores leave the range of a polynomial attention; how many do is in every event.
    fn warn_of_scores(&mut self, range: Option<ScoreRange>) -> Result<(), Error> {
        let message = range.filter(|_| !self.warned_of_scores).and_then(|r| r.warning(self.config.attention));
        let Some(message) = message else { return Ok(()) };
        self.warned_of_scores = true;
        self.warn(message)
    }

    /// Does what is due after the updates made so far.
    fn settle(&mut self, is_last: bool) -> Result<(), Error> {
        let step = self.trainer.step;
        let due = |interval: usize| interval > 0 && step.is_multiple_of(interval as u64);
        let mut save = is_last || due(self.settings.save_interval);
        let sample = self.settings.sample_interval > 0 && (is_last || due(self.settings.sample_interval));
        if is_last || due(self.settings.eval_interval) {
            let Some(val_loss) = self.evaluate()? else { return Ok(()) };
            if !self.score()? {
                return Ok(());
            }
            save |= self.is_best(val_loss) || self.settings.always_save_checkpoint;
        }
        // A model that has learned nothing has nothing to say, and is made again from its seed.
        if sample && step > 0 {
            self.sample()?;
        }
        self.state.settled = true;
        if save && step > 0 { self.save() } else { Ok(()) }
    }

    /// Evaluates, and gives the validation loss; nothing if it was asked to stop meanwhile.
    fn evaluate(&mut self) -> Result<Option<f64>, Error> {
        let began = Instant::now();
        let Self { trainer: Trainer { session, plan, step, .. }, corpus, stop, observer, .. } = self;
        let windows = corpus.eval_windows();
        let mut progress = |done| go_on(stop, *observer, done, windows, "windows");
        let Some([train, val]) = corpus.losses(session, &plan.evaluate, &mut progress)? else {
            return Ok(None);
        };
        let (step, val_loss) = (*step, val.nats_per_token);
        if !val_loss.is_finite() {
            let report = self.trainer.divergence("the validation loss")?;
            return Err(self.with_last_checkpoint(Error::Diverged(Box::new(report))));
        }
        let eval_ms = began.elapsed().as_secs_f64() * 1e3;
        let train_loss = train.nats_per_token;
        let range = ScoreRange::merge(train.range, val.range);
        self.tell(&Event::Eval(Eval { step, train_loss, val_loss, tokens: val.tokens, eval_ms, range }))?;
        self.warn_of_scores(range)?;
        Ok(Some(val_loss))
    }

    /// Scores the model on HellaSwag, if that is asked for; false if it was asked to stop meanwhile.
    fn score(&mut self) -> Result<bool, Error> {
        let Self { trainer: Trainer { session, plan, step, .. }, questions, stop, observer, .. } = self;
        let (Some(questions), Some(scorer)) = (questions, &plan.scorer) else { return Ok(true) };
        let total = questions.len() as u64;
        let mut progress = |done| go_on(stop, *observer, done, total, "questions");
        match hellaswag::score(session, scorer, questions, *step, &mut progress)? {
            Some(event) => self.tell(&event).map(|()| true),
            None => Ok(false),
        }
    }

    /// Whether the model is the best so far, which is noted.
    fn is_best(&mut self, val_loss: f64) -> bool {
        let step = self.trainer.step;
        let improved = step > 0 && self.state.best.is_none_or(|best| val_loss < best.val_loss);
        if improved {
            self.state.best = Some(Best { step, val_loss });
        }
        improved
    }

    fn sample(&mut self) -> Result<(), Error> {
        let Some(sampler) = &self.sampler else { return Ok(()) };
        match sampler.sample(&mut self.trainer)? {
            Some(sample) => self.tell(&Event::Sample(sample)),
            // Whether the weights are to blame will show at the next loss.
            None => self.warn("the sample was left out: the logits are not finite".into()),
        }
    }

    /// Saves a checkpoint of the present state, unless there is one.
    fn save(&mut self) -> Result<(), Error> {
        let step = self.trainer.step;
        if self.saved_at == Some(step) {
            return Ok(());
        }
        let began = Instant::now();
        if !self.trainer.bad_weights()?.is_empty() {
            let report = self.trainer.divergence("a weight")?;
            return Err(self.with_last_checkpoint(Error::Diverged(Box::new(report))));
        }
        if !self.trainer.has_finite_moments()? {
            let report = self.trainer.divergence("a moment of the optimizer")?;
            return Err(self.with_last_checkpoint(Error::Diverged(Box::new(report))));
        }
        self.state.advance(&self.trainer, resume::texts(&self.settings));
        self.metrics.sync()?;
        let (root, tokenizer) = (self.dir.root(), self.corpus.tokenizer.as_ref());
        checkpoint::save(root, &self.trainer, &self.config, tokenizer, self.base.as_ref(), &self.state)?;
        checkpoint::prune(root, &self.state, self.settings.keep_checkpoints)?;
        self.saved_at = Some(step);
        let save_ms = began.elapsed().as_secs_f64() * 1e3;
        self.tell(&Event::Checkpoint(saved(&self.state, save_ms)))
    }

    fn finish(&mut self, interrupted: bool) -> Result<Summary, Error> {
        let best = self.state.best;
        let summary = Summary {
            step: self.trainer.step,
            run_dir: self.dir.root().into(),
            interrupted,
            best_val_loss: best.map(|best| best.val_loss),
            best_step: best.map(|best| best.step),
        };
        self.tell(&Event::Finished(summary.clone()))?;
        self.metrics.sync()?;
        Ok(summary)
    }

    /// Records an event and tells it.
    fn tell(&mut self, event: &Event) -> Result<(), Error> {
        self.metrics.record(event)?;
        self.observer.event(event);
        Ok(())
    }

    fn warn(&mut self, message: String) -> Result<(), Error> {
        self.tell(&Event::Warning { step: self.trainer.step, message })
    }

    /// Adds to a report of divergence what is left, from which a resumed run will go on.
    fn with_last_checkpoint(&self, mut error: Error) -> Error {
        if let Error::Diverged(report) = &mut error {
            report.last_checkpoint = checkpoint::go_back(self.dir.root(), report.step);
        }
        error
    }

    fn started(&self) -> Event {
        let Self { estimate, corpus, settings, trainer, .. } = self;
        let train_tokens = corpus.tokens(Split::Train);
        let tokens_in_run = settings.max_iters as f64 * estimate.tokens_per_step as f64;
        Event::Started(Box::new(Started {
            step: trainer.step,
            max_iters: settings.max_iters as u64,
            init_from: settings.init_from.clone(),
            run_dir: self.dir.root().into(),
            version: env!("CARGO_PKG_VERSION"),
            backend: trainer.session.backend_name(),
            machine: settings.machine().name(),
            attention: trainer.session.attention(),
            threads: settings.machine().threads(),
            parameters: estimate.parameters.total,
            trained_parameters: estimate.trained,
            memory: estimate.memory.iter().map(|(role, &bytes)| (role.label(), bytes)).collect(),
            memory_bytes: trainer.session.memory_bytes(),
            tokens_per_step: estimate.tokens_per_step,
            micro_batches: estimate.micro_batches,
            flops_per_step: estimate.step.flops,
            peak_flops_per_s: self.peak_flops,
            dataset: corpus.dataset.dir().into(),
            data_hash: corpus.hash.clone(),
            train_tokens,
            val_tokens: corpus.tokens(Split::Val),
            epochs: tokens_in_run / train_tokens as f64,
            vocab_size: corpus.vocab_size,
            initial_loss: estimate.initial_loss(),
        }))
    }
}

/// Tells how much of an evaluation is done, and breaks it off where that is asked for.
pub(crate) fn go_on(
    stop: &AtomicBool,
    observer: &mut dyn Observer,
    done: u64,
    total: u64,
    unit: &'static str,
) -> ControlFlow<()> {
    observer.evaluating(done, total, unit);
    if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

/// What there is to tell of the checkpoint of `state`.
fn saved(state: &State, save_ms: f64) -> Saved {
    let best = state.best.is_some_and(|best| best.step == state.step);
    Saved { step: state.step, name: checkpoint::name_of(state.step), best, save_ms }
}

/// Puts a trainer that has a checkpoint's weights where the checkpoint was made.
fn restore(trainer: &mut Trainer, checkpoint: Checkpoint) -> Result<State, Error> {
    let Checkpoint { state, moments, .. } = checkpoint;
    trainer.plan.moments.upload(&mut trainer.session, &moments)?;
    (trainer.step, trainer.cursor) = (state.step, state.cursor);
    Ok(state)
}
