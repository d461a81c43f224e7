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
    /// A name that no linear layer of a block has, or none at all.
    #[error("{}", if name.is_empty() {
        "no linear layer is named that could have an adapter".to_owned()
    } else {
        format!("no linear layer of a block is called `{name}`")
    })]
    LoraTarget {
        /// What was named.
        name: String,
    },
    /// Adapters of a rank that they cannot have.
    #[error("lora_rank is {rank}, but must be between 1 and n_embd = {n_embd}")]
    LoraRank {
        /// The rank.
        rank: usize,
        /// Width of the model.
        n_embd: usize,
    },
    /// Adapters that do nothing, or everything.
    #[error("lora_alpha is {alpha}, but must be a number above 0")]
    LoraAlpha {
        /// The value.
        alpha: f64,
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
    /// Two tensors of one name.
    #[error("{origin}: tensor `{name}` is there twice")]
    DuplicateTensor {
        /// Source.
        origin: String,
        /// Tensor.
        name: String,
    },
    /// An output layer of its own.
    #[error("{origin}: `lm_head.weight` is not the word embedding `wte.weight`, as it is in a GPT-2")]
    UntiedHead {
        /// Source.
        origin: String,
    },
    /// A tensor of another element type.
    #[error("{origin}: tensor `{name}` holds {found}, but only F32, F16 and BF16 are read", origin = path.display())]
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
    #[error("{path} is no {what}: {reason}", path = path.display())]
    Malformed {
        /// File.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A checkpoint whose pickle is refused.
    #[error("{path}: {source}", path = path.display())]
    Pickle {
        /// File.
        path: PathBuf,
        /// Why.
        source: oxigpt_pickle::Error,
    },
    /// A file of torch before 1.6.
    #[error("{path} was saved by a PyTorch before 1.6, in a format of its own", path = path.display())]
    OldTorch {
        /// File.
        path: PathBuf,
    },
    /// A file of none of the formats.
    #[error("{path} is no model in a known format", path = path.display())]
    UnknownFormat {
        /// File.
        path: PathBuf,
    },
    /// A directory without a model.
    #[error("{dir} holds no model: it has neither config.json nor ckpt.pt", dir = dir.display())]
    NoModel {
        /// Directory.
        dir: PathBuf,
    },
    /// A directory with a configuration alone.
    #[error("{dir} has a config.json, but no model.safetensors beside it", dir = dir.display())]
    NoWeights {
        /// Directory.
        dir: PathBuf,
    },
    /// An index that points elsewhere.
    #[error("{path} names the file `{name}`, which is not in its directory", path = path.display())]
    ShardPath {
        /// Index.
        path: PathBuf,
        /// File.
        name: String,
    },
    /// A model that llm.c would not compute as it is.
    #[error("llm.c has no such model: {what}")]
    NotForLlmC {
        /// Why.
        what: &'static str,
    },
    /// A configuration that cannot be read.
    #[error("{path}: {reason}", path = path.display())]
    ConfigJson {
        /// File.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// What describes adapters cannot be read, or describes others than we have.
    #[error("{path}: {reason}", path = path.display())]
    AdapterConfig {
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
            Error::LoraTarget { .. } => {
                "the linear layers are attn.c_attn, attn.c_proj, mlp.c_fc, mlp.c_proj: name some, separated by commas"
            }
            Error::LoraRank { .. } => "4 to 64 are usual: --lora_rank=16",
            Error::LoraAlpha { .. } => {
                "what adapters change is scaled by lora_alpha / lora_rank: --lora_alpha=16"
            }
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
                "the weights and the configuration beside them belong to different models"
            }
            Error::DuplicateTensor { .. } => "keep one of them, and save the model again",
            Error::UntiedHead { .. } => "only models with \"tie_word_embeddings\": true are supported",
            Error::TensorType { .. } => "convert the weights to float32",
            Error::NonZeroBias { .. } => "remove \"bias\": false from config.json",
            Error::Malformed { .. } => {
                "the file is damaged, cut short or of another format: fetch or save it again"
            }
            Error::Pickle { source, .. } => return source.hint(),
            Error::OldTorch { .. } => "load it in Python with torch.load, and torch.save it again",
            Error::UnknownFormat { .. } | Error::NoModel { .. } => {
                "a model is a directory with config.json and model.safetensors, nanoGPT's ckpt.pt, or llm.c's .bin"
            }
            Error::NoWeights { .. } => {
                "the weights must be model.safetensors, model.safetensors.index.json with its files, or \
                 pytorch_model.bin"
            }
            Error::ShardPath { .. } => "the files of a model lie in one directory: fetch it again",
            Error::NotForLlmC { .. } => {
                "write a Hugging Face directory instead, which says how it is computed"
            }
            Error::ConfigJson { .. } | Error::Unsupported { .. } => {
                "only GPT-2s are read, as Hugging Face's transformers, nanoGPT or llm.c save them"
            }
            Error::AdapterConfig { .. } => {
                "adapters are read as peft saves plain LoRA of a GPT-2; if they are a damaged checkpoint of a run, \
                 remove it and resume from the one before"
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
