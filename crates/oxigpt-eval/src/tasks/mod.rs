//! Tasks with published protocols: HellaSwag, LAMBADA, WikiText. Each has a reader of its file, and a function that
//! scores a model on what was read; a file can be read once and scored many times during training.

mod accuracy;
mod error;
pub mod hellaswag;
pub mod lambada;
mod records;
pub mod wikitext;

pub use accuracy::Accuracy;
pub use error::TaskError;
pub use hellaswag::{HellaSwag, hellaswag};
pub use lambada::{Lambada, lambada};
pub use wikitext::{WikiText, wikitext};
