//! The data of a run: opened, or prepared first where they are built in, and checked.

use std::path::Path;

use fs_err as fs;
use oxigpt_data::{
    Dataset, EvalWindows, Loader, PrepareOptions, Split, TokenizerKind, eval_windows, prepare_stories,
    prepare_text, resolve, spread_windows,
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
    // A preparation that was cut off has left a directory without this file.
    if dir == Path::new("data").join(name) && !dir.join("dataset.json").exists() {
        prepare_built_in(name, &dir)?;
    }
    Ok(Dataset::open(&dir)?)
}

/// Prepares a built-in data set as `dir`; any other name is left to whoever opens it to complain about.
fn prepare_built_in(name: &str, dir: &Path) -> Result<(), Error> {
    match name {
        "stories" => drop(prepare_stories(dir, false)?),
        "overfit" => {
            // What is to be learned by heart is also what is asked: both halves are the same.
            fs::create_dir_all(dir)?;
            let text = dir.join("overfit.txt");
            durable::write(&text, OVERFIT.repeat(2).as_bytes())?;
            let options = PrepareOptions {
                tokenizer: TokenizerKind::Char,
                val_fraction: 0.5,
                ..PrepareOptions::default()
            };
            prepare_text(&[text], dir, &options, &mut |_| ())?;
        }
        _ => {}
    }
    Ok(())
}

fn vocab_size(settings: &Settings, dataset: &Dataset) -> Result<usize, Error> {
    match (settings.vocab_size, dataset.vocab_size()) {
        (0, None) => Err(Error::UnknownVocab { dataset: dataset.dir().into() }),
        (0, Some(vocab_size)) | (vocab_size, _) => Ok(vocab_size),
    }
}
