//! A model on its way to another program: written beside its target, and renamed when it is whole. Nothing that is there
//! is overwritten.

use std::path::{Path, PathBuf};

use fs_err as fs;
use oxigpt_model::{Precision, save_llmc, save_pretrained};
use oxigpt_text::Tokenizer;
use tempfile::TempDir;

use crate::durable;
use crate::error::Error;
use crate::model::Model;

impl Model {
    /// Writes a Hugging Face directory, with the files of the tokenizer.
    ///
    /// # Errors
    /// [`Error::TargetExists`] unless `dir` is free or an empty directory; or if it cannot be written.
    pub fn save_as_directory(&self, dir: &Path) -> Result<(), Error> {
        let is_empty = || fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none());
        if exists(dir) && !is_empty() {
            return Err(Error::TargetExists { path: dir.into() });
        }
        let (stage, path) = stage(dir)?;
        fs::create_dir(&path)?;
        save_pretrained(&path, &self.config, &self.weights)?;
        for (file, bytes) in self.tokenizer.iter().flat_map(Tokenizer::to_files) {
            durable::write(&path.join(file), &bytes)?;
        }
        durable::sync_dir(&path)?;
        publish(stage, &path, dir)
    }

    /// Writes a model file of llm.c's.
    ///
    /// # Errors
    /// [`Error::TargetExists`] if there is something at `path`; or if it cannot be written, or the format has no place
    /// for such a model.
    pub fn save_as_llmc(&self, path: &Path, precision: Precision) -> Result<(), Error> {
        if exists(path) {
            return Err(Error::TargetExists { path: path.into() });
        }
        let (stage, partial) = stage(path)?;
        save_llmc(&partial, &self.config, &self.weights, precision)?;
        publish(stage, &partial, path)
    }
}

/// Whether the name is taken, be it by a link to nowhere.
fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// A directory beside the target, which goes with all that is in it unless that is published, and a free name in it.
fn stage(target: &Path) -> Result<(TempDir, PathBuf), Error> {
    let parent = durable::parent(target);
    fs::create_dir_all(parent)?;
    let stage = tempfile::Builder::new().prefix(".oxigpt-").tempdir_in(parent)?;
    let path = stage.path().join("model");
    Ok((stage, path))
}

fn publish(stage: TempDir, path: &Path, target: &Path) -> Result<(), Error> {
    fs::rename(path, target)?;
    durable::sync_dir(durable::parent(target))?;
    Ok(stage.close()?)
}
