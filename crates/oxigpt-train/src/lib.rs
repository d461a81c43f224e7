//! Training runs: settings, the loop, checkpoints, metrics, run directories.
//!
//! [`train`] carries out a [`Request`] and tells an [`Observer`] what happens. It never parses a command line and
//! never prints. [`Estimate`] says what a run will take before it takes it.

mod base;
pub mod bench;
mod checkpoint;
mod checksum;
mod corpus;
pub mod data_sheet;
mod divergence;
pub mod durable;
mod error;
mod estimate;
mod eval_only;
mod event;
mod export;
mod fit;
mod hellaswag;
mod history;
mod job;
pub mod machine;
mod metrics;
mod model;
mod resume;
mod run;
mod run_dir;
mod sampler;
mod schedule;
pub mod settings;
mod trainer;
pub mod words;

pub use corpus::{open_dataset, planned_vocab_size};
pub use divergence::{DataPosition, Divergence, GradientNorm};
pub use error::Error;
pub use estimate::Estimate;
pub use event::{Eval, Event, HellaSwagScore, Observer, Sample, Saved, Started, Summary, Train};
pub use export::discard_partial;
pub use fit::{fit, fit_to};
pub use hellaswag::planned_scoring;
pub use history::{EvalPoint, History, TrainPoint};
pub use model::{Model, ModelWeights};
pub use run::{Outcome, Request, train};
pub use schedule::learning_rate;
pub use trainer::{StepReport, Trainer};
