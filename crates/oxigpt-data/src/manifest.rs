//! `dataset.json`: what a data directory of ours says about itself. It is the last file that a preparation puts in
//! place, so a directory that has one is whole.

use std::path::Path;

use fs_err as fs;
use serde::{Deserialize, Serialize};

use crate::error::{DatasetError, Result};

/// The name of the file.
pub(crate) const FILE_NAME: &str = "dataset.json";
const FORMAT: &str = "oxigpt-dataset";
const VERSION: u32 = 1;

/// The content of `dataset.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub(crate) format: String,
    pub(crate) version: u32,
    /// Where the text came from: names of files, or of a generator.
    pub source: Vec<String>,
    /// The files that the text was read from, as they were.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<InputInfo>,
    /// Number of documents.
    pub documents: u64,
    /// Number of documents that were left out because they were empty.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub empty_documents: u64,
    /// Number of different tokens; every token is smaller.
    pub vocab_size: usize,
    /// What made the tokens.
    pub tokenizer: TokenizerInfo,
    /// The part to train on.
    pub train: SplitInfo,
    /// The part to validate on.
    pub val: SplitInfo,
}

/// Which tokenizer made the tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenizerInfo {
    /// `gpt2` or `char`, ...
    pub name: String,
    /// Changes with anything that changes the tokens.
    pub hash: String,
}

/// A file that text was read from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InputInfo {
    /// Its name.
    pub file: String,
    /// Its length.
    pub bytes: u64,
    /// SHA-256 of the whole file, in hexadecimal.
    pub sha256: String,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// One split of a dataset.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SplitInfo {
    /// Number of tokens over all shards.
    pub tokens: u64,
    /// Bytes of the UTF-8 text that the tokens stand for (end-of-text tokens stand for none).
    pub bytes: u64,
    /// The files in order.
    pub shards: Vec<ShardInfo>,
}

/// One file of tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShardInfo {
    /// Its name within the data directory.
    pub file: String,
    /// Number of tokens.
    pub tokens: u64,
    /// SHA-256 of the whole file, in hexadecimal.
    pub sha256: String,
}

impl Manifest {
    pub(crate) fn new(vocab_size: usize, tokenizer: TokenizerInfo, [train, val]: [SplitInfo; 2]) -> Manifest {
        Manifest {
            format: FORMAT.into(),
            version: VERSION,
            source: Vec::new(),
            inputs: Vec::new(),
            documents: 0,
            empty_documents: 0,
            vocab_size,
            tokenizer,
            train,
            val,
        }
    }

    /// Reads and checks `dataset.json` in `dir`; `None` if there is none.
    pub(crate) fn read(dir: &Path) -> Result<Option<Manifest>> {
        let path = dir.join(FILE_NAME);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            bytes => bytes?,
        };
        let manifest = serde_json::from_slice::<Manifest>(&bytes).map_err(|error| error.to_string());
        match manifest.and_then(|manifest| manifest.check().map(|()| manifest)) {
            Ok(manifest) => Ok(Some(manifest)),
            Err(problem) => Err(DatasetError::Manifest { path, problem }.into()),
        }
    }

    /// The text of the file.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("plain data has no way to fail") + "\n"
    }

    fn check(&self) -> Result<(), String> {
        if self.format != FORMAT {
            return Err(format!("its format is `{}`, expected `{FORMAT}`", self.format));
        }
        if self.version != VERSION {
            return Err(format!("its version is {}, expected {VERSION}", self.version));
        }
        if self.vocab_size == 0 {
            return Err("its vocab_size is 0".into());
        }
        for (name, split) in [("train", &self.train), ("val", &self.val)] {
            let sum = split.shards.iter().try_fold(0u64, |sum, shard| sum.checked_add(shard.tokens));
            if sum != Some(split.tokens) {
                return Err(format!("the shards of {name} do not add up to its {} tokens", split.tokens));
            }
            // A name with a separator could point anywhere on the machine.
            if let Some(shard) = split.shards.iter().find(|shard| !is_plain_name(&shard.file)) {
                return Err(format!("the shard `{}` is not a plain file name", shard.file));
            }
        }
        Ok(())
    }
}

fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', ':', '\0'])
}
