//! Downloads: models and data sets from the Hugging Face hub, and plain files from anywhere.
//!
//! What comes from the hub is kept in the cache that the Python tools share, in their layout. A transfer that breaks
//! goes on where it stopped, in the same process or the next one; a file gets its name only when it is whole and its
//! checksum is right. The token is sent to the hub's own address and to nobody else. Nothing here knows what is in
//! the files, and nothing prints: whoever calls is told through a callback, and can stop a transfer in it.

mod cache;
mod client;
mod error;
mod hub;
mod progress;
mod repo;
mod settings;
mod transfer;
mod url;

pub use error::{Error, Result};
pub use hub::{Hub, RemoteFile};
pub use progress::{OnProgress, Progress, Stage};
pub use repo::{Kind, RepoId};
pub use settings::{Settings, Token};
