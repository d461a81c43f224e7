//! From what a user calls a model to a model: a path on this machine, or else an id on the hub.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use oxigpt_model::ModelConfig;
use oxigpt_train::Model;
use oxigpt_train::settings::nearest;

use crate::fetch;
use crate::hint::CliError;

/// The published models, by the ids that the hub knows them under.
const PUBLISHED: [&str; 4] = ["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"];

/// Endings that no hub id has, and files have.
const EXTENSIONS: [&str; 7] = ["pt", "pth", "bin", "safetensors", "json", "toml", "pkl"];

/// Opens the model of a name; what is not on this machine is fetched first.
pub(crate) fn open(name: &str) -> Result<Model> {
    let path = locate(name)?;
    Ok(Model { name: name.to_owned(), ..Model::open(&path)? })
}

/// The shape of the model of a name. That of a published one is known.
pub(crate) fn shape(name: &str) -> Result<ModelConfig> {
    if PUBLISHED.contains(&name) && !Path::new(name).exists() {
        return Ok(ModelConfig::preset(name)?);
    }
    Ok(open(name)?.config)
}

/// The error for a model whose text nobody knows.
pub(crate) fn no_tokenizer(name: &str, config: &ModelConfig) -> CliError {
    CliError::failure(
        format!("{name} has no tokenizer: nothing says which words its {} tokens are", config.vocab_size),
        "put the files of its tokenizer beside its weights: tokenizer.json, or nanoGPT's meta.pkl",
    )
}

/// Where the model of a name is on this machine, possibly from now on.
fn locate(name: &str) -> Result<PathBuf> {
    let path = Path::new(name);
    if path.exists() {
        return Ok(path.to_owned());
    }
    if name.is_empty() {
        return Err(CliError::usage(
            "the name of the model is empty",
            "name a path, such as out/demo, or a model of the Hugging Face hub, such as gpt2",
        )
        .into());
    }
    if !is_hub_id(name) {
        return Err(no_such_path(name).into());
    }
    fetch::model(name).with_context(|| format!("{name} is no path here; from the hub"))
}

/// Whether a name that is no path on this machine can only be meant for the hub: one of the published models, or
/// `owner/name` where there is no folder of the owner's name that it could have been meant to be in.
fn is_hub_id(name: &str) -> bool {
    let is_word = |word: &str| {
        word.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    let has_extension = || EXTENSIONS.iter().any(|extension| name.ends_with(&format!(".{extension}")));
    match name.split_once('/') {
        None => PUBLISHED.contains(&name),
        Some((owner, model)) => {
            is_word(owner) && is_word(model) && !has_extension() && !Path::new(owner).exists()
        }
    }
}

fn no_such_path(name: &str) -> CliError {
    let hint = match nearest(name, PUBLISHED) {
        Some(near) if !name.contains(['/', '\\']) => format!("did you mean `{near}`?"),
        _ => format!(
            "check the path; models of the Hugging Face hub are {} and OWNER/NAME",
            PUBLISHED.join(", ")
        ),
    };
    CliError::failure(format!("there is no model {name}: no such file or directory"), hint)
}
