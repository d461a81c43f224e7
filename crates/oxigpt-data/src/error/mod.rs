//! Everything that can go wrong with data on disk or text to be prepared, with what was found, what was expected,
//! and what to do about it: an enum for each concern, and [`Error`], which is any of them.

mod dataset;
pub(crate) mod input;
mod prepare;
mod shard;
mod window;

use std::io;
use std::path::Path;

pub use dataset::DatasetError;
pub use input::InputError;
use oxigpt_text::Error as TextError;
pub use prepare::PrepareError;
pub use shard::ShardError;
pub use window::WindowError;

use crate::prepare::FetchError;

/// What the functions of this crate return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error about a shard, a dataset, a batch or a text to prepare.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused; the message names the path.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A tokenizer could not be built, or not encode the text.
    #[error(transparent)]
    Text(#[from] TextError),
    /// So many threads make no sense.
    #[error(transparent)]
    Threads(#[from] oxigpt_compute::Error),
    /// A file of tokens.
    #[error(transparent)]
    Shard(#[from] ShardError),
    /// A data directory, or the tokenizer of one.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// Windows of a stream of tokens.
    #[error(transparent)]
    Window(#[from] WindowError),
    /// A text to prepare.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The options of a preparation, or its output.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// An input could not be fetched.
    #[error("{0}")]
    Fetch(#[source] FetchError),
    /// Whoever watches asked to stop.
    #[error("interrupted; what is done is kept")]
    Interrupted,
}

impl Error {
    /// One sentence that says what to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Io(error) => io_hint(error),
            Error::Text(error) => error.hint(),
            Error::Threads(error) => error.hint(),
            Error::Shard(error) => error.hint(),
            Error::Dataset(error) => error.hint(),
            Error::Window(error) => error.hint(),
            Error::Input(error) => error.hint(),
            Error::Prepare(error) => error.hint(),
            Error::Fetch(_) => None,
            Error::Interrupted => Some("run the same command again to go on".to_owned()),
        }
    }

    /// The error with the place of the document that it is about.
    pub(crate) fn at(self, path: &Path, unit: &'static str, number: u64) -> Error {
        match self {
            Error::Text(source) => InputError::Unencodable { path: path.into(), unit, number, source }.into(),
            other => other,
        }
    }
}

/// A number of tokens in words.
pub(crate) fn tokens(count: u64) -> String {
    if count == 1 { "1 token".into() } else { format!("{count} tokens") }
}

fn io_hint(error: &io::Error) -> Option<String> {
    let hint = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            "free some disk space, or choose another disk; nothing half-written will be taken for whole"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "check the permissions of the file and of its directory"
        }
        io::ErrorKind::NotFound => "check the path",
        io::ErrorKind::IsADirectory => "a file belongs there: move the directory away",
        _ => return None,
    };
    Some(hint.to_string())
}
