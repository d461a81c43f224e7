//! What can go wrong with a task: files that are not what they should be, and models that cannot be asked.

use std::io;
use std::path::PathBuf;

/// Errors of the tasks.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// A file cannot be read; the message names it.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A backend refused.
    #[error(transparent)]
    Compute(#[from] oxigpt_compute::Error),
    /// The model refused.
    #[error(transparent)]
    Model(#[from] oxigpt_model::Error),

    /// A file that is no text.
    #[error("{path}: line {line} is not UTF-8", path = path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
    },
    /// A line that is no JSON object.
    #[error("{path}: line {line} is not a JSON object: {reason}", path = path.display())]
    NotJson {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What the parser says.
        reason: String,
    },
    /// A key that is needed is not there.
    #[error("{path}: line {line} has no key \"{key}\"", path = path.display())]
    MissingKey {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// The key.
        key: &'static str,
    },
    /// A key has a value that it cannot have.
    #[error("{path}: line {line}: \"{key}\" is {found}, expected {expected}", path = path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// The key.
        key: &'static str,
        /// The value, or what kind of value it is.
        found: String,
        /// What it should be.
        expected: &'static str,
    },
    /// Nothing to score.
    #[error("{path} has {found}", path = path.display())]
    Empty {
        /// The file.
        path: PathBuf,
        /// What it has: no items, no text.
        found: &'static str,
    },

    /// A tokenizer that does not have the text's characters.
    #[error("item {item} cannot be put into tokens: {source}")]
    Encode {
        /// Item, from 1.
        item: usize,
        /// What the tokenizer says.
        source: oxigpt_text::Error,
    },
    /// A text that the tokenizer makes nothing of.
    #[error("the context or an ending of item {item} has no tokens")]
    NoTokens {
        /// Item, from 1.
        item: usize,
    },
    /// An answer that the model cannot hold.
    #[error("an answer of item {item} has {tokens} tokens, and block_size is {block_size}")]
    TooLong {
        /// Item, from 1.
        item: usize,
        /// Tokens of the answer.
        tokens: usize,
        /// Positions.
        block_size: usize,
    },
    /// A text without targets.
    #[error("the text has no token that another stands before")]
    NoTargets,
    /// A model that has fallen apart.
    #[error("the model gives item {item} a loss that is not a finite number")]
    NotFinite {
        /// Item, from 1.
        item: usize,
    },
}

impl TaskError {
    /// What to do about it, in one sentence.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            TaskError::Io(error) => match error.kind() {
                io::ErrorKind::NotFound => "check the path",
                io::ErrorKind::IsADirectory => "name the file in it",
                _ => return None,
            },
            TaskError::Compute(error) => return error.hint(),
            TaskError::Model(error) => return error.hint(),
            TaskError::NotUtf8 { .. } => {
                "name a text file, with one JSON object a line for all tasks but wikitext"
            }
            TaskError::NotJson { .. } => {
                "every line of the file must be one JSON object; download the file again"
            }
            TaskError::MissingKey { key: "label", .. } => {
                "test sets are published without labels: use the validation set, hellaswag_val.jsonl"
            }
            TaskError::MissingKey { .. } | TaskError::Value { .. } => {
                "use the file as it is published, and the task that it is for"
            }
            TaskError::Empty { .. } => "download the file again, or name another one",
            TaskError::Encode { source, .. } => return source.hint(),
            TaskError::NoTokens { .. } => "remove the item from the file",
            TaskError::NoTargets => "name a longer text",
            TaskError::TooLong { .. } => {
                "raise block_size; where the model has no more positions, choose one that has"
            }
            TaskError::NotFinite { .. } => {
                "its weights are damaged or it diverged in training: choose another checkpoint"
            }
        };
        Some(hint.to_owned())
    }
}
