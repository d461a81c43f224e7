//! The sets that nanoGPT, build-nanogpt and llm.c train on, each prepared as they do. Which files a set has is asked of
//! the hub; they are fetched one by one, each when its turn has come.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use fs_err as fs;
use oxigpt_data::{
    EndOfText, Fetch, FetchError, Format, Holdout, Input, Place, PrepareOptions, Source, TokenizerKind,
};
use oxigpt_hub::{Hub, RemoteFile, RepoId, Stage};

use crate::hint::CliError;
use crate::report::{self, ByteBar};

/// A set on the hub, in Parquet files with a column `text`.
pub(super) struct Set {
    pub(super) repo: &'static str,
    /// Where its files are, if not everywhere.
    pub(super) under: Option<&'static str>,
    pub(super) end_of_text: EndOfText,
    pub(super) holdout: Holdout,
    pub(super) val_fraction: f64,
}

/// nanoGPT's: end-of-text behind each document, 0.05 % of the documents for validation.
pub(super) const OPENWEBTEXT: Set = Set {
    repo: "Skylion007/openwebtext",
    under: None,
    end_of_text: EndOfText::After,
    holdout: Holdout::Documents { seed: 2357 },
    val_fraction: 0.0005,
};

/// llm.c's place of end-of-text; validation is what its authors keep for that.
pub(super) const TINYSTORIES: Set = Set {
    repo: "roneneldan/TinyStories",
    under: None,
    end_of_text: EndOfText::Before,
    holdout: Holdout::Inputs,
    val_fraction: 0.1,
};

/// build-nanogpt's: end-of-text before each document, the first shard for validation.
pub(super) const fn fineweb_edu(under: &'static str) -> Set {
    Set {
        repo: "HuggingFaceFW/fineweb-edu",
        under: Some(under),
        end_of_text: EndOfText::Before,
        holdout: Holdout::FirstShard,
        val_fraction: 0.1,
    }
}

/// Where a set that has been converted for the hub's viewer is, if it is not in Parquet itself.
const REVISIONS: [&str; 2] = ["main", "refs/convert/parquet"];

/// Tiny Shakespeare, from where nanoGPT has it.
const SHAKESPEARE: &str =
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt";
const SHAKESPEARE_BYTES: u64 = 1_115_394;
const SHAKESPEARE_SHA256: &str = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed";

/// What a fetch has in common with what happens meanwhile.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) bar: Arc<Mutex<ByteBar>>,
    pub(super) stop: Arc<AtomicBool>,
}

impl Shared {
    fn note(&self, text: &str) {
        self.bar.lock().unwrap_or_else(PoisonError::into_inner).note(text);
    }

    /// Tells of a transfer when it begins and when something is in its way, and stops it where that is wanted.
    fn watch(&self) -> impl FnMut(&oxigpt_hub::Progress<'_>) -> ControlFlow<()> {
        let (shared, mut told) = (self.clone(), String::new());
        move |progress| {
            let text = match &progress.stage {
                Stage::Transfer => {
                    let size = progress.total.map_or(String::new(), |total| report::bytes(total as f64));
                    format!("fetching {} {size}", progress.file)
                }
                Stage::Locked => format!("{}: waiting for another program that fetches it", progress.file),
                Stage::Retry { cause, .. } => format!("{}: {cause}; trying again", progress.file),
            };
            if text != told {
                shared.note(&text);
                told = text;
            }
            if shared.stop.load(Ordering::Relaxed) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        }
    }
}

/// Tiny Shakespeare, which nanoGPT keeps as `input.txt` in the data directory.
pub(super) fn shakespeare(
    tokenizer: TokenizerKind,
    out: &Path,
    shared: &Shared,
) -> Result<(Source, PrepareOptions)> {
    let path = out.join("input.txt");
    let mut input = Input::file(&path);
    if !path.exists() {
        let text = Text { hub: Hub::from_env()?, path, shared: shared.clone() };
        input = Input { place: Place::Fetched(Arc::new(text)), bytes: SHAKESPEARE_BYTES, ..input };
    }
    let source = Source { format: Format::Text, inputs: vec![input] };
    Ok((source, PrepareOptions { tokenizer, ..PrepareOptions::default() }))
}

/// Tiny Shakespeare, which stays where it is fetched to.
struct Text {
    hub: Hub,
    path: PathBuf,
    shared: Shared,
}

impl Fetch for Text {
    fn fetch(&self) -> Result<PathBuf, FetchError> {
        let watch = &mut self.shared.watch();
        self.hub.download(SHAKESPEARE, &self.path, Some(SHAKESPEARE_SHA256), watch)?;
        Ok(self.path.clone())
    }

    fn release(&self) {}
}

/// A set of the hub, with its options.
pub(super) fn of_hub(set: &Set, discard: bool, shared: &Shared) -> Result<(Source, PrepareOptions)> {
    let hub = Arc::new(Hub::from_env()?);
    let repo = RepoId::dataset(set.repo)?;
    let mut inputs = Vec::new();
    for revision in REVISIONS {
        let files = match hub.list(&repo, revision, set.under) {
            // What has never been converted has no such revision.
            Err(_) if revision != REVISIONS[0] => Vec::new(),
            files => files?,
        };
        let wanted = files.into_iter().filter(|file| is_wanted(set, &file.path));
        let remote = |file| input(&hub, &repo, revision, file, discard, shared);
        inputs.extend(wanted.map(remote));
        if !inputs.is_empty() {
            break;
        }
    }
    if inputs.is_empty() {
        let message = format!("the hub's data set `{}` has no Parquet files{}", set.repo, within(set));
        return Err(CliError::failure(
            message,
            "fetch it in another way, then use `oxigpt prepare text|jsonl|parquet`",
        )
        .into());
    }
    let options = PrepareOptions {
        tokenizer: TokenizerKind::Gpt2,
        end_of_text: set.end_of_text,
        holdout: set.holdout,
        val_fraction: set.val_fraction,
        ..PrepareOptions::default()
    };
    Ok((Source { format: Format::Parquet { column: "text".into() }, inputs }, options))
}

fn within(set: &Set) -> String {
    set.under.map_or(String::new(), |under| format!(" under {under}"))
}

/// The training files, and those for validation where they are used as such.
fn is_wanted(set: &Set, path: &str) -> bool {
    let is_train = set.under.is_some() || path.contains("train");
    path.ends_with(".parquet") && (is_train || set.holdout == Holdout::Inputs && path.contains("validation"))
}

fn input(
    hub: &Arc<Hub>,
    repo: &RepoId,
    revision: &'static str,
    file: RemoteFile,
    discard: bool,
    shared: &Shared,
) -> Input {
    let RemoteFile { path, size, sha256 } = file;
    let remote = Remote {
        hub: hub.clone(),
        repo: repo.clone(),
        revision,
        file: path.clone(),
        discard,
        shared: shared.clone(),
        found: Mutex::new(None),
    };
    let val = path.contains("validation");
    Input { name: path, place: Place::Fetched(Arc::new(remote)), bytes: size, sha256, val }
}

/// A file of the hub.
struct Remote {
    hub: Arc<Hub>,
    repo: RepoId,
    revision: &'static str,
    file: String,
    /// Whether it is removed from the cache when it is not needed any more.
    discard: bool,
    shared: Shared,
    found: Mutex<Option<PathBuf>>,
}

impl Fetch for Remote {
    fn fetch(&self) -> Result<PathBuf, FetchError> {
        let path = self.hub.file(&self.repo, self.revision, &self.file, &mut self.shared.watch())?;
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Some(path.clone());
        Ok(path)
    }

    fn release(&self) {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(path) = found.filter(|_| self.discard) {
            // The cache keeps a link to the content; what cannot be removed only takes space.
            let content = fs::canonicalize(&path);
            let _ = fs::remove_file(&path);
            let _ = content.and_then(fs::remove_file);
        }
    }
}
