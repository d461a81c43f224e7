//! A data directory as its two streams of tokens. Three layouts are known: ours (`dataset.json` and llm.c shards),
//! nanoGPT's (headerless `train.bin` and `val.bin`, perhaps with `meta.pkl`), and files named like build-nanogpt's or llm.c's (`.npy` or `.bin`
//! with `train` or `val` in the name, in sorted order).

use std::cell::RefCell;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use fs_err as fs;
use oxigpt_text::Tokenizer;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{DatasetError, Error, Result, ShardError, tokens};
use crate::lock::LOCK;
use crate::manifest::{self, Manifest, SplitInfo};
use crate::meta;
use crate::shard::{Shard, hex};
use crate::tokens::Tokens;

/// A directory in which a preparation keeps its files until they are whole.
pub(crate) const STAGING: &str = ".partial";

/// How many bytes of shards [`Dataset::validate`] compares with their checksums: less than a second of a core that has
/// instructions for SHA-256, a few seconds without them.
const VERIFIED_BYTES: u64 = 1 << 30;

/// The two parts of a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// What a model learns from.
    Train,
    /// What it is measured on.
    Val,
}

impl Split {
    /// Both, in order.
    pub const BOTH: [Split; 2] = [Split::Train, Split::Val];

    /// `train` or `val`, as file names have it.
    pub fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Val => "val",
        }
    }
}

/// An open dataset.
#[derive(Debug)]
pub struct Dataset {
    dir: PathBuf,
    manifest: Option<Manifest>,
    /// Where the layout has no manifest: the size of the tokenizer that stands beside the shards.
    tokenizer_size: Option<usize>,
    splits: [Tokens; 2],
}

/// The directory that `dataset` means: a path that exists, or else a name under `data/`, which is meant as well where the
/// path holds something else, such as the text that the data were made of.
pub fn resolve(dataset: &str) -> PathBuf {
    let path = Path::new(dataset);
    let named = Path::new("data").join(path);
    if path.exists() && (holds_data(path) || !named.is_dir()) { path.into() } else { named }
}

/// Whether a directory holds a dataset, be it a damaged one.
fn holds_data(dir: &Path) -> bool {
    let is_listed = dir.join(manifest::FILE_NAME).exists();
    let has_none = found_shards(dir).is_ok_and(|splits| splits.iter().all(Vec::is_empty));
    dir.is_dir() && (is_listed || !has_none)
}

impl Dataset {
    /// Opens a data directory and checks the header and the length of every shard. The tokens themselves are
    /// checked by [`Dataset::validate`], and so are the checksums as far as that is quick; by [`Dataset::verify`] all.
    ///
    /// # Errors
    /// If there is no dataset, its preparation was interrupted, or a file in it is not what it should be.
    pub fn open(dir: &Path) -> Result<Dataset> {
        if dir.is_file() {
            return Err(DatasetError::DatasetIsFile { path: dir.into() }.into());
        }
        if !dir.is_dir() {
            return Err(DatasetError::NoSuchDataset { dir: dir.into() }.into());
        }
        let manifest = Manifest::read(dir)?;
        let (splits, tokenizer_size) = match &manifest {
            Some(manifest) => (open_listed(dir, manifest)?, None),
            None => (open_found(dir)?, tokenizer_beside(dir)?.map(|tokenizer| tokenizer.vocab_size())),
        };
        Ok(Dataset { dir: dir.into(), manifest, tokenizer_size, splits })
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What `dataset.json` says; `None` for the layouts that have none.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }

    /// The tokens of a split; empty if the directory has no shards of it.
    pub fn split(&self, split: Split) -> &Tokens {
        &self.splits[split as usize]
    }

    /// Number of different tokens, where the directory says so.
    pub fn vocab_size(&self) -> Option<usize> {
        self.manifest.as_ref().map(|manifest| manifest.vocab_size).or(self.tokenizer_size)
    }

    /// The tokenizer that made the tokens: the one that `dataset.json` names, or else the one whose files stand
    /// beside the shards, or else none.
    ///
    /// # Errors
    /// If its files are missing or damaged, or are not those of the tokenizer that `dataset.json` names.
    pub fn tokenizer(&self) -> Result<Option<Tokenizer>> {
        let Some(manifest) = &self.manifest else { return tokenizer_beside(&self.dir) };
        let named = &manifest.tokenizer;
        let tokenizer =
            if named.name == "gpt2" { Some(Tokenizer::gpt2()) } else { tokenizer_beside(&self.dir)? };
        let found = match &tokenizer {
            None => "its files are missing".to_string(),
            Some(found) if found.hash() != named.hash || found.vocab_size() != manifest.vocab_size => {
                format!("{} ({}, {} tokens) was found", found.name(), found.hash(), found.vocab_size())
            }
            Some(_) => return Ok(tokenizer),
        };
        let expected = format!("{} ({}, {} tokens)", named.name, named.hash, manifest.vocab_size);
        Err(DatasetError::TokenizerMismatch { dir: self.dir.clone(), expected, found }.into())
    }

    /// Bytes of text per token of a split, where they are known: what turns nats per token into bits per byte.
    pub fn bytes_per_token(&self, split: Split) -> Option<f64> {
        let info = self.info(split).filter(|info| info.tokens > 0 && info.bytes > 0)?;
        Some(info.bytes as f64 / info.tokens as f64)
    }

    /// Reads every token and checks that it is smaller than `vocab_size`. In the same pass the shards that
    /// `dataset.json` lists are checked against their SHA-256, those of the validation split first, as long as they
    /// fit into 1 GiB in all; of those beyond it only header and length are checked (see [`Dataset::verify`]).
    ///
    /// # Errors
    /// [`crate::ShardError::Checksum`] or [`crate::ShardError::TokenOutOfVocab`] with the first shard that is damaged or the first token that
    /// is too large.
    pub fn validate(&self, vocab_size: usize) -> Result<()> {
        let mut left = VERIFIED_BYTES;
        [Split::Val, Split::Train]
            .into_iter()
            .try_for_each(|split| self.validate_within(split, vocab_size, &mut left))
    }

    /// [`Dataset::validate`] for one split alone.
    ///
    /// # Errors
    /// As there.
    pub fn validate_split(&self, split: Split, vocab_size: usize) -> Result<()> {
        self.validate_within(split, vocab_size, &mut { VERIFIED_BYTES })
    }

    /// Checks every token, and the checksums of as many shards as fit into what is `left` of a number of bytes.
    fn validate_within(&self, split: Split, vocab_size: usize, left: &mut u64) -> Result<()> {
        let listed = self.info(split).map_or(&[][..], |info| &info.shards);
        for (index, shard) in self.split(split).shards().iter().enumerate() {
            match listed.get(index) {
                Some(info) if shard.file_bytes() <= *left => {
                    *left -= shard.file_bytes();
                    shard.validate_and_verify(vocab_size, &info.sha256)?;
                }
                _ => shard.validate(vocab_size)?,
            }
        }
        Ok(())
    }

    /// Reads every shard and checks its SHA-256 against `dataset.json`. Layouts without one have nothing to check.
    ///
    /// # Errors
    /// [`crate::ShardError::Checksum`] with the first shard that differs.
    pub fn verify(&self) -> Result<()> {
        for split in Split::BOTH {
            let Some(info) = self.info(split) else { return Ok(()) };
            let mut shards = self.split(split).shards().iter().zip(&info.shards);
            shards.try_for_each(|(shard, info)| shard.verify(&info.sha256))?;
        }
        Ok(())
    }

    /// 16 hexadecimal digits that tell this data from other data, wherever it stands: over the recorded checksums,
    /// the number of tokens, and samples of every shard's content. It reads a few megabytes at most, so a change of
    /// a few tokens in a large shard without checksums may escape it.
    pub fn hash(&self) -> String {
        let mut hasher = Sha256::new();
        for split in Split::BOTH {
            hasher.update(split.name());
            self.split(split).fingerprint(&mut hasher);
            let shards = self.info(split).into_iter().flat_map(|info| &info.shards);
            shards.for_each(|shard| hasher.update(&shard.sha256));
        }
        hex(&hasher.finalize()[..8])
    }

    fn info(&self, split: Split) -> Option<&SplitInfo> {
        self.manifest.as_ref().map(|manifest| match split {
            Split::Train => &manifest.train,
            Split::Val => &manifest.val,
        })
    }
}

/// The tokenizer whose files stand in `dir`, or that nanoGPT's `meta.pkl` there describes; files that cannot be read are not taken for absent.
///
/// # Errors
/// If there are files of one and they cannot be read.
pub fn tokenizer_beside(dir: &Path) -> Result<Option<Tokenizer>> {
    let failure = RefCell::new(None);
    let tokenizer = Tokenizer::from_files(|name| match fs::read(dir.join(name)) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            failure.borrow_mut().get_or_insert(error);
            None
        }
        bytes => bytes.ok(),
    });
    match failure.into_inner() {
        Some(error) => Err(error.into()),
        None => match tokenizer.map_err(|source| DatasetError::Tokenizer { dir: dir.into(), source })? {
            None => meta::read(dir),
            tokenizer => Ok(tokenizer),
        },
    }
}

fn stream(dir: &Path, split: Split, shards: Vec<Shard>) -> Tokens {
    Tokens::new(&format!("{} ({})", dir.display(), split.name()), shards)
}

/// The shards that `dataset.json` lists.
fn open_listed(dir: &Path, manifest: &Manifest) -> Result<[Tokens; 2]> {
    let open = |split: Split, info: &SplitInfo| -> Result<Tokens> {
        let mut shards = Vec::with_capacity(info.shards.len());
        for info in &info.shards {
            let path = dir.join(&info.file);
            let shard = Shard::open(&path).map_err(|error| match error {
                Error::Io(error) if error.kind() == ErrorKind::NotFound => {
                    Error::from(ShardError::MissingShard { path })
                }
                error => error,
            })?;
            if shard.len() != info.tokens {
                let problem =
                    format!("{} holds {}, {} are listed", info.file, tokens(shard.len()), info.tokens);
                return Err(DatasetError::Manifest { path: dir.join(manifest::FILE_NAME), problem }.into());
            }
            shards.push(shard);
        }
        Ok(stream(dir, split, shards))
    };
    Ok([open(Split::Train, &manifest.train)?, open(Split::Val, &manifest.val)?])
}

/// The shards of a directory without `dataset.json`, unless a preparation is, or was until now, at work in it.
fn open_found(dir: &Path) -> Result<[Tokens; 2]> {
    if fs::read_dir(dir)?.next().is_none() {
        return Err(DatasetError::NoSuchDataset { dir: dir.into() }.into());
    }
    let opened = open_shards(dir);
    // Looked for last: whatever was moved while the shards were opened, one of the three is there now.
    if [STAGING, LOCK, manifest::FILE_NAME].iter().any(|name| dir.join(name).exists()) {
        return Err(DatasetError::Incomplete { dir: dir.into() }.into());
    }
    opened
}

fn open_shards(dir: &Path) -> Result<[Tokens; 2]> {
    let paths = found_shards(dir)?;
    if paths.iter().all(Vec::is_empty) {
        return Err(DatasetError::NoShards { dir: dir.into() }.into());
    }
    let open = |split: Split| -> Result<Tokens> {
        let shards = paths[split as usize].iter().map(|path| Shard::open(path)).collect::<Result<_>>()?;
        Ok(stream(dir, split, shards))
    };
    Ok([open(Split::Train)?, open(Split::Val)?])
}

/// Paths of the train and val shards in `dir`, each in the order of their names.
pub(crate) fn found_shards(dir: &Path) -> Result<[Vec<PathBuf>; 2]> {
    let ambiguous = |problem| Err(DatasetError::Ambiguous { dir: dir.into(), problem }.into());
    let mut names = fs::read_dir(dir)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<Vec<String>>>()?;
    names.sort();
    let mut paths = [Vec::new(), Vec::new()];
    let mut extension = None;
    for name in names {
        let Some((stem, found)) = name.rsplit_once('.') else { continue };
        let held = Split::BOTH.map(|split| stem.contains(split.name()));
        if name.starts_with('.') || !["bin", "npy"].contains(&found) || held == [false, false] {
            continue;
        }
        if held == [true, true] {
            return ambiguous(format!("`{name}` says both train and val"));
        }
        if *extension.get_or_insert_with(|| found.to_string()) != found {
            return ambiguous("it holds both .bin and .npy shards".into());
        }
        paths[usize::from(held[1])].push(dir.join(name));
    }
    Ok(paths)
}
