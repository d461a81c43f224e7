//! What can go wrong with a run, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error as ThisError;

use crate::divergence::Divergence;
use crate::settings::SettingsError;
use crate::words::shell_word;

/// Errors of training.
#[derive(Debug, ThisError)]
pub enum Error {
    /// Settings that cannot be used.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// Data that cannot be used.
    #[error(transparent)]
    Data(#[from] oxigpt_data::Error),
    /// A text that the tokenizer cannot spell.
    #[error("{what}: {source}")]
    Text {
        /// Which text.
        what: &'static str,
        /// Why not.
        source: oxigpt_text::Error,
    },
    /// A model that cannot be, or files of one.
    #[error(transparent)]
    Model(#[from] oxigpt_model::Error),
    /// The plan and its backend.
    #[error(transparent)]
    Compute(#[from] oxigpt_compute::Error),
    /// A file that cannot be read or written; the message names it.
    #[error(transparent)]
    Io(#[from] io::Error),

    /// A file of a task that cannot be read; the message names it.
    #[error(transparent)]
    TaskFile(Box<oxigpt_eval::tasks::TaskError>),
    /// A task that cannot be scored with the items of this file.
    #[error("{file}: {source}", file = file.display())]
    Task {
        /// The file of its items.
        file: PathBuf,
        /// Why not.
        source: Box<oxigpt_eval::tasks::TaskError>,
    },
    /// A task is to be scored whose published file nobody fetched.
    #[error("the published file of {task} was not given")]
    TaskNotGiven {
        /// The task.
        task: &'static str,
    },
    /// A task is to be scored whose text nobody can put into tokens.
    #[error("{task} cannot be scored: {dataset} has no tokenizer to read it with", dataset = dataset.display())]
    NoTokenizer {
        /// The task.
        task: &'static str,
        /// Data directory.
        dataset: PathBuf,
    },
    /// A run is to begin with a model that nobody opened.
    #[error("the run begins with the weights of {model}, which were not given")]
    ModelNotGiven {
        /// What `init_from` says.
        model: String,
    },
    /// What is to be written has the name of something else.
    #[error("{path} already exists", path = path.display())]
    TargetExists {
        /// What is there.
        path: PathBuf,
    },
    /// A run without weights.
    #[error("the run in {dir} has no checkpoint yet", dir = dir.display())]
    NoCheckpoint {
        /// Run directory.
        dir: PathBuf,
    },
    /// A model that a checkpoint needs is not where it was.
    #[error("{checkpoint} needs the model {name}, which is not at {path} any more",
        checkpoint = checkpoint.display(), path = path.display())]
    NoBase {
        /// The checkpoint.
        checkpoint: PathBuf,
        /// What the model was called.
        name: String,
        /// Where it was.
        path: PathBuf,
    },
    /// Adapters, or a student, of another model.
    #[error("{checkpoint} belongs to the model {was}, but at {path} there is another one now: {now}", checkpoint = checkpoint.display(), path = path.display())]
    OtherBase {
        /// The checkpoint.
        checkpoint: PathBuf,
        /// What its model was called, and the beginning of the hash of that model's weights.
        was: String,
        /// Where another model is.
        path: PathBuf,
        /// The beginning of the hash of its weights.
        now: String,
    },
    /// A tokenizer that is not the model's.
    #[error("the model cannot have been trained with the tokenizer beside it: {model} has {words} words, and \
        {tokenizer} more", model = model.display())]
    LargeTokenizer {
        /// The model.
        model: PathBuf,
        /// Kind and size of the tokenizer.
        tokenizer: String,
        /// Words of the model.
        words: usize,
    },
    /// Data and model speak of different words.
    #[error("the tokens of {dataset} are not those of the model: {model} was trained with {own}, and the data were \
        made with {other}", dataset = dataset.display())]
    OtherTokenizer {
        /// The model.
        model: String,
        /// Kind, size and hash of its tokenizer.
        own: String,
        /// Data directory.
        dataset: PathBuf,
        /// Kind, size and hash of the data's tokenizer.
        other: String,
    },
    /// The data have words that the model has not.
    #[error("the tokens of {dataset} are not those of the model: {model} has {words} words, and the data {needed}",
        dataset = dataset.display())]
    OtherVocabulary {
        /// The model.
        model: String,
        /// Its words.
        words: usize,
        /// Data directory.
        dataset: PathBuf,
        /// Words of the data.
        needed: usize,
    },
    /// The directory has another run in it.
    #[error("{dir} already holds a run ({found})", dir = dir.display())]
    RunExists {
        /// Run directory.
        dir: PathBuf,
        /// What shows it.
        found: &'static str,
    },
    /// The run directory is a file.
    #[error("{path} is a file; a run needs a directory", path = path.display())]
    OutIsFile {
        /// The file.
        path: PathBuf,
    },
    /// There is nothing to resume.
    #[error("there is no run to resume in {dir}: it has no config.toml", dir = dir.display())]
    NoRun {
        /// Run directory.
        dir: PathBuf,
    },
    /// A directory whose record is asked for, and that is not a run's.
    #[error("{dir} is no run: it has no config.toml", dir = dir.display())]
    NotARun {
        /// What was named.
        dir: PathBuf,
    },
    /// Another process is at work there.
    #[error("{dir}: another process is training this run", dir = dir.display())]
    Busy {
        /// Run directory.
        dir: PathBuf,
    },
    /// Settings that would change what has been.
    #[error("`{key}` was {was} when this run began, and cannot become {now}")]
    Changed {
        /// Key.
        key: String,
        /// Its value in the checkpoint.
        was: String,
        /// Its value now.
        now: String,
    },
    /// Other data than before.
    #[error("{dataset} is not the data that this run began with: its hash is {now}, and was {was}",
        dataset = dataset.display())]
    OtherData {
        /// Run directory.
        run: PathBuf,
        /// Data directory.
        dataset: PathBuf,
        /// Hash in the checkpoint.
        was: String,
        /// Hash of the data now.
        now: String,
    },
    /// The run is already longer than it should become.
    #[error("this run has already made {step} updates, more than max_iters = {max_iters}")]
    Beyond {
        /// Updates made.
        step: u64,
        /// Updates asked for.
        max_iters: u64,
    },
    /// A file of a checkpoint is not what it should be.
    #[error("{path}: {reason}", path = path.display())]
    BadCheckpoint {
        /// File.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// No checkpoint is what it should be.
    #[error("no checkpoint in {dir} is whole: {damages}", dir = dir.display())]
    AllDamaged {
        /// Where they are.
        dir: PathBuf,
        /// Each of them and what is wrong with it.
        damages: String,
    },
    /// A checkpoint could not be written.
    #[error("checkpoint {name} could not be saved: {source}")]
    Save {
        /// Checkpoint.
        name: String,
        /// The one before, which is as it was.
        previous: Option<String>,
        /// Why.
        source: Box<Error>,
    },

    /// The data directory has no tokens of a split.
    #[error("{dataset} has no {split} tokens", dataset = dataset.display())]
    NoSplit {
        /// Data directory.
        dataset: PathBuf,
        /// `train` or `val`.
        split: &'static str,
    },
    /// Less data than one step learns from.
    #[error("{dataset} (train) is too short: it holds {found} tokens, and one step of {step} tokens needs {needed}",
        dataset = dataset.display(), needed = step.saturating_add(1))]
    ShortCorpus {
        /// Data directory.
        dataset: PathBuf,
        /// Training tokens in it.
        found: u64,
        /// Tokens of a step.
        step: usize,
    },
    /// Where a built-in data set belongs there is something else.
    #[error("{path} is no data set, and the built-in data of that name belong there", path = path.display())]
    NameTaken {
        /// What is there.
        path: PathBuf,
    },
    /// Nobody says how many words there are.
    #[error("{dataset} does not say how large its vocabulary is", dataset = dataset.display())]
    UnknownVocab {
        /// Data directory.
        dataset: PathBuf,
    },
    /// The model has fewer words than the tokenizer.
    #[error("vocab_size = {vocab_size}, but the tokenizer of {dataset} has {needed} tokens",
        dataset = dataset.display())]
    SmallVocab {
        /// Words of the model.
        vocab_size: usize,
        /// Words of the tokenizer.
        needed: usize,
        /// Data directory.
        dataset: PathBuf,
    },
    /// More updates than can be counted.
    #[error("max_iters = {max_iters} is more than the {limit} updates that can be counted", limit = u32::MAX)]
    TooManySteps {
        /// Updates asked for.
        max_iters: usize,
    },
    /// The machine is too small.
    #[error("the run needs {needed} of memory, and {available} are available",
        needed = gibibytes(*needed), available = gibibytes(*available))]
    Memory {
        /// Bytes needed.
        needed: u64,
        /// Bytes there are.
        available: u64,
    },
    /// The machine is too small for one sequence.
    #[error("no micro-batch fits into memory: one sequence of {block_size} tokens needs {needed}, and {usable} can be used",
        needed = gibibytes(*needed), usable = gibibytes(*usable))]
    NothingFits {
        /// Tokens of a sequence.
        block_size: usize,
        /// Bytes needed.
        needed: u64,
        /// Bytes that a run may take.
        usable: u64,
    },
    /// Numbers that are none.
    #[error("training has diverged: {0}")]
    Diverged(Box<Divergence>),
}

fn gibibytes(bytes: u64) -> String {
    format!("{:.2} GiB", bytes as f64 / f64::from(1 << 30))
}

impl Error {
    pub(crate) fn bad_checkpoint(path: &Path, reason: &impl ToString) -> Self {
        Error::BadCheckpoint { path: path.into(), reason: reason.to_string() }
    }

    /// What to do about it: one sentence.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Settings(error) => error.hint(),
            Error::Data(error) => error.hint(),
            Error::Text { source, .. } => source.hint(),
            Error::Model(oxigpt_model::Error::Io(error)) | Error::Io(error) => io_hint(error),
            Error::Model(error) => error.hint(),
            Error::Compute(error) => error.hint(),
            Error::Diverged(report) => Some(report.hint()),
            Error::Save { previous, source, .. } => Some(save_hint(previous.as_deref(), source)),
            Error::RunExists { dir, .. } => {
                let dir = dir.to_string_lossy();
                let dir = shell_word(&dir);
                Some(format!(
                    "go on with it by --init_from=resume --out_dir={dir}, or choose another --out_dir"
                ))
            }
            Error::Changed { key, was, .. } => {
                Some(format!("leave --{key} at {was}, or start another run with another --out_dir"))
            }
            Error::Task { source, .. } | Error::TaskFile(source) => source.hint(),
            Error::NoBase { name, .. } => Some(format!(
                "put it back there; a model of the hub is fetched again by `oxigpt sample --from {name}`"
            )),
            Error::OtherData { run, .. } => {
                let run = run.to_string_lossy();
                Some(format!(
                    "resuming goes on with the same data; to go on with others, begin another run with the weights of \
                     this one: --init_from={} --out_dir=NEW",
                    shell_word(&run)
                ))
            }
            Error::SmallVocab { needed, .. } => {
                Some(format!("leave vocab_size out, or set --vocab_size={needed} or more"))
            }
            _ => self.fixed_hint().map(str::to_owned),
        }
    }

    /// That of errors which always have the same.
    fn fixed_hint(&self) -> Option<&'static str> {
        Some(match self {
            Error::TaskNotGiven { .. } => "fetch the file first, and hand it over with the request",
            Error::NoTokenizer { .. } => {
                "put the files of the data's tokenizer into the data directory, or leave the task out"
            }
            Error::ModelNotGiven { .. } => "open the model first, and hand it over with the request",
            Error::TargetExists { .. } => {
                "choose another name, or move it away first: nothing is overwritten"
            }
            Error::NoCheckpoint { .. } => {
                "let it reach its first evaluation, or stop it with Ctrl-C, which saves"
            }
            Error::LargeTokenizer { .. } => "put the files of the model's own tokenizer beside its weights",
            Error::OtherTokenizer { .. } | Error::OtherVocabulary { .. } => {
                "prepare the text with the model's tokenizer, or begin with a model that was trained with the data's"
            }
            Error::OutIsFile { .. } => "choose another --out_dir",
            Error::NoRun { .. } => {
                "leave out --init_from=resume to start one, or name the run directory with --out_dir=DIR"
            }
            Error::OtherBase { .. } => {
                "put the model back that it was, or begin another run with --init_from=MODEL --out_dir=NEW"
            }
            Error::NotARun { .. } => {
                "name the directories of runs, such as out/demo; `oxigpt train` writes there what it is told with --out_dir"
            }
            Error::Busy { .. } => "wait for it to end, or stop it, or choose another --out_dir",
            Error::Beyond { .. } => "raise --max_iters to train on",
            Error::BadCheckpoint { .. } => {
                "the file is damaged; remove its checkpoint and resume from the one before, or start again"
            }
            Error::AllDamaged { .. } => {
                "put one of them back from a copy, or start again with another --out_dir"
            }
            Error::NoSplit { .. } => "prepare the data with a part for training and a part for validation",
            Error::ShortCorpus { .. } => {
                "use more text, or a smaller step: lower gradient_accumulation_steps, batch_size or block_size"
            }
            Error::NameTaken { .. } => "move it away, or name another data directory with --dataset=DIR",
            Error::UnknownVocab { .. } => {
                "set --vocab_size=N to the number of tokens; GPT-2's tokenizer has 50257"
            }
            Error::TooManySteps { .. } => "set a smaller --max_iters; a resumed run can raise it",
            Error::NothingFits { .. } => {
                "--recompute=block takes less, and so do a smaller block_size or model; `oxigpt plan --batch_size=1` shows \
                 where the memory goes"
            }
            Error::Memory { .. } => {
                "lower batch_size (total_batch_size keeps the step the same, batch_size = \"auto\" finds what fits), \
                 block_size or the model, or make more again with --recompute=block; `oxigpt plan` shows where the memory \
                 goes"
            }
            Error::Settings { .. }
            | Error::Data { .. }
            | Error::Text { .. }
            | Error::Model { .. }
            | Error::Io { .. }
            | Error::Compute { .. }
            | Error::Diverged { .. }
            | Error::Save { .. }
            | Error::RunExists { .. }
            | Error::Changed { .. }
            | Error::Task { .. }
            | Error::TaskFile { .. }
            | Error::NoBase { .. }
            | Error::OtherData { .. }
            | Error::SmallVocab { .. } => return None,
        })
    }
}

fn save_hint(previous: Option<&str>, source: &Error) -> String {
    let cause = source.hint().unwrap_or_else(|| "see to what the message says".into());
    match previous {
        Some(name) => format!("{cause}; {name} is whole, --init_from=resume goes on from there"),
        None => cause,
    }
}

fn io_hint(error: &io::Error) -> Option<String> {
    let hint = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            "free some disk space"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "check the permissions of the file and of its directory"
        }
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => "check the path",
        io::ErrorKind::AlreadyExists => "a file is in the way of a directory: choose another name",
        _ => return None,
    };
    Some(hint.into())
}
