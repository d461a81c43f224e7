//! What an interrupted preparation has left in its staging directory, and whether it can be gone on with: only if all that
//! it depends on is the same, and all that it has made is undamaged.

use std::path::{Path, PathBuf};

use fs_err as fs;
use oxigpt_text::Tokenizer;

use super::inputs::is_piped;
use super::journal::{InputState, Journal, Mark};
use super::source::Source;
use super::staged::{Staged, verify};
use super::{PrepareOptions, Watch};
use crate::error::{Error, PrepareError, Result};
use crate::manifest::Manifest;
use crate::shard::TokenWidth;

/// What there is to go on with.
#[allow(clippy::large_enum_variant, reason = "there is one of them at a time")]
pub(crate) enum Left {
    Nothing,
    Part(Part),
    /// All files of the dataset; some of them may have been moved to where they belong.
    Whole(Manifest),
}

/// A preparation that has not come to its end.
pub(crate) struct Part {
    pub(crate) inputs: Vec<Option<InputState>>,
    /// The last mark between two inputs.
    pub(crate) whole: Mark,
    pub(crate) staged: Staged,
}

/// All that the tokens depend on but the content of the inputs. `known` is the tokenizer, if it does not depend on them.
pub(crate) fn request(source: &Source, options: &PrepareOptions, known: Option<&Tokenizer>) -> String {
    let names: Vec<&str> = source.inputs.iter().map(|input| input.name.as_str()).collect();
    let PrepareOptions { tokenizer, end_of_text, holdout, val_fraction, shard_tokens, .. } = options;
    let hash = known.map(Tokenizer::hash).unwrap_or_default();
    let version = env!("CARGO_PKG_VERSION");
    let format = &source.format;
    format!(
        "{version} {format:?} {tokenizer} {hash} {end_of_text} {holdout:?} {val_fraction:?} {shard_tokens} {names:?}"
    )
}

/// What the staging directory holds. What cannot be gone on with is refused, or removed with `force`.
pub(crate) fn left(
    staging: &Path,
    source: &Source,
    options: &PrepareOptions,
    request: &str,
    watch: Watch<'_>,
) -> Result<Left> {
    match found(staging, source, options, request, watch) {
        Err(Error::Prepare(_)) if options.force => {}
        Ok(Left::Nothing) => {}
        found => return found,
    }
    if staging.exists() {
        fs::remove_dir_all(staging)?;
    }
    Ok(Left::Nothing)
}

fn found(
    staging: &Path,
    source: &Source,
    options: &PrepareOptions,
    request: &str,
    watch: Watch<'_>,
) -> Result<Left> {
    let Some(mut journal) = Journal::read(staging) else { return Ok(Left::Nothing) };
    let out = staging.parent().unwrap_or(staging);
    if journal.request != request {
        return Err(PrepareError::OtherPreparation { dir: out.into() }.into());
    }
    // What came through a pipe is gone.
    if source.inputs.iter().any(is_piped) {
        return Ok(Left::Nothing);
    }
    journal.check(&source.inputs)?;
    // One that cannot be read is written anew.
    if let Ok(Some(manifest)) = Manifest::read(staging) {
        check_whole([staging, out], &manifest, journal.width, watch)?;
        return Ok(Left::Whole(manifest));
    }
    let staged = Staged::resume(staging, options.shard_tokens as u64, &journal, watch)?;
    let Journal { inputs, whole, .. } = journal;
    Ok(Left::Part(Part { inputs, whole, staged }))
}

/// That all files of a dataset are undamaged, each in one of two directories.
fn check_whole(dirs: [&Path; 2], manifest: &Manifest, width: TokenWidth, watch: Watch<'_>) -> Result<()> {
    let place = |name: &str| -> PathBuf {
        let [first, second] = dirs.map(|dir| dir.join(name));
        if first.exists() { first } else { second }
    };
    let shards = manifest.train.shards.iter().chain(&manifest.val.shards);
    verify(&shards.map(|shard| (place(&shard.file), shard)).collect::<Vec<_>>(), width, watch)?;
    let is_right = manifest.tokenizer.name == "gpt2" || {
        let found = Tokenizer::from_files(|name| fs::read(place(name)).ok());
        found.is_ok_and(|found| found.is_some_and(|found| found.hash() == manifest.tokenizer.hash))
    };
    if is_right { Ok(()) } else { Err(PrepareError::Damaged { path: place("tokenizer.json") }.into()) }
}
