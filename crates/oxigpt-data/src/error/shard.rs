//! Files of tokens that are not what they should be.

use std::path::PathBuf;

/// An error about a shard.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    /// A file is neither of the three shard layouts.
    #[error("{path} is not a token shard: it starts with neither an llm.c header nor a NumPy one")]
    UnknownShard {
        /// The file.
        path: PathBuf,
    },
    /// The magic number is known, the version is not.
    #[error("{path} has shard version {found}, expected {expected}")]
    ShardVersion {
        /// The file.
        path: PathBuf,
        /// The version in its header.
        found: i32,
        /// The version that goes with its magic number.
        expected: i32,
    },
    /// The file is shorter or longer than its header says.
    #[error("{path} is {found} bytes long, but its header promises {expected}")]
    ShardLength {
        /// The file.
        path: PathBuf,
        /// Bytes that the header promises, itself included.
        expected: u64,
        /// Bytes that are there.
        found: u64,
    },
    /// A headerless file of 2-byte tokens has an odd number of bytes.
    #[error("{path} holds 2-byte tokens, but its length of {bytes} bytes is odd")]
    OddLength {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
    },
    /// Something else than a file stands where a shard was expected.
    #[error("{path} is {found}, but a token shard is a file")]
    ShardNotFile {
        /// What was to be opened.
        path: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// A shard that `dataset.json` lists is not there.
    #[error("there is no file {path}, although dataset.json lists it")]
    MissingShard {
        /// The shard.
        path: PathBuf,
    },
    /// There is no token in the file.
    #[error("{path} holds no tokens")]
    EmptyShard {
        /// The file.
        path: PathBuf,
    },
    /// The NumPy header cannot be used.
    #[error("{path} is not a usable NumPy shard: {problem}")]
    Npy {
        /// The file.
        path: PathBuf,
        /// What is wrong with its header.
        problem: String,
    },
    /// A token does not exist in the vocabulary.
    #[error("{path}: token {token} at position {position} is not in the vocabulary of {vocab_size}")]
    TokenOutOfVocab {
        /// The shard.
        path: PathBuf,
        /// Index of the first such token in the shard.
        position: u64,
        /// The token.
        token: u32,
        /// The number of tokens that there are.
        vocab_size: usize,
    },
    /// The content is not what was written.
    #[error("{path} is damaged: its SHA-256 is {found}, but dataset.json says {expected}")]
    Checksum {
        /// The shard.
        path: PathBuf,
        /// The recorded checksum.
        expected: String,
        /// The checksum of what is there.
        found: String,
    },
}

impl ShardError {
    /// One sentence that says what to do about it.
    pub fn hint(&self) -> Option<String> {
        use ShardError as E;
        let hint = match self {
            E::UnknownShard { .. } => {
                "headerless token files must be named train.bin or val.bin; for text, run `oxigpt prepare text`"
            }
            E::ShardVersion { .. } => "write the shard again with a tool of this version's layout",
            E::ShardLength { .. } | E::OddLength { .. } | E::EmptyShard { .. } | E::Checksum { .. } => {
                "the file was cut off or damaged; copy or prepare it again"
            }
            E::ShardNotFile { .. } => {
                "move it out of the data directory, or give the directory that holds the shards"
            }
            E::MissingShard { .. } => {
                "copy it from where the dataset came from, or prepare the dataset again"
            }
            E::Npy { .. } => "save a flat array: `np.save(path, np.array(tokens, dtype=np.uint16))`",
            E::TokenOutOfVocab { .. } => {
                "the shards were made with another tokenizer; set vocab_size to match it, or prepare the text again"
            }
        };
        Some(hint.to_owned())
    }
}
