//! The data of a run: opened, or prepared first where they are built in, and checked.

use std::path::Path;

use fs_err as fs;
use oxigpt_data::{
    Dataset, Error as DataError, EvalWindows, Loader, PrepareOptions, Split, TokenizerKind, eval_windows,
    prepare_stories, prepare_text, resolve, spread_windows,
};
use oxigpt_text::Tokenizer;

use crate::durable;
use crate::error::Error;
use crate::settings::Settings;

/// A few lines to learn by heart: 4 windows of 64 characters, which make one batch of the recipe `overfit`.
const OVERFIT: &str = "\
The quick brown fox jumps over the lazy dog.
Pack my box with five dozen jugs of liquor.
How vexingly quick do daft zebras jump!
Sphinx of black quartz, judge my vow.
The five boxing wizards jump quickly.
Jackdaws love my sphinx of quartz.
Two driven jocks help fax my big quiz.
";

/// Everything that a run takes from its data set.
pub(crate) struct Corpus {
    pub(crate) dataset: Dataset,
    pub(crate) hash: String,
    pub(crate) vocab_size: usize,
    pub(crate) tokenizer: Option<Tokenizer>,
    pub(crate) loader: Loader,
    /// Windows spread over the training tokens, to measure the training loss on.
    pub(crate) train_windows: EvalWindows,
    /// The first windows of the validation tokens.
    pub(crate) val_windows: EvalWindows,
}

impl Corpus {
    /// Opens the data that `settings` name and checks that a run can be made of them. Reads every token.
    pub(crate) fn open(settings: &Settings) -> Result<Corpus, Error> {
        let dataset = open_dataset(&settings.dataset)?;
        let dir = dataset.dir();
        for split in Split::BOTH {
            if dataset.split(split).is_empty() {
                return Err(Error::NoSplit { dataset: dir.into(), split: split.name() });
            }
        }
        let vocab_size = vocab_size(settings, &dataset)?;
        let tokenizer = match dataset.tokenizer()? {
            // Token files that came without a tokenizer and with so many words hold GPT-2's, as everywhere.
            None => Some(Tokenizer::gpt2()).filter(|gpt2| gpt2.vocab_size() <= vocab_size),
            tokenizer => tokenizer,
        };
        if let Some(needed) = tokenizer.as_ref().map(Tokenizer::vocab_size).filter(|&n| n > vocab_size) {
            return Err(Error::SmallVocab { vocab_size, needed, dataset: dir.into() });
        }
        let (block_size, limit) = (settings.block_size, Some(settings.eval_tokens as u64));
        let (train, val) = (dataset.split(Split::Train), dataset.split(Split::Val));
        let corpus = Corpus {
            loader: Loader::new(train, settings.data_order, block_size, settings.seed)?,
            train_windows: spread_windows(train, block_size, limit)?,
            val_windows: eval_windows(val, block_size, limit)?,
            hash: dataset.hash(),
            vocab_size,
            tokenizer,
            dataset,
        };
        corpus.dataset.validate(vocab_size)?;
        Ok(corpus)
    }

    pub(crate) fn tokens(&self, split: Split) -> u64 {
        self.dataset.split(split).len()
    }
}

/// Opens a data set by its directory or name; one that is built in is prepared where it is used first.
///
/// # Errors
/// If there is no such data set, or it cannot be read or prepared.
pub fn open_dataset(name: &str) -> Result<Dataset, Error> {
    let dir = resolve(name);
    match Dataset::open(&dir) {
        Err(DataError::NoSuchDataset { .. } | DataError::Incomplete { .. })
            if prepare_built_in(name, &dir)? =>
        {
            Ok(Dataset::open(&dir)?)
        }
        dataset => Ok(dataset?),
    }
}

/// Prepares a built-in data set as `dir`, over what a preparation that was cut off may have left there. False where
/// there is none of that name.
fn prepare_built_in(name: &str, dir: &Path) -> Result<bool, Error> {
    match name {
        "stories" => drop(prepare_stories(dir, true)?),
        "overfit" => {
            let text = dir.with_extension("txt");
            fs::create_dir_all(dir.parent().unwrap_or(dir))?;
            // What is to be learned by heart is also what is asked: both halves are the same.
            durable::write(&text, OVERFIT.repeat(2).as_bytes())?;
            let options = PrepareOptions {
                tokenizer: TokenizerKind::Char,
                val_fraction: 0.5,
                force: true,
                ..PrepareOptions::default()
            };
            prepare_text(&[text], dir, &options, &mut |_| ())?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn vocab_size(settings: &Settings, dataset: &Dataset) -> Result<usize, Error> {
    match (settings.vocab_size, dataset.vocab_size()) {
        (0, None) => Err(Error::UnknownVocab { dataset: dataset.dir().into() }),
        (0, Some(vocab_size)) | (vocab_size, _) => Ok(vocab_size),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One batch of the recipe is the whole text, in training and in validation.
    #[test]
    fn the_lines_to_learn_by_heart_make_one_batch() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("overfit");
        prepare_built_in("overfit", &dir).unwrap();
        let dataset = Dataset::open(&dir).unwrap();
        let tokenizer = dataset.tokenizer().unwrap().unwrap();
        for split in Split::BOTH {
            let tokens = dataset.split(split);
            let loader = Loader::new(tokens, oxigpt_data::DataOrder::Sequential, 64, 0).unwrap();
            assert_eq!(loader.windows_per_epoch(), 4);
            let mut all = vec![0; tokens.len() as usize];
            tokens.read(0, &mut all);
            assert_eq!(tokenizer.decode(&all), OVERFIT);
        }
        // What was cut off is made again.
        fs::remove_file(dir.join("dataset.json")).unwrap();
        fs::create_dir(dir.join(".partial")).unwrap();
        assert!(matches!(Dataset::open(&dir), Err(DataError::Incomplete { .. })));
        prepare_built_in("overfit", &dir).unwrap();
        Dataset::open(&dir).unwrap();
    }

    #[test]
    fn the_stories_are_prepared_and_others_are_not() {
        let dir = tempfile::tempdir().unwrap();
        prepare_built_in("stories", &dir.path().join("stories")).unwrap();
        let dataset = Dataset::open(&dir.path().join("stories")).unwrap();
        assert!(dataset.split(Split::Train).len() > 900_000);
        assert!(!prepare_built_in("other", &dir.path().join("other")).unwrap());
        assert!(!dir.path().join("other").exists());
    }
}
