//! A tiny run on a generated text, in a directory of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fs_err as fs;
use oxigpt_compute::philox;
use oxigpt_data::{PrepareOptions, TokenizerKind, prepare_text};
use oxigpt_train::settings::{BatchSize, Settings};
use oxigpt_train::{Error, Event, Model, Outcome, Request, Summary, train};
use tempfile::TempDir;

/// A place for a data set and its runs.
pub(crate) struct Place {
    dir: TempDir,
}

impl Place {
    /// With a text whose words are easily learned, in no order.
    pub(crate) fn new() -> Place {
        let place = Place { dir: tempfile::tempdir().unwrap() };
        let words = ["one ", "two ", "three ", "four ", "five\n"];
        let text: String = (0..3000).map(|i| words[philox::draw(1, 2, i)[0] as usize % 5]).collect();
        place.prepare("data", &text);
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn prepare(&self, name: &str, text: &str) {
        let file = self.path(&format!("{name}.txt"));
        fs::write(&file, text).unwrap();
        let options = PrepareOptions { tokenizer: TokenizerKind::Char, ..PrepareOptions::default() };
        prepare_text(&[file], &self.path(name), &options, &mut |_| ()).unwrap();
    }

    /// Items of HellaSwag in the words of the text.
    pub(crate) fn items(&self) -> String {
        let item = |i: usize| {
            let words = ["one", "two", "three", "four", "five"];
            let word = |k: usize| words[(i + k) % 5];
            let endings = [word(2), word(3), word(4), word(0)];
            let ctx = format!("{} {}", word(0), word(1));
            serde_json::json!({ "ctx": ctx, "endings": endings, "label": i % 4 }).to_string()
        };
        let lines: Vec<_> = (0..7).map(item).collect();
        fs::write(self.path("items.jsonl"), lines.join("\n")).unwrap();
        self.text("items.jsonl")
    }

    /// A tiny model, three updates between evaluations.
    pub(crate) fn settings(&self, run: &str) -> Settings {
        Settings {
            out_dir: self.text(run),
            dataset: self.text("data"),
            threads: 1,
            batch_size: BatchSize::Rows(4),
            block_size: 8,
            gradient_accumulation_steps: 2,
            n_layer: 2,
            n_head: 2,
            n_embd: 16,
            dropout: 0.1,
            learning_rate: 1e-2,
            min_lr: 1e-3,
            warmup_iters: 2,
            max_iters: 8,
            eval_interval: 3,
            eval_iters: 2,
            ..Settings::default()
        }
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn checkpoint(&self, run: &str, step: u64) -> PathBuf {
        self.path(run).join(format!("checkpoints/step-{step:08}"))
    }

    /// Names in `checkpoints/`, sorted.
    pub(crate) fn checkpoints(&self, run: &str) -> Vec<String> {
        names(&self.path(run).join("checkpoints"))
    }
}

pub(crate) fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

pub(crate) fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

/// Trains to the end; gives all events.
pub(crate) fn run(settings: Settings) -> Result<(Outcome, Vec<Event>), Error> {
    run_until(settings, |_| false)
}

/// Trains until an event says that it is time to stop.
pub(crate) fn run_until(
    settings: Settings,
    enough: impl FnMut(&Event) -> bool,
) -> Result<(Outcome, Vec<Event>), Error> {
    run_with(settings, None, enough)
}

/// The same for a run that begins with a model.
pub(crate) fn run_with(
    settings: Settings,
    model: Option<Model>,
    mut enough: impl FnMut(&Event) -> bool,
) -> Result<(Outcome, Vec<Event>), Error> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut events = Vec::new();
    let mut observer = |event: &Event| {
        if enough(event) {
            stop.store(true, Ordering::Relaxed);
        }
        events.push(event.clone());
    };
    let outcome = train(
        Request { settings, model, hellaswag: None, stop: stop.clone(), peak_flops: Some(1e11) },
        &mut observer,
    )?;
    Ok((outcome, events))
}

/// Trains until `step` updates have been made.
pub(crate) fn run_to(settings: Settings, step: u64) -> (Outcome, Vec<Event>) {
    run_until(settings, |event| matches!(event, Event::Train(train) if train.step + 1 >= step)).unwrap()
}

pub(crate) fn resumed(settings: &Settings) -> Settings {
    Settings { init_from: "resume".into(), ..settings.clone() }
}

pub(crate) fn summary(outcome: &Outcome) -> &Summary {
    match outcome {
        Outcome::Finished(summary) | Outcome::Interrupted(summary) => summary,
        Outcome::Evaluated(_) => panic!("nothing was trained"),
    }
}

/// The message and the hint of an error.
pub(crate) fn told<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    let error = result.unwrap_err();
    format!("{error} | {}", error.hint().unwrap_or_default())
}
