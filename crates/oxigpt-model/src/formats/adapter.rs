//! Low-rank adapters on disk, as Hugging Face's peft has them for GPT-2: `adapter_config.json` beside
//! `adapter_model.safetensors`, whose matrices are those of torch's linear layers, `[out, in]`.
//!
//! peft would put adapters on a model with softmax attention. Those of a model with another kind have a `peft_type` that
//! it does not know, so that it refuses them.

use std::borrow::Cow;
use std::fmt::Display;
use std::path::Path;

use fs_err as fs;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::hugging_face::write_json;
use super::mapped::{MappedFile, for_tiles};
use super::{safetensors, write_tensors};
use crate::tensors::check;
use crate::{AttentionKind, Error, Lora, LoraTargets, MappedTensors, ModelConfig, TensorSource};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// What peft puts before the names of transformers' GPT-2.
const PREFIX: &str = "base_model.model.transformer.";
const LORA: &str = "LORA";

/// The part of `adapter_config.json` that is read.
#[derive(Deserialize)]
struct AdapterConfig {
    peft_type: String,
    r: usize,
    lora_alpha: f64,
    target_modules: Value,
    base_model_name_or_path: Option<String>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// Whether a directory holds adapters.
pub fn is_adapter(dir: &Path) -> bool {
    dir.join(CONFIG).is_file()
}

/// Writes the adapters of a model into an existing directory, and syncs them. `base` is what they adapt: a path, or an id
/// on the hub.
pub fn save_adapters(
    dir: &Path,
    config: &ModelConfig,
    lora: &Lora,
    base: &str,
    tensors: &(impl TensorSource + ?Sized),
) -> Result<(), Error> {
    write_tensors(dir.join(WEIGHTS), &AsTorch(tensors), &[("format", "pt")])?;
    let value = json!({
        "peft_type": peft_type(config),
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "target_modules": lora.targets.names().collect::<Vec<_>>(),
        "fan_in_fan_out": true,
        "bias": "none",
        "inference_mode": true,
    });
    write_json(&dir.join(CONFIG), &value)
}

fn peft_type(config: &ModelConfig) -> String {
    match config.attention {
        AttentionKind::Softmax => LORA.into(),
        kind => format!("{LORA} of {kind} attention"),
    }
}

fn bad_config(dir: &Path, reason: &dyn Display) -> Error {
    Error::AdapterConfig { path: dir.join(CONFIG), reason: reason.to_string() }
}

fn read_config(dir: &Path) -> Result<AdapterConfig, Error> {
    serde_json::from_slice(&fs::read(dir.join(CONFIG))?).map_err(|error| bad_config(dir, &error))
}

/// What the adapters in a directory say that they adapt: a path, or an id on the hub.
pub fn adapted_model(dir: &Path) -> Result<Option<String>, Error> {
    Ok(read_config(dir)?.base_model_name_or_path)
}

/// Opens the adapters in a directory, which must be those of a model of that configuration. Their tensors have our names
/// and our layout.
pub fn open_adapters(dir: &Path, config: &ModelConfig) -> Result<(Lora, MappedTensors), Error> {
    let adapter = read_config(dir)?;
    adapter.check_supported(config).map_err(|reason| bad_config(dir, &reason))?;
    let names: Option<Vec<&str>> =
        adapter.target_modules.as_array().and_then(|names| names.iter().map(Value::as_str).collect());
    let names = names.ok_or_else(|| bad_config(dir, &"`target_modules` is no list of names"))?;
    let (rank, alpha) = (adapter.r, adapter.lora_alpha);
    let lora = Lora { rank, alpha, targets: LoraTargets::parse(&names.join(","))? };
    lora.validate(config)?;

    let mut tensors = safetensors::map_all(MappedFile::open(dir.join(WEIGHTS))?)?;
    tensors.check_elements()?;
    tensors.rename(|name| Some(name.strip_prefix(PREFIX).unwrap_or(name).to_owned()))?;
    tensors.transpose(|_| true);
    check(&tensors, &lora.shapes(config))?;
    Ok((lora, tensors))
}

impl AdapterConfig {
    /// Refuses what would make these adapters compute something else than they do here.
    fn check_supported(&self, config: &ModelConfig) -> Result<(), String> {
        let expected = peft_type(config);
        if self.peft_type != expected {
            return Err(format!(
                "`peft_type` is \"{}\", but only \"{expected}\" is supported",
                self.peft_type
            ));
        }
        let is_empty = |value: &Value| match value {
            Value::Null | Value::Bool(false) => true,
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            Value::String(text) => text == "none",
            _ => false,
        };
        let keys = ["bias", "use_rslora", "use_dora", "modules_to_save", "rank_pattern", "alpha_pattern"];
        let keys = keys.iter().chain(&["layers_to_transform", "layer_replication", "lora_bias"]);
        match keys.copied().find(|&key| self.others.get(key).is_some_and(|value| !is_empty(value))) {
            Some(key) => Err(format!("`{key}` is {}, which is not supported", self.others[key])),
            None => Ok(()),
        }
    }
}

/// Adapters under peft's names, transposed.
struct AsTorch<'a, S: ?Sized>(&'a S);

impl<S: TensorSource + ?Sized> TensorSource for AsTorch<'_, S> {
    fn origin(&self) -> String {
        self.0.origin()
    }

    fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        let renamed = |(name, shape): (String, Vec<usize>)| {
            (format!("{PREFIX}{name}"), shape.into_iter().rev().collect())
        };
        self.0.shapes().into_iter().map(renamed).collect()
    }

    fn read(&self, name: &str) -> Result<Cow<'_, [f32]>, Error> {
        let own = name.strip_prefix(PREFIX).unwrap_or(name);
        let data = self.0.read(own)?;
        let shapes = self.0.shapes();
        let columns = shapes.iter().find(|(other, _)| other == own).map_or(1, |(_, shape)| shape[1]);
        let rows = data.len() / columns;
        let mut transposed = vec![0.0; data.len()];
        for_tiles(rows, columns, |row, column| {
            transposed[column * rows + row] = data[row * columns + column];
        });
        Ok(transposed.into())
    }
}
