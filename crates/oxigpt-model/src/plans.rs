//! The plans a model runs by: training (with evaluation, scoring and decoding on the same weights), evaluation
//! alone, scoring alone, decoding alone.
//!
//! Each function gives the plan, for a session, and handles into it. The phases of one plan share its
//! weights, so that evaluating and sampling during training need no copy.

use std::collections::HashMap;

use oxigpt_compute::{AdamWConfig, Builder, Data, Op, PhaseId, Plan, Recompute, Session, Storage, TensorId};

use crate::distill::{Distill, Teacher};
use crate::{
    DecodeShape, Decoder, Error, Lora, ModelConfig, Scorer, Site, TensorTable, Trained, Weights, attention,
    dropout_at, forward,
};

/// What a training plan is built for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainShape {
    /// Rows of a micro-batch.
    pub batch_size: usize,
    /// Tokens of a row, at most the model's.
    pub block_size: usize,
    /// Targets of a whole step: gradients are those of the mean loss over so many.
    pub targets_per_step: usize,
    /// Constants of the update.
    pub optimizer: AdamWConfig,
    /// Rows of an evaluation pass.
    pub eval_batch_size: usize,
    /// Whether to be able to generate.
    pub decode: bool,
    /// Adapters that are trained instead of the weights.
    pub lora: Option<Lora>,
    /// A teacher to learn from.
    pub distill: Option<Distill>,
    /// What the backward pass makes again instead of keeping it.
    pub recompute: Recompute,
}

/// Handles into a training plan.
///
/// A step: for each micro-batch, upload tokens, targets and [`TrainPlan::set_rng`], run `first` (for the
/// first micro-batch) or `more` (for the others), read the losses; then run `norm`; then
/// [`TrainPlan::set_schedule`] and run `update`.
#[derive(Clone, Debug)]
pub struct TrainPlan {
    /// What it was built for.
    pub shape: TrainShape,
    /// Weights of the model.
    pub parameters: TensorTable,
    /// Adapters, where these are trained instead.
    pub adapters: TensorTable,
    /// Weights of a teacher that are not the model's own, under the names that they have in its model.
    pub teacher: TensorTable,
    /// Gradients by the names of their weights; frozen weights have none.
    pub gradients: TensorTable,
    /// Moments, as `m.NAME` and `v.NAME`.
    pub moments: TensorTable,
    /// `[batch_size, block_size]` U32.
    pub tokens: TensorId,
    /// `[batch_size, block_size]` U32.
    pub targets: TensorId,
    /// Counters of dropout, see [`TrainPlan::set_rng`].
    pub rng: TensorId,
    /// Learning rate and bias corrections, see [`TrainPlan::set_schedule`].
    pub schedule: TensorId,
    /// What is minimised: the loss on the text, or what a teacher asks for.
    pub objective: Vec<Term>,
    /// `[1]`: global norm of the gradients before clipping.
    pub norm: TensorId,
    /// The phases of a step.
    pub phases: TrainPhases,
    /// Evaluation with the same weights, without dropout.
    pub evaluate: Evaluate,
    /// Generation with the same weights.
    pub decoder: Option<Decoder>,
    /// Scoring of continuations with the same weights.
    pub scorer: Option<Scorer>,
}

/// A part of what is minimised: `weight` times the mean of these losses over the targets of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Term {
    /// `[batch_size * block_size]`: one for each target of the micro-batch; in nats on a text.
    pub losses: TensorId,
    /// Factor.
    pub weight: f64,
}

impl TrainShape {
    /// Which weights are trained.
    pub fn trained(&self) -> Trained {
        match (self.lora, self.distill) {
            (Some(lora), _) => Trained::Adapters(lora),
            (None, Some(_)) => Trained::Attention,
            (None, None) => Trained::All,
        }
    }
}

/// The phases of a training step.
#[derive(Clone, Copy, Debug)]
pub struct TrainPhases {
    /// Forward and backward; gradients are overwritten.
    pub first: PhaseId,
    /// Forward and backward; gradients are added to.
    pub more: PhaseId,
    /// Norm of the gradients.
    pub norm: PhaseId,
    /// Clipping and AdamW.
    pub update: PhaseId,
}

/// Handles of an evaluation pass: upload tokens and targets, run the phase, read the losses.
#[derive(Clone, Copy, Debug)]
pub struct Evaluate {
    /// Rows.
    pub batch_size: usize,
    /// Tokens of a row.
    pub block_size: usize,
    /// `[batch_size, block_size]` U32.
    pub tokens: TensorId,
    /// `[batch_size, block_size]` U32.
    pub targets: TensorId,
    /// `[batch_size * block_size]`: loss of each target in nats.
    pub losses: TensorId,
    /// What to run.
    pub phase: PhaseId,
}

impl TrainPlan {
    /// Builds the plan of a training step.
    pub fn build(config: &ModelConfig, shape: &TrainShape) -> Result<(Plan, TrainPlan), Error> {
        Self::build_scoring(config, shape, None)
    }

    /// Builds the plan of a training step that can also score so many sequences side by side, of at most so many
    /// positions.
    pub fn build_scoring(
        config: &ModelConfig,
        shape: &TrainShape,
        scored: Option<[usize; 2]>,
    ) -> Result<(Plan, TrainPlan), Error> {
        config.validate_batch("batch_size", shape.batch_size, shape.block_size)?;
        config.validate_batch("eval_batch_size", shape.eval_batch_size, shape.block_size)?;
        if let Some([rows, positions]) = scored {
            config.validate_batch("batch_size", rows, positions)?;
        }
        if shape.targets_per_step == 0 {
            return Err(Error::Zero { key: "total_batch_size" });
        }
        if let Some(lora) = shape.lora {
            lora.validate(config)?;
        }
        let b = &mut Builder::new();
        let weights = Weights::declare(b, config, shape.trained());
        let teacher = shape.distill.map(|distill| (distill, Teacher::declare(b, &weights, shape.trained())));
        let rng = b.counters("rng", &[4]);

        let first = b.begin("train");
        let [tokens, targets] = text(b, config, [shape.batch_size, shape.block_size]);
        let objective = match &teacher {
            None => {
                vec![Term { losses: loss(b, config, &weights, [tokens, targets], Some(rng)), weight: 1.0 }]
            }
            Some((distill, teacher)) => {
                teacher.objective(b, config, *distill, &weights, [tokens, targets], rng)
            }
        };
        let scaled = |term: &Term| (term.losses, term.weight / shape.targets_per_step as f64);
        b.backward(&objective.iter().map(scaled).collect::<Vec<_>>());
        b.recompute(shape.recompute);
        let more = b.accumulating(first, "train_more");
        let norm_phase = b.begin("norm");
        let norm = b.grad_norm();
        let update = b.begin("update");
        let schedule = b.input("schedule", &[3]);
        b.adamw(norm, schedule, shape.optimizer);

        let evaluate = Evaluate::declare(b, config, &weights, shape.eval_batch_size, shape.block_size);
        let decoder = shape.decode.then(|| Decoder::declare(b, config, &weights, 1, config.block_size));
        let scorer = scored.map(|[rows, positions]| Scorer::declare(b, config, &weights, rows, positions));
        let plan = std::mem::take(b).finish();
        let (gradients, moments) = optimizer_tables(&plan, update, [&weights.table, &weights.adapters]);
        let phases = TrainPhases { first, more, norm: norm_phase, update };
        let (parameters, adapters, shape) = (weights.table, weights.adapters, *shape);
        let handles = TrainPlan {
            shape,
            parameters,
            adapters,
            teacher: teacher.map(|(_, teacher)| teacher.table).unwrap_or_default(),
            gradients,
            moments,
            tokens,
            targets,
            rng,
            schedule,
            objective,
            norm,
            phases,
            evaluate,
            decoder,
            scorer,
        };
        Ok((plan, handles))
    }

    /// What of the model is trained and saved: its adapters where it has any, or else its weights.
    pub fn learned(&self) -> &TensorTable {
        if self.adapters.is_empty() { &self.parameters } else { &self.adapters }
    }

    /// Sets what dropout depends on: a seed, the step, and the first row of the coming micro-batch within the
    /// step's whole batch.
    pub fn set_rng(&self, session: &mut Session, seed: u64, step: u32, first_row: u32) -> Result<(), Error> {
        let counters = [seed as u32, (seed >> 32) as u32, step, first_row];
        Ok(session.upload(self.rng, Data::U32(&counters))?)
    }

    /// Sets the learning rate of the coming update, and with `step`, counted from 0, the bias corrections
    /// (Kingma and Ba 2015, algorithm 1).
    pub fn set_schedule(&self, session: &mut Session, learning_rate: f64, step: u64) -> Result<(), Error> {
        let AdamWConfig { beta1, beta2, .. } = self.shape.optimizer;
        let correction = |beta: f64| 1.0 - beta.powf((step + 1) as f64);
        let schedule = [learning_rate, correction(beta1), correction(beta2)];
        Ok(session.upload(self.schedule, Data::F64(&schedule))?)
    }
}

impl Evaluate {
    fn declare(
        b: &mut Builder,
        config: &ModelConfig,
        weights: &Weights,
        batch_size: usize,
        block_size: usize,
    ) -> Self {
        let phase = b.begin("evaluate");
        let [tokens, targets] = text(b, config, [batch_size, block_size]);
        let losses = loss(b, config, weights, [tokens, targets], None);
        Evaluate { batch_size, block_size, tokens, targets, losses, phase }
    }
}

/// Builds a plan that evaluates, and nothing else. Matrices are kept as in training, or in a storage.
pub fn eval_plan(
    config: &ModelConfig,
    batch_size: usize,
    block_size: usize,
    storage: Option<Storage>,
) -> Result<(Plan, TensorTable, Evaluate), Error> {
    config.validate_batch("batch_size", batch_size, block_size)?;
    let mut b = Builder::new();
    let weights = Weights::declare_as(&mut b, config, Trained::All, storage);
    let evaluate = Evaluate::declare(&mut b, config, &weights, batch_size, block_size);
    Ok((b.finish(), weights.table, evaluate))
}

/// Builds a plan that scores `batch_size` sequences side by side, of at most `positions` tokens that are fed, and
/// nothing else. Matrices are kept as in training, or in a storage.
pub fn score_plan(
    config: &ModelConfig,
    batch_size: usize,
    positions: usize,
    storage: Option<Storage>,
) -> Result<(Plan, TensorTable, Scorer), Error> {
    config.validate_batch("batch_size", batch_size, positions)?;
    let mut b = Builder::new();
    let weights = Weights::declare_as(&mut b, config, Trained::All, storage);
    let scorer = Scorer::declare(&mut b, config, &weights, batch_size, positions);
    Ok((b.finish(), weights.table, scorer))
}

/// Builds a plan that generates, and nothing else.
pub fn decode_plan(config: &ModelConfig, shape: &DecodeShape) -> Result<(Plan, TensorTable, Decoder), Error> {
    let DecodeShape { batch_size, positions, storage } = *shape;
    config.validate_batch("num_samples", batch_size, positions)?;
    let mut b = Builder::new();
    let weights = Weights::declare_stored(&mut b, config, storage);
    let decoder = Decoder::declare(&mut b, config, &weights, batch_size, positions);
    Ok((b.finish(), weights.table, decoder))
}

/// Inputs of a pass over whole rows: tokens and targets.
fn text(b: &mut Builder, config: &ModelConfig, batch: [usize; 2]) -> [TensorId; 2] {
    ["tokens", "targets"].map(|name| b.input_u32(name, &batch, config.vocab_size as u32))
}

/// Losses of a pass over whole rows; with `rng`, dropout applies.
pub(crate) fn loss(
    b: &mut Builder,
    config: &ModelConfig,
    weights: &Weights,
    [tokens_bt, targets_bt]: [TensorId; 2],
    rng: Option<TensorId>,
) -> TensorId {
    let x_btc = forward(b, config, weights, tokens_bt, None, rng, |b, layer, block, normed_btc| {
        let dropout = dropout_at(Site::AttentionWeights(layer), config, rng);
        attention(b, block, normed_btc, |b, qkv_bt3c| {
            b.attention(qkv_bt3c, config.n_head, config.attention, dropout)
        })
    });
    b.classifier(x_btc, weights.wte, targets_bt, config.vocab_size)
}

/// Names the gradients and moments that the update works on: those of the trained ones among these.
fn optimizer_tables(plan: &Plan, update: PhaseId, weights: [&TensorTable; 2]) -> (TensorTable, TensorTable) {
    let slots: HashMap<TensorId, _> = plan
        .phase(update)
        .ops
        .iter()
        .filter_map(|op| if let Op::AdamW { slots, .. } = op { Some(slots) } else { None })
        .flatten()
        .map(|slot| (slot.parameter, slot))
        .collect();
    let (mut gradients, mut moments) = (TensorTable::default(), TensorTable::default());
    for entry in weights.into_iter().flat_map(TensorTable::entries) {
        let Some(slot) = slots.get(&entry.id) else { continue };
        gradients.push(&entry.name, &entry.shape, slot.gradient);
        moments.push(&format!("m.{}", entry.name), &entry.shape, slot.m);
        moments.push(&format!("v.{}", entry.name), &entry.shape, slot.v);
    }
    (gradients, moments)
}
