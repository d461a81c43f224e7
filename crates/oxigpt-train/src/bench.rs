//! Times training steps and decoding of a model on random tokens: what a run would do, without data, files or waiting.

use std::ops::ControlFlow;
use std::time::Instant;

use oxigpt_compute::philox::Stream;
use oxigpt_compute::{Cost, Data, OpTime, Session};
use oxigpt_model::{
    AttentionKind, DecodeShape, Decoder, Initial, SampleOptions, TrainPlan, decode_plan,
    generate_side_by_side,
};

use crate::error::Error;
use crate::settings::Settings;

/// The part of a step that an operator belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// From tokens to what the classifier reads.
    Forward,
    /// Logits, losses and their gradients, which are one operator.
    Classifier,
    /// The adjoints.
    Backward,
    /// Norm of the gradients, clipping, AdamW.
    Update,
}

impl Part {
    /// Every part, in the order of a step.
    pub const ALL: [Part; 4] = [Part::Forward, Part::Classifier, Part::Backward, Part::Update];

    /// Name in tables and as a key.
    pub fn name(self) -> &'static str {
        match self {
            Part::Forward => "forward",
            Part::Classifier => "classifier",
            Part::Backward => "backward",
            Part::Update => "update",
        }
    }
}

/// All operators of a kind in one step.
#[derive(Clone, Debug)]
pub struct OpShare {
    /// Name of the operator.
    pub name: &'static str,
    /// Where it runs; what is recomputed, in the backward pass.
    pub part: Part,
    /// Milliseconds of a step, on average over the timed ones.
    pub ms: f64,
    /// What it does in a step.
    pub cost: Cost,
}

/// Times of whole steps and their operators.
#[derive(Clone, Debug)]
pub struct Steps {
    /// Milliseconds of each timed step, shortest first.
    pub step_ms: Vec<f64>,
    /// Every kind of operator, in the order of its first use.
    pub ops: Vec<OpShare>,
    /// Tokens of a step.
    pub tokens: usize,
    /// Bytes of the plan and of what the backend takes beside it.
    pub memory_bytes: usize,
    /// Who does attention, where that depends on what the machine has.
    pub attention: Option<String>,
}

impl Steps {
    /// The middle one.
    pub fn median_ms(&self) -> f64 {
        self.step_ms[self.step_ms.len() / 2]
    }

    /// Milliseconds of a part of a step.
    pub fn part_ms(&self, part: Part) -> f64 {
        self.ops.iter().filter(|op| op.part == part).map(|op| op.ms).sum()
    }

    /// Work of a step.
    pub fn cost(&self) -> Cost {
        self.ops.iter().map(|op| op.cost).sum()
    }
}

/// Times `n_steps` steps of one micro-batch each, after `warm_up` others.
///
/// # Errors
/// If there can be no such model or batch, or no memory for it.
pub fn time_steps(
    settings: &Settings,
    vocab_size: usize,
    (warm_up, n_steps): (usize, usize),
) -> Result<Steps, Error> {
    settings.check_trainable()?;
    let config = settings.model_config(vocab_size);
    let mut shape = settings.train_shape(AttentionKind::Softmax);
    shape.targets_per_step = shape.batch_size * shape.block_size;
    let (plan, handles) = TrainPlan::build(&config, &shape)?;
    let plan = plan.with_precision(settings.precision());
    let mut session = settings.machine().session(plan)?;
    handles.parameters.upload(&mut session, &Initial { config: &config, seed: settings.seed })?;
    let tokens = random_tokens(shape.targets_per_step + 1, config.vocab_size, settings.seed);
    let time_step = |session: &mut Session, step: usize| -> Result<f64, Error> {
        let began = Instant::now();
        session.upload(handles.tokens, Data::U32(&tokens[1..]))?;
        session.upload(handles.targets, Data::U32(&tokens[..tokens.len() - 1]))?;
        handles.set_rng(session, settings.seed, step as u32, 0)?;
        session.run(handles.phases.first);
        session.run(handles.phases.norm);
        handles.set_schedule(session, settings.learning_rate, step as u64)?;
        session.run(handles.phases.update);
        session.wait()?;
        Ok(began.elapsed().as_secs_f64() * 1e3)
    };
    // A GPU runs a phase as one, so its operators are timed apart, in as many steps again.
    let profiled_from = if settings.machine().is_cpu() { warm_up } else { warm_up + n_steps };
    let mut step_ms = Vec::new();
    for step in 0..profiled_from + n_steps {
        if step == profiled_from {
            session.start_profile();
        }
        step_ms.push(time_step(&mut session, step)?);
    }
    step_ms = step_ms[warm_up..warm_up + n_steps].to_vec();
    step_ms.sort_by(f64::total_cmp);
    Ok(Steps {
        step_ms,
        ops: shares(&session, &handles),
        tokens: shape.targets_per_step,
        memory_bytes: session.memory_bytes(),
        attention: session.attention(),
    })
}

fn random_tokens(n: usize, vocab_size: usize, seed: u64) -> Vec<u32> {
    let mut stream = Stream::new(seed, 0);
    (0..n).map(|_| (stream.uniform() * vocab_size as f64) as u32).collect()
}

/// Times and costs of the operators of a step, by kind.
fn shares(session: &Session, handles: &TrainPlan) -> Vec<OpShare> {
    let plan = session.plan();
    let mut shares: Vec<OpShare> = Vec::new();
    let mut part = Part::Forward;
    for phase in [handles.phases.first, handles.phases.norm, handles.phases.update] {
        if phase != handles.phases.first {
            part = Part::Update;
        }
        let times = session.profile(phase).unwrap_or_default();
        for (op, &OpTime { time, runs }) in plan.phase(phase).ops.iter().zip(times) {
            let name = op.name();
            if name == "classifier" {
                part = Part::Classifier;
            }
            let (ms, cost) = (time.as_secs_f64() * 1e3 / f64::from(runs.max(1)), op.cost(plan));
            match shares.iter_mut().find(|share| (share.name, share.part) == (name, part)) {
                Some(share) => (share.ms, share.cost) = (share.ms + ms, share.cost + cost),
                None => shares.push(OpShare { name, part, ms, cost }),
            }
            if part == Part::Classifier {
                part = Part::Backward;
            }
        }
    }
    shares
}

/// Times of decoding.
#[derive(Clone, Debug)]
pub struct Decoding {
    /// Texts side by side.
    pub texts: usize,
    /// Milliseconds of each timed step, a token of every text, shortest first.
    pub step_ms: Vec<f64>,
    /// Milliseconds from the prompt to the first token.
    pub prompt_ms: f64,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// What one step costs, with as much cached as it can be.
    pub cost: Cost,
    /// Bytes of the plan and of what the backend takes beside it.
    pub memory_bytes: usize,
}

impl Decoding {
    /// The middle one.
    pub fn median_ms(&self) -> f64 {
        self.step_ms[self.step_ms.len() / 2]
    }

    /// Tokens of all texts in a second, by the middle step.
    pub fn tokens_per_s(&self) -> f64 {
        1e3 * self.texts as f64 / self.median_ms()
    }
}

/// Times `n_steps` tokens of some texts side by side, drawn as `oxigpt sample` does by default, after a prompt; the texts start
/// over where the model's context ends.
///
/// # Errors
/// If there can be no such model, or no memory for it.
pub fn time_decoding(
    settings: &Settings,
    vocab_size: usize,
    texts: usize,
    n_steps: usize,
) -> Result<Decoding, Error> {
    let config = settings.model_config(vocab_size);
    let prompt_tokens = (config.block_size / 4).clamp(1, 32);
    let positions = config.block_size.min(prompt_tokens + n_steps);
    let shape = DecodeShape { batch_size: texts, positions, storage: settings.decode_storage() };
    let (plan, table, decoder) = decode_plan(&config, &shape)?;
    let mut session = settings.machine().session(plan)?;
    table.upload(&mut session, &Initial { config: &config, seed: settings.seed })?;
    let prompt = random_tokens(prompt_tokens, config.vocab_size, settings.seed);
    let (mut step_ms, mut prompt_ms) = (Vec::new(), 0.0);
    // The first round fetches the memory.
    decode(&mut session, &decoder, &prompt, settings.seed, 2)?;
    while step_ms.len() < n_steps {
        let rest = (n_steps - step_ms.len()).min(positions - prompt_tokens).max(1);
        let mut times = decode(&mut session, &decoder, &prompt, settings.seed, rest + 1)?;
        prompt_ms = times.remove(0);
        step_ms.extend(times);
    }
    step_ms.sort_by(f64::total_cmp);
    let cost = session.plan().cost(decoder.step_phase());
    Ok(Decoding { texts, step_ms, prompt_ms, prompt_tokens, cost, memory_bytes: session.memory_bytes() })
}

/// Milliseconds until each of `n` tokens of the last text came, since the one before.
fn decode(
    session: &mut Session,
    decoder: &Decoder,
    prompt: &[u32],
    seed: u64,
    n: usize,
) -> Result<Vec<f64>, Error> {
    let options = |index| SampleOptions {
        temperature: 0.8,
        top_k: Some(200),
        max_new_tokens: n,
        seed: seed.wrapping_add(index as u64),
        stop: None,
        words: None,
    };
    let options: Vec<_> = (0..decoder.batch_size()).map(options).collect();
    let (mut times, mut began) = (Vec::new(), Instant::now());
    generate_side_by_side(session, decoder, prompt, &options, &mut |text, _| {
        if text + 1 == options.len() {
            times.push(began.elapsed().as_secs_f64() * 1e3);
            began = Instant::now();
        }
        ControlFlow::Continue(())
    })?;
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::BatchSize;

    fn tiny() -> Settings {
        Settings {
            n_layer: 2,
            n_head: 2,
            n_embd: 16,
            block_size: 8,
            batch_size: BatchSize::Rows(3),
            gradient_accumulation_steps: 1,
            threads: 1,
            ..Settings::default()
        }
    }

    #[test]
    fn a_step_is_the_sum_of_its_parts() {
        let steps = time_steps(&tiny(), 65, (1, 3)).unwrap();
        assert_eq!((steps.step_ms.len(), steps.tokens), (3, 24));
        assert!(steps.step_ms[0] > 0.0 && steps.step_ms.is_sorted());
        let names =
            |part| -> Vec<_> { steps.ops.iter().filter(|op| op.part == part).map(|op| op.name).collect() };
        assert_eq!(names(Part::Classifier), ["classifier"]);
        assert_eq!(names(Part::Update), ["grad_norm", "adamw"]);
        assert!(names(Part::Forward).contains(&"attention"));
        assert!(names(Part::Backward).contains(&"attention_backward"));
        let parts: f64 = Part::ALL.iter().map(|&part| steps.part_ms(part)).sum();
        assert!((parts - steps.ops.iter().map(|op| op.ms).sum::<f64>()).abs() < 1e-9);
    }

    #[test]
    fn decoding_may_be_longer_than_the_context() {
        for block_size in [1, 8] {
            for (texts, dtype) in [(1, "float32"), (3, "bfloat16"), (2, "int8")] {
                let settings = Settings { block_size, dtype: dtype.into(), ..tiny() };
                let decoding = time_decoding(&settings, 65, texts, 20).unwrap();
                assert_eq!((decoding.step_ms.len(), decoding.texts), (20, texts));
                assert!(decoding.cost.flops > 0.0 && decoding.prompt_ms > 0.0);
            }
        }
    }
}
