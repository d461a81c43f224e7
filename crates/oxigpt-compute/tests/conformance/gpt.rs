//! A tiny GPT with everything that a plan can hold, and the variants a researcher would write of it.
//!
//! Legend: B batch, T positions, C width, V words.

use oxigpt_compute::{
    AdamWConfig, AttentionKind, Dropout, Gelu, LinearWeights, NormWeights, Recompute, TensorId,
};

use crate::case::{Case, Draft};

/// Words, rows of their table, positions, width, heads.
const WORDS: usize = 13;
const PADDED: usize = 16;
pub(crate) const BLOCK_SIZE: usize = 6;
const WIDTH: usize = 12;
const HEADS: usize = 3;

/// What differs between variants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Variant {
    /// Normalises after the residual addition instead of before the layer.
    pub(crate) post_norm: bool,
    /// A second MLP beside the first.
    pub(crate) second_mlp: bool,
    /// Attention and MLP read one normalised tensor, side by side.
    pub(crate) parallel: bool,
    /// The classifier has the embedding's table.
    pub(crate) tied: bool,
    pub(crate) bias: bool,
    pub(crate) gelu: Gelu,
    pub(crate) dropout: f32,
    /// All weights are frozen, with trained low-rank adapters beside those of the linear layers; and a squared error is
    /// minimised beside the cross-entropy.
    pub(crate) adapted: bool,
    pub(crate) attention: AttentionKind,
    pub(crate) recompute: Recompute,
}

/// GPT-2's choices.
pub(crate) const GPT2: Variant = Variant {
    post_norm: false,
    second_mlp: false,
    parallel: false,
    tied: true,
    bias: true,
    gelu: Gelu::Tanh,
    dropout: 0.0,
    adapted: false,
    attention: AttentionKind::Softmax,
    recompute: Recompute::None,
};

/// Factor of the squared error in the objective, where there is one.
pub(crate) const SQUARED_ERROR: f64 = 0.7;

/// Phases `train`, `accumulate` and `update` of two blocks, with random parameters and words.
pub(crate) fn case(variant: Variant, batch: usize, t: usize) -> Case {
    // The same values, whatever is made again.
    let mut d = Draft::new(format!("{:?}", Variant { recompute: Recompute::None, ..variant }));
    d.label = format!("{variant:?}");
    let mut model = Model { d, variant, rng: None, sites: 0 };
    model.rng = Some(model.d.counters("rng", &[21, 4, 7, 0]));
    let wte_vc = model.parameter("wte", &[PADDED, WIDTH]);
    let wpe_tc = model.parameter("wpe", &[BLOCK_SIZE, WIDTH]);
    let tokens_bt = model.d.words("tokens", &[batch, t], WORDS);
    let targets_bt = model.d.words("targets", &[batch, t], WORDS);

    let embedded_btc = model.d.b.embed(tokens_bt, None, wte_vc, wpe_tc);
    let mut x_btc = model.dropout(embedded_btc);
    for layer in 0..2 {
        model.d.b.keep(x_btc);
        x_btc = model.block(&format!("h.{layer}"), x_btc);
    }
    x_btc = model.norm("ln_f", x_btc);
    let head_vc = if variant.tied { wte_vc } else { model.parameter("head", &[PADDED, WIDTH]) };
    model.close(x_btc, head_vc, targets_bt)
}

struct Model {
    d: Draft,
    variant: Variant,
    rng: Option<TensorId>,
    sites: u32,
}

impl Model {
    /// A weight of the model proper.
    fn parameter(&mut self, name: &str, shape: &[usize]) -> TensorId {
        if self.variant.adapted { self.d.b.frozen(name, shape) } else { self.d.b.parameter(name, shape) }
    }

    fn block(&mut self, name: &str, x_btc: TensorId) -> TensorId {
        let at = |part: &str| format!("{name}.{part}");
        let Variant { post_norm, parallel, second_mlp, .. } = self.variant;
        if parallel {
            let y_btc = self.norm(&at("ln"), x_btc);
            let a_btc = self.attention(&at("attn"), y_btc);
            let b_btc = self.mlp(&at("mlp"), y_btc);
            let c_btc = self.mlp(&at("mlp2"), y_btc);
            let ab_btc = self.d.b.add(a_btc, b_btc);
            let abc_btc = self.d.b.add(ab_btc, c_btc);
            return self.d.b.add(x_btc, abc_btc);
        }
        if post_norm {
            let a_btc = self.attention(&at("attn"), x_btc);
            let sum_btc = self.d.b.add(x_btc, a_btc);
            let x_btc = self.norm(&at("ln_1"), sum_btc);
            let m_btc = self.mlp(&at("mlp"), x_btc);
            let sum_btc = self.d.b.add(x_btc, m_btc);
            return self.norm(&at("ln_2"), sum_btc);
        }
        let y_btc = self.norm(&at("ln_1"), x_btc);
        let a_btc = self.attention(&at("attn"), y_btc);
        let x_btc = self.d.b.add(x_btc, a_btc);
        let y_btc = self.norm(&at("ln_2"), x_btc);
        let mut m_btc = self.mlp(&at("mlp"), y_btc);
        if second_mlp {
            let second_btc = self.mlp(&at("mlp2"), y_btc);
            m_btc = self.d.b.add(m_btc, second_btc);
        }
        self.d.b.add(x_btc, m_btc)
    }

    fn attention(&mut self, name: &str, x_btc: TensorId) -> TensorId {
        let qkv = self.linear(&format!("{name}.c_attn"), x_btc, 3 * WIDTH);
        let dropout = self.next_dropout();
        let y_btc = self.d.b.attention(qkv, HEADS, self.variant.attention, dropout);
        let y_btc = self.linear(&format!("{name}.c_proj"), y_btc, WIDTH);
        self.dropout(y_btc)
    }

    fn mlp(&mut self, name: &str, x_btc: TensorId) -> TensorId {
        let up = self.linear(&format!("{name}.c_fc"), x_btc, 2 * WIDTH);
        let up = self.d.b.gelu(up, self.variant.gelu);
        let y_btc = self.linear(&format!("{name}.c_proj"), up, WIDTH);
        self.dropout(y_btc)
    }

    fn linear(&mut self, name: &str, x: TensorId, n_out: usize) -> TensorId {
        let n_in = *self.d.b.shape(x).last().unwrap();
        let w = self.parameter(&format!("{name}.weight"), &[n_in, n_out]);
        let bias = self.variant.bias.then(|| self.parameter(&format!("{name}.bias"), &[n_out]));
        let y = self.d.b.linear(x, LinearWeights { w, bias });
        if !self.variant.adapted {
            return y;
        }
        let b = &mut self.d.b;
        let down = b.parameter(&format!("{name}.down"), &[n_in, 2]);
        let up = b.parameter(&format!("{name}.up"), &[2, n_out]);
        let low = b.linear(x, LinearWeights { w: down, bias: None });
        let low = b.scale(low, 0.25);
        let change = b.linear(low, LinearWeights { w: up, bias: None });
        b.add(y, change)
    }

    fn norm(&mut self, name: &str, x_btc: TensorId) -> TensorId {
        let weight = self.parameter(&format!("{name}.weight"), &[WIDTH]);
        let bias = self.variant.bias.then(|| self.parameter(&format!("{name}.bias"), &[WIDTH]));
        self.d.b.layer_norm(x_btc, NormWeights { weight, bias })
    }

    fn next_dropout(&mut self) -> Option<Dropout> {
        self.sites += 1;
        let (p, site) = (self.variant.dropout, self.sites);
        self.rng.filter(|_| p > 0.0).map(|rng| Dropout { p, site, rng })
    }

    fn dropout(&mut self, x_btc: TensorId) -> TensorId {
        let dropout = self.next_dropout();
        self.d.b.dropout(x_btc, dropout)
    }

    fn close(mut self, x_btc: TensorId, head_vc: TensorId, targets_bt: TensorId) -> Case {
        let shape = self.d.b.shape(x_btc).to_vec();
        let target_btc = self.variant.adapted.then(|| self.d.normal("target", &shape, 0.0, 1.0));
        let b = &mut self.d.b;
        let mut objective = vec![(b.classifier(x_btc, head_vc, targets_bt, WORDS), 1.0)];
        objective.extend(target_btc.map(|target_btc| (b.squared_error(x_btc, target_btc), SQUARED_ERROR)));
        b.backward(&objective);
        b.recompute(self.variant.recompute);
        b.accumulating(self.d.train, "accumulate");
        b.begin("update");
        let norm = b.grad_norm();
        let schedule = self.d.reals("schedule", &[1e-3, 0.271, 0.0297]);
        let config = AdamWConfig { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1, grad_clip: 1.0 };
        self.d.b.adamw(norm, schedule, config);
        self.d.finish()
    }
}
