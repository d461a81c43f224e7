//! The weights of a GPT: the one list of their names and shapes, and their declaration in a plan.
//!
//! Names and layouts are those of Hugging Face's GPT-2: matrices of linear layers are `[in, out]`. The output
//! layer is the word embedding once more, so it has no entry.

use std::collections::HashMap;

use oxigpt_compute::{Builder, LinearWeights, NormWeights, Storage, TensorId};

use crate::lora::tensor_names;
use crate::{Lora, ModelConfig, TensorTable};

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
    /// All of them by name, without adapters.
    pub table: TensorTable,
    /// Adapters by name; none where the weights themselves are trained.
    pub adapters: TensorTable,
}

/// A linear layer.
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    /// `W` and its bias.
    pub weights: LinearWeights,
    /// What is trained instead of them, if anything is.
    pub adapter: Option<Adapter>,
}

/// A low-rank adapter of a linear layer: it adds `scale (x A) B`.
#[derive(Clone, Copy, Debug)]
pub struct Adapter {
    /// `[C, rank]`.
    pub a: LinearWeights,
    /// `[rank, O]`.
    pub b: LinearWeights,
    /// `alpha / rank`.
    pub scale: f64,
}

/// Which weights are trained.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Trained {
    /// All.
    #[default]
    All,
    /// Adapters beside the linear layers that they name, and nothing else.
    Adapters(Lora),
    /// The linear layers of every block's attention.
    Attention,
}

/// The weights of one block.
#[derive(Clone, Copy, Debug)]
pub struct BlockWeights {
    /// Norm before attention.
    pub ln_1: NormWeights,
    /// `[C, 3C]`: queries, keys, values.
    pub attn_c_attn: Linear,
    /// `[C, C]`: back into the residual stream.
    pub attn_c_proj: Linear,
    /// Norm before the MLP.
    pub ln_2: NormWeights,
    /// `[C, 4C]`.
    pub mlp_c_fc: Linear,
    /// `[4C, C]`: back into the residual stream.
    pub mlp_c_proj: Linear,
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
    pub fn declare(b: &mut Builder, config: &ModelConfig, trained: Trained) -> Weights {
        Self::declare_as(b, config, trained, None)
    }

    /// Declares them for a plan that only reads them: the matrices of linear layers and the word embedding in a storage.
    pub fn declare_stored(b: &mut Builder, config: &ModelConfig, storage: Storage) -> Weights {
        Self::declare_as(b, config, Trained::All, Some(storage))
    }

    pub(crate) fn declare_as(
        b: &mut Builder,
        config: &ModelConfig,
        trained: Trained,
        storage: Option<Storage>,
    ) -> Weights {
        let mut ids = HashMap::new();
        let mut table = TensorTable::default();
        for (name, shape) in parameter_shapes(config) {
            let rows = if name == WTE { config.padded_vocab_size() } else { shape[0] };
            let padded = [&[rows], &shape[1..]].concat();
            let id = match storage {
                Some(storage) if name == WTE => b.stored(&name, [rows, shape[1]], storage),
                Some(storage) if is_linear(&name) => b.stored(&name, [shape[1], shape[0]], storage),
                _ if trained.has(&name) => b.parameter(&name, &padded),
                _ => b.frozen(&name, &padded),
            };
            if storage.is_some() && is_linear(&name) {
                table.push_transposed(&name, &shape, id);
            } else {
                table.push(&name, &shape, id);
            }
            ids.insert(name, id);
        }
        let (adapters, mut adapter_of) = declare_adapters(b, config, trained);
        let id = |layer: &str, part: &str| ids.get(&format!("{layer}.{part}")).copied();
        let weight = |layer: &str| id(layer, "weight").expect("every layer has a weight");
        let norm = |layer: &str| NormWeights { weight: weight(layer), bias: id(layer, "bias") };
        let mut linear = |layer: &str| Linear {
            weights: LinearWeights { w: weight(layer), bias: id(layer, "bias") },
            adapter: adapter_of.remove(layer),
        };
        let block = |l: usize| BlockWeights {
            ln_1: norm(&format!("h.{l}.ln_1")),
            attn_c_attn: linear(&format!("h.{l}.attn.c_attn")),
            attn_c_proj: linear(&format!("h.{l}.attn.c_proj")),
            ln_2: norm(&format!("h.{l}.ln_2")),
            mlp_c_fc: linear(&format!("h.{l}.mlp.c_fc")),
            mlp_c_proj: linear(&format!("h.{l}.mlp.c_proj")),
        };
        let blocks = (0..config.n_layer).map(block).collect();
        Weights { wte: weight("wte"), wpe: weight("wpe"), blocks, ln_f: norm("ln_f"), table, adapters }
    }
}

impl Trained {
    /// Whether a weight of the model proper is trained.
    fn has(self, name: &str) -> bool {
        match self {
            Trained::All => true,
            Trained::Adapters(_) => false,
            Trained::Attention => is_of_attention(name),
        }
    }
}

/// Whether a tensor belongs to a linear layer of an attention.
pub(crate) fn is_of_attention(name: &str) -> bool {
    name.contains(".attn.c_")
}

/// Declares the adapters, and gives them by the names of their layers.
fn declare_adapters(
    b: &mut Builder,
    config: &ModelConfig,
    trained: Trained,
) -> (TensorTable, HashMap<String, Adapter>) {
    let (mut table, mut adapters) = (TensorTable::default(), HashMap::new());
    let Trained::Adapters(lora) = trained else { return (table, adapters) };
    for (name, shape) in lora.shapes(config) {
        let id = b.parameter(&name, &shape);
        table.push(&name, &shape, id);
    }
    for (block, target) in (0..config.n_layer).flat_map(|l| lora.targets.names().map(move |name| (l, name))) {
        let layer = format!("h.{block}.{target}");
        let [a, b] = tensor_names(&layer).map(|name| {
            let w = table.id(&name).expect("it has been declared");
            LinearWeights { w, bias: None }
        });
        adapters.insert(layer, Adapter { a, b, scale: lora.scale() });
    }
    (table, adapters)
}
