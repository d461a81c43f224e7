//! Data directories, and the tokenizers in them, that cannot be used.

use std::path::PathBuf;

use oxigpt_text::Error as TextError;

/// An error about a data directory or the tokenizer of one.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// There is no such directory.
    #[error("there is no dataset at {dir}")]
    NoSuchDataset {
        /// The directory that was asked for.
        dir: PathBuf,
    },
    /// A file stands where a data directory was expected.
    #[error("{path} is a file, but a dataset is a directory")]
    DatasetIsFile {
        /// The file.
        path: PathBuf,
    },
    /// The directory holds nothing that looks like token shards.
    #[error("{dir} holds no dataset: neither dataset.json nor train/val shards (.bin or .npy)")]
    NoShards {
        /// The directory.
        dir: PathBuf,
    },
    /// A preparation died half-way, or is half-way.
    #[error("{dir} holds a dataset whose preparation was interrupted or is still running")]
    Incomplete {
        /// The directory.
        dir: PathBuf,
    },
    /// The names in the directory do not say which shard belongs where.
    #[error("{dir} is ambiguous: {problem}")]
    Ambiguous {
        /// The directory.
        dir: PathBuf,
        /// Why.
        problem: String,
    },
    /// `dataset.json` cannot be used.
    #[error("{path}: {problem}")]
    Manifest {
        /// The `dataset.json`.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The tokenizer beside the shards is not the one that made them.
    #[error("{dir}: the tokens were made with tokenizer {expected}, but {found}")]
    TokenizerMismatch {
        /// The data directory.
        dir: PathBuf,
        /// Name and hash in `dataset.json`.
        expected: String,
        /// What was found instead.
        found: String,
    },
    /// The tokenizer files beside the shards cannot be used.
    #[error("the tokenizer in {dir} cannot be read: {source}")]
    Tokenizer {
        /// The data directory.
        dir: PathBuf,
        /// Which file, and why.
        source: TextError,
    },
    /// nanoGPT's `meta.pkl` is no pickle, or one of more than plain data.
    #[error("{path}: {source}")]
    Pickle {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: oxigpt_pickle::Error,
    },
    /// nanoGPT's `meta.pkl` does not describe a character tokenizer.
    #[error("{path} does not describe one token per character: {problem}")]
    Meta {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// There are no tokenizer files.
    #[error("there is no tokenizer in {path}")]
    NoTokenizer {
        /// A folder or a file.
        path: PathBuf,
    },
}

impl DatasetError {
    /// One sentence that says what to do about it.
    pub fn hint(&self) -> Option<String> {
        use DatasetError as E;
        let hint = match self {
            E::Tokenizer { source, .. } => return source.hint(),
            E::Pickle { source, .. } => return source.hint(),
            E::Meta { .. } => {
                "write it again with nanoGPT's prepare.py, or remove it and set vocab_size yourself"
            }
            E::NoSuchDataset { .. } => {
                "give the path of a data directory, or its name under data/; `oxigpt prepare` makes one"
            }
            E::DatasetIsFile { .. } => "give the directory that holds the shards",
            E::NoShards { .. } => "`oxigpt prepare text --input FILE --out DIR` makes a dataset from text",
            E::Incomplete { .. } => {
                "let it end if it is running, or run the same `oxigpt prepare` command again: it goes on where it stopped"
            }
            E::Ambiguous { .. } => {
                "keep one kind of shard per directory, each with either `train` or `val` in its name"
            }
            E::Manifest { .. } => "prepare the dataset again with `oxigpt prepare`",
            E::TokenizerMismatch { .. } => {
                "put the tokenizer files that the dataset was made with back, or prepare it again"
            }
            E::NoTokenizer { .. } => "name a tokenizer.json, or a folder that holds one",
        };
        Some(hint.to_owned())
    }
}
