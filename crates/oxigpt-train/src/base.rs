//! What a run needs beside its own checkpoints: the model that adapters adapt, or that a distillation learns from.
//!
//! A checkpoint names it in `base.json`, by its path and by a hash of its weights, and does not hold it.

use std::path::{Path, PathBuf};

use fs_err as fs;
use oxigpt_model::{TensorSource, is_adapter};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::durable;
use crate::error::Error;
use crate::model::{Model, weights_of};

const FILE: &str = "base.json";

/// Names a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Base {
    /// What it was called when the run began: a path, or an id on the hub.
    pub(crate) name: String,
    /// Where its weights were.
    path: PathBuf,
    /// Of its weights, whatever their format; absent in adapters of another program.
    sha256: Option<String>,
}

impl Base {
    /// Names a model that is there.
    pub(crate) fn of(model: &Model) -> Result<Base, Error> {
        let path = fs::canonicalize(&model.path)?;
        Ok(Base { name: model.name.clone(), path, sha256: Some(fingerprint(&model.weights)?) })
    }

    /// What the checkpoint in `dir` names, if it names anything.
    pub(crate) fn read(dir: &Path) -> Result<Option<Base>, Error> {
        let path = dir.join(FILE);
        if !path.exists() {
            return Ok(None);
        }
        let base = serde_json::from_slice(&fs::read(&path)?);
        base.map(Some).map_err(|error| Error::bad_checkpoint(&path, &error))
    }

    pub(crate) fn write(&self, dir: &Path) -> Result<(), Error> {
        let text = serde_json::to_string_pretty(self).expect("plain data has no way to fail");
        Ok(durable::write(&dir.join(FILE), format!("{text}\n").as_bytes())?)
    }

    /// Opens the model, for the checkpoint in `dir`.
    ///
    /// # Errors
    /// [`Error::NoBase`] if it is not there any more, [`Error::OtherBase`] if another model has taken its place.
    pub(crate) fn open(&self, dir: &Path) -> Result<Model, Error> {
        let Base { name, path, sha256 } = self;
        if !path.exists() {
            return Err(Error::NoBase { checkpoint: dir.into(), name: name.clone(), path: path.clone() });
        }
        if self.leads_back_to(dir)? {
            let (was, now) = (name.clone(), "adapters of itself".into());
            return Err(Error::OtherBase { checkpoint: dir.into(), was, path: path.clone(), now });
        }
        let model = Model::open(path)?;
        let found = sha256.as_ref().map(|_| fingerprint(&model.weights)).transpose()?;
        if found != *sha256 {
            let [was, now] = [sha256, &found]
                .map(|hash| hash.as_deref().map_or("-", |hash| hash.get(..12).unwrap_or(hash)));
            let (was, now) = (format!("{name} (weights {was})"), format!("weights {now}"));
            return Err(Error::OtherBase { checkpoint: dir.into(), was, path: path.clone(), now });
        }
        Ok(Model { name: name.clone(), ..model })
    }

    /// Whether bases of bases end where they began: paths stay when directories change their names.
    fn leads_back_to(&self, dir: &Path) -> Result<bool, Error> {
        let mut seen = vec![fs::canonicalize(dir)?];
        let mut path = self.path.clone();
        while let Ok(weights) = weights_of(&path)
            && is_adapter(&weights)
        {
            let weights = fs::canonicalize(weights)?;
            if seen.contains(&weights) {
                return Ok(true);
            }
            path = Base::of_adapters(&weights)?.path;
            seen.push(weights);
        }
        Ok(false)
    }

    /// What other programs can find it by: its id on the hub, or its path.
    pub(crate) fn reference(&self) -> String {
        let is_local = Path::new(&self.name).exists() || self.name.starts_with(['.', '/']);
        if is_local { self.path.display().to_string() } else { self.name.clone() }
    }

    /// What the adapters in `dir` adapt. Those of other programs name it alone.
    pub(crate) fn of_adapters(dir: &Path) -> Result<Base, Error> {
        if let Some(base) = Base::read(dir)? {
            return Ok(base);
        }
        let name = oxigpt_model::adapted_model(dir)?.unwrap_or_default();
        Ok(Base { path: PathBuf::from(&name), name, sha256: None })
    }
}

/// SHA-256 of names, shapes and float32 elements of all tensors, in the order of their names.
fn fingerprint(weights: &impl TensorSource) -> Result<String, Error> {
    let mut shapes = weights.shapes();
    shapes.sort();
    let mut hash = Sha256::new();
    for (name, shape) in shapes {
        hash.update(format!("{name} {shape:?}\n"));
        hash.update(bytemuck::cast_slice::<f32, u8>(&weights.read(&name)?));
        weights.release(&name);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
