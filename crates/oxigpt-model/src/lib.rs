//! The GPT: its configuration, parameters, initial weights, the plans of its training step, evaluation and
//! cached decoding, and its weights on disk.
//!
//! The model itself is one function, [`forward`]. Everything else here prepares what it needs or uses what it
//! gives. This crate names no device (a plan runs on any backend of `oxigpt-compute`) and knows nothing of
//! training runs.

mod config;
mod decoder;
mod distill;
mod error;
mod formats;
mod gpt;
mod init;
mod lora;
mod plans;
mod sampling;
mod score_range;
mod scorer;
mod tensors;
mod weights;

pub use config::{ModelConfig, ParameterCount};
pub use decoder::{DecodeShape, Decoder, SampleOptions, generate, generate_side_by_side};
pub use distill::Distill;
pub use error::Error;
pub use formats::{
    Format, MappedTensors, Precision, Pretrained, adapted_model, is_adapter, map_tensors, open_adapters,
    open_config, open_pretrained, save_adapters, save_config, save_llmc, save_pretrained, write_tensors,
};
pub use gpt::{Site, attention, dropout_at, forward};
pub use init::Initial;
pub use lora::{InitialLora, Lora, LoraTargets, Merged};
pub use oxigpt_compute::{
    Activation, AdamWConfig, AttentionError, AttentionKind, AttentionScale, Gelu, Recompute, Storage,
};
pub use plans::{Evaluate, Term, TrainPhases, TrainPlan, TrainShape, decode_plan, eval_plan, score_plan};
pub use sampling::sample;
pub use score_range::ScoreRange;
pub use scorer::Scorer;
pub use tensors::{NamedTensor, NamedTensors, SessionTensors, TensorSource, TensorTable, TensorTableEntry};
pub use weights::{Adapter, BlockWeights, Linear, Trained, Weights, parameter_shapes};
