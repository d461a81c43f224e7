//! What the settings ask of the model and of the plan of its training step.

use oxigpt_compute::Precision;
use oxigpt_model::{AdamWConfig, AttentionError, AttentionKind, AttentionScale, ModelConfig, TrainShape};

use super::Settings;

/// AdamW's guard against division by zero, as in all GPT-2 code.
const ADAMW_EPS: f64 = 1e-8;

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

    /// What operands of matrix products are rounded to.
    pub fn precision(&self) -> Precision {
        if self.dtype == "bfloat16" { Precision::Bfloat16 } else { Precision::Float32 }
    }

    /// What the plan of a step is built for.
    pub fn train_shape(&self) -> TrainShape {
        TrainShape {
            batch_size: self.batch_size,
            block_size: self.block_size,
            targets_per_step: self.tokens_per_step(),
            optimizer: AdamWConfig {
                beta1: self.beta1,
                beta2: self.beta2,
                eps: ADAMW_EPS,
                weight_decay: self.weight_decay,
                grad_clip: self.grad_clip,
            },
            eval_batch_size: self.batch_size,
            decode: self.sample_interval > 0,
        }
    }
}
