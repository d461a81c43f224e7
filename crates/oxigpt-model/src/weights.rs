//! The weights of a GPT: the one list of their names and shapes, and their declaration in a plan.
//!
//! Names and layouts are those of Hugging Face's GPT-2: matrices of linear layers are `[in, out]`. The output
//! layer is the word embedding once more, so it has no entry.

use std::collections::HashMap;

use oxigpt_compute::{Builder, LinearWeights, NormWeights, TensorId};

use crate::{ModelConfig, TensorTable};

/// Name of the word embedding.
pub(crate) const WTE: &str = "wte.weight";
/// Name of the position embedding.
pub(crate) const WPE: &str = "wpe.weight";

/// Whether a tensor is the matrix of a linear layer, which torch and llm.c keep as `[out, in]`.
pub(crate) fn is_linear(name: &str) -> bool {
    let layer = name.strip_suffix(".weight").and_then(|name| name.rsplit_once('.'));
    layer.is_some_and(|(_, layer)| layer.starts_with("c_"))
}

/// The weights of a model as a plan knows them.
#[derive(Clone, Debug)]
pub struct Weights {
    /// `[Vp, C]` word embedding, its rows from `vocab_size` on zero.
    pub wte: TensorId,
    /// `[block_size, C]` position embedding.
    pub wpe: TensorId,
    /// One entry a block.
    pub blocks: Vec<BlockWeights>,
    /// The last norm.
    pub ln_f: NormWeights,
    /// All of them by name.
    pub table: TensorTable,
}

/// The weights of one block.
#[derive(Clone, Copy, Debug)]
pub struct BlockWeights {
    /// Norm before attention.
    pub ln_1: NormWeights,
    /// `[C, 3C]`: queries, keys, values.
    pub attn_c_attn: LinearWeights,
    /// `[C, C]`: back into the residual stream.
    pub attn_c_proj: LinearWeights,
    /// Norm before the MLP.
    pub ln_2: NormWeights,
    /// `[C, 4C]`.
    pub mlp_c_fc: LinearWeights,
    /// `[4C, C]`: back into the residual stream.
    pub mlp_c_proj: LinearWeights,
}

/// Names and shapes of all weights, in a fixed order and without padding.
pub fn parameter_shapes(config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
    let (c, mut shapes) = (config.n_embd, Vec::new());
    let mut layer = |name: &str, weight: Vec<usize>| {
        let bias = weight[weight.len() - 1];
        shapes.push((format!("{name}.weight"), weight));
        if config.bias {
            shapes.push((format!("{name}.bias"), vec![bias]));
        }
    };
    for l in 0..config.n_layer {
        layer(&format!("h.{l}.ln_1"), vec![c]);
        layer(&format!("h.{l}.attn.c_attn"), vec![c, 3 * c]);
        layer(&format!("h.{l}.attn.c_proj"), vec![c, c]);
        layer(&format!("h.{l}.ln_2"), vec![c]);
        layer(&format!("h.{l}.mlp.c_fc"), vec![c, 4 * c]);
        layer(&format!("h.{l}.mlp.c_proj"), vec![4 * c, c]);
    }
    layer("ln_f", vec![c]);
    let embeddings = [(WTE, config.vocab_size), (WPE, config.block_size)];
    embeddings.map(|(name, rows)| (name.into(), vec![rows, c])).into_iter().chain(shapes).collect()
}

impl Weights {
    /// Declares every parameter of a model, the word embedding with padded rows.
    pub fn declare(b: &mut Builder, config: &ModelConfig) -> Weights {
        let mut ids = HashMap::new();
        let mut table = TensorTable::default();
        for (name, shape) in parameter_shapes(config) {
            let rows = if name == WTE { config.padded_vocab_size() } else { shape[0] };
            let id = b.parameter(&name, &[&[rows], &shape[1..]].concat());
            table.push(&name, &shape, id);
            ids.insert(name, id);
        }
        let id = |layer: &str, part: &str| ids.get(&format!("{layer}.{part}")).copied();
        let weight = |layer: &str| id(layer, "weight").expect("every layer has a weight");
        let norm = |layer: &str| NormWeights { weight: weight(layer), bias: id(layer, "bias") };
        let linear = |layer: &str| LinearWeights { w: weight(layer), bias: id(layer, "bias") };
        let block = |l: usize| BlockWeights {
            ln_1: norm(&format!("h.{l}.ln_1")),
            attn_c_attn: linear(&format!("h.{l}.attn.c_attn")),
            attn_c_proj: linear(&format!("h.{l}.attn.c_proj")),
            ln_2: norm(&format!("h.{l}.ln_2")),
            mlp_c_fc: linear(&format!("h.{l}.mlp.c_fc")),
            mlp_c_proj: linear(&format!("h.{l}.mlp.c_proj")),
        };
        Weights {
            wte: weight("wte"),
            wpe: weight("wpe"),
            blocks: (0..config.n_layer).map(block).collect(),
            ln_f: norm("ln_f"),
            table,
        }
    }
}
