//! What the settings ask of the model and of the plan of its training step.

use oxigpt_compute::{Precision, Recompute};
use oxigpt_model::{
    AdamWConfig, AttentionError, AttentionKind, AttentionScale, Distill, Lora, LoraTargets, ModelConfig,
    Storage, TrainShape,
};

use super::{Settings, Start};
use crate::machine::Machine;

/// AdamW's guard against division by zero, as in all GPT-2 code.
const ADAMW_EPS: f64 = 1e-8;

/// Width from which on a CPU makes GELU and layer norms again in less than 1 % of a step: products grow with its square.
const CHEAP_GELU: usize = 768;

impl Settings {
    /// The attention.
    ///
    /// # Panics
    /// If the settings have not been checked.
    pub fn attention(&self) -> AttentionKind {
        self.parse_attention().expect("checked with all other settings")
    }

    pub(super) fn parse_attention(&self) -> Result<AttentionKind, AttentionError> {
        let scale = AttentionScale::parse(&self.attn_scale, self.block_size)?;
        AttentionKind::parse(&self.attn_type, scale, self.attn_clamp)
    }

    /// The model, for a data set of `vocab_size` tokens; the key `vocab_size` goes before it where it is set.
    ///
    /// # Panics
    /// If the settings have not been checked.
    pub fn model_config(&self, vocab_size: usize) -> ModelConfig {
        ModelConfig {
            n_layer: self.n_layer,
            n_head: self.n_head,
            n_embd: self.n_embd,
            block_size: self.block_size,
            vocab_size: if self.vocab_size > 0 { self.vocab_size } else { vocab_size },
            bias: self.bias,
            dropout: self.dropout,
            gelu: self.gelu,
            attention: self.attention(),
        }
    }

    /// Where the run computes.
    pub fn machine(&self) -> Machine {
        Machine::new(&self.device, self.threads, self.float32_matmul_precision == "high")
            .in_any_order(!self.deterministic)
    }

    /// What operands of matrix products are rounded to.
    pub fn precision(&self) -> Precision {
        if self.dtype == "bfloat16" { Precision::Bfloat16 } else { Precision::Float32 }
    }

    /// What the backward pass makes again. A GPU would wait for it longer than a CPU, and has more memory.
    pub fn recompute(&self) -> Recompute {
        let is_cheap = self.n_embd >= CHEAP_GELU && self.machine().is_cpu();
        self.recompute.unwrap_or(if is_cheap { Recompute::Gelu } else { Recompute::None })
    }

    /// The adapters that are trained, if any are.
    ///
    /// # Errors
    /// If `lora_targets` names what is no linear layer.
    pub fn lora(&self) -> Result<Option<Lora>, oxigpt_model::Error> {
        let targets = LoraTargets::parse(&self.lora_targets)?;
        Ok((self.lora_rank > 0).then_some(Lora { rank: self.lora_rank, alpha: self.lora_alpha, targets }))
    }

    /// Whether the checkpoints of a run need the model that it began with.
    pub(crate) fn needs_base(&self) -> bool {
        self.lora_rank > 0 || matches!(self.start(), Start::Layerwise(_))
    }

    /// How an evaluation keeps matrices: as training does, but for int8.
    pub fn eval_storage(&self) -> Option<Storage> {
        (self.dtype == "int8").then_some(Storage::Int8)
    }

    /// How decoding keeps matrices.
    pub fn decode_storage(&self) -> Storage {
        match self.dtype.as_str() {
            "bfloat16" => Storage::Bfloat16,
            "int8" => Storage::Int8,
            _ => Storage::Float32,
        }
    }

    /// What the plan of a step is built for, `teacher` being the kind of attention of the model that a distillation begins
    /// with. The settings have been validated.
    pub fn train_shape(&self, teacher: AttentionKind) -> TrainShape {
        let is_distilled = matches!(self.start(), Start::Layerwise(_));
        TrainShape {
            batch_size: self.batch_size.rows(),
            block_size: self.block_size,
            targets_per_step: self.tokens_per_step(),
            optimizer: AdamWConfig {
                beta1: self.beta1,
                beta2: self.beta2,
                eps: ADAMW_EPS,
                weight_decay: self.weight_decay,
                grad_clip: self.grad_clip,
            },
            eval_batch_size: self.batch_size.rows(),
            decode: self.sample_interval > 0,
            lora: self.lora().ok().flatten(),
            distill: is_distilled.then_some(Distill { teacher, mix: self.distill_mix }),
            recompute: self.recompute(),
        }
    }
}
