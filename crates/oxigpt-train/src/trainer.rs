//! One model in training: its session, its place in the data, and the step that takes both further.
//!
//! Legend: B rows of a micro-batch, T tokens of a row.

use oxigpt_compute::{Data, Session};
use oxigpt_data::Loader;
use oxigpt_model::{ScoreRange, TensorSource, TrainPlan};

use crate::divergence::{DataPosition, Divergence, GradientNorm};
use crate::error::Error;
use crate::settings::Settings;

/// Windows that a [`Divergence`] names at most.
const NAMED_WINDOWS: usize = 8;

/// What a step found before its update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Nats per token, mean over the whole batch.
    pub loss: f64,
    /// Global norm of the gradients before clipping.
    pub grad_norm: f64,
}

/// A model in training.
///
/// A step is a pure function of the weights, the moments, `step`, `cursor`, and the seed: there is no other state.
pub struct Trainer {
    /// The plan's tensors and the machine that holds them.
    pub session: Session,
    /// Handles into the plan.
    pub plan: TrainPlan,
    loader: Loader,
    seed: u64,
    micro_batches: u64,
    /// Updates made.
    pub step: u64,
    /// Rows learned from: the place in the data.
    pub cursor: u64,
    x_bt: Vec<u32>,
    y_bt: Vec<u32>,
    /// The first row of the run that the plan's inputs hold, if they hold any.
    uploaded: Option<u64>,
    losses_bt: Vec<f64>,
    /// Sums of the losses of this step, one for each term of the objective.
    sums: Vec<f64>,
}

impl Trainer {
    /// A trainer at step 0 whose weights and moments are zero: upload weights before the first step.
    ///
    /// # Panics
    /// If the loader's rows are not as long as the plan's.
    pub fn new(settings: &Settings, session: Session, plan: TrainPlan, loader: Loader) -> Trainer {
        assert_eq!(loader.block_size(), plan.shape.block_size, "rows of another block_size");
        let len = plan.shape.batch_size * plan.shape.block_size;
        Trainer {
            session,
            loader,
            seed: settings.seed,
            micro_batches: (plan.shape.targets_per_step / len) as u64,
            step: 0,
            cursor: 0,
            x_bt: vec![0; len],
            y_bt: vec![0; len],
            uploaded: None,
            losses_bt: vec![0.0; len],
            sums: vec![0.0; plan.objective.len()],
            plan,
        }
    }

    /// Makes one update with the next rows of the data. Allocates nothing unless it fails.
    ///
    /// # Errors
    /// [`Error::Diverged`] where the loss or the norm of the gradients is not finite; the update is then not made.
    pub fn step(&mut self, learning_rate: f64) -> Result<StepReport, Error> {
        self.sums.fill(0.0);
        for index in 0..self.micro_batches {
            self.micro_batch(index)?;
            if !self.loss().is_finite() {
                let rows = self.plan.shape.batch_size as u64;
                return Err(self.diverged("the loss", self.cursor + index * rows, rows)?);
            }
        }
        self.session.run(self.plan.phases.norm);
        let mut norm = [0.0];
        self.session.download_f64(self.plan.norm, &mut norm)?;
        if !norm[0].is_finite() {
            return Err(self.diverged("the gradient norm", self.cursor, self.rows_per_step())?);
        }
        self.plan.set_schedule(&mut self.session, learning_rate, self.step)?;
        self.session.run(self.plan.phases.update);
        self.step += 1;
        self.cursor += self.rows_per_step();
        Ok(StepReport { loss: self.loss(), grad_norm: norm[0] })
    }

    /// How far the attention scores of the last micro-batch went, where attention is a polynomial.
    pub(crate) fn score_range(&self) -> Result<Option<ScoreRange>, Error> {
        Ok(ScoreRange::of(&self.session, self.plan.phases.first, self.plan.shape.batch_size)?)
    }

    /// What is minimised, as far as it is summed up.
    fn loss(&self) -> f64 {
        let terms = self.plan.objective.iter().zip(&self.sums);
        let sum: f64 = terms.map(|(term, sum)| term.weight * sum).sum();
        sum / self.plan.shape.targets_per_step as f64
    }

    /// Forward and backward over one micro-batch, whose losses are added to the sums.
    fn micro_batch(&mut self, index: u64) -> Result<(), Error> {
        let Trainer { session, plan, loader, x_bt, y_bt, losses_bt, sums, .. } = self;
        let rows = plan.shape.batch_size;
        let first_row = index * rows as u64;
        let row = self.cursor + first_row;
        let mut upload = |session: &mut Session, row| {
            loader.fill(row, rows, x_bt, y_bt);
            session.upload(plan.tokens, Data::U32(x_bt))?;
            session.upload(plan.targets, Data::U32(y_bt))
        };
        if self.uploaded.take() != Some(row) {
            upload(session, row)?;
        }
        plan.set_rng(session, self.seed, self.step as u32, first_row as u32)?;
        session.run(if index == 0 { plan.phases.first } else { plan.phases.more });
        // A GPU is at work meanwhile. What is wrong with the next batch is said when its turn comes.
        let next = row + rows as u64;
        self.uploaded = upload(session, next).is_ok().then_some(next);
        for (term, sum) in plan.objective.iter().zip(sums) {
            session.download_f64(term.losses, losses_bt)?;
            // One running sum, so that its order does not depend on how the batch is cut.
            *sum = losses_bt.iter().fold(*sum, |sum, loss| sum + loss);
        }
        Ok(())
    }

    fn rows_per_step(&self) -> u64 {
        self.micro_batches * self.plan.shape.batch_size as u64
    }

    /// The report of a batch whose rows begin at `first_row` of the run, as an error.
    fn diverged(&self, what: &'static str, first_row: u64, rows: u64) -> Result<Error, Error> {
        let named = rows.min(NAMED_WINDOWS as u64);
        let data = DataPosition {
            first_row,
            rows,
            epoch: self.loader.epoch_of(first_row),
            windows: (first_row..first_row + named).map(|row| self.loader.window(row)).collect(),
        };
        let mut report = self.divergence(what)?;
        report.data = Some(data);
        report.gradients = self.gradient_norms()?;
        Ok(Error::Diverged(Box::new(report)))
    }

    /// A report without data and gradients.
    pub(crate) fn divergence(&self, what: &'static str) -> Result<Divergence, Error> {
        Ok(Divergence {
            step: self.step,
            what,
            data: None,
            gradients: Vec::new(),
            bad_weights: self.bad_weights()?,
            last_checkpoint: None,
        })
    }

    /// Norms of all gradients, those that are not finite first, then the largest.
    fn gradient_norms(&self) -> Result<Vec<GradientNorm>, Error> {
        let gradients = self.plan.gradients.of(&self.session);
        let norm = |entry: &oxigpt_model::TensorTableEntry| {
            let squares = gradients.read(&entry.name)?.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>();
            Ok(GradientNorm { name: entry.name.clone(), norm: squares.sqrt() })
        };
        let mut norms = self.plan.gradients.entries().iter().map(norm).collect::<Result<Vec<_>, Error>>()?;
        // A norm that is not finite counts as more than any that is.
        let size = |g: &GradientNorm| if g.norm.is_finite() { g.norm } else { f64::INFINITY };
        norms.sort_by(|a, b| size(b).total_cmp(&size(a)));
        Ok(norms)
    }

    /// Whether all moments of the optimizer are finite.
    pub(crate) fn has_finite_moments(&self) -> Result<bool, Error> {
        Ok(self.plan.moments.of(&self.session).not_finite()?.is_empty())
    }

    /// Names of the tensors whose weights are not all finite.
    pub(crate) fn bad_weights(&self) -> Result<Vec<String>, Error> {
        Ok(self.plan.learned().of(&self.session).not_finite()?)
    }
}
