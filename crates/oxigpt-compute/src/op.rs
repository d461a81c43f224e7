//! The operators of a plan. Each is a whole fused step of a GPT, as data: which tensors it reads and writes.
//!
//! Legend for shapes: B batch, T positions, N = B*T rows, C width, O output width, H heads, D = C/H,
//! V vocabulary, Vp vocabulary padded, S cached positions.

use crate::{AttentionKind, TensorId};

/// Which Gaussian error linear unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gelu {
    /// `0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`, as GPT-2 (Hendrycks and Gimpel 2016, section 2).
    Tanh,
    /// `0.5 x (1 + erf(x / sqrt 2))`, exact.
    Erf,
}

/// How the matrix of a linear operator lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightLayout {
    /// `[C, O]`, as GPT-2's `Conv1D` weights: `y = x W`.
    InOut,
    /// `[O, C]`, as an embedding table used for output: `y = x W^T`.
    OutIn,
}

/// Inverted dropout: an element is kept with probability `1 - p` and then scaled by `1 / (1 - p)`.
///
/// The mask is a pure function of the counters in `rng`, of `site`, and of the element's place in the whole
/// batch of a step, so forward and backward agree, and a step does not depend on how it is cut into
/// micro-batches. See [`crate::dropout`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Probability of dropping, in `[0, 1)`.
    pub p: f32,
    /// Number of the place in the model, so that no two places share a mask.
    pub site: u32,
    /// `[4]` U32: seed low, seed high, step, first row of this micro-batch within the step's batch.
    pub rng: TensorId,
}

/// A parameter as the optimiser sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWSlot {
    /// The weights.
    pub parameter: TensorId,
    /// Their gradient.
    pub gradient: TensorId,
    /// First moment.
    pub m: TensorId,
    /// Second moment.
    pub v: TensorId,
    /// Whether weight decay applies (tensors of rank 2 and more).
    pub decay: bool,
}

/// The constants of AdamW (Loshchilov and Hutter 2019, algorithm 2).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWConfig {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Largest global gradient norm; 0 leaves gradients as they are.
    pub grad_clip: f64,
}

/// The gradient half of [`Op::Classifier`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClassifierGrad {
    /// `[N, C]` gradient of the input.
    pub dx: TensorId,
    /// `[Vp, C]` gradient of the weights, unless they are frozen.
    pub dw: Option<TensorId>,
    /// Factor on every row's loss: one over the targets of a whole step.
    pub scale: f64,
    /// Add to `dw` instead of overwriting it.
    pub accumulate: bool,
}

/// The gradient half of [`Op::SquaredError`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SquaredErrorGrad {
    /// `[N, C]` gradient of the input.
    pub dx: TensorId,
    /// Factor on every row's loss: one over the rows of a whole step.
    pub scale: f64,
}

/// Where rows belong in a cache of X texts of S positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    /// `[B, T]` U32: the text, or X, which is all of them alike.
    pub texts: TensorId,
    /// `[B, T]` U32, below S.
    pub positions: TensorId,
}

/// An operator.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// `out[b,t] = wte[tokens[b,t]] + wpe[positions[b,t]]`.
    Embed {
        /// `[B, T]` U32.
        tokens: TensorId,
        /// `[B, T]` U32; position t where absent.
        positions: Option<TensorId>,
        /// `[Vp, C]`.
        wte: TensorId,
        /// `[block_size, C]`.
        wpe: TensorId,
        /// `[B, T, C]`.
        out: TensorId,
    },
    /// Adjoint of `Embed`: `dwte[tokens[b,t]] += dout[b,t]`, `dwpe[t] += dout[b,t]`.
    EmbedBackward {
        /// `[B, T]` U32.
        tokens: TensorId,
        /// `[B, T, C]`.
        dout: TensorId,
        /// `[Vp, C]`.
        dwte: TensorId,
        /// `[block_size, C]`.
        dwpe: TensorId,
        /// Add to `dwte` instead of overwriting it.
        accumulate_wte: bool,
        /// Add to `dwpe` instead of overwriting it.
        accumulate_wpe: bool,
    },
    /// `out = a + b`, elementwise.
    Add {
        /// First addend.
        a: TensorId,
        /// Second addend, of the same shape.
        b: TensorId,
        /// Sum.
        out: TensorId,
    },
    /// `out = factor x`, elementwise; its adjoint is the same operator on the gradient.
    Scale {
        /// Any shape.
        x: TensorId,
        /// The factor.
        factor: f64,
        /// As `x`.
        out: TensorId,
    },
    /// Layer norm over the last dimension, eps 1e-5 (Ba et al. 2016), of `x`, or of `sum = x + delta`.
    LayerNorm {
        /// `[N, C]`.
        x: TensorId,
        /// `(delta, sum)`, both `[N, C]`: the residual addition that rides on this pass.
        residual: Option<(TensorId, TensorId)>,
        /// `[C]`.
        weight: TensorId,
        /// `[C]`.
        bias: Option<TensorId>,
        /// `[N, C]`.
        out: TensorId,
        /// `[N]` mean of each row.
        mean: TensorId,
        /// `[N]` one over the standard deviation of each row.
        rstd: TensorId,
    },
    /// Adjoint of `LayerNorm`: `dx = addend + dLN/dx . dout`.
    LayerNormBackward {
        /// `[N, C]`.
        dout: TensorId,
        /// `[N, C]` gradient that reaches the normalised tensor by other ways.
        addend: Option<TensorId>,
        /// `[N, C]` what was normalised (`x`, or `sum`).
        x: TensorId,
        /// `[C]`.
        weight: TensorId,
        /// `[N]`.
        mean: TensorId,
        /// `[N]`.
        rstd: TensorId,
        /// `[N, C]`.
        dx: TensorId,
        /// `[C]`, unless the weight is frozen.
        dweight: Option<TensorId>,
        /// `[C]`.
        dbias: Option<TensorId>,
        /// Add to `dweight` and `dbias` instead of overwriting them.
        accumulate: bool,
    },
    /// `out = gelu(x W + bias)`, bias and GELU optional.
    Linear {
        /// `[N, C]`.
        x: TensorId,
        /// `[C, O]` or `[O, C]`.
        w: TensorId,
        /// Which of the two.
        layout: WeightLayout,
        /// `[O]`.
        bias: Option<TensorId>,
        /// The GELU, and where `x W + bias` is kept for its adjoint.
        gelu: Option<(Gelu, TensorId)>,
        /// `[N, O]`.
        out: TensorId,
    },
    /// `dx = dout W^T`; where a GELU rides on it, `dx = gelu'(before) (dout W^T)`.
    LinearBackwardInput {
        /// `[N, O]`.
        dout: TensorId,
        /// `[C, O]` or `[O, C]`.
        w: TensorId,
        /// Which of the two.
        layout: WeightLayout,
        /// The GELU that gave the layer its input, and `before`, `[N, C]`, what it was applied to.
        gelu: Option<(Gelu, TensorId)>,
        /// `[N, C]`.
        dx: TensorId,
    },
    /// `dw = x^T dout` (laid out as `w`), `dbias = column sums of dout`.
    LinearBackwardWeight {
        /// `[N, O]`.
        dout: TensorId,
        /// `[N, C]`.
        x: TensorId,
        /// Layout of `dw`.
        layout: WeightLayout,
        /// `[C, O]` or `[O, C]`.
        dw: TensorId,
        /// `[O]`.
        dbias: Option<TensorId>,
        /// Add to `dw` instead of overwriting it.
        accumulate_w: bool,
        /// Add to `dbias` instead of overwriting it.
        accumulate_bias: bool,
    },
    /// `out = gelu(x)`, where it does not ride on a linear operator.
    Gelu {
        /// Any shape.
        x: TensorId,
        /// Which.
        kind: Gelu,
        /// As `x`.
        out: TensorId,
    },
    /// `dx = gelu'(x) dout`.
    GeluBackward {
        /// What the GELU was applied to.
        x: TensorId,
        /// Which.
        kind: Gelu,
        /// Gradient of its result.
        dout: TensorId,
        /// Gradient of `x`.
        dx: TensorId,
    },
    /// Causal self-attention over all heads: `out_i = sum_{j <= i} m_ij a_ij v_j`, the weights `a` of a kind, `m` the
    /// factors of dropout. Row `(b,t)` of `qkv` holds q, k, v, each C wide; head h owns columns `h*D..(h+1)*D` of each.
    /// The length of the text, which [`AttentionScale::Length`](crate::AttentionScale::Length) divides by, is T.
    Attention {
        /// `[B, T, 3C]`.
        qkv: TensorId,
        /// Heads.
        n_head: usize,
        /// How scores become weights.
        kind: AttentionKind,
        /// Dropout on the weights.
        dropout: Option<Dropout>,
        /// `[B, T, C]`.
        out: TensorId,
        /// `[B, H, T]` natural logarithm of each row's sum of exponentials (Dao et al. 2022, algorithm 1). Softmax
        /// alone has it.
        lse: Option<TensorId>,
        /// `[B, H, T, 2]` of the scores `z_ij`, `j <= i`, of each row: how many are below
        /// [`AttentionKind::lowest_score`], and the lowest of all, before any clamping. Polynomials alone have it, and no
        /// operator reads it.
        range: Option<TensorId>,
    },
    /// Adjoint of `Attention`; the weights are computed again.
    ///
    /// `dv_j = sum_i m_ij a_ij dout_i`; `da_ij = m_ij dout_i . v_j`; for softmax `dz_ij = a_ij (da_ij - sum_l a_il da_il)`,
    /// else `dz_ij` is `da_ij` times the derivative of `a_ij` in its score (0 at the kink of a `max`, and where a clamped
    /// polynomial is cut off). With `s = 1 / sqrt D`, Gaussian kinds have `dq_i = s sum_j dz_ij (k_j - q_i)` and
    /// `dk_j = s sum_i dz_ij (q_i - k_j)`, the others the same without the subtrahends.
    AttentionBackward {
        /// `[B, T, 3C]`.
        qkv: TensorId,
        /// What `Attention` gave, `[B, T, C]`, and `lse`, `[B, H, T]`: softmax alone reads them.
        softmax: Option<(TensorId, TensorId)>,
        /// `[B, T, C]`.
        dout: TensorId,
        /// Heads.
        n_head: usize,
        /// How scores become weights.
        kind: AttentionKind,
        /// Dropout on the weights.
        dropout: Option<Dropout>,
        /// `[B, T, 3C]`.
        dqkv: TensorId,
    },
    /// Attention of new rows over those in a cache of X texts: writes the keys and values of every row where it
    /// belongs, then each row attends to its text up to its own position. Rows of one text and position must be the same.
    CachedAttention {
        /// `[B, T, 3C]`.
        qkv: TensorId,
        /// `[X, S, C]`.
        k_cache: TensorId,
        /// As `k_cache`.
        v_cache: TensorId,
        /// Where each row belongs.
        places: Places,
        /// `[X]` U32, at least 1: tokens of each whole text, which [`AttentionScale::Length`](crate::AttentionScale::Length)
        /// divides by; a kind of another scale has none.
        lengths: Option<TensorId>,
        /// Heads.
        n_head: usize,
        /// How scores become weights.
        kind: AttentionKind,
        /// `[B, T, C]`.
        out: TensorId,
    },
    /// Dropout of a tensor; its adjoint is the same operator on the gradient.
    Dropout {
        /// `[B, T, C]`.
        x: TensorId,
        /// Probability, place, counters.
        dropout: Dropout,
        /// As `x`.
        out: TensorId,
    },
    /// Cross-entropy of `softmax(x W^T)` against targets, and with `grad` its gradients in the same pass,
    /// over slices of rows, so that a batch's logits are never all in memory.
    Classifier {
        /// `[N, C]`.
        x: TensorId,
        /// `[Vp, C]`.
        w: TensorId,
        /// `[N]` U32.
        targets: TensorId,
        /// Words that count; columns from here to Vp are padding and get no probability.
        vocab_size: usize,
        /// `[R, Vp]` workspace for the logits of R rows.
        logits: TensorId,
        /// `[N]` negative log-likelihood of each target, in nats.
        losses: TensorId,
        /// Gradients.
        grad: Option<ClassifierGrad>,
    },
    /// `losses[n] = mean_c (x[n, c] - target[n, c])^2`, and with `grad` its gradient in the same pass.
    SquaredError {
        /// `[N, C]`.
        x: TensorId,
        /// `[N, C]`, a constant: no gradient flows to it.
        target: TensorId,
        /// `[N]`.
        losses: TensorId,
        /// Gradient.
        grad: Option<SquaredErrorGrad>,
    },
    /// `out[b] = x[b, row]`.
    SelectRow {
        /// `[B, T, C]`.
        x: TensorId,
        /// `[1]` U32, below T.
        row: TensorId,
        /// `[B, 1, C]`.
        out: TensorId,
    },
    /// `norm = sqrt(sum of squares of all gradients)`.
    GradNorm {
        /// Gradients.
        gradients: Vec<TensorId>,
        /// `[1]`.
        norm: TensorId,
    },
    /// Clips by the global norm and updates every parameter and its moments in one pass.
    AdamW {
        /// Parameters with all that belongs to them.
        slots: Vec<AdamWSlot>,
        /// `[1]` global norm before clipping.
        norm: TensorId,
        /// `[3]`: learning rate, `1 - beta1^t`, `1 - beta2^t`, t counted from 1.
        schedule: TensorId,
        /// Constants.
        config: AdamWConfig,
    },
}

impl Op {
    /// Name for tables and messages.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Embed { .. } => "embed",
            Op::EmbedBackward { .. } => "embed_backward",
            Op::Add { .. } => "add",
            Op::Scale { .. } => "scale",
            Op::LayerNorm { residual: None, .. } => "layer_norm",
            Op::LayerNorm { .. } => "add_layer_norm",
            Op::LayerNormBackward { .. } => "layer_norm_backward",
            Op::Linear { gelu: None, .. } => "linear",
            Op::Linear { .. } => "linear_gelu",
            Op::LinearBackwardInput { gelu: None, .. } => "linear_backward_input",
            Op::LinearBackwardInput { .. } => "linear_backward_input_gelu",
            Op::LinearBackwardWeight { .. } => "linear_backward_weight",
            Op::Gelu { .. } => "gelu",
            Op::GeluBackward { .. } => "gelu_backward",
            Op::Attention { .. } => "attention",
            Op::AttentionBackward { .. } => "attention_backward",
            Op::CachedAttention { .. } => "cached_attention",
            Op::Dropout { .. } => "dropout",
            Op::Classifier { .. } => "classifier",
            Op::SquaredError { .. } => "squared_error",
            Op::SelectRow { .. } => "select_row",
            Op::GradNorm { .. } => "grad_norm",
            Op::AdamW { .. } => "adamw",
        }
    }

    /// The same operator with every parameter gradient added to instead of overwritten: what all
    /// micro-batches of a step but the first do.
    pub fn accumulating(&self) -> Op {
        let mut op = self.clone();
        match &mut op {
            Op::EmbedBackward { accumulate_wte, accumulate_wpe, .. } => {
                *accumulate_wte = true;
                *accumulate_wpe = true;
            }
            Op::LayerNormBackward { accumulate, .. } => *accumulate = true,
            Op::LinearBackwardWeight { accumulate_w, accumulate_bias, .. } => {
                *accumulate_w = true;
                *accumulate_bias = true;
            }
            Op::Classifier { grad: Some(grad), .. } => grad.accumulate = true,
            _ => {}
        }
        op
    }
}
