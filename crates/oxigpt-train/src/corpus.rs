//! The data of a run: opened, or prepared first where they are built in, and checked.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use fs_err as fs;
use oxigpt_compute::Session;
use oxigpt_data::{
    DEFAULT_STORIES_BYTES, DEFAULT_STORIES_SEED, Dataset, DatasetError, Error as DataError, EvalWindows,
    Loader, PrepareOptions, Split, TokenizerKind, eval_windows, prepare_stories, prepare_text, resolve,
    spread_windows, stories,
};
use oxigpt_eval::{Loss, evaluate};
use oxigpt_model::Evaluate;
use oxigpt_text::Tokenizer;

use crate::error::Error;
use crate::settings::Settings;

/// The data set of the recipe `demo`.
const STORIES_NAME: &str = "stories";
/// The data set of the recipe `overfit`.
const OVERFIT_NAME: &str = "overfit";

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
    /// Checks that the run of `settings` can be made of a data set. Reads every token. The tokenizer is the data's, or
    /// else the one that is `known` from the model.
    pub(crate) fn new(
        settings: &Settings,
        dataset: Dataset,
        known: Option<Tokenizer>,
    ) -> Result<Corpus, Error> {
        let dir = dataset.dir();
        for split in Split::BOTH {
            if dataset.split(split).is_empty() {
                return Err(Error::NoSplit { dataset: dir.into(), split: split.name() });
            }
        }
        let vocab_size = vocab_size(settings, &dataset)?;
        let tokenizer = tokenizer(&dataset, known, vocab_size)?;
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
        check_length(settings, &corpus.dataset)?;
        corpus.dataset.validate(vocab_size)?;
        Ok(corpus)
    }

    /// A word about a model of far more words than the data have; some more round their number up.
    pub(crate) fn unused_vocabulary(&self) -> Option<String> {
        let (known, dir) = (self.dataset.vocab_size()?, self.dataset.dir().display());
        (known.next_multiple_of(128) < self.vocab_size).then(|| {
            format!(
                "vocab_size = {}, but {dir} has {known} tokens: --vocab_size=0 takes those alone",
                self.vocab_size
            )
        })
    }

    /// Windows of an evaluation: of training and of validation tokens.
    pub(crate) fn eval_windows(&self) -> u64 {
        self.train_windows.len() + self.val_windows.len()
    }

    /// Losses on the training windows and on the validation windows; nothing where `progress`, which hears after each
    /// pass how many windows of the two together are done, breaks off.
    pub(crate) fn losses(
        &self,
        session: &mut Session,
        pass: &Evaluate,
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Option<[Loss; 2]>, Error> {
        let Some(train) = evaluate(session, pass, &self.train_windows, progress)? else { return Ok(None) };
        let before = self.train_windows.len();
        let val = evaluate(session, pass, &self.val_windows, &mut |done| progress(before + done))?;
        Ok(val.map(|val| [train, val]))
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
    let dir = locate(name);
    if let Some(dataset) = open_prepared(name, &dir)? {
        return Ok(dataset);
    }
    prepare_built_in(name, &dir)?;
    Ok(Dataset::open(&dir)?)
}

/// The vocabulary that a run of `settings` will have. Built-in data need not have been prepared.
///
/// # Errors
/// If the settings do not say it and there is no such data set, or it does not say it either.
pub fn planned_vocab_size(settings: &Settings) -> Result<usize, Error> {
    if settings.vocab_size > 0 {
        return Ok(settings.vocab_size);
    }
    let name = settings.dataset.as_str();
    match open_prepared(name, &locate(name))? {
        Some(dataset) => vocab_size(settings, &dataset),
        None => {
            let text = if name == OVERFIT_NAME {
                OVERFIT.to_owned()
            } else {
                stories(DEFAULT_STORIES_SEED, DEFAULT_STORIES_BYTES)
            };
            let chars = Tokenizer::chars_of(&text)
                .map_err(|source| Error::Text { what: "the built-in text", source })?;
            Ok(chars.vocab_size())
        }
    }
}

/// The tokenizer that a run of `settings` will have, where its data are at hand.
pub(crate) fn planned_tokenizer(settings: &Settings, vocab_size: usize) -> Option<Tokenizer> {
    let name = settings.dataset.as_str();
    let dataset = open_prepared(name, &locate(name)).ok()??;
    tokenizer(&dataset, None, vocab_size).ok()?
}

/// The tokenizer of the data, or else the one that is `known` from the model, or else GPT-2's: token files that came
/// without a tokenizer and with so many words hold GPT-2's, as everywhere.
fn tokenizer(
    dataset: &Dataset,
    known: Option<Tokenizer>,
    vocab_size: usize,
) -> Result<Option<Tokenizer>, Error> {
    let gpt2 = || Some(Tokenizer::gpt2()).filter(|gpt2| gpt2.vocab_size() <= vocab_size);
    Ok(dataset.tokenizer()?.or(known).or_else(gpt2))
}

fn is_built_in(name: &str) -> bool {
    [STORIES_NAME, OVERFIT_NAME].contains(&name)
}

/// The directory that the name of a data set means. Where it is that of a built-in one, a file or folder that only
/// happens to be called so is passed over.
fn locate(name: &str) -> PathBuf {
    let dir = resolve(name);
    match Dataset::open(&dir) {
        Err(DataError::Dataset(DatasetError::DatasetIsFile { .. } | DatasetError::NoShards { .. }))
            if is_built_in(name) =>
        {
            Path::new("data").join(name)
        }
        _ => dir,
    }
}

/// Opens a data set. `None` where it is built in and has not been prepared yet, or not to the end.
fn open_prepared(name: &str, dir: &Path) -> Result<Option<Dataset>, Error> {
    let is_empty = || fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none());
    match Dataset::open(dir) {
        Ok(dataset) => Ok(Some(dataset)),
        Err(error) if !is_built_in(name) => Err(error.into()),
        Err(DataError::Dataset(DatasetError::NoSuchDataset { .. } | DatasetError::Incomplete { .. })) => {
            Ok(None)
        }
        Err(DataError::Dataset(DatasetError::NoShards { .. })) if is_empty() => Ok(None),
        Err(DataError::Dataset(DatasetError::NoShards { .. } | DatasetError::DatasetIsFile { .. })) => {
            Err(Error::NameTaken { path: dir.into() })
        }
        Err(error) => Err(error.into()),
    }
}

/// Prepares a built-in data set as `dir`, over what a preparation that was cut off may have left there.
fn prepare_built_in(name: &str, dir: &Path) -> Result<(), Error> {
    if name == STORIES_NAME {
        prepare_stories(dir, true)?;
        return Ok(());
    }
    let place = tempfile::tempdir()?;
    let text = place.path().join("overfit.txt");
    // What is to be learned by heart is also what is asked: both halves are the same.
    fs::write(&text, OVERFIT.repeat(2))?;
    let options = PrepareOptions {
        tokenizer: TokenizerKind::Char,
        val_fraction: 0.5,
        force: true,
        ..PrepareOptions::default()
    };
    prepare_text(&[text], dir, &options, &mut |_| ())?;
    Ok(())
}

/// Refuses a corpus that one step would go through more than once.
fn check_length(settings: &Settings, dataset: &Dataset) -> Result<(), Error> {
    let (found, step) = (dataset.split(Split::Train).len(), settings.tokens_per_step());
    // The last target is one token further.
    if found > step as u64 {
        return Ok(());
    }
    Err(Error::ShortCorpus { dataset: dataset.dir().into(), found, step })
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
        assert!(matches!(Dataset::open(&dir), Err(DataError::Dataset(DatasetError::Incomplete { .. }))));
        prepare_built_in("overfit", &dir).unwrap();
        Dataset::open(&dir).unwrap();
    }

    #[test]
    fn the_stories_are_prepared() {
        let dir = tempfile::tempdir().unwrap();
        prepare_built_in("stories", &dir.path().join("stories")).unwrap();
        let dataset = Dataset::open(&dir.path().join("stories")).unwrap();
        assert!(dataset.split(Split::Train).len() > 900_000);
        let settings = Settings { dataset: "stories".into(), ..Settings::default() };
        assert_eq!(planned_vocab_size(&settings).unwrap(), dataset.vocab_size().unwrap());
    }

    /// Nothing of the user's is touched, whatever it is called.
    #[test]
    fn only_the_data_directory_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let text = dir.path().join("overfit.txt");
        fs::write(&text, "mine").unwrap();
        prepare_built_in("overfit", &dir.path().join("overfit")).unwrap();
        assert_eq!(fs::read_to_string(text).unwrap(), "mine");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_is_no_data_set_keeps_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let taken = dir.path().join("taken");
        fs::create_dir(&taken).unwrap();
        assert!(
            open_prepared("stories", &taken).unwrap().is_none(),
            "nothing is in the way of an empty folder"
        );
        fs::write(taken.join("notes"), "mine").unwrap();
        for path in [taken.clone(), taken.join("notes")] {
            let error = open_prepared("stories", &path).unwrap_err();
            let path = path.display();
            assert_eq!(
                error.to_string(),
                format!("{path} is no data set, and the built-in data of that name belong there")
            );
            assert!(error.hint().unwrap().starts_with("move it away"), "{:?}", error.hint());
        }
        assert!(matches!(
            open_prepared("other", &taken),
            Err(Error::Data(DataError::Dataset(DatasetError::NoShards { .. })))
        ));
    }
}
