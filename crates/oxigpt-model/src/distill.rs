//! Layer-wise distillation: a model with one kind of attention learns, block by block, what a teacher with another kind
//! and the same weights does.
//!
//! The teacher reads the text. In every block, the student's attention gets what the teacher's gets, the normed stream of
//! the teacher, and is to give what the teacher's gives, after `attn.c_proj`. The loss is the mean squared error, averaged
//! over elements and layers, and may be mixed with the student's own loss on the text. Only `attn.c_attn` and
//! `attn.c_proj` of the student are trained, or adapters beside them; all else it has in common with the teacher.

use oxigpt_compute::{AttentionKind, Builder, TensorId};

use crate::plans::{Term, loss};
use crate::weights::is_of_attention;
use crate::{
    BlockWeights, Linear, ModelConfig, Site, TensorTable, Trained, Weights, attention, dropout_at, forward,
};

/// What a layer-wise distillation minimises.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Distill {
    /// How the teacher's scores become weights.
    pub teacher: AttentionKind,
    /// Share of the loss on the text, from 0 to 1; the rest is the squared error's.
    pub mix: f64,
}

/// The teacher in the plan of its student.
pub(crate) struct Teacher {
    /// Its weights: those of the student where these are not trained.
    weights: Weights,
    /// Its own tensors, under the names of the model's.
    pub(crate) table: TensorTable,
}

impl Teacher {
    /// Declares what the teacher does not share with the student. Adapters leave the student's weights as the teacher's
    /// are, so that it has nothing of its own.
    pub(crate) fn declare(b: &mut Builder, student: &Weights, trained: Trained) -> Teacher {
        let mut table = TensorTable::default();
        if trained == Trained::Attention {
            for entry in student.table.entries().iter().filter(|entry| is_of_attention(&entry.name)) {
                let id = b.frozen(&format!("teacher.{}", entry.name), &entry.shape);
                table.push(&entry.name, &entry.shape, id);
            }
        }
        let own = |layer: &str, student: Linear| {
            let id = |part: &str, shared: TensorId| table.id(&format!("{layer}.{part}")).unwrap_or(shared);
            let mut weights = student.weights;
            weights.w = id("weight", weights.w);
            weights.bias = weights.bias.map(|bias| id("bias", bias));
            Linear { weights, adapter: None }
        };
        let block = |(l, block): (usize, &BlockWeights)| BlockWeights {
            attn_c_attn: own(&format!("h.{l}.attn.c_attn"), block.attn_c_attn),
            attn_c_proj: own(&format!("h.{l}.attn.c_proj"), block.attn_c_proj),
            mlp_c_fc: Linear { adapter: None, ..block.mlp_c_fc },
            mlp_c_proj: Linear { adapter: None, ..block.mlp_c_proj },
            ..*block
        };
        let blocks = student.blocks.iter().enumerate().map(block).collect();
        Teacher { weights: Weights { blocks, ..student.clone() }, table }
    }

    /// What the student minimises on a batch.
    pub(crate) fn objective(
        &self,
        b: &mut Builder,
        config: &ModelConfig,
        distill: Distill,
        student: &Weights,
        [tokens_bt, targets_bt]: [TensorId; 2],
        rng: TensorId,
    ) -> Vec<Term> {
        let mut objective = Vec::new();
        let weight = (1.0 - distill.mix) / config.n_layer as f64;
        forward(b, config, &self.weights, tokens_bt, None, None, |b, layer, block, normed_btc| {
            let target_btc = attention(b, block, normed_btc, |b, qkv_bt3c| {
                b.attention(qkv_bt3c, config.n_head, distill.teacher, None)
            });
            let dropout = dropout_at(Site::AttentionWeights(layer), config, Some(rng));
            let given_btc = attention(b, &student.blocks[layer], normed_btc, |b, qkv_bt3c| {
                b.attention(qkv_bt3c, config.n_head, config.attention, dropout)
            });
            objective.push(Term { losses: b.squared_error(given_btc, target_btc), weight });
            target_btc
        });
        if distill.mix > 0.0 {
            let losses = loss(b, config, student, [tokens_bt, targets_bt], Some(rng));
            objective.push(Term { losses, weight: distill.mix });
        }
        objective
    }
}
