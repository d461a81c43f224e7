//! Models of the Hugging Face hub, fetched into the cache that the Python tools share; the published file of HellaSwag,
//! beside it; and what is to be seen of it.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use fs_err as fs;
use oxigpt_hub::{Hub, OnProgress, Progress, RepoId, Stage};

use crate::report::{ByteBar, duration};

/// What of a repository is fetched, beside its weights.
const FILES: [&str; 7] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
];

/// HellaSwag's validation items, as their authors publish them.
pub(crate) const HELLASWAG: &str =
    "https://raw.githubusercontent.com/rowanz/hellaswag/master/data/hellaswag_val.jsonl";
const HELLASWAG_SHA256: &str = "0aa3b88843990f3f10a97b9575c94d7b71fb2205240ba04ae4884d9e9c992588";

/// The directory of a model of the hub, fetched as far as it is not in the cache.
pub(crate) fn model(name: &str) -> Result<PathBuf> {
    let (hub, repo) = (Hub::from_env()?, RepoId::model(name)?);
    let snapshot = |wanted: &dyn Fn(&str) -> bool| {
        shown(&mut |on_progress| hub.snapshot(&repo, "main", wanted, on_progress))
    };
    let dir = snapshot(&|file| FILES.contains(&file) || is_weights(file, "model", ".safetensors"))?;
    if has_safetensors(&dir)? {
        return Ok(dir);
    }
    Ok(snapshot(&|file| FILES.contains(&file) || is_weights(file, "pytorch_model", ".bin"))?)
}

/// HellaSwag's validation items, fetched if they are not there.
pub(crate) fn hellaswag() -> Result<PathBuf> {
    let hub = Hub::from_env()?;
    let path = hellaswag_path(&hub);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    shown(&mut |on_progress| hub.download(HELLASWAG, &path, Some(HELLASWAG_SHA256), on_progress))
        .context("HellaSwag is needed")?;
    Ok(path)
}

/// The same, if they have been fetched already.
pub(crate) fn fetched_hellaswag() -> Option<PathBuf> {
    let path = hellaswag_path(&Hub::from_env().ok()?);
    path.is_file().then_some(path)
}

/// Beside the cache of the hub, which has a layout of its own.
fn hellaswag_path(hub: &Hub) -> PathBuf {
    hub.settings().cache.with_file_name("oxigpt").join("hellaswag_val.jsonl")
}

/// Shows what a transfer does.
fn shown<T>(transfer: &mut dyn FnMut(OnProgress<'_>) -> oxigpt_hub::Result<T>) -> oxigpt_hub::Result<T> {
    let mut bar = Bar { bar: ByteBar::new(), waits_for: String::new() };
    let done = transfer(&mut |progress: &Progress<'_>| {
        bar.show(progress);
        ControlFlow::Continue(())
    });
    bar.bar.finish();
    done
}

/// Whether a file is all weights, or one of several with weights, or the index of them.
fn is_weights(file: &str, stem: &str, extension: &str) -> bool {
    let Some(rest) = file.strip_prefix(stem).filter(|_| !file.contains('/')) else { return false };
    let is_part = |rest: &str| rest.starts_with('-') && rest.contains("-of-");
    let index = format!("{extension}.index.json");
    rest == index || rest.strip_suffix(extension).is_some_and(|rest| rest.is_empty() || is_part(rest))
}

fn has_safetensors(dir: &Path) -> Result<bool> {
    for entry in fs::read_dir(dir)? {
        if entry?.file_name().to_string_lossy().contains(".safetensors") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What is to be seen of a download.
struct Bar {
    bar: ByteBar,
    /// The obstacle that has been told of.
    waits_for: String,
}

impl Bar {
    fn show(&mut self, progress: &Progress<'_>) {
        let Progress { file, done, total, stage, .. } = progress;
        match stage {
            Stage::Transfer => {
                self.waits_for.clear();
                self.bar.show(&format!("fetching {file}"), *done, total.unwrap_or(*done));
            }
            Stage::Locked => self.tell(format!("{file}: waiting for another program that fetches it")),
            Stage::Retry { cause, attempt, wait } => self.tell(format!(
                "{file}: {cause}; attempt {} follows in {}",
                attempt + 1,
                duration(wait.as_secs_f64())
            )),
        }
    }

    fn tell(&mut self, obstacle: String) {
        if self.waits_for != obstacle {
            self.bar.note(&obstacle);
            self.waits_for = obstacle;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_known_by_their_names() {
        let safetensors = |file| is_weights(file, "model", ".safetensors");
        let named = ["model.safetensors", "model-00001-of-00002.safetensors", "model.safetensors.index.json"];
        assert!(named.into_iter().all(safetensors));
        let others = [
            "pytorch_model.bin",
            "model.bin",
            "model.onnx",
            "onnx/model.safetensors",
            "model.fp16.safetensors",
            "models",
        ];
        assert!(!others.into_iter().any(safetensors));
        assert!(is_weights("pytorch_model-00001-of-00002.bin", "pytorch_model", ".bin"));
    }
}
