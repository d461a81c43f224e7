//! Models on disk, in the formats of the programs that make GPT-2s.
//!
//! Each reader here makes the same of its file: a [`ModelConfig`], and a table of views ([`MappedTensors`]) under
//! the names and in the layouts of [`parameter_shapes`]. Nothing is read before it is asked for, and nothing is held
//! twice. Whatever a file claims is checked before it is believed.

mod adapter;
mod config_json;
mod hugging_face;
mod llmc;
mod mapped;
mod names;
mod nano_gpt;
mod safetensors;
mod torch;

use std::fmt;
use std::path::Path;

pub use adapter::{adapted_model, is_adapter, open_adapters, save_adapters};
pub use hugging_face::{open_config, save_config, save_pretrained};
pub use llmc::{Precision, save_llmc};
pub use mapped::MappedTensors;
pub use safetensors::{map_tensors, write_tensors};

use mapped::MappedFile;

use crate::tensors::check;
use crate::{Error, ModelConfig, parameter_shapes};

/// nanoGPT's name for its checkpoint.
const NANO_GPT_CHECKPOINT: &str = "ckpt.pt";

/// A model as some program left it on disk.
#[derive(Debug)]
pub struct Pretrained {
    /// What model it is.
    pub config: ModelConfig,
    /// Its weights: exactly those of `config`.
    pub weights: MappedTensors,
    /// What it was found to be.
    pub format: Format,
    /// The data set that a nanoGPT checkpoint names as its own; characters have their numbers there.
    pub dataset: Option<String>,
}

/// Formats of models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A directory with `config.json` and weights, as transformers writes it, and so does this program.
    HuggingFace,
    /// nanoGPT's `ckpt.pt`.
    NanoGpt,
    /// build-nanogpt's `model_XXXXX.pt`.
    BuildNanoGpt,
    /// llm.c's model file.
    LlmC,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::HuggingFace => "Hugging Face directory",
            Format::NanoGpt => "nanoGPT checkpoint",
            Format::BuildNanoGpt => "build-nanogpt checkpoint",
            Format::LlmC => "llm.c model",
        })
    }
}

/// Opens a model, recognised by its content: a Hugging Face directory, or the file of weights beside its
/// `config.json`; a nanoGPT or build-nanogpt checkpoint, or nanoGPT's directory with `ckpt.pt`; an llm.c model file.
///
/// The weights stay in their file, mapped, until they are read; that they are exactly those of the configuration
/// has been checked.
pub fn open_pretrained(path: impl AsRef<Path>) -> Result<Pretrained, Error> {
    let path = path.as_ref();
    if !fs_err::metadata(path)?.is_dir() {
        return open_file(path);
    }
    if path.join(hugging_face::CONFIG).exists() {
        return hugging_face::open_directory(path);
    }
    let checkpoint = path.join(NANO_GPT_CHECKPOINT);
    if checkpoint.exists() {
        return open_file(&checkpoint);
    }
    Err(Error::NoModel { dir: path.into() })
}

fn open_file(path: &Path) -> Result<Pretrained, Error> {
    let file = MappedFile::open(path)?;
    if llmc::is_llmc(file.bytes()) {
        return llmc::open(file);
    }
    if safetensors::is_safetensors(file.bytes()) {
        return hugging_face::with_config_beside(path, safetensors::map_all(file)?);
    }
    if torch::is_legacy(file.bytes()) {
        return Err(Error::OldTorch { path: path.into() });
    }
    if torch::is_zip(file.bytes()) {
        return match nano_gpt::open(file)? {
            nano_gpt::Opened::Model(model) => Ok(*model),
            nano_gpt::Opened::StateDict(weights) => hugging_face::with_config_beside(path, weights),
        };
    }
    Err(Error::UnknownFormat { path: path.into() })
}

impl Pretrained {
    /// Accounts for every tensor.
    fn checked(
        config: ModelConfig,
        weights: MappedTensors,
        format: Format,
        dataset: Option<String>,
    ) -> Result<Pretrained, Error> {
        config.validate()?;
        weights.check_elements()?;
        check(&weights, &parameter_shapes(&config))?;
        Ok(Pretrained { config, weights, format, dataset })
    }
}
