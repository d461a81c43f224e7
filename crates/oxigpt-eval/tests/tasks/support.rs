//! A small model of printable ASCII, sessions that run it, and the loss of a token as a plain pass gives it.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use oxigpt_compute::cpu::{Cpu, CpuOptions};
use oxigpt_compute::reference::Reference;
use oxigpt_compute::{Backend, Data, Plan, Session};
use oxigpt_model::{
    AttentionKind, Evaluate, Gelu, Initial, ModelConfig, Scorer, TensorTable, eval_plan, score_plan,
};
use oxigpt_text::Tokenizer;

/// A file of `tests/fixtures`; `hellaswag_val.jsonl` are five items of HellaSwag's validation set (Zellers et al. 2019,
/// MIT licence) with the keys of the published file.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

pub(crate) fn tokenizer() -> Tokenizer {
    Tokenizer::chars_of(&(' '..='~').collect::<String>()).unwrap()
}

/// A small model; with 300 positions it takes the texts of the fixtures character by character.
pub(crate) fn model(block_size: usize, vocab_size: usize) -> ModelConfig {
    ModelConfig {
        n_layer: 2,
        n_head: 2,
        n_embd: 16,
        block_size,
        vocab_size,
        bias: true,
        dropout: 0.1,
        gelu: Gelu::Tanh,
        attention: AttentionKind::Softmax,
    }
}

pub(crate) fn cpu(threads: usize) -> Box<dyn Backend> {
    Box::new(Cpu::new(CpuOptions { threads, pin: false }).unwrap())
}

/// A session with the initial weights of a model.
pub(crate) fn session(
    config: &ModelConfig,
    plan: Plan,
    table: &TensorTable,
    backend: Box<dyn Backend>,
) -> Session {
    let mut session = Session::new(plan, backend).unwrap();
    table.upload(&mut session, &Initial { config, seed: 7 }).unwrap();
    session
}

pub(crate) fn scoring(
    config: &ModelConfig,
    [batch_size, positions]: [usize; 2],
    backend: Box<dyn Backend>,
) -> (Session, Scorer) {
    let (plan, table, scorer) = score_plan(config, batch_size, positions, None).unwrap();
    (session(config, plan, &table, backend), scorer)
}

/// Plain passes in float64, one row each.
pub(crate) struct Plain {
    session: Session,
    pass: Evaluate,
}

impl Plain {
    pub(crate) fn new(config: &ModelConfig) -> Plain {
        let (plan, table, pass) = eval_plan(config, 1, config.block_size, None).unwrap();
        Plain { session: session(config, plan, &table, Box::new(Reference::new())), pass }
    }

    /// Loss of each token but the first.
    pub(crate) fn losses(&mut self, tokens: &[u32]) -> Vec<f64> {
        let Plain { session, pass } = self;
        let mut losses = vec![0.0; pass.block_size];
        for (id, from) in [(pass.tokens, 0), (pass.targets, 1)] {
            let mut row: Vec<u32> = tokens[from..].iter().copied().take(pass.block_size).collect();
            row.resize(pass.block_size, 0);
            session.upload(id, Data::U32(&row)).unwrap();
        }
        session.run(pass.phase);
        session.download_f64(pass.losses, &mut losses).unwrap();
        losses.truncate(tokens.len() - 1);
        losses
    }

    /// Summed loss of a continuation.
    pub(crate) fn sum(&mut self, context: &[u32], continuation: &[u32]) -> f64 {
        let losses = self.losses(&[context, continuation].concat());
        losses[context.len() - 1..].iter().sum()
    }
}

pub(crate) fn go_on(_: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

pub(crate) fn assert_close(found: f64, expected: f64, tolerance: f64) {
    assert!((found / expected - 1.0).abs() < tolerance, "{found} is not {expected}");
}
