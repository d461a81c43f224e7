//! HellaSwag while a model is trained, by build-nanogpt's definition: the items are put into tokens once, and scored on
//! the weights in training.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use oxigpt_compute::Session;
use oxigpt_eval::tasks::hellaswag::{self, Protocol, Questions};
use oxigpt_eval::tasks::{HellaSwag, TaskError};
use oxigpt_model::Scorer;
use oxigpt_text::Tokenizer;

use crate::corpus::{Corpus, planned_tokenizer};
use crate::error::Error;
use crate::event::{Event, HellaSwagScore};
use crate::settings::{Settings, TaskFile};

/// As many items as ever lie side by side: keys and values of more would take memory that training has better use for.
const MOST_ITEMS: usize = 8;

/// The items that `settings` ask for. The published file is at `published`.
pub(crate) fn questions(
    settings: &Settings,
    published: Option<&Path>,
    corpus: &Corpus,
) -> Result<Option<Questions>, Error> {
    let Some(path) = path(settings, published)? else { return Ok(None) };
    let tokenizer = corpus
        .tokenizer
        .as_ref()
        .ok_or_else(|| Error::NoTokenizer { task: "HellaSwag", dataset: corpus.dataset.dir().into() })?;
    read(settings, path, tokenizer).map(Some)
}

/// Rows and positions that a plan must be able to score for what `settings` ask for: those of the items, where file and
/// tokenizer are at hand, or else the most there can be.
///
/// # Errors
/// If the file has not the items that it should have.
pub fn planned_scoring(
    settings: &Settings,
    published: Option<&Path>,
    vocab_size: usize,
) -> Result<Option<[usize; 2]>, Error> {
    let path = match (&settings.hellaswag, published) {
        (TaskFile::None, _) => return Ok(None),
        (TaskFile::Published, None) => None,
        _ => path(settings, published)?,
    };
    match (path, planned_tokenizer(settings, vocab_size)) {
        (Some(path), Some(tokenizer)) => Ok(Some(shape(&read(settings, path, &tokenizer)?))),
        _ => Ok(Some([MOST_ITEMS, settings.block_size])),
    }
}

fn path<'a>(settings: &'a Settings, published: Option<&'a Path>) -> Result<Option<&'a Path>, Error> {
    match &settings.hellaswag {
        TaskFile::None => Ok(None),
        TaskFile::At(path) => Ok(Some(Path::new(path))),
        TaskFile::Published => published.map(Some).ok_or(Error::TaskNotGiven { task: "HellaSwag" }),
    }
}

fn read(settings: &Settings, path: &Path, tokenizer: &Tokenizer) -> Result<Questions, Error> {
    let mut items = hellaswag::read(path).map_err(|error| Error::TaskFile(Box::new(error)))?;
    if settings.hellaswag_limit > 0 {
        items.truncate(settings.hellaswag_limit);
    }
    Questions::new(&items, tokenizer, settings.block_size, &[Protocol::BuildNanoGpt])
        .map_err(|source| Error::Task { file: path.into(), source: Box::new(source) })
}

/// Rows and positions of a scorer for them.
pub(crate) fn shape(questions: &Questions) -> [usize; 2] {
    [questions.batch_size(MOST_ITEMS), questions.positions()]
}

/// Scores the model of a session, after `step` updates. Gives what there is to tell of it; nothing where `progress` broke
/// it off.
pub(crate) fn score(
    session: &mut Session,
    scorer: &Scorer,
    questions: &Questions,
    step: u64,
    progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<Option<Event>, Error> {
    let began = Instant::now();
    let found = match hellaswag::hellaswag(session, scorer, questions, progress) {
        // Whether the weights are to blame will show at the next loss.
        Err(TaskError::NotFinite { .. }) => {
            let message = "HellaSwag was left out: a loss is not finite".into();
            return Ok(Some(Event::Warning { step, message }));
        }
        Err(TaskError::Compute(error)) => return Err(error.into()),
        Err(TaskError::Model(error)) => return Err(error.into()),
        found => {
            found.map_err(|source| Error::Task { file: "HellaSwag".into(), source: Box::new(source) })?
        }
    };
    let Some(HellaSwag { items, build_nanogpt: Some(scores), .. }) = found else { return Ok(None) };
    Ok(Some(Event::HellaSwag(HellaSwagScore {
        step,
        acc: scores.acc.value(),
        acc_norm: scores.acc_norm.value(),
        interval: scores.acc_norm.interval(),
        items,
        truncated: scores.truncated,
        hellaswag_ms: began.elapsed().as_secs_f64() * 1e3,
    })))
}
