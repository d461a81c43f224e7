//! A model that is there already, with its tokenizer: what a run can begin with, and what is evaluated, sampled and
//! converted. It is found by its content; where it came from is not asked here.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use oxigpt_data::{Dataset, resolve, tokenizer_beside};
use oxigpt_model::{
    Format, MappedTensors, Merged, ModelConfig, Pretrained, TensorSource, is_adapter, open_adapters,
    open_config, open_pretrained,
};
use oxigpt_text::Tokenizer;

use crate::base::Base;
use crate::checkpoint;
use crate::durable;
use crate::error::Error;
use crate::run_dir;

/// Vocabularies that are GPT-2's: as it is, or rounded up to a multiple of 64 or 128, as nanoGPT and build-nanogpt do.
const GPT2_VOCABULARIES: std::ops::RangeInclusive<usize> = 50257..=50304;

#[derive(Debug)]
/// A model, whose weights stay in their files until they are read.
pub struct Model {
    /// What messages call it.
    pub name: String,
    /// The file or directory that holds its weights.
    pub path: PathBuf,
    /// Its shape.
    pub config: ModelConfig,
    /// Its weights, which are exactly those of `config`.
    pub weights: ModelWeights,
    /// The tokenizer that it was trained with, where that is known.
    pub tokenizer: Option<Tokenizer>,
}

/// Weights of a model.
#[derive(Debug)]
pub enum ModelWeights {
    /// As they are in their files.
    Whole(MappedTensors),
    /// Those of another model with adapters merged in, as they are read.
    Adapted(Box<Merged<ModelWeights, MappedTensors>>),
}

impl ModelWeights {
    fn source(&self) -> &dyn TensorSource {
        match self {
            ModelWeights::Whole(tensors) => tensors,
            ModelWeights::Adapted(merged) => merged.as_ref(),
        }
    }
}

impl TensorSource for ModelWeights {
    fn origin(&self) -> String {
        self.source().origin()
    }

    fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        self.source().shapes()
    }

    fn read(&self, name: &str) -> Result<Cow<'_, [f32]>, oxigpt_model::Error> {
        self.source().read(name)
    }

    fn release(&self, name: &str) {
        self.source().release(name);
    }
}

impl Model {
    /// Opens the model at `path`: a run, of which the best checkpoint speaks, or else the latest; or whatever
    /// [`open_pretrained`] reads, a checkpoint of ours among it; or adapters, with the model that they adapt.
    ///
    /// # Errors
    /// If there is no model, or its files or those of its tokenizer are not what they should be.
    pub fn open(path: &Path) -> Result<Model, Error> {
        let path = weights_of(path)?;
        checkpoint::check_weights(&path)?;
        if is_adapter(&path) {
            return Model::open_adapted(path);
        }
        let pretrained = open_pretrained(&path)?;
        let tokenizer = tokenizer_of(&path, &pretrained)?;
        let Pretrained { config, weights, .. } = pretrained;
        let weights = ModelWeights::Whole(weights);
        let name = path.display().to_string();
        let model = Model { name, path, config, weights, tokenizer };
        model.check_tokenizer()?;
        Ok(model)
    }

    /// Opens adapters. Those of another program have no configuration of the whole model: it is that of their base.
    fn open_adapted(path: PathBuf) -> Result<Model, Error> {
        let base = Base::of_adapters(&path)?.open(&path)?;
        let has_config = path.join("config.json").exists();
        let config = if has_config { open_config(&path)? } else { base.config.clone() };
        let (lora, adapters) = open_adapters(&path, &config)?;
        let block_size = config.block_size;
        let weights =
            ModelWeights::Adapted(Box::new(Merged { base: base.weights, lora, adapters, block_size }));
        let name = path.display().to_string();
        Ok(Model { name, config, weights, tokenizer: tokenizer_beside(&path)?.or(base.tokenizer), path })
    }

    /// The tokenizer of data that this model is to see: the data's own, or else the model's.
    ///
    /// # Errors
    /// [`Error::OtherTokenizer`] where both are known and differ, [`Error::OtherVocabulary`] where the data have words
    /// that the model has not.
    pub fn tokenizer_for(&self, dataset: &Dataset) -> Result<Option<Tokenizer>, Error> {
        let (model, dir) = (self.name.clone(), dataset.dir().into());
        match (&self.tokenizer, dataset.tokenizer()?) {
            (Some(own), Some(other)) if own.hash() != other.hash() => {
                let [own, other] = [own, &other].map(described);
                Err(Error::OtherTokenizer { model, own, dataset: dir, other })
            }
            (own, other) => {
                let (words, needed) = (self.config.vocab_size, dataset.vocab_size().unwrap_or(0));
                if needed > words {
                    return Err(Error::OtherVocabulary { model, words, dataset: dir, needed });
                }
                Ok(other.or_else(|| own.clone()))
            }
        }
    }

    /// A word about data whose tokens may be others than this model's, where nothing tells.
    pub fn doubt_about(&self, dataset: &Dataset) -> Option<String> {
        let tokenizer = dataset.tokenizer().ok().flatten().filter(|_| self.tokenizer.is_none())?;
        Some(format!(
            "{} has no tokenizer, so nothing shows that its {} words are the {} tokens of {} ({}): if they are not, what \
             follows means nothing",
            self.name,
            self.config.vocab_size,
            tokenizer.vocab_size(),
            dataset.dir().display(),
            tokenizer.name(),
        ))
    }

    fn check_tokenizer(&self) -> Result<(), Error> {
        match &self.tokenizer {
            Some(tokenizer) if tokenizer.vocab_size() > self.config.vocab_size => {
                Err(Error::LargeTokenizer {
                    model: self.path.clone(),
                    tokenizer: described(tokenizer),
                    words: self.config.vocab_size,
                })
            }
            _ => Ok(()),
        }
    }
}

/// Name, size and the beginning of the hash, which tells two character tokenizers of one size apart.
fn described(tokenizer: &Tokenizer) -> String {
    format!("{} ({} tokens, {})", tokenizer.name(), tokenizer.vocab_size(), &tokenizer.hash()[..8])
}

/// Where the weights are: at `path` itself, or at what it names if it is the directory of a run.
pub(crate) fn weights_of(path: &Path) -> Result<PathBuf, Error> {
    if !run_dir::is_run(path) {
        return Ok(path.into());
    }
    checkpoint::best_or_latest(path)?.ok_or_else(|| Error::NoCheckpoint { dir: path.into() })
}

/// The tokenizer whose files stand beside the weights, or in the data set that a nanoGPT checkpoint names; or else
/// GPT-2's, where the vocabulary is.
fn tokenizer_of(path: &Path, model: &Pretrained) -> Result<Option<Tokenizer>, Error> {
    let words = model.config.vocab_size;
    let dir = if path.is_dir() { path } else { durable::parent(path) };
    let mut found = match model.format {
        // A file of this kind has always GPT-2's, whatever stands beside it.
        Format::LlmC => None,
        _ => tokenizer_beside(dir)?,
    };
    if let (None, Some(dataset)) = (&found, &model.dataset) {
        // Another data set may have that name here.
        found = tokenizer_beside(&resolve(dataset))?.filter(|tokenizer| tokenizer.vocab_size() == words);
    }
    Ok(found.or_else(|| GPT2_VOCABULARIES.contains(&words).then(Tokenizer::gpt2)))
}
