//! The scores of a model on tasks: which file is for which, what is read of it, and the plan that each is scored by.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Error, Result};
use oxigpt_eval::tasks::hellaswag::{Missing, Protocol};
use oxigpt_eval::tasks::lambada::Passage;
use oxigpt_eval::tasks::{HellaSwag, Lambada, TaskError, WikiText, hellaswag, lambada, wikitext};
use oxigpt_model::{DecodeShape, decode_plan, eval_plan, score_plan};
use oxigpt_text::Tokenizer;
use oxigpt_train::settings::BatchSize;
use serde_json::{Map, Value, json};

use super::{Section, Subject, tables};
use crate::cli::{Definition, EvalArgs, Task};
use crate::fetch;
use crate::hint::CliError;
use crate::model;
use crate::report::{self, CountBar, duration};

/// A task and the file of its items.
pub(super) struct Asked {
    task: Task,
    path: PathBuf,
    limit: Option<NonZeroUsize>,
    definition: Option<Definition>,
}

/// A task whose file has been read.
pub(super) struct Opened<'a> {
    asked: &'a Asked,
    items: Items,
}

/// What a task asks, as far as it is known before the model is ready.
enum Items {
    HellaSwag(hellaswag::Questions),
    Lambada(Vec<Passage>),
    WikiText(String),
}

impl Task {
    /// What it is called on the command line and in the results.
    fn name(self) -> &'static str {
        match self {
            Task::HellaSwag => "hellaswag",
            Task::Lambada => "lambada",
            Task::WikiText => "wikitext",
        }
    }

    /// The file that it is published as, and where.
    fn published(self) -> (&'static str, &'static str) {
        match self {
            Task::HellaSwag => ("hellaswag_val.jsonl", fetch::HELLASWAG),
            Task::Lambada => (
                "lambada_test.jsonl",
                "https://openaipublic.blob.core.windows.net/gpt-2/data/lambada_test.jsonl",
            ),
            Task::WikiText => ("wiki.test.raw", "https://wikitext.smerity.com/wikitext-2-raw-v1.zip"),
        }
    }
}

impl Asked {
    /// The tasks of a command line, each with its file.
    pub(super) fn new(args: &EvalArgs) -> Result<Vec<Asked>> {
        let &EvalArgs { task: ref tasks, file: ref files, limit, definition, .. } = args;
        if definition.is_some() && !tasks.contains(&Task::HellaSwag) {
            return Err(CliError::usage(
                "--definition is of HellaSwag, which is not asked for",
                "add --task=hellaswag, or leave --definition out",
            )
            .into());
        }
        let without_file = tasks.iter().skip(files.len());
        if let Some(&task) = without_file.clone().find(|task| **task != Task::HellaSwag) {
            let (file, url) = task.published();
            return Err(CliError::usage(
                format!("nothing says which file --task={} is about", task.name()),
                format!("add --file=FILE, in the order of the tasks; {file} is published at {url}"),
            )
            .into());
        }
        if let Some(file) = files.get(tasks.len()) {
            return Err(CliError::usage(
                format!("nothing says which task --file={} is for", file.display()),
                "give each --file a --task of its own, in the same order",
            )
            .into());
        }
        if let Some(&task) =
            tasks.iter().enumerate().find_map(|(i, task)| tasks[..i].contains(task).then_some(task))
        {
            return Err(CliError::usage(
                format!("--task={} is given twice", task.name()),
                "evaluate one file of a task at a time",
            )
            .into());
        }
        let fetched = without_file.map(|_| fetch::hellaswag()).collect::<Result<Vec<_>>>()?;
        let pairs = tasks.iter().zip(files.iter().chain(&fetched));
        Ok(pairs.map(|(&task, path)| Asked { task, path: path.clone(), limit, definition }).collect())
    }

    /// Reads the file, and puts into tokens what has to be known in them.
    pub(super) fn open(&self, subject: &Subject) -> Result<Opened<'_>> {
        let tokenizer = subject.tokenizer()?;
        let limit = self.limit.map_or(usize::MAX, NonZeroUsize::get);
        let items = match self.task {
            Task::HellaSwag => {
                let mut items = hellaswag::read(&self.path)?;
                items.truncate(limit);
                let (block_size, protocols) = (subject.settings.block_size, self.protocols());
                let questions = hellaswag::Questions::new(&items, tokenizer, block_size, protocols);
                let questions = questions.with_context(|| self.title())?;
                if let Some(missing) = questions.missing().filter(|_| questions.is_empty()) {
                    return Err(self.impossible(missing, items.len()).into());
                }
                Items::HellaSwag(questions)
            }
            Task::Lambada => {
                let mut passages = lambada::read(&self.path)?;
                passages.truncate(limit);
                Items::Lambada(passages)
            }
            Task::WikiText => Items::WikiText(first_lines(wikitext::read(&self.path)?, limit)),
        };
        Ok(Opened { asked: self, items })
    }

    fn protocols(&self) -> &'static [Protocol] {
        match self.definition {
            None => &Protocol::BOTH,
            Some(Definition::BuildNanogpt) => &[Protocol::BuildNanoGpt],
            Some(Definition::LmEval) => &[Protocol::LmEval],
        }
    }

    fn impossible(&self, missing: Missing, items: usize) -> CliError {
        CliError::failure(
            format!(
                "{}: lm-eval is not possible: {} of {items} items have {missing}",
                self.title(),
                missing.items
            ),
            "use the file as it is published, or --definition=build-nanogpt",
        )
    }

    fn title(&self) -> String {
        format!("{} ({})", self.path.display(), self.task.name())
    }
}

impl Opened<'_> {
    /// Scores the model.
    pub(super) fn measure(&self, subject: &Subject) -> Result<Section> {
        let (title, name) = (self.asked.title(), self.asked.task.name());
        report::note(&format!("{} on {title}", subject.model.name));
        let began = Instant::now();
        let scores = self.items.scores(subject);
        let (scores, table) = scores.map_err(|error| subject.explained(error)).context(title)?;
        let seconds = began.elapsed().as_secs_f64();
        let Value::Object(mut scores) = scores else { unreachable!("scores are structs") };
        scores.insert("seconds".to_owned(), json!(seconds));
        let json = Map::from_iter([(name.to_owned(), Value::Object(scores))]);
        let heading = format!("{name:15}{}, {}\n", self.asked.path.display(), duration(seconds));
        Ok(Section { json, table: heading + &table })
    }
}

impl Items {
    /// As JSON and as a table.
    fn scores(&self, subject: &Subject) -> Result<(Value, String)> {
        Ok(match self {
            Items::HellaSwag(questions) => {
                let found = subject.hellaswag(questions)?;
                (json!(found), tables::hellaswag(&found))
            }
            Items::Lambada(passages) => {
                let found = subject.lambada(passages)?;
                (json!(found), tables::lambada(&found))
            }
            Items::WikiText(text) => {
                let found = subject.wikitext(text)?;
                (json!(found), tables::wikitext(&found))
            }
        })
    }
}

impl Subject {
    /// The error of a task; where losses are not finite, no item is to blame.
    fn explained(&self, error: Error) -> Error {
        match error.downcast_ref() {
            Some(TaskError::NotFinite { .. }) => self.not_finite().into(),
            _ => error,
        }
    }

    fn tokenizer(&self) -> Result<&Tokenizer> {
        let none = || model::no_tokenizer(&self.model.name, &self.model.config);
        Ok(self.model.tokenizer.as_ref().ok_or_else(none)?)
    }

    fn hellaswag(&self, questions: &hellaswag::Questions) -> Result<HellaSwag> {
        let limit = match self.settings.batch_size {
            BatchSize::Rows(rows) => rows,
            BatchSize::Auto => hellaswag::MOST_ITEMS,
        };
        let rows = questions.batch_size(limit);
        let (plan, parameters, scorer) =
            score_plan(&self.config()?, rows, questions.positions(), self.settings.eval_storage())?;
        let mut session = self.session(plan, &parameters)?;
        let bar = CountBar::new(questions.len() as u64, "questions");
        let found = hellaswag(&mut session, &scorer, questions, &mut |done| go_on(&bar, done))?;
        bar.finish();
        Ok(found.expect("nothing broke it off"))
    }

    fn lambada(&self, passages: &[Passage]) -> Result<Lambada> {
        let config = self.config()?;
        let shape = DecodeShape { storage: self.settings.decode_storage(), ..DecodeShape::one(&config) };
        let (plan, parameters, decoder) = decode_plan(&config, &shape)?;
        let mut session = self.session(plan, &parameters)?;
        let bar = CountBar::new(passages.len() as u64, "passages");
        let mut progress = |done| go_on(&bar, done);
        let found = lambada(&mut session, &decoder, self.tokenizer()?, passages, &mut progress)?;
        bar.finish();
        Ok(found.expect("nothing broke it off"))
    }

    fn wikitext(&self, text: &str) -> Result<WikiText> {
        let (rows, block_size) = (self.rows(), self.settings.block_size);
        let (plan, parameters, pass) =
            eval_plan(&self.config()?, rows, block_size, self.settings.eval_storage())?;
        let mut session = self.session(plan, &parameters)?;
        let bar = CountBar::new(0, "windows");
        let mut progress = |done, windows| {
            bar.set_total(windows);
            go_on(&bar, done)
        };
        let found = wikitext(&mut session, &pass, self.tokenizer()?, text, &mut progress)?;
        bar.finish();
        Ok(found.expect("nothing broke it off"))
    }
}

fn go_on(bar: &CountBar, done: u64) -> ControlFlow<()> {
    bar.show(done);
    ControlFlow::Continue(())
}

/// The text up to the end of its so-manieth line that is not blank.
fn first_lines(mut text: String, lines: usize) -> String {
    let ends = text.split_inclusive('\n').scan(0, |end, line| {
        *end += line.len();
        Some((!line.trim().is_empty(), *end))
    });
    let end = ends.filter_map(|(counts, end)| counts.then_some(end)).nth(lines - 1);
    if let Some(end) = end {
        text.truncate(end);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::first_lines;

    #[test]
    fn blank_lines_do_not_count() {
        let text = "\n one \n \ntwo\nthree";
        let first = |lines| first_lines(text.to_owned(), lines);
        assert_eq!([1, 2, 3, usize::MAX].map(first), ["\n one \n", "\n one \n \ntwo\n", text, text]);
    }
}
