//! A model on disk: a directory as Hugging Face's transformers writes it for GPT-2.
//!
//! `model.safetensors` holds float32 weights under the names of [`parameter_shapes`]; `config.json` the
//! configuration, with two keys of our own (`bias`, `attn_type`) that others ignore. GPT2LMHeadModel always
//! has biases: a model without gets zeros on disk, which reading takes off again.

use std::borrow::Cow;
use std::path::Path;

use fs_err as fs;
use oxigpt_compute::{AttentionKind, Gelu, LAYER_NORM_EPS};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::tensors::check;
use crate::{Error, MappedTensors, ModelConfig, TensorSource, map_tensors, parameter_shapes, write_tensors};

const WEIGHTS: &str = "model.safetensors";
const CONFIG: &str = "config.json";
const GENERATION_CONFIG: &str = "generation_config.json";

/// End of text in GPT-2's vocabulary.
const GPT2_END_OF_TEXT: usize = 50256;

/// The part of `config.json` that a [`ModelConfig`] is read from. Other keys are judged by
/// [`check_supported`].
#[derive(Deserialize)]
struct ConfigJson {
    activation_function: String,
    n_layer: usize,
    n_head: usize,
    n_embd: usize,
    n_positions: usize,
    vocab_size: usize,
    #[serde(default)]
    resid_pdrop: f64,
    bias: Option<bool>,
}

fn attention_name(kind: AttentionKind) -> &'static str {
    match kind {
        AttentionKind::Softmax => "softmax",
    }
}

/// Writes `model.safetensors`, `config.json` and `generation_config.json` into an existing directory, and
/// syncs them. The source must have exactly the weights of `config`.
pub fn save_pretrained(
    dir: impl AsRef<Path>,
    config: &ModelConfig,
    weights: &(impl TensorSource + ?Sized),
) -> Result<(), Error> {
    config.validate()?;
    let dir = dir.as_ref();
    let own = parameter_shapes(config);
    check(weights, &own)?;
    let shapes = parameter_shapes(&ModelConfig { bias: true, ..config.clone() });
    let with_biases = WithBiases { weights, own, shapes };
    write_tensors(dir.join(WEIGHTS), &with_biases, &[("format", "pt")])?;
    write_json(&dir.join(CONFIG), &config_json(config))?;
    write_json(&dir.join(GENERATION_CONFIG), &generation_json(config))
}

/// Opens a directory that [`save_pretrained`] or transformers wrote. The weights stay in their file, mapped,
/// until they are read; that they are exactly those of the configuration has been checked.
pub fn load_pretrained(dir: impl AsRef<Path>) -> Result<(ModelConfig, MappedTensors), Error> {
    let dir = dir.as_ref();
    let config = read_config(&dir.join(CONFIG))?;
    let mut weights = map_tensors(dir.join(WEIGHTS))?;
    weights.strip_prefix("transformer.");
    if !config.bias {
        remove_zero_biases(&mut weights, &config)?;
    }
    check(&weights, &parameter_shapes(&config))?;
    Ok((config, weights))
}

/// A source with zeros added for the biases it lacks.
struct WithBiases<'a, S: ?Sized> {
    weights: &'a S,
    own: Vec<(String, Vec<usize>)>,
    shapes: Vec<(String, Vec<usize>)>,
}

impl<S: TensorSource + ?Sized> TensorSource for WithBiases<'_, S> {
    fn origin(&self) -> String {
        self.weights.origin()
    }

    fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        self.shapes.clone()
    }

    fn read(&self, name: &str) -> Result<Cow<'_, [f32]>, Error> {
        let len_in = |shapes: &[(String, Vec<usize>)]| {
            shapes.iter().find(|(own, _)| own == name).map(|(_, shape)| shape.iter().product::<usize>())
        };
        match (len_in(&self.own), len_in(&self.shapes)) {
            (None, Some(len)) => Ok(vec![0.0; len].into()),
            _ => self.weights.read(name),
        }
    }
}

fn remove_zero_biases(weights: &mut MappedTensors, config: &ModelConfig) -> Result<(), Error> {
    let with_biases = parameter_shapes(&ModelConfig { bias: true, ..config.clone() });
    for (name, _) in with_biases.iter().filter(|(name, _)| name.ends_with(".bias")) {
        if !weights.contains(name) {
            continue;
        }
        if weights.read(name)?.iter().any(|&x| x != 0.0) {
            return Err(Error::NonZeroBias { origin: weights.origin(), name: name.clone() });
        }
        weights.remove(name);
    }
    Ok(())
}

fn config_json(config: &ModelConfig) -> Value {
    let activation = match config.gelu {
        Gelu::Tanh => "gelu_new",
        Gelu::Erf => "gelu",
    };
    let ends = end_of_text(config);
    json!({
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
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
        "attn_type": attention_name(config.attention),
    })
}

fn generation_json(config: &ModelConfig) -> Value {
    let ends = end_of_text(config);
    json!({ "_from_model_config": true, "bos_token_id": ends, "eos_token_id": ends, "use_cache": true })
}

/// The token that ends a text, where the vocabulary can be GPT-2's.
fn end_of_text(config: &ModelConfig) -> Option<usize> {
    (config.vocab_size > GPT2_END_OF_TEXT).then_some(GPT2_END_OF_TEXT)
}

fn write_json(path: &Path, value: &Value) -> Result<(), Error> {
    fs::write(path, format!("{value:#}\n"))?;
    Ok(fs::File::open(path)?.sync_all()?)
}

fn read_config(path: &Path) -> Result<ModelConfig, Error> {
    let text = fs::read(path)?;
    let config_json =
        |error: serde_json::Error| Error::ConfigJson { path: path.into(), reason: error.to_string() };
    let keys: Value = serde_json::from_slice(&text).map_err(config_json)?;
    check_supported(path, &keys)?;
    let json: ConfigJson = serde_json::from_slice(&text).map_err(config_json)?;
    let config = ModelConfig {
        n_layer: json.n_layer,
        n_head: json.n_head,
        n_embd: json.n_embd,
        block_size: json.n_positions,
        vocab_size: json.vocab_size,
        bias: json.bias.unwrap_or(true),
        dropout: json.resid_pdrop,
        gelu: if json.activation_function == "gelu" { Gelu::Erf } else { Gelu::Tanh },
        attention: AttentionKind::Softmax,
    };
    config.validate()?;
    Ok(config)
}

/// Refuses what would silently be computed otherwise than its author meant.
fn check_supported(path: &Path, keys: &Value) -> Result<(), Error> {
    let inner = keys["n_embd"].as_u64().unwrap_or(0).saturating_mul(4);
    let rules = [
        ("model_type", json!(["gpt2"])),
        ("activation_function", json!(["gelu_new", "gelu_pytorch_tanh", "gelu"])),
        ("n_inner", json!([inner])),
        ("layer_norm_epsilon", json!([LAYER_NORM_EPS])),
        ("scale_attn_weights", json!([true])),
        ("scale_attn_by_inverse_layer_idx", json!([false])),
        ("tie_word_embeddings", json!([true])),
        ("attn_type", json!([attention_name(AttentionKind::Softmax)])),
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
