//! HellaSwag (Zellers et al. 2019): which of four endings goes on with a text, by how likely the model finds them.
//!
//! Two definitions are published, whose numbers differ. They are kept apart here, each under its name:
//! [`Protocol::BuildNanoGpt`] and [`Protocol::LmEval`].
//!
//! [`read`] gives the items of a file, [`Questions`] are their tokens, and [`hellaswag`] scores a model on them. The
//! context of an item is read once, not once for each ending.

mod clean;
mod item;
mod questions;
mod references;
mod scoring;

pub use item::{Item, read};
pub use questions::{Missing, Protocol, Questions};
pub use references::{REFERENCES, Reference};
pub use scoring::{HellaSwag, MOST_ITEMS, Scores, hellaswag};
