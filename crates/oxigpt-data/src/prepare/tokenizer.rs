//! Which tokenizer a text is prepared with.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use fs_err as fs;
use oxigpt_text::Tokenizer;

use crate::dataset::{Dataset, tokenizer_beside};
use crate::error::{DatasetError, Error, PrepareError, Result};
use crate::{manifest, meta};

/// Which tokenizer makes the tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenizerKind {
    /// GPT-2's byte-pair encoding.
    Gpt2,
    /// One token per character; the vocabulary is the sorted set of the text's characters.
    Char,
    /// One token per byte.
    Byte,
    /// What is described by a `tokenizer.json`, by nanoGPT's `meta.pkl`, or by the files in a folder: a tokenizer's, or a
    /// data set's.
    Files(PathBuf),
}

impl FromStr for TokenizerKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "gpt2" => Ok(TokenizerKind::Gpt2),
            "char" => Ok(TokenizerKind::Char),
            "byte" => Ok(TokenizerKind::Byte),
            path if path.contains(['/', '\\', '.']) || Path::new(path).exists() => {
                Ok(TokenizerKind::Files(path.into()))
            }
            _ => Err(PrepareError::UnknownTokenizer { found: name.into() }.into()),
        }
    }
}

impl fmt::Display for TokenizerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TokenizerKind::Gpt2 => f.write_str("gpt2"),
            TokenizerKind::Char => f.write_str("char"),
            TokenizerKind::Byte => f.write_str("byte"),
            TokenizerKind::Files(path) => path.display().fmt(f),
        }
    }
}

impl TokenizerKind {
    /// The tokenizer; `None` where the text must be seen first, as for [`TokenizerKind::Char`].
    ///
    /// # Errors
    /// If there are no files of a tokenizer, or they cannot be read.
    pub fn load(&self) -> Result<Option<Tokenizer>> {
        match self {
            TokenizerKind::Gpt2 => Ok(Some(Tokenizer::gpt2())),
            TokenizerKind::Char => Ok(None),
            TokenizerKind::Byte => Ok(Some(Tokenizer::bytes())),
            TokenizerKind::Files(path) => load_files(path).map(Some),
        }
    }
}

fn load_files(path: &Path) -> Result<Tokenizer> {
    let found = if path.join(manifest::FILE_NAME).exists() {
        Dataset::open(path)?.tokenizer()?
    } else if path.is_dir() {
        tokenizer_beside(path)?
    } else if path.extension().is_some_and(|extension| extension == "pkl") {
        Some(meta::read_file(path)?)
    } else {
        let bytes = fs::read(path)?;
        let dir = path.parent().unwrap_or(Path::new(""));
        let tokenizer = Tokenizer::from_files(|name| match name {
            "tokenizer.json" => Some(bytes.clone()),
            // It says which token ends a text.
            "tokenizer_config.json" => fs::read(dir.join(name)).ok(),
            _ => None,
        });
        tokenizer.map_err(|source| DatasetError::Tokenizer { dir: path.into(), source })?
    };
    found.ok_or_else(|| Error::from(DatasetError::NoTokenizer { path: path.into() }))
}
