//! `config.json` and `generation_config.json`: a [`ModelConfig`] in the words of transformers' GPT-2.
//!
//! Four keys are our own (`bias`, `attn_type`, `attn_scale`, `attn_clamp`); other programs ignore them. Under another
//! attention than softmax that would be wrong, so such a model has a `model_type` and `architectures` of our own too, which
//! other programs do not know and refuse.

use std::path::Path;

use fs_err as fs;
use oxigpt_compute::{AttentionError, AttentionKind, AttentionScale, Gelu, LAYER_NORM_EPS};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{Error, ModelConfig};

/// `model_type` and `architectures` of GPT-2s as everybody computes them, and of those with another attention.
const GPT2: [&str; 2] = ["gpt2", "GPT2LMHeadModel"];
const OTHER: [&str; 2] = ["oxigpt", "OxiGPTLMHeadModel"];

/// End of text in GPT-2's vocabulary.
const GPT2_END_OF_TEXT: usize = 50256;

/// The part of `config.json` that a [`ModelConfig`] is read from. Other keys are judged by
/// [`check_supported`].
#[derive(Deserialize)]
struct ConfigJson {
    activation_function: Option<String>,
    n_layer: usize,
    n_head: usize,
    n_embd: usize,
    n_positions: usize,
    vocab_size: usize,
    #[serde(default)]
    resid_pdrop: f64,
    bias: Option<bool>,
    attn_type: Option<String>,
    attn_scale: Option<String>,
    #[serde(default)]
    attn_clamp: bool,
}

impl ConfigJson {
    /// Softmax where nothing is said; the divisor of a pointwise attention that does not say it is that of the program
    /// that had it first.
    fn attention(&self) -> Result<AttentionKind, AttentionError> {
        let scale = self.attn_scale.as_deref().unwrap_or("length");
        let scale = AttentionScale::parse(scale, self.n_positions)?;
        AttentionKind::parse(self.attn_type.as_deref().unwrap_or("softmax"), scale, self.attn_clamp)
    }
}

/// What transformers needs to know of a model.
pub(crate) fn config_json(config: &ModelConfig) -> Value {
    let activation = match config.gelu {
        Gelu::Tanh => "gelu_new",
        Gelu::Erf => "gelu",
    };
    let ends = end_of_text(config);
    let [model_type, architecture] = if config.attention == AttentionKind::Softmax { GPT2 } else { OTHER };
    let mut json = json!({
        "architectures": [architecture],
        "model_type": model_type,
        "activation_function": activation,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.n_embd,
        "n_inner": null,
        "n_positions": config.block_size,
        "vocab_size": config.vocab_size,
        "layer_norm_epsilon": LAYER_NORM_EPS,
        "attn_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "resid_pdrop": config.dropout,
        "scale_attn_weights": true,
        "scale_attn_by_inverse_layer_idx": false,
        "tie_word_embeddings": true,
        "initializer_range": 0.02,
        "dtype": "float32",
        "bos_token_id": ends,
        "eos_token_id": ends,
        "bias": config.bias,
        "attn_type": config.attention.to_string(),
    });
    if let Some(scale) = config.attention.scale() {
        json["attn_scale"] = scale.name(config.block_size).into();
    }
    if config.attention.clamp() {
        json["attn_clamp"] = true.into();
    }
    json
}

/// What transformers wants to know before it generates.
pub(crate) fn generation_json(config: &ModelConfig) -> Value {
    let ends = end_of_text(config);
    json!({ "_from_model_config": true, "bos_token_id": ends, "eos_token_id": ends, "use_cache": true })
}

/// The token that ends a text, where the vocabulary can be GPT-2's.
fn end_of_text(config: &ModelConfig) -> Option<usize> {
    (config.vocab_size > GPT2_END_OF_TEXT).then_some(GPT2_END_OF_TEXT)
}

/// Reads a `config.json`.
pub(crate) fn read_config(path: &Path) -> Result<ModelConfig, Error> {
    let text = fs::read(path)?;
    let config_json =
        |error: serde_json::Error| Error::ConfigJson { path: path.into(), reason: error.to_string() };
    let mut keys: Value = serde_json::from_slice(&text).map_err(config_json)?;
    check_supported(path, &keys)?;
    // The first versions had another name for it, beside this one or instead.
    if keys["n_positions"].is_null() && keys["n_ctx"].is_u64() {
        keys["n_positions"] = keys["n_ctx"].take();
    }
    let json: ConfigJson = serde_json::from_value(keys).map_err(config_json)?;
    let attention = json.attention().map_err(|AttentionError { key, expected, found }| {
        Error::Unsupported { path: path.into(), key, found, supported: expected }
    })?;
    let config = ModelConfig {
        n_layer: json.n_layer,
        n_head: json.n_head,
        n_embd: json.n_embd,
        block_size: json.n_positions,
        vocab_size: json.vocab_size,
        bias: json.bias.unwrap_or(true),
        dropout: json.resid_pdrop,
        gelu: if json.activation_function.as_deref() == Some("gelu") { Gelu::Erf } else { Gelu::Tanh },
        attention,
    };
    config.validate()?;
    Ok(config)
}

/// Refuses what would silently be computed otherwise than its author meant.
fn check_supported(path: &Path, keys: &Value) -> Result<(), Error> {
    let inner = keys["n_embd"].as_u64().unwrap_or(0).saturating_mul(4);
    let rules = [
        ("model_type", json!([GPT2[0], OTHER[0]])),
        ("activation_function", json!(["gelu_new", "gelu_pytorch_tanh", "gelu"])),
        ("n_inner", json!([inner])),
        ("layer_norm_epsilon", json!([LAYER_NORM_EPS])),
        ("scale_attn_weights", json!([true])),
        ("scale_attn_by_inverse_layer_idx", json!([false])),
        ("tie_word_embeddings", json!([true])),
    ];
    for (key, allowed) in rules {
        let (found, allowed) = (&keys[key], allowed.as_array().map(Vec::as_slice).unwrap_or_default());
        if !found.is_null() && !allowed.contains(found) {
            let supported = allowed.iter().map(Value::to_string).collect::<Vec<_>>().join(" or ");
            return Err(Error::Unsupported { path: path.into(), key, found: found.to_string(), supported });
        }
    }
    Ok(())
}
