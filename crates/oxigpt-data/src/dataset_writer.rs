//! Puts a whole dataset into a directory. All its files are first written, and synced, in a hidden directory inside the
//! output; only when they are whole are they moved up, `dataset.json` last. So a failure or a crash before that moment
//! leaves what was there before, and one during it leaves a directory that says it is incomplete. All of this happens
//! under a lock: of several who write to one place, one comes after the other.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use fs_err as fs;
use oxigpt_text::Tokenizer;

use crate::dataset::{Dataset, STAGING, Split, found_shards, tokenizer_beside};
use crate::error::{Error, Result};
use crate::lock::DirLock;
use crate::manifest::{self, Manifest, SplitInfo, TokenizerInfo};
use crate::shard::TokenWidth;
use crate::shard_writer::{sync_dir, write_atomically, write_shard};

/// How long we wait for another process that writes to the same place.
const PATIENCE: Duration = Duration::from_secs(120);

/// A dataset in memory.
pub(crate) struct Draft<'a> {
    pub(crate) tokenizer: &'a Tokenizer,
    /// Names of what the text was made from.
    pub(crate) source: Vec<String>,
    pub(crate) documents: u64,
    /// Train and val.
    pub(crate) parts: [Part; 2],
}

/// The content of one split.
pub(crate) struct Part {
    pub(crate) tokens: Vec<u32>,
    /// Bytes of text that they stand for.
    pub(crate) bytes: u64,
}

/// Writes a dataset into `out`; with `force`, in place of the dataset and of files of the same names that may be there.
pub(crate) fn write_dataset(out: &Path, draft: &Draft, shard_tokens: usize, force: bool) -> Result<Manifest> {
    let out_is_new = !out.exists();
    let written = write_locked(out, draft, shard_tokens, force);
    if written.is_err() && out_is_new {
        // This fails, as it should, where something stands in it; and the error that matters is the one we have.
        let _ = fs::remove_dir(out);
    }
    written
}

fn write_locked(out: &Path, draft: &Draft, shard_tokens: usize, force: bool) -> Result<Manifest> {
    let _lock = DirLock::acquire(out, PATIENCE)?;
    if !force {
        check_free(out)?;
        check_names(out, draft.tokenizer)?;
    }
    let staging = out.join(STAGING);
    if staging.exists() {
        fs::remove_dir_all(&staging)?;
    }
    let staged = stage(&staging, draft, shard_tokens);
    match &staged {
        Ok(manifest) if !holds(out, manifest) => publish(&staging, out)?,
        // Nothing to move up; of two errors, the one that matters is the one we have.
        _ => drop(fs::remove_dir_all(&staging)),
    }
    staged
}

/// That `out` holds no dataset in any layout.
pub(crate) fn check_free(out: &Path) -> Result<()> {
    let listed = Some(out.join(manifest::FILE_NAME)).filter(|path| path.exists());
    match listed.or(found_shards(out)?.into_iter().flatten().next()) {
        None => Ok(()),
        Some(path) => {
            let found = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Err(Error::OutputExists { dir: out.into(), found })
        }
    }
}

/// That no file stands in `out` where one of the tokenizer's is to go.
fn check_names(out: &Path, tokenizer: &Tokenizer) -> Result<()> {
    match tokenizer_files(tokenizer).into_iter().map(|(name, _)| out.join(name)).find(|path| path.exists()) {
        Some(path) => Err(Error::OutputFileExists { path }),
        None => Ok(()),
    }
}

/// The tokenizer's files that a dataset holds: none for GPT-2's, which whoever reads a dataset has embedded.
fn tokenizer_files(tokenizer: &Tokenizer) -> Vec<(String, Vec<u8>)> {
    if tokenizer.name() == "gpt2" { Vec::new() } else { tokenizer.to_files() }
}

/// Whether `out` holds this very dataset, undamaged, as after another process was faster with the same.
fn holds(out: &Path, manifest: &Manifest) -> bool {
    Dataset::open(out).is_ok_and(|found| {
        found.manifest() == Some(manifest) && found.verify().is_ok() && found.tokenizer().is_ok()
    })
}

/// Writes all files of the dataset into `staging`.
fn stage(staging: &Path, draft: &Draft, shard_tokens: usize) -> Result<Manifest> {
    fs::create_dir_all(staging)?;
    let tokenizer = draft.tokenizer;
    let width = TokenWidth::for_vocab(tokenizer.vocab_size());
    let write_split = |split: Split| -> Result<SplitInfo> {
        let part = &draft.parts[split as usize];
        let shards = part.tokens.chunks(shard_tokens.max(1)).enumerate().map(|(index, tokens)| {
            write_shard(&staging.join(format!("{}_{index:06}.bin", split.name())), tokens, width)
        });
        let shards = shards.collect::<Result<_>>()?;
        Ok(SplitInfo { tokens: part.tokens.len() as u64, bytes: part.bytes, shards })
    };
    let splits = [write_split(Split::Train)?, write_split(Split::Val)?];
    for (file, bytes) in tokenizer_files(tokenizer) {
        write_atomically(&staging.join(file), |out| out.write_all(&bytes))?;
    }
    let tokenizer_info = TokenizerInfo { name: tokenizer.name().to_string(), hash: tokenizer.hash() };
    let vocab_size = tokenizer.vocab_size();
    let manifest = Manifest::new(draft.source.clone(), draft.documents, vocab_size, tokenizer_info, splits);
    write_atomically(&staging.join(manifest::FILE_NAME), |out| out.write_all(manifest.to_json().as_bytes()))?;
    Ok(manifest)
}

/// Moves the staged files up into `out`, `dataset.json` last, after removing the dataset that they replace.
fn publish(staging: &Path, out: &Path) -> Result<()> {
    remove_old(out)?;
    let mut names =
        fs::read_dir(staging)?.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<Vec<_>>>()?;
    names.sort_by_key(|name| name == manifest::FILE_NAME);
    for name in names {
        fs::rename(staging.join(&name), out.join(&name))?;
    }
    fs::remove_dir(staging)?;
    Ok(sync_dir(out)?)
}

/// Removes `dataset.json`, then the files that it accounts for. One that cannot be read accounts for none.
fn remove_old(out: &Path) -> Result<()> {
    let path = out.join(manifest::FILE_NAME);
    if !path.exists() {
        return Ok(());
    }
    let old = Manifest::read(out).ok().flatten();
    let files = old.map_or(Vec::new(), |old| files_of(out, &old));
    fs::remove_file(&path)?;
    for path in files.into_iter().map(|name| out.join(name)).filter(|path| path.exists()) {
        fs::remove_file(path)?;
    }
    Ok(())
}

/// Names of the shards of a dataset, and of its tokenizer's files as far as they are what we wrote.
fn files_of(out: &Path, old: &Manifest) -> Vec<String> {
    let mut names: Vec<String> =
        old.train.shards.iter().chain(&old.val.shards).map(|shard| shard.file.clone()).collect();
    let tokenizer = tokenizer_beside(out).ok().flatten();
    if let Some(tokenizer) = tokenizer.filter(|found| found.hash() == old.tokenizer.hash) {
        let ours = tokenizer_files(&tokenizer)
            .into_iter()
            .filter(|(name, bytes)| fs::read(out.join(name)).is_ok_and(|found| found == *bytes));
        names.extend(ours.map(|(name, _)| name));
    }
    names
}
