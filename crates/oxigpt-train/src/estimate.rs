//! What a run will take, before it takes it: parameters, memory, operations and time, all read off the plan.

use std::collections::BTreeMap;

use oxigpt_compute::{Cost, PhaseId, Plan, Recompute, Role};
use oxigpt_model::{AttentionKind, ModelConfig, ParameterCount, TrainPlan, eval_plan, score_plan};

use crate::error::Error;
use crate::machine::Machine;
use crate::settings::Settings;

/// What a run will take. Making one allocates nothing of it.
#[derive(Clone, Debug)]
pub struct Estimate {
    /// The model.
    pub config: ModelConfig,
    /// Its weights.
    pub parameters: ParameterCount,
    /// Weights that are trained, those of adapters among them; none under `eval_only`.
    pub trained: usize,
    /// Micro-batches of a step.
    pub micro_batches: usize,
    /// Tokens of a step; under `eval_only`, of a pass.
    pub tokens_per_step: usize,
    /// Bytes of the plan's tensors by role; activations share one region.
    pub memory: BTreeMap<Role, usize>,
    /// Their sum.
    pub memory_bytes: usize,
    /// Bytes that writing a checkpoint takes on top, for its largest tensor.
    pub checkpoint_buffer_bytes: usize,
    /// Of one step: all micro-batches and the update. Operations are those of matrix products as the plan counts
    /// them (a multiply and an add are two, causal attention counts its lower half): what model-FLOPs utilisation
    /// is computed from.
    pub step: Cost,
    /// Every operator of a step with how often it runs.
    operators: Vec<(Cost, usize)>,
}

impl Estimate {
    /// Of the run that resolved `settings` describe, on data of `vocab_size` tokens, which scores so many sequences of
    /// so many positions side by side (see [`crate::planned_scoring`]).
    ///
    /// # Errors
    /// If there can be no such model or batch.
    pub fn of(settings: &Settings, vocab_size: usize, scored: Option<[usize; 2]>) -> Result<Estimate, Error> {
        let config = settings.model_config(vocab_size);
        if settings.eval_only {
            return Estimate::of_evaluation(settings, &config, scored);
        }
        settings.check_trainable()?;
        let (plan, handles) =
            TrainPlan::build_scoring(&config, &settings.train_shape(AttentionKind::Softmax), scored)?;
        let plan = plan.with_precision(settings.precision());
        Ok(Estimate::of_plan(settings, &config, &plan, &handles))
    }

    /// Bytes of activations that the run would have with each value of `recompute`.
    ///
    /// # Errors
    /// If there can be no such model or batch.
    pub fn activations(settings: &Settings, vocab_size: usize) -> Result<Vec<(String, usize)>, Error> {
        let of = |recompute| {
            let settings = Settings { recompute: Some(recompute), ..settings.clone() };
            let estimate = Estimate::of(&settings, vocab_size, None)?;
            let bytes = estimate.memory.get(&Role::Activation).copied().unwrap_or(0);
            Ok((settings.text_of("recompute").unwrap_or_default().replace('"', ""), bytes))
        };
        [Recompute::None, Recompute::Gelu, Recompute::Block].into_iter().map(of).collect()
    }

    pub(crate) fn of_plan(
        settings: &Settings,
        config: &ModelConfig,
        plan: &Plan,
        handles: &TrainPlan,
    ) -> Estimate {
        let micro_batches = settings.tokens_per_step() / settings.tokens_per_micro_batch();
        let phases = handles.phases;
        let runs =
            [(phases.first, 1), (phases.more, micro_batches - 1), (phases.norm, 1), (phases.update, 1)];
        let trained = handles.gradients.entries().iter().map(|entry| entry.shape.iter().product::<usize>());
        let saved = handles.learned().entries().iter().map(|entry| plan.tensor(entry.id).bytes());
        Estimate {
            trained: trained.sum(),
            micro_batches,
            tokens_per_step: settings.tokens_per_step(),
            checkpoint_buffer_bytes: saved.max().unwrap_or(0),
            ..Estimate::of_phases(&settings.machine(), config, plan, &runs)
        }
    }

    /// Of an evaluation alone, whose passes are its steps. HellaSwag comes after them, in memory of its own.
    fn of_evaluation(
        settings: &Settings,
        config: &ModelConfig,
        scored: Option<[usize; 2]>,
    ) -> Result<Estimate, Error> {
        let storage = settings.eval_storage();
        let (plan, _, pass) = eval_plan(config, settings.batch_size.rows(), settings.block_size, storage)?;
        let plan = plan.with_precision(settings.precision());
        let (machine, tokens_per_step) = (settings.machine(), settings.tokens_per_micro_batch());
        let mut estimate =
            Estimate { tokens_per_step, ..Estimate::of_phases(&machine, config, &plan, &[(pass.phase, 1)]) };
        if let Some([rows, positions]) = scored {
            let (plan, ..) = score_plan(config, rows, positions, storage)?;
            let memory = machine.memory(&plan.with_precision(settings.precision()));
            if memory.values().sum::<usize>() > estimate.memory_bytes {
                (estimate.memory_bytes, estimate.memory) = (memory.values().sum(), memory);
            }
        }
        Ok(estimate)
    }

    /// Of a step that runs phases so often; of a plan of one micro-batch of which nothing is trained or saved.
    fn of_phases(
        machine: &Machine,
        config: &ModelConfig,
        plan: &Plan,
        runs: &[(PhaseId, usize)],
    ) -> Estimate {
        let operators: Vec<_> = runs
            .iter()
            .flat_map(|&(phase, n)| plan.phase(phase).ops.iter().map(move |op| (op.cost(plan), n)))
            .collect();
        let times =
            |(cost, n): &(Cost, usize)| Cost { flops: cost.flops * *n as f64, bytes: cost.bytes * *n as f64 };
        let memory = machine.memory(plan);
        Estimate {
            parameters: config.parameter_count(),
            trained: 0,
            config: config.clone(),
            micro_batches: 1,
            tokens_per_step: 0,
            memory_bytes: memory.values().sum(),
            memory,
            checkpoint_buffer_bytes: 0,
            step: operators.iter().map(times).sum(),
            operators,
        }
    }

    /// Bytes at the most demanding moment of the run: while a checkpoint is written.
    pub fn peak_memory_bytes(&self) -> usize {
        self.memory_bytes + self.checkpoint_buffer_bytes
    }

    /// Seconds of a step on a machine of `flops` operations and `bytes` of memory a second, if every operator
    /// runs at the limit that binds it: a lower bound.
    pub fn step_seconds(&self, flops: f64, bytes: f64) -> f64 {
        self.operators.iter().map(|(cost, n)| *n as f64 * (cost.flops / flops).max(cost.bytes / bytes)).sum()
    }

    /// The loss of a model that has learned nothing: the logarithm of the vocabulary.
    pub fn initial_loss(&self) -> f64 {
        (self.config.vocab_size as f64).ln()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::BatchSize;

    fn gpt2(batch_size: usize) -> Estimate {
        let batch_size = BatchSize::Rows(batch_size);
        let settings = Settings { bias: true, batch_size, total_batch_size: 8192, ..Settings::default() };
        Estimate::of(&settings.resolve().unwrap(), 50257, None).unwrap()
    }

    #[test]
    fn gpt2s_numbers() {
        let estimate = gpt2(4);
        assert_eq!(estimate.parameters.total, 124_439_808);
        assert_eq!((estimate.micro_batches, estimate.tokens_per_step), (2, 8192));
        // Products with every matrix, three times; and attention over the lower half, forward 2 and backward 5.
        let (layers, c, t, padded_vocab) = (12.0, 768.0, 1024.0, 50304.0);
        let products = 6.0 * (layers * 12.0 * c * c + padded_vocab * c);
        let attention = 7.0 * layers * (t + 1.0) * c;
        assert_eq!(estimate.step.flops, 8192.0 * (products + attention));
        assert!((estimate.initial_loss() - 10.8249).abs() < 1e-4);
    }

    #[test]
    fn memory_is_that_of_the_roles_and_only_activations_follow_the_batch() {
        let (small, large) = (gpt2(1), gpt2(4));
        let parameters = small.memory[&Role::Parameter];
        assert!((parameters as f64 / (124_475_904.0 * 4.0) - 1.0).abs() < 1e-3, "{parameters}");
        assert_eq!(small.memory[&Role::Gradient], parameters);
        assert_eq!(small.memory[&Role::Moment], 2 * parameters);
        assert_eq!(small.memory.values().sum::<usize>(), small.memory_bytes);
        assert_eq!(small.checkpoint_buffer_bytes, 50304 * 768 * 4);
        assert_eq!(large.memory[&Role::Parameter], parameters);
        let ratio = large.memory[&Role::Activation] as f64 / small.memory[&Role::Activation] as f64;
        assert!((3.5..4.1).contains(&ratio), "{ratio}");
    }

    /// GPT-2's sizes make GELU and layer norms again on a CPU, smaller models nothing.
    #[test]
    fn recomputation_takes_memory_from_activations_alone() {
        let settings =
            Settings { batch_size: BatchSize::Rows(4), n_embd: 192, n_layer: 8, ..Settings::default() };
        let found = Estimate::activations(&settings, 64).unwrap();
        let [(_, none), (_, gelu), (_, block)] = &found[..] else { panic!("{found:?}") };
        assert!(3 * gelu < 5 * none / 2 && 2 * block < *gelu, "{found:?}");
        let of = |settings: &Settings| Estimate::of(settings, 64, None).unwrap().memory;
        assert_eq!(of(&settings)[&Role::Activation], *none);
        assert_eq!(
            Settings { n_embd: 768, ..settings }.resolve().unwrap().text_of("recompute").unwrap(),
            "\"gelu\""
        );
    }

    #[test]
    fn time_is_bound_by_operations_or_by_bytes() {
        let estimate = gpt2(4);
        let seconds = estimate.step_seconds(1e12, 1e30);
        assert!((seconds - estimate.step.flops / 1e12).abs() < 1e-9 * seconds);
        let seconds = estimate.step_seconds(1e30, 1e9);
        assert!((seconds - estimate.step.bytes / 1e9).abs() < 1e-9 * seconds);
        assert!(estimate.step_seconds(1e12, 1e9) > seconds);
    }

    /// A third of the operations of training, and no gradients and moments.
    #[test]
    fn an_evaluation_takes_less() {
        let settings =
            Settings { bias: true, batch_size: BatchSize::Rows(4), eval_only: true, ..Settings::default() };
        let settings = settings.resolve().unwrap();
        let (training, pass) = (gpt2(4), Estimate::of(&settings, 50257, None).unwrap());
        assert_eq!(pass.tokens_per_step, 4096);
        assert!((training.step.flops / pass.step.flops / 2.0 - 3.0).abs() < 0.1);
        assert_eq!(pass.memory[&Role::Parameter], training.memory[&Role::Parameter]);
        assert!(pass.memory.get(&Role::Gradient).is_none_or(|&bytes| bytes == 0));
        assert!(pass.memory_bytes < training.memory_bytes / 3);
    }

    #[test]
    fn impossible_models_are_refused() {
        let settings = Settings { n_head: 5, ..Settings::default() };
        assert!(matches!(Estimate::of(&settings, 100, None), Err(Error::Model(_))));
    }
}
