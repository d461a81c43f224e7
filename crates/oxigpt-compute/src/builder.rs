//! Writes a plan: declares tensors, and appends operators phase by phase.
//!
//! Each method appends one operator and returns its result, so that a model reads like its paper. Two pairs
//! fuse as they are written, because every backend gains by it: a residual `add` followed by the layer norm of
//! its sum, and a `linear` followed by the GELU of its result.

use std::collections::{HashMap, HashSet};

use crate::{
    AdamWConfig, AdamWSlot, AttentionKind, Dropout, Dtype, Gelu, Op, Operands, Phase, PhaseId, Places, Plan,
    Precision, Role, Storage, Tensor, TensorId, WeightLayout, arena,
};

/// Weights of a linear layer: `w` is `[C, O]` as in `Conv1D`, or `[O, C]` if it is stored; `bias` is `[O]`.
#[derive(Clone, Copy, Debug)]
pub struct LinearWeights {
    /// `[C, O]`, or `[O, C]` if it is stored.
    pub w: TensorId,
    /// `[O]`.
    pub bias: Option<TensorId>,
}

/// Weights of a layer norm, both `[C]`.
#[derive(Clone, Copy, Debug)]
pub struct NormWeights {
    /// Gain.
    pub weight: TensorId,
    /// Offset.
    pub bias: Option<TensorId>,
}

/// Logits of one slice of the classifier take at most this many elements (64 MiB in float32): large enough
/// that the products over the vocabulary run at full speed, small beside the activations of a real batch.
const MAX_LOGITS: usize = 1 << 24;

/// Builds a [`Plan`]. Wrong shapes are errors of the programmer and panic.
#[derive(Default)]
pub struct Builder {
    pub(crate) tensors: Vec<Tensor>,
    pub(crate) phases: Vec<Phase>,
    pub(crate) parameters: Vec<TensorId>,
    pub(crate) gradients: HashMap<TensorId, TensorId>,
    /// Where the adjoints of the phase begin, if it has any.
    pub(crate) adjoints_from: usize,
    /// What recomputation sets out from.
    pub(crate) kept: HashSet<TensorId>,
}

impl Builder {
    /// An empty plan.
    pub fn new() -> Self {
        Self::default()
    }

    // ---- tensors ----

    pub(crate) fn tensor(&mut self, name: &str, shape: &[usize], dtype: Dtype, role: Role) -> TensorId {
        assert!(!shape.contains(&0), "tensor `{name}` has an empty shape {shape:?}");
        let id = TensorId(u32::try_from(self.tensors.len()).expect("fewer than 2^32 tensors"));
        self.tensors.push(Tensor { name: name.into(), shape: shape.into(), dtype, role, limit: None });
        id
    }

    /// A trained weight. Declare parameters in a fixed order: norm and update follow it.
    /// A weight that is not trained is [`Builder::frozen`].
    pub fn parameter(&mut self, name: &str, shape: &[usize]) -> TensorId {
        let id = self.tensor(name, shape, Dtype::Real, Role::Parameter);
        self.parameters.push(id);
        id
    }

    /// A matrix `[O, C]` that products and embeddings read and nobody trains.
    pub fn stored(&mut self, name: &str, shape: [usize; 2], storage: Storage) -> TensorId {
        self.tensor(name, &shape, Dtype::Stored(storage), Role::Parameter)
    }

    /// A weight that stays as it is: it has no gradient, and what would only serve to find one is not computed.
    pub fn frozen(&mut self, name: &str, shape: &[usize]) -> TensorId {
        self.tensor(name, shape, Dtype::Real, Role::Parameter)
    }

    /// An integer input whose elements must all be below `limit`.
    pub fn input_u32(&mut self, name: &str, shape: &[usize], limit: u32) -> TensorId {
        let id = self.tensor(name, shape, Dtype::U32, Role::Input);
        self.tensors[id.index()].limit = Some(limit);
        id
    }

    /// An integer input that takes any value.
    pub fn counters(&mut self, name: &str, shape: &[usize]) -> TensorId {
        self.tensor(name, shape, Dtype::U32, Role::Input)
    }

    /// A real input.
    pub fn input(&mut self, name: &str, shape: &[usize]) -> TensorId {
        self.tensor(name, shape, Dtype::Real, Role::Input)
    }

    /// Memory that a phase writes and later ones read: keys and values while decoding.
    pub fn cache(&mut self, name: &str, shape: &[usize]) -> TensorId {
        self.tensor(name, shape, Dtype::Real, Role::Cache)
    }

    pub(crate) fn activation(&mut self, name: &str, shape: &[usize]) -> TensorId {
        self.tensor(name, shape, Dtype::Real, Role::Activation)
    }

    pub(crate) fn like(&mut self, name: &str, other: TensorId) -> TensorId {
        let shape = self.shape(other).to_vec();
        self.activation(name, &shape)
    }

    /// Shape of a tensor.
    pub fn shape(&self, id: TensorId) -> &[usize] {
        &self.tensors[id.index()].shape
    }

    fn width(&self, id: TensorId) -> usize {
        self.tensors[id.index()].width()
    }

    fn with_width(&self, id: TensorId, width: usize) -> Vec<usize> {
        let mut shape = self.shape(id).to_vec();
        *shape.last_mut().expect("a tensor of rank 1 or more") = width;
        shape
    }

    /// Kernels index by these integers, so their limit must keep them inside what they index.
    fn assert_below(&self, id: TensorId, bound: usize) {
        let Tensor { name, limit, .. } = &self.tensors[id.index()];
        assert!(limit.is_some_and(|l| l as usize <= bound), "`{name}` is not known to be below {bound}");
    }

    // ---- phases ----

    /// Begins a phase: operators go to it until the next begins.
    pub fn begin(&mut self, name: &str) -> PhaseId {
        self.phases.push(Phase { name: name.into(), ops: Vec::new() });
        PhaseId(self.phases.len() - 1)
    }

    /// A copy of a phase that adds to the parameters' gradients instead of overwriting them: what the second
    /// and later micro-batches of a step run.
    pub fn accumulating(&mut self, phase: PhaseId, name: &str) -> PhaseId {
        let ops = self.phases[phase.0].ops.iter().map(Op::accumulating).collect();
        self.phases.push(Phase { name: name.into(), ops });
        PhaseId(self.phases.len() - 1)
    }

    pub(crate) fn push(&mut self, op: Op) {
        self.phases.last_mut().expect("a phase has begun").ops.push(op);
    }

    /// The last operator of this phase, if `result` is what it gave.
    fn last_if(&mut self, gives: impl Fn(&Op) -> bool) -> Option<Op> {
        let ops = &mut self.phases.last_mut().expect("a phase has begun").ops;
        if ops.last().is_some_and(gives) { ops.pop() } else { None }
    }

    // ---- operators ----

    /// `out[b,t] = wte[tokens[b,t]] + wpe[positions[b,t]]`, or `wpe[t]`: `[B, T]` to `[B, T, C]`.
    pub fn embed(
        &mut self,
        tokens: TensorId,
        positions: Option<TensorId>,
        wte: TensorId,
        wpe: TensorId,
    ) -> TensorId {
        let (batch, t) = (self.shape(tokens)[0], self.shape(tokens)[1]);
        let c = self.width(wte);
        assert_eq!(c, self.width(wpe), "embeddings of different widths");
        self.assert_below(tokens, self.shape(wte)[0]);
        match positions {
            Some(positions) => {
                assert_eq!(self.shape(positions), [batch, t], "one position a token");
                self.assert_below(positions, self.shape(wpe)[0]);
            }
            None => assert!(t <= self.shape(wpe)[0], "more columns than positions"),
        }
        let out = self.activation("embed", &[batch, t, c]);
        self.push(Op::Embed { tokens, positions, wte, wpe, out });
        out
    }

    /// `a + b`.
    pub fn add(&mut self, a: TensorId, b: TensorId) -> TensorId {
        assert_eq!(self.shape(a), self.shape(b), "add of different shapes");
        let out = self.like("add", a);
        self.push(Op::Add { a, b, out });
        out
    }

    /// `factor x`; with a factor of 1 the tensor itself.
    pub fn scale(&mut self, x: TensorId, factor: f64) -> TensorId {
        if factor == 1.0 {
            return x;
        }
        let out = self.like("scale", x);
        self.push(Op::Scale { x, factor, out });
        out
    }

    /// Layer norm over the last dimension. Directly after [`Builder::add`] of the same tensor, both are one operator.
    pub fn layer_norm(&mut self, x: TensorId, norm: NormWeights) -> TensorId {
        assert_eq!(self.width(x), self.width(norm.weight), "layer norm of another width");
        let out = self.like("layer_norm", x);
        let rows = self.tensors[x.index()].rows();
        let mean = self.activation("mean", &[rows]);
        let rstd = self.activation("rstd", &[rows]);
        let (x, residual) = match self.last_if(|op| matches!(op, Op::Add { out, .. } if *out == x)) {
            Some(Op::Add { a, b, out }) => (a, Some((b, out))),
            _ => (x, None),
        };
        self.push(Op::LayerNorm { x, residual, weight: norm.weight, bias: norm.bias, out, mean, rstd });
        out
    }

    /// `x W + bias`: `[.., C]` to `[.., O]`.
    pub fn linear(&mut self, x: TensorId, weights: LinearWeights) -> TensorId {
        let is_stored = self.tensors[weights.w.index()].storage().is_some();
        let layout = if is_stored { WeightLayout::OutIn } else { WeightLayout::InOut };
        self.linear_as(x, weights.w, weights.bias, layout)
    }

    /// `x W^T` with an embedding table `[Vp, C]`: logits of every word.
    pub fn unembed(&mut self, x: TensorId, wte: TensorId) -> TensorId {
        self.linear_as(x, wte, None, WeightLayout::OutIn)
    }

    fn linear_as(
        &mut self,
        x: TensorId,
        w: TensorId,
        bias: Option<TensorId>,
        layout: WeightLayout,
    ) -> TensorId {
        let (n_in, n_out) = match layout {
            WeightLayout::InOut => (self.shape(w)[0], self.shape(w)[1]),
            WeightLayout::OutIn => (self.shape(w)[1], self.shape(w)[0]),
        };
        assert_eq!(self.width(x), n_in, "linear of another width");
        let out = self.activation("linear", &self.with_width(x, n_out));
        self.push(Op::Linear { x, w, layout, bias, gelu: None, out });
        out
    }

    /// GELU. Directly after [`Builder::linear`] of the same tensor, both are one operator.
    pub fn gelu(&mut self, x: TensorId, kind: Gelu) -> TensorId {
        let result = self.like("gelu", x);
        let fused = self.last_if(|op| matches!(op, Op::Linear { gelu: None, out, .. } if *out == x));
        self.push(match fused {
            Some(Op::Linear { x, w, layout, bias, out, .. }) => {
                Op::Linear { x, w, layout, bias, gelu: Some((kind, out)), out: result }
            }
            _ => Op::Gelu { x, kind, out: result },
        });
        result
    }

    /// Causal self-attention: `[B, T, 3C]` to `[B, T, C]`. Polynomials also keep, as an output, how far their scores go.
    pub fn attention(
        &mut self,
        qkv: TensorId,
        n_head: usize,
        kind: AttentionKind,
        dropout: Option<Dropout>,
    ) -> TensorId {
        let (batch, t, c) = (self.shape(qkv)[0], self.shape(qkv)[1], self.width(qkv) / 3);
        assert_eq!(c % n_head, 0, "width not divisible by heads");
        let out = self.activation("attention", &[batch, t, c]);
        let rows = [batch, n_head, t, 2];
        let lse = (kind == AttentionKind::Softmax).then(|| self.activation("lse", &rows[..3]));
        let range = kind.lowest_score().map(|_| self.tensor("score_range", &rows, Dtype::Real, Role::Output));
        self.push(Op::Attention { qkv, n_head, kind, dropout, out, lse, range });
        out
    }

    /// Inputs that say where `[B, T]` rows belong in a cache.
    pub fn places(&mut self, name: &str, shape: [usize; 2], cache: TensorId) -> Places {
        let (texts, positions) = (self.shape(cache)[0], self.shape(cache)[1]);
        Places {
            texts: self.input_u32(&format!("{name}_texts"), &shape, texts as u32 + 1),
            positions: self.input_u32(&format!("{name}_positions"), &shape, positions as u32),
        }
    }

    /// Attention of new rows over a cache of the keys and values of X texts, `[X, S, C]` each. `lengths` is for kinds that
    /// depend on the length of the whole text, `[X]` counters, and no other heeds it.
    pub fn cached_attention(
        &mut self,
        qkv: TensorId,
        (k_cache, v_cache): (TensorId, TensorId),
        (places, lengths): (Places, Option<TensorId>),
        n_head: usize,
        kind: AttentionKind,
    ) -> TensorId {
        let (batch, t, c) = (self.shape(qkv)[0], self.shape(qkv)[1], self.width(qkv) / 3);
        let (texts, cached) = (self.shape(k_cache)[0], self.shape(k_cache)[1]);
        assert_eq!(c % n_head, 0, "width not divisible by heads");
        assert_eq!(self.shape(k_cache), [texts, cached, c], "cache of another shape");
        assert_eq!(self.shape(v_cache), [texts, cached, c], "cache of another shape");
        for (place, limit) in [(places.texts, texts + 1), (places.positions, cached)] {
            assert_eq!(self.shape(place), [batch, t], "one place a row");
            self.assert_below(place, limit);
        }
        let lengths = lengths.filter(|_| kind.depends_on_length());
        assert_eq!(
            lengths.is_some(),
            kind.depends_on_length(),
            "attention without the lengths that it depends on"
        );
        assert!(lengths.is_none_or(|lengths| *self.shape(lengths) == [texts]), "one length a text");
        let out = self.activation("cached_attention", &[batch, t, c]);
        self.push(Op::CachedAttention { qkv, k_cache, v_cache, places, lengths, n_head, kind, out });
        out
    }

    /// Dropout; with `None` the tensor itself.
    pub fn dropout(&mut self, x: TensorId, dropout: Option<Dropout>) -> TensorId {
        let Some(dropout) = dropout else { return x };
        let out = self.like("dropout", x);
        self.push(Op::Dropout { x, dropout, out });
        out
    }

    /// Cross-entropy of `softmax(x W^T)` against targets: `[N]` losses, an output in nats.
    /// Columns of the `[Vp, C]` table from `vocab_size` on are padding.
    pub fn classifier(
        &mut self,
        x: TensorId,
        wte: TensorId,
        targets: TensorId,
        vocab_size: usize,
    ) -> TensorId {
        let rows = self.tensors[targets.index()].len();
        assert_eq!(self.tensors[x.index()].rows(), rows, "one target a row");
        let padded = self.shape(wte)[0];
        assert!((1..=padded).contains(&vocab_size), "vocabulary larger than its table");
        assert_eq!(self.width(x), self.width(wte), "classifier of another width");
        self.assert_below(targets, vocab_size);
        let slice_rows = (MAX_LOGITS / padded / 64 * 64).max(64).min(rows);
        let logits = self.tensor("logits", &[slice_rows, padded], Dtype::Real, Role::Workspace);
        let losses = self.tensor("losses", &[rows], Dtype::Real, Role::Output);
        self.push(Op::Classifier { x, w: wte, targets, vocab_size, logits, losses, grad: None });
        losses
    }

    /// Mean squared error of each row against a target of the same shape: `[.., C]` to `[N]` losses, an output.
    /// The target counts as a constant.
    pub fn squared_error(&mut self, x: TensorId, target: TensorId) -> TensorId {
        assert_eq!(self.shape(x), self.shape(target), "squared error of different shapes");
        let rows = self.tensors[x.index()].rows();
        let losses = self.tensor("squared_errors", &[rows], Dtype::Real, Role::Output);
        self.push(Op::SquaredError { x, target, losses, grad: None });
        losses
    }

    /// Row `row` of each batch entry: `[B, T, C]` to `[B, 1, C]`.
    pub fn select_row(&mut self, x: TensorId, row: TensorId) -> TensorId {
        self.assert_below(row, self.shape(x)[1]);
        let out = self.activation("select_row", &[self.shape(x)[0], 1, self.width(x)]);
        self.push(Op::SelectRow { x, row, out });
        out
    }

    /// Makes an activation readable after the phase.
    pub fn mark_output(&mut self, id: TensorId) {
        self.tensors[id.index()].role = Role::Output;
    }

    // ---- update ----

    /// Global norm of the gradients of all trained parameters: a `[1]` output.
    pub fn grad_norm(&mut self) -> TensorId {
        let gradients = self.parameters.iter().map(|p| self.gradients[p]).collect();
        let norm = self.tensor("grad_norm", &[1], Dtype::Real, Role::Output);
        self.push(Op::GradNorm { gradients, norm });
        norm
    }

    /// AdamW over every trained parameter, with decay on those of rank 2 and more, after clipping by `norm`.
    /// `schedule` is a `[3]` input: learning rate, `1 - beta1^t`, `1 - beta2^t`.
    pub fn adamw(&mut self, norm: TensorId, schedule: TensorId, config: AdamWConfig) {
        let slots = self.parameters.clone().into_iter().map(|p| self.adamw_slot(p)).collect();
        self.push(Op::AdamW { slots, norm, schedule, config });
    }

    fn adamw_slot(&mut self, parameter: TensorId) -> AdamWSlot {
        let Tensor { name, shape, .. } = self.tensors[parameter.index()].clone();
        let m = self.tensor(&format!("m.{name}"), &shape, Dtype::Real, Role::Moment);
        let v = self.tensor(&format!("v.{name}"), &shape, Dtype::Real, Role::Moment);
        AdamWSlot { parameter, gradient: self.gradients[&parameter], m, v, decay: shape.len() >= 2 }
    }

    /// The gradient of a parameter, once [`Builder::backward`] has been called.
    pub fn gradient(&self, parameter: TensorId) -> Option<TensorId> {
        self.gradients.get(&parameter).copied()
    }

    /// Places every tensor and closes the plan.
    pub fn finish(self) -> Plan {
        self.assert_written_before_read();
        let (offsets, arena_bytes) =
            arena::place(&self.tensors, &self.phases, |id| arena::aligned(&self.tensors[id.index()]));
        let precision = Precision::Float32;
        Plan { tensors: self.tensors, phases: self.phases, offsets, arena_bytes, precision }
    }

    /// What lives only inside a phase must come from that phase.
    fn assert_written_before_read(&self) {
        for phase in &self.phases {
            let mut written = HashSet::new();
            for op in &phase.ops {
                let Operands { reads, writes } = op.operands();
                for id in reads {
                    let Tensor { name, role, .. } = &self.tensors[id.index()];
                    let known = !role.is_transient() || written.contains(&id);
                    assert!(known, "`{name}` is read by {} but not written in `{}`", op.name(), phase.name);
                }
                written.extend(writes);
            }
        }
    }
}
