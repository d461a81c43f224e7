//! What the tests share: backends with their tolerances, fixtures, and a plan that gives all logits.

use std::path::PathBuf;

use oxigpt_compute::cpu::{Cpu, CpuOptions};
use oxigpt_compute::cuda::{Cuda, CudaOptions};
use oxigpt_compute::reference::Reference;
use oxigpt_compute::{Backend, Builder, Data, PhaseId, Plan, Precision, Session, TensorId};
use oxigpt_model::{
    AdamWConfig, AttentionKind, AttentionScale, Gelu, MappedTensors, ModelConfig, NamedTensors, TensorSource,
    TensorTable, Trained, Weights, forward, map_tensors,
};
use serde_json::Value;

/// A backend, and how far it may be from float64 PyTorch.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) backend: fn() -> Box<dyn Backend>,
    /// Relative, of a mean loss.
    pub(crate) precision: Precision,
    pub(crate) loss: f64,
    /// Relative L2, of a gradient tensor (the expected ones are rounded to float32).
    pub(crate) gradient: f64,
    /// Absolute, of a logit (the expected ones are rounded to float32).
    pub(crate) logit: f64,
    /// Relative, of a loss during training.
    pub(crate) step_loss: f64,
    /// Relative, of a gradient norm during training.
    pub(crate) norm: f64,
}

pub(crate) const REFERENCE: Target = Target {
    name: "reference",
    backend: reference,
    precision: Precision::Float32,
    loss: 1e-9,
    gradient: 1e-7,
    logit: 1e-7,
    step_loss: 1e-9,
    norm: 1e-9,
};

pub(crate) const CPU: Target = Target {
    name: "cpu",
    backend: || {
        let cpu = Cpu::new(CpuOptions { threads: 2, pin: false });
        Box::new(cpu.expect("two threads start"))
    },
    precision: Precision::Float32,
    loss: 1e-6,
    gradient: 2e-5,
    logit: 2e-6,
    step_loss: 2e-6,
    norm: 2e-5,
};

/// Products of operands with 8 bits of significand. After some steps at these rates, the paths have parted a little.
pub(crate) const CPU_BFLOAT16: Target = Target {
    name: "cpu, bfloat16",
    precision: Precision::Bfloat16,
    loss: 1e-3,
    // Every product on the way rounds its operands and its result to 2^-9, and a bias has their sum.
    gradient: 3e-2,
    logit: 2e-2,
    step_loss: 2e-3,
    norm: 0.1,
    ..CPU
};

/// The first GPU: part of the targets where `OXIGPT_TEST_DEVICE` is `cuda`, or `simulated`.
pub(crate) const CUDA: Target = Target {
    name: "cuda",
    backend: || {
        #[cfg(unix)]
        if device() == "simulated" {
            crate::simulator::install();
        }
        // Kernels of a real GPU are kept for the next test.
        let cache = (device() == "cuda").then(|| std::env::temp_dir().join("oxigpt-test-kernels"));
        Box::new(Cuda::new(CudaOptions { cache, ..CudaOptions::default() }).expect("a GPU"))
    },
    ..CPU
};

/// Activations are stored in 8 bits of significand too.
pub(crate) const CUDA_BFLOAT16: Target = Target {
    name: "cuda, bfloat16",
    backend: CUDA.backend,
    loss: 3e-3,
    gradient: 5e-2,
    logit: 5e-2,
    step_loss: 5e-3,
    ..CPU_BFLOAT16
};

/// Every backend that can be tested here, in float32.
pub(crate) fn targets() -> Vec<Target> {
    let mut targets = vec![REFERENCE, CPU];
    targets.extend(has_gpu().then_some(CUDA));
    targets
}

/// Every backend that can be tested here, in bfloat16.
pub(crate) fn bfloat16_targets() -> Vec<Target> {
    let mut targets = vec![CPU_BFLOAT16];
    targets.extend(has_gpu().then_some(CUDA_BFLOAT16));
    targets
}

fn device() -> String {
    std::env::var("OXIGPT_TEST_DEVICE").unwrap_or_default()
}

fn has_gpu() -> bool {
    ["cuda", "simulated"].contains(&device().as_str())
}

pub(crate) fn reference() -> Box<dyn Backend> {
    Box::new(Reference::new())
}

pub(crate) fn fixture(name: &str) -> PathBuf {
    // A binary that was built elsewhere is told where they are.
    let elsewhere = std::env::var_os("OXIGPT_FIXTURES").map(PathBuf::from);
    elsewhere.unwrap_or_else(|| [env!("CARGO_MANIFEST_DIR"), "tests", "fixtures"].iter().collect()).join(name)
}

pub(crate) fn expected() -> Value {
    serde_json::from_slice(&fs_err::read(fixture("expected.json")).unwrap()).unwrap()
}

/// What multiplies two of the tolerances for a kind of attention.
#[derive(Clone, Copy)]
pub(crate) struct Slack {
    /// Of norms in float32; `norms_of_many_orders_are_those_of_pytorch` shows why.
    norm: f64,
    /// Of gradients in bfloat16.
    gradient: f64,
}

fn slack(attention: &str) -> Slack {
    match attention {
        // The derivative jumps at zero, and the sign of a score that is nearly zero is a matter of rounding.
        "pointwise-relu" => Slack { norm: 20.0, gradient: 2.0 },
        "pointwise-square" => Slack { norm: 1.5, gradient: 1.0 },
        _ => Slack { norm: 1.0, gradient: 1.0 },
    }
}

/// A case of the golden values.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) config: ModelConfig,
    /// What is expected of all tensors.
    pub(crate) tensors: MappedTensors,
    /// The file that has the weights.
    weights: MappedTensors,
    pub(crate) expected: Value,
    pub(crate) tokens: Vec<u32>,
    pub(crate) targets: Vec<u32>,
    slack: Slack,
}

impl Case {
    pub(crate) const BATCH: usize = 3;

    pub(crate) fn gradient_tolerance(&self, target: &Target) -> f64 {
        let Target { precision, gradient, .. } = target;
        if *precision == Precision::Bfloat16 { self.slack.gradient * gradient } else { *gradient }
    }

    pub(crate) fn norm_tolerance(&self, target: &Target) -> f64 {
        // The reference is exact enough to follow PyTorch's float64 through every sign.
        let is_float32 = target.precision == Precision::Float32 && target.name != REFERENCE.name;
        if is_float32 { self.slack.norm * target.norm } else { target.norm }
    }

    pub(crate) fn weights(&self) -> NamedTensors {
        let all = self.weights.collect().unwrap();
        all.into_iter().filter(|(name, _)| !name.starts_with("expected.")).collect()
    }
}

/// The names of the cases begin with their attention. All with biases have the same weights.
const CASES: [&str; 10] = [
    "softmax.tanh.bias",
    "softmax.erf.nobias",
    "gaussian.tanh.bias",
    "gaussian-poly-8.tanh.bias",
    "gaussian-poly-3.tanh.bias",
    "pointwise-gelu.tanh.bias",
    "pointwise-relu.tanh.bias",
    "pointwise-sigmoid.tanh.bias",
    "pointwise-square.tanh.bias",
    "pointwise-relu-square.tanh.bias",
];

pub(crate) fn attention(name: &str) -> AttentionKind {
    AttentionKind::parse(name, AttentionScale::Length, false).unwrap()
}

pub(crate) fn cases() -> [Case; 10] {
    CASES.map(|name| {
        let all = expected();
        let rows: Vec<Vec<u32>> = serde_json::from_value(all["tokens"].clone()).unwrap();
        let expected = all["cases"][name].clone();
        let config = ModelConfig {
            n_layer: 2,
            n_head: 4,
            n_embd: 32,
            block_size: 24,
            vocab_size: 160,
            bias: expected["bias"].as_bool().unwrap(),
            dropout: 0.0,
            gelu: if expected["gelu"] == "tanh" { Gelu::Tanh } else { Gelu::Erf },
            attention: attention(name.split('.').next().unwrap()),
        };
        let tensors = |name: &str| map_tensors(fixture(&format!("{name}.safetensors"))).unwrap();
        Case {
            name,
            weights: tensors(if config.bias { CASES[0] } else { name }),
            tensors: tensors(name),
            config,
            expected,
            slack: slack(name.split('.').next().unwrap()),
            tokens: rows.iter().flat_map(|row| row[..24].to_vec()).collect(),
            targets: rows.iter().flat_map(|row| row[1..].to_vec()).collect(),
        }
    })
}

pub(crate) const ADAMW: AdamWConfig =
    AdamWConfig { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, grad_clip: 1.0 };

/// A small model with an awkward shape.
pub(crate) fn small() -> ModelConfig {
    ModelConfig {
        n_layer: 2,
        n_head: 3,
        n_embd: 12,
        block_size: 7,
        vocab_size: 37,
        bias: true,
        dropout: 0.0,
        gelu: Gelu::Tanh,
        attention: AttentionKind::Softmax,
    }
}

/// Handles of a plan that gives the logits of all positions, without a cache.
pub(crate) struct AllLogits {
    pub(crate) weights: TensorTable,
    pub(crate) tokens: TensorId,
    pub(crate) logits: TensorId,
    pub(crate) phase: PhaseId,
    config: ModelConfig,
    rows: usize,
}

impl AllLogits {
    pub(crate) fn build(config: &ModelConfig, batch: usize) -> (Plan, AllLogits) {
        let mut b = Builder::new();
        let weights = Weights::declare(&mut b, config, Trained::All);
        let phase = b.begin("logits");
        let tokens = b.input_u32("tokens", &[batch, config.block_size], config.vocab_size as u32);
        let x_btc = forward(&mut b, config, &weights, tokens, None, None, |b, _, block, normed_btc| {
            oxigpt_model::attention(b, block, normed_btc, |b, qkv_bt3c| {
                b.attention(qkv_bt3c, config.n_head, config.attention, None)
            })
        });
        let logits = b.unembed(x_btc, weights.wte);
        b.mark_output(logits);
        let rows = batch * config.block_size;
        (
            b.finish(),
            AllLogits { weights: weights.table, tokens, logits, phase, config: config.clone(), rows },
        )
    }

    /// Logits after each token, without padded words.
    pub(crate) fn run(&self, session: &mut Session, tokens: &[u32]) -> Vec<Vec<f64>> {
        let mut padded = tokens.to_vec();
        padded.resize(self.rows, 0);
        session.upload(self.tokens, Data::U32(&padded)).unwrap();
        session.run(self.phase);
        let logits = download(session, self.logits);
        let rows = logits.chunks(self.config.padded_vocab_size());
        rows.take(tokens.len()).map(|row| row[..self.config.vocab_size].to_vec()).collect()
    }
}

pub(crate) fn download(session: &Session, id: TensorId) -> Vec<f64> {
    let mut data = vec![0.0; session.plan().tensor(id).len()];
    session.download_f64(id, &mut data).unwrap();
    data
}

pub(crate) fn mean(data: &[f64]) -> f64 {
    data.iter().sum::<f64>() / data.len() as f64
}

pub(crate) fn greedy(logits: &[f64]) -> u32 {
    oxigpt_model::sample(logits, 0.0, None, 0.0).unwrap()
}

/// `|a - b| / |b|` in L2.
pub(crate) fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut b.iter().copied())
}

pub(crate) fn assert_close(what: &str, found: f64, expected: f64, tolerance: f64) {
    let error = (found / expected - 1.0).abs();
    assert!(error <= tolerance, "{what}: {found} instead of {expected}, off by {error:.1e}");
}
