//! What can go wrong with a model: impossible shapes, foreign files, senseless sampling.

use std::io::ErrorKind;
use std::path::PathBuf;

use thiserror::Error;

/// Errors of this crate.
#[derive(Debug, Error)]
pub enum Error {
    /// No such size.
    #[error("there is no model size `{name}`")]
    UnknownPreset {
        /// What was asked for.
        name: String,
    },
    /// A size that must not be zero.
    #[error("{key} is 0, but must be at least 1")]
    Zero {
        /// Which.
        key: &'static str,
    },
    /// Heads do not share the width evenly.
    #[error("n_embd {n_embd} is not divisible by n_head {n_head}")]
    Heads {
        /// Width.
        n_embd: usize,
        /// Heads.
        n_head: usize,
    },
    /// A probability outside its range.
    #[error("dropout is {value}, but must be at least 0 and below 1")]
    Dropout {
        /// The value.
        value: f64,
    },
    /// More than can be counted, let alone held.
    #[error("{what} would be {value}, more than the {limit} that can be handled")]
    TooLarge {
        /// What.
        what: &'static str,
        /// How many.
        value: u128,
        /// How many at most.
        limit: u128,
    },
    /// More positions than the model has.
    #[error("block_size {block_size} is more than the {limit} positions of the model")]
    BlockSize {
        /// Positions asked for.
        block_size: usize,
        /// Positions of the model.
        limit: usize,
    },
    /// Nothing to continue.
    #[error("the prompt has no tokens")]
    EmptyPrompt,
    /// A prompt from another tokenizer.
    #[error("token {index} of the prompt is {token}, but the model has {vocab_size} words")]
    PromptToken {
        /// Which token.
        index: usize,
        /// Its value.
        token: u32,
        /// Words of the model.
        vocab_size: usize,
    },
    /// Nothing to choose from.
    #[error("top_k is 0")]
    TopK,
    /// Not a temperature.
    #[error("temperature is {value}, but must be 0 (greedy) or more")]
    Temperature {
        /// The value.
        value: f64,
    },
    /// The model gives no probabilities.
    #[error("the logits after {tokens} tokens are not finite")]
    NotFinite {
        /// Tokens before.
        tokens: usize,
    },
    /// A tensor that the model has and its source does not.
    #[error("{origin}: tensor `{name}` is missing")]
    MissingTensor {
        /// Source.
        origin: String,
        /// Tensor.
        name: String,
    },
    /// A tensor that the model does not have.
    #[error("{origin}: tensor `{name}` does not belong to this model")]
    SurplusTensor {
        /// Source.
        origin: String,
        /// Tensor.
        name: String,
    },
    /// A tensor of another shape.
    #[error("{origin}: tensor `{name}` has shape {found:?}, but the model needs {expected:?}")]
    TensorShape {
        /// Source.
        origin: String,
        /// Tensor.
        name: String,
        /// What the model needs.
        expected: Vec<usize>,
        /// What there is.
        found: Vec<usize>,
    },
    /// A tensor of another element type.
    #[error("{origin}: tensor `{name}` holds {found}, but only F32 is read", origin = path.display())]
    TensorType {
        /// File.
        path: PathBuf,
        /// Tensor.
        name: String,
        /// What it holds.
        found: String,
    },
    /// A bias in a model that has none.
    #[error("{origin}: tensor `{name}` is not zero, but config.json says \"bias\": false")]
    NonZeroBias {
        /// Source.
        origin: String,
        /// Tensor.
        name: String,
    },
    /// Not the file it should be.
    #[error("{path} is no safetensors file: {reason}", path = path.display())]
    NotSafetensors {
        /// File.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A configuration that cannot be read.
    #[error("{path}: {reason}", path = path.display())]
    ConfigJson {
        /// File.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A configuration of another model.
    #[error("{path}: `{key}` is {found}, but only {supported} is supported", path = path.display())]
    Unsupported {
        /// File.
        path: PathBuf,
        /// Key.
        key: &'static str,
        /// Its value.
        found: String,
        /// What it may be.
        supported: String,
    },
    /// A file that cannot be read or written; the message names it.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The plan and its backend.
    #[error(transparent)]
    Compute(#[from] oxigpt_compute::Error),
}

impl Error {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Error::UnknownPreset { .. } => {
                "the sizes are gpt2, gpt2-medium, gpt2-large and gpt2-xl; \
                 others are set by n_layer, n_head and n_embd"
            }
            Error::Zero { key } => return Some(format!("set --{key} to a positive number")),
            Error::Heads { n_embd, n_head } => {
                let (down, up) = (n_embd / n_head * n_head, n_embd.next_multiple_of(*n_head));
                let nearest = if down == 0 { up } else { down };
                return Some(format!("use --n_embd={nearest}, or another --n_head"));
            }
            Error::Dropout { .. } => "0 switches it off; 0.1 or 0.2 is usual for small data",
            Error::TooLarge { .. } => "use a smaller model or batch",
            Error::BlockSize { limit, .. } => return Some(format!("use --block_size={limit} or less")),
            Error::EmptyPrompt => "give at least one token to continue, for example a line break",
            Error::PromptToken { .. } => "encode the prompt with the tokenizer the model was trained with",
            Error::TopK => "leave top_k out to choose among all words, or set it to 1 or more",
            Error::Temperature { .. } => "0 takes the likeliest word; 0.8 is usual",
            Error::NotFinite { .. } => {
                "the weights are damaged or training has diverged: use an earlier checkpoint"
            }
            Error::MissingTensor { .. } | Error::SurplusTensor { .. } | Error::TensorShape { .. } => {
                "the weights and the configuration (config.json) belong to different models"
            }
            Error::TensorType { .. } => "convert the weights to float32",
            Error::NonZeroBias { .. } => "remove \"bias\": false from config.json",
            Error::NotSafetensors { .. } => {
                "the file is damaged, cut short or of another format: fetch or save it again"
            }
            Error::ConfigJson { .. } | Error::Unsupported { .. } => {
                "the directory must hold a GPT-2 as Hugging Face's transformers saves it"
            }
            Error::Io(error) => match error.kind() {
                ErrorKind::NotFound => {
                    "check the path: a model's directory holds config.json and model.safetensors"
                }
                ErrorKind::StorageFull => "make room on the disk, or write elsewhere",
                _ => return None,
            },
            Error::Compute(error) => return error.hint(),
        };
        Some(hint.into())
    }
}
