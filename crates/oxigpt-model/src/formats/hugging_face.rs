//! A directory as Hugging Face's transformers writes it for GPT-2.
//!
//! `config.json` holds the configuration; the weights are `model.safetensors`, or several such files with an index,
//! or torch's `pytorch_model.bin`. What is written is float32 in one file. GPT2LMHeadModel always has biases: a
//! model without gets zeros on disk, which reading takes off again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use fs_err as fs;
use serde::Deserialize;
use serde_json::Value;

use super::config_json::{config_json, generation_json, read_config};
use super::mapped::MappedFile;
use super::names::{WithBiases, normalise, remove_zero_biases};
use super::{Format, Pretrained, safetensors, torch, write_tensors};
use crate::tensors::missing;
use crate::{Error, MappedTensors, ModelConfig, TensorSource};

pub(crate) const CONFIG: &str = "config.json";
const GENERATION_CONFIG: &str = "generation_config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const TORCH_WEIGHTS: &str = "pytorch_model.bin";

/// Writes `model.safetensors`, `config.json` and `generation_config.json` into an existing directory, and
/// syncs them. The source must have exactly the weights of `config`.
pub fn save_pretrained(
    dir: impl AsRef<Path>,
    config: &ModelConfig,
    weights: &(impl TensorSource + ?Sized),
) -> Result<(), Error> {
    let dir = dir.as_ref();
    let weights = WithBiases::of(config, weights)?;
    write_tensors(dir.join(WEIGHTS), &weights, &[("format", "pt")])?;
    save_config(dir, config)?;
    write_json(&dir.join(GENERATION_CONFIG), &generation_json(config))
}

/// Writes `config.json` alone into an existing directory, and syncs it.
pub fn save_config(dir: impl AsRef<Path>, config: &ModelConfig) -> Result<(), Error> {
    write_json(&dir.as_ref().join(CONFIG), &config_json(config))
}

/// Reads the `config.json` in a directory.
pub fn open_config(dir: impl AsRef<Path>) -> Result<ModelConfig, Error> {
    let config = read_config(&dir.as_ref().join(CONFIG))?;
    config.validate()?;
    Ok(config)
}

pub(crate) fn write_json(path: &Path, value: &Value) -> Result<(), Error> {
    fs::write(path, format!("{value:#}\n"))?;
    Ok(fs::File::open(path)?.sync_all()?)
}

/// Opens a directory that has a `config.json`.
pub(crate) fn open_directory(dir: &Path) -> Result<Pretrained, Error> {
    let config = read_config(&dir.join(CONFIG))?;
    let (single, index, torch_file) = (dir.join(WEIGHTS), dir.join(INDEX), dir.join(TORCH_WEIGHTS));
    let weights = if single.exists() {
        safetensors::map_all(MappedFile::open(single)?)?
    } else if index.exists() {
        map_shards(dir, &index)?
    } else if torch_file.exists() {
        torch::map_state_dict(MappedFile::open(torch_file)?)?
    } else {
        return Err(Error::NoWeights { dir: dir.into() });
    };
    assemble(config, weights)
}

/// A file of weights that lies beside its `config.json`.
pub(crate) fn with_config_beside(path: &Path, weights: MappedTensors) -> Result<Pretrained, Error> {
    assemble(read_config(&path.with_file_name(CONFIG))?, weights)
}

fn assemble(config: ModelConfig, mut weights: MappedTensors) -> Result<Pretrained, Error> {
    normalise(&mut weights)?;
    if !config.bias {
        remove_zero_biases(&mut weights, &config)?;
    }
    Pretrained::checked(config, weights, Format::HuggingFace, None)
}

/// The part of an index that says which file a tensor is in.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Opens the files that an index names. Each must lie in the directory, and hold what the index says.
fn map_shards(dir: &Path, path: &Path) -> Result<MappedTensors, Error> {
    let bad_json =
        |error: serde_json::Error| Error::ConfigJson { path: path.into(), reason: error.to_string() };
    let index: Index = serde_json::from_slice(&fs::read(path)?).map_err(bad_json)?;
    let mut shards = BTreeMap::new();
    for name in index.weight_map.values().collect::<BTreeSet<_>>() {
        let mut components = Path::new(name).components();
        let (Some(Component::Normal(_)), None) = (components.next(), components.next()) else {
            return Err(Error::ShardPath { path: path.into(), name: name.clone() });
        };
        shards.insert(name, safetensors::map_all(MappedFile::open(dir.join(name))?)?);
    }
    for (tensor, name) in &index.weight_map {
        if shards[name].get(tensor).is_none() {
            return Err(missing(&shards[name], tensor));
        }
    }
    MappedTensors::merge(&PathBuf::from(path), shards.into_values().collect())
}
