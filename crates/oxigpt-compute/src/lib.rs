//! The plan of a training step, and the backends that execute it.
//!
//! A GPT's step is known before it runs. A [`Builder`] writes it down once as a [`Plan`]: tensors, and phases
//! of operators over them, with adjoints and update appended. A [`Session`] joins a plan to a [`Backend`],
//! which gives every tensor its place in one arena and executes the phases; nothing is allocated while it runs.
//!
//! This crate knows nothing of files, text, models or command lines.

mod adjoint;
mod arena;
mod attention_kind;
mod backend;
mod bfloat16;
mod builder;
mod cost;
pub mod cpu;
pub mod cuda;
pub mod dropout;
mod error;
mod op;
mod operands;
pub mod philox;
mod plan;
mod precision;
mod recompute;
pub mod reference;
mod session;
mod storage;
mod tensor;

pub use attention_kind::{Activation, AttentionError, AttentionKind, AttentionScale};
pub use backend::{Backend, Data, DataMut};
pub use builder::{Builder, LinearWeights, NormWeights};
pub use cost::Cost;
pub use error::Error;
pub use op::{
    AdamWConfig, AdamWSlot, ClassifierGrad, Dropout, Gelu, Op, Places, SquaredErrorGrad, WeightLayout,
};
pub use operands::Operands;
pub use plan::{Phase, PhaseId, Plan};
pub use precision::Precision;
pub use recompute::Recompute;
pub use session::{OpTime, Session};
pub use storage::Storage;
pub use tensor::{Dtype, Role, Tensor, TensorId};

/// Added to the variance in every layer norm, as in all GPT-2 code.
pub const LAYER_NORM_EPS: f64 = 1e-5;
