//! Puts a whole dataset into a directory. All its files are first written, and synced, in a hidden directory inside the
//! output; only when they are whole are they moved up, `dataset.json` last. So a failure or a crash before that moment
//! leaves what was there before, and one during it leaves a directory that says it is incomplete. All of this happens
//! under a lock: of several who write to one place, one comes after the other.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io::Write;
use std::path::Path;

use fs_err as fs;
use oxigpt_text::Tokenizer;

use crate::dataset::{Dataset, STAGING, Split, found_shards, tokenizer_beside};
use crate::error::{PrepareError, Result};
use crate::manifest::{self, Manifest};
use crate::meta;
use crate::prepare::{Input, Place};
use crate::shard::Shard;
use crate::shard_writer::{sync_dir, write_atomically};

/// That `out` holds nothing but inputs of the preparation, and hidden files.
pub(crate) fn check_free(out: &Path, inputs: &[Input]) -> Result<()> {
    let listed = Some(out.join(manifest::FILE_NAME)).filter(|path| path.exists());
    if let Some(path) = listed.or(found_shards(out)?.into_iter().flatten().next()) {
        let found = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        return Err(PrepareError::OutputExists { dir: out.into(), found }.into());
    }
    let root = fs::canonicalize(out)?;
    let within = |input: &Input| {
        let Place::File(path) = &input.place else { return None };
        let path = fs::canonicalize(path).ok()?;
        Some(path.strip_prefix(&root).ok()?.components().next()?.as_os_str().to_owned())
    };
    let used: HashSet<OsString> = inputs.iter().filter_map(within).collect();
    for entry in fs::read_dir(out)? {
        let entry = entry?.file_name();
        let found = entry.to_string_lossy().into_owned();
        if !found.starts_with('.') && !used.contains(&entry) {
            return Err(PrepareError::OutputInUse { dir: out.into(), found }.into());
        }
    }
    Ok(())
}

/// That what stands where a preparation stages its files comes from one, which the next may remove.
pub(crate) fn check_staging(out: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(out.join(STAGING)) else { return Ok(()) };
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let is_ours = name.starts_with('.') || [".bin", ".json"].iter().any(|end| name.ends_with(end));
        if !is_ours {
            let found = format!("{STAGING}/{name}");
            return Err(PrepareError::OutputInUse { dir: out.into(), found }.into());
        }
    }
    Ok(())
}

/// That no file of the dataset would take the place of an input.
pub(crate) fn check_inputs_stay(out: &Path, inputs: &[Input]) -> Result<()> {
    let root = fs::canonicalize(out)?;
    for input in inputs {
        let Place::File(path) = &input.place else { continue };
        let Ok(found) = fs::canonicalize(path) else { continue };
        let name = found.file_name().unwrap_or_default().to_string_lossy();
        let is_shard =
            name.ends_with(".bin") && Split::BOTH.iter().any(|split| name.starts_with(split.name()));
        let is_taken =
            is_shard || [manifest::FILE_NAME, "tokenizer.json", "tokenizer_config.json"].contains(&&*name);
        if found.parent() == Some(&root) && is_taken {
            return Err(PrepareError::OutputIsInput { path: path.clone() }.into());
        }
    }
    Ok(())
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

/// Writes what belongs to a dataset beside its shards into `staging`, `dataset.json` last.
pub(crate) fn complete(staging: &Path, tokenizer: &Tokenizer, manifest: &Manifest) -> Result<()> {
    for (file, bytes) in tokenizer_files(tokenizer) {
        write_atomically(&staging.join(file), |out| out.write_all(&bytes))?;
    }
    let json = manifest.to_json();
    Ok(write_atomically(&staging.join(manifest::FILE_NAME), |out| out.write_all(json.as_bytes()))?)
}

/// Moves the dataset of a staging directory up into `out`, `dataset.json` last, after removing the dataset that it
/// replaces; if that is the very same, it stays instead. Hidden files are not moved; with them goes the directory. Where
/// this was cut off, doing it again finishes it.
pub(crate) fn publish(staging: &Path, out: &Path, manifest: &Manifest) -> Result<()> {
    if !holds(out, manifest) {
        remove_old(out, manifest)?;
        let mut names = fs::read_dir(staging)?
            .map(|entry| Ok(entry?.file_name()))
            .collect::<std::io::Result<Vec<_>>>()?;
        names.retain(|name| !name.to_string_lossy().starts_with('.'));
        names.sort_by_key(|name| name == manifest::FILE_NAME);
        for name in names {
            fs::rename(staging.join(&name), out.join(&name))?;
        }
    }
    fs::remove_dir_all(staging)?;
    Ok(sync_dir(out)?)
}

/// Removes the dataset that stands in `out`: `dataset.json` and the files that it accounts for (one that cannot be read
/// accounts for none), or the shards of a layout that has none, with their `meta.pkl`. What the new one has under the same
/// name may have been moved there already, and is replaced otherwise.
fn remove_old(out: &Path, new: &Manifest) -> Result<()> {
    let path = out.join(manifest::FILE_NAME);
    let files = if path.exists() {
        let old = Manifest::read(out).ok().flatten();
        fs::remove_file(&path)?;
        old.map_or(Vec::new(), |old| files_of(out, &old)).into_iter().map(|name| out.join(name)).collect()
    } else {
        let mut files: Vec<_> = found_shards(out).unwrap_or_default().into_iter().flatten().collect();
        let shards = || new.train.shards.iter().chain(&new.val.shards);
        files.retain(|path| shards().all(|shard| !path.ends_with(&shard.file)));
        // What only has such a name stays.
        files.retain(|path| Shard::open(path).is_ok());
        files.extend((!files.is_empty()).then(|| out.join(meta::FILE_NAME)));
        files
    };
    for path in files.iter().filter(|path| path.exists()) {
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
