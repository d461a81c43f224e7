//! Where text comes from: a format and a list of inputs. An input is a file, a text in memory, standard input, or a
//! function that fetches a file when its turn has come, so that this crate needs no network.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a function that fetches a file may fail with.
pub type FetchError = Box<dyn std::error::Error + Send + Sync>;

/// How documents stand in the inputs. Any of them may be compressed with gzip or zstd as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Format {
    /// Each input is a document.
    Text,
    /// Each line is a JSON object, and a document is one of its fields.
    Jsonl {
        /// The name of the field.
        field: String,
    },
    /// Each row is a document, in one column.
    Parquet {
        /// The name of the column, with dots where it is inside a group.
        column: String,
    },
}

/// The inputs of a preparation, in order.
#[derive(Clone, Debug)]
pub struct Source {
    /// What they hold.
    pub format: Format,
    /// What they are.
    pub inputs: Vec<Input>,
}

/// One input.
#[derive(Clone, Debug)]
pub struct Input {
    /// What `dataset.json` calls it.
    pub name: String,
    /// Where it is.
    pub place: Place,
    /// Its length, as far as it is known beforehand: it is what progress is measured by.
    pub bytes: u64,
    /// Its SHA-256 in hexadecimal, where somebody has checked it already; otherwise it is computed.
    pub sha256: Option<String>,
    /// Whether it is for validation, where whole inputs are.
    pub val: bool,
}

/// Where an input is.
#[derive(Clone)]
pub enum Place {
    /// A file, or a named pipe.
    File(PathBuf),
    /// A text.
    Memory(Arc<str>),
    /// What is piped to this program.
    Stdin,
    /// A copy of what was piped; messages speak of the input by its name.
    Saved(PathBuf),
    /// A file that is not there yet.
    Fetched(Arc<dyn Fetch>),
}

/// A file that is fetched when it is needed.
pub trait Fetch: Send + Sync {
    /// Where it is, from now on.
    ///
    /// # Errors
    /// Whatever prevents it; the preparation ends with [`crate::Error::Fetch`] and can be resumed.
    fn fetch(&self) -> Result<PathBuf, FetchError>;

    /// Is told that the file is not needed any more: all that was made of it is safe on the disk.
    fn release(&self);
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File(path) => write!(f, "File({})", path.display()),
            Place::Memory(text) => write!(f, "Memory({} bytes)", text.len()),
            Place::Stdin => f.write_str("Stdin"),
            Place::Saved(path) => write!(f, "Saved({})", path.display()),
            Place::Fetched(_) => f.write_str("Fetched"),
        }
    }
}

impl Input {
    /// What errors call it: by its path, as far as that says something to whoever named it.
    pub(crate) fn called<'a>(&'a self, path: Option<&'a Path>) -> &'a Path {
        path.filter(|_| !matches!(self.place, Place::Saved(_))).unwrap_or(Path::new(&self.name))
    }

    /// A file, called by its name without its folder.
    pub fn file(path: impl Into<PathBuf>) -> Input {
        let path = path.into();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let bytes = fs_err::metadata(&path).map_or(0, |metadata| metadata.len());
        Input { name, place: Place::File(path), bytes, sha256: None, val: false }
    }
}
