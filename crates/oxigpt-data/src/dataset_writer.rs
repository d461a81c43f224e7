//! Puts a whole dataset into a directory. All its files are first written, and synced, in a hidden directory inside the
//! output; only when they are whole are they moved up, `dataset.json` last. So a failure or a crash before that moment
//! leaves what was there before, and one during it leaves a directory that says it is incomplete.

use std::io::Write;
use std::path::Path;

use fs_err as fs;
use oxigpt_text::Tokenizer;

use crate::dataset::{STAGING, Split};
use crate::error::Result;
use crate::manifest::{self, Manifest, SplitInfo, TokenizerInfo};
use crate::shard::TokenWidth;
use crate::shard_writer::{sync_dir, write_atomically, write_shard};

/// The content of one split.
pub(crate) struct Part {
    pub(crate) tokens: Vec<u32>,
    /// Bytes of text that they stand for.
    pub(crate) bytes: u64,
}

/// Writes train and val `parts` as a dataset into `out`, in place of a dataset that may be there.
pub(crate) fn write_dataset(
    out: &Path,
    tokenizer: &Tokenizer,
    source: Vec<String>,
    documents: u64,
    parts: &[Part; 2],
    shard_tokens: usize,
) -> Result<Manifest> {
    let out_is_new = !out.exists();
    let staging = out.join(STAGING);
    if staging.exists() {
        fs::remove_dir_all(&staging)?;
    }
    let staged = stage(&staging, tokenizer, source, documents, parts, shard_tokens);
    match staged {
        Ok(manifest) => publish(&staging, out).map(|()| manifest),
        Err(error) => {
            // The error that matters is the one we have.
            let _ = fs::remove_dir_all(if out_is_new { out } else { &staging });
            Err(error)
        }
    }
}

/// Writes all files of the dataset into `staging`.
fn stage(
    staging: &Path,
    tokenizer: &Tokenizer,
    source: Vec<String>,
    documents: u64,
    [train, val]: &[Part; 2],
    shard_tokens: usize,
) -> Result<Manifest> {
    fs::create_dir_all(staging)?;
    let width = TokenWidth::for_vocab(tokenizer.vocab_size());
    let write_split = |split: Split, part: &Part| -> Result<SplitInfo> {
        let shards = part.tokens.chunks(shard_tokens.max(1)).enumerate().map(|(index, tokens)| {
            write_shard(&staging.join(format!("{}_{index:06}.bin", split.name())), tokens, width)
        });
        let shards = shards.collect::<Result<_>>()?;
        Ok(SplitInfo { tokens: part.tokens.len() as u64, bytes: part.bytes, shards })
    };
    let splits = [write_split(Split::Train, train)?, write_split(Split::Val, val)?];
    let name = tokenizer.name().to_string();
    // Whoever reads a dataset has GPT-2's tokenizer embedded.
    if name != "gpt2" {
        for (file, bytes) in tokenizer.to_files() {
            write_atomically(&staging.join(file), |out| out.write_all(&bytes))?;
        }
    }
    let tokenizer_info = TokenizerInfo { name, hash: tokenizer.hash() };
    let manifest = Manifest::new(source, documents, tokenizer.vocab_size(), tokenizer_info, splits);
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

/// Removes `dataset.json`, then the shards that it lists. One that cannot be read lists none that we would trust.
fn remove_old(out: &Path) -> Result<()> {
    let path = out.join(manifest::FILE_NAME);
    if !path.exists() {
        return Ok(());
    }
    let old = Manifest::read(out).ok().flatten();
    fs::remove_file(&path)?;
    for shard in old.iter().flat_map(|old| old.train.shards.iter().chain(&old.val.shards)) {
        let path = out.join(&shard.file);
        if path.exists() {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}
