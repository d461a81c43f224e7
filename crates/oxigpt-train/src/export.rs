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

/// How the names begin of what this process writes beside a target until it is whole.
fn partial_prefix() -> String {
    format!(".oxigpt-partial-{}-", std::process::id())
}

/// Removes what this process has written beside a target and not published: for when it is interrupted.
pub fn discard_partial(target: &Path) {
    let entries = fs::read_dir(durable::parent(target)).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&partial_prefix())) {
        // There is nobody left to tell.
        let _ = fs::remove_dir_all(entry.path());
    }
}

/// A directory beside the target, which goes with all that is in it unless that is published, and a free name in it.
fn stage(target: &Path) -> Result<(TempDir, PathBuf), Error> {
    let parent = durable::parent(target);
    fs::create_dir_all(parent)?;
    let stage = tempfile::Builder::new().prefix(&partial_prefix()).tempdir_in(parent)?;
    let path = stage.path().join("model");
    Ok((stage, path))
}

/// Gives what is whole its name, unless something has taken that name meanwhile.
fn publish(stage: TempDir, path: &Path, target: &Path) -> Result<(), Error> {
    let published = if path.is_file() {
        // Unlike a renaming, a link replaces nothing; where there are no links, a look must do.
        match fs::hard_link(path, target) {
            Err(_) if !exists(target) => fs::rename(path, target),
            linked => linked,
        }
    } else {
        fs::rename(path, target)
    };
    published.map_err(|error| match exists(target) {
        true => Error::TargetExists { path: target.into() },
        false => error.into(),
    })?;
    durable::sync_dir(durable::parent(target))?;
    Ok(stage.close()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_appears_meanwhile_is_not_replaced() {
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("taken");
        for is_file in [true, false] {
            let (stage, partial) = stage(&target).unwrap();
            if is_file {
                fs::write(&partial, "new").unwrap();
                fs::write(&target, "precious").unwrap();
            } else {
                fs::create_dir(&partial).unwrap();
                fs::create_dir(&target).unwrap();
                fs::write(target.join("file"), "precious").unwrap();
            }
            let error = publish(stage, &partial, &target).unwrap_err();
            assert!(matches!(&error, Error::TargetExists { path } if *path == target), "{error}");
            assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1, "nothing else is left there");
            if is_file {
                assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
                fs::remove_file(&target).unwrap();
            }
        }
        assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "precious");
    }

    #[test]
    fn an_interrupted_one_leaves_nothing() {
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("model");
        let (stage, partial) = stage(&target).unwrap();
        fs::write(&partial, "half").unwrap();
        fs::write(place.path().join(".oxigpt-partial-other"), "another's").unwrap();
        discard_partial(&target);
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
        drop(stage);
    }
}
