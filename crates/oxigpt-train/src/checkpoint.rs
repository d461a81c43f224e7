//! Checkpoints: a Hugging Face GPT-2 directory each, with what resuming needs beside it.
//!
//! One is written under a name that is not its own, synced, and renamed; only then do `latest` and `best` name it.
//! One is removed by the same way back. So a directory named `step-NNNNNNNN` is whole, at every instant.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use fs_err as fs;
use oxigpt_model::{
    MappedTensors, ModelConfig, TensorSource, is_adapter, map_tensors, open_pretrained, save_adapters,
    save_config, save_pretrained, write_tensors,
};
use oxigpt_text::Tokenizer;
use serde::{Deserialize, Serialize};

use crate::base::Base;
use crate::checksum::{self, Checksums};
use crate::durable::{self, PARTIAL};
use crate::error::Error;
use crate::model::{Model, ModelWeights};
use crate::run_dir::checkpoints;
use crate::trainer::Trainer;

const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";
const LATEST: &str = "latest";
const BEST: &str = "best";
/// Extension of a whole checkpoint while another of its name takes its place.
const OLD: &str = "old";
const FORMAT: &str = "oxigpt-state";
const VERSION: u32 = 1;

/// The content of `state.json`: all that a run is beside weights and moments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    format: String,
    version: u32,
    /// Updates made.
    pub(crate) step: u64,
    /// Rows learned from: where the data go on.
    pub(crate) cursor: u64,
    /// Tokens learned from.
    pub(crate) tokens: u64,
    /// Whether what is due after `step` updates (evaluation, sample) has been done.
    pub(crate) settled: bool,
    /// The best evaluation so far.
    pub(crate) best: Option<Best>,
    /// What random numbers follow from; there is no generator whose state would have to be kept.
    pub(crate) random: Random,
    /// Identifies the data.
    pub(crate) data_hash: String,
    /// The configuration that led here.
    pub(crate) settings: BTreeMap<String, String>,
    /// Of the tensors beside it; none in a checkpoint from before there were any.
    #[serde(default)]
    checksums: Checksums,
}

/// An evaluation that none before had been better than.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Best {
    pub(crate) step: u64,
    pub(crate) val_loss: f64,
}

/// Everything random is a function of these and of `step` or `cursor`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Random {
    pub(crate) generator: String,
    pub(crate) seed: u64,
}

impl State {
    /// The state of a run that has made no update.
    pub(crate) fn new(seed: u64, data_hash: &str) -> State {
        State {
            format: FORMAT.into(),
            version: VERSION,
            step: 0,
            cursor: 0,
            tokens: 0,
            settled: false,
            best: None,
            random: Random { generator: "philox4x32-10".into(), seed },
            data_hash: data_hash.into(),
            settings: BTreeMap::new(),
            checksums: Checksums::new(),
        }
    }

    /// Takes over how far the trainer is, and the configuration that led there.
    pub(crate) fn advance(&mut self, trainer: &Trainer, settings: BTreeMap<String, String>) {
        self.step = trainer.step;
        self.cursor = trainer.cursor;
        self.tokens = trainer.cursor * trainer.plan.shape.block_size as u64;
        self.settings = settings;
    }

    fn read(path: &Path) -> Result<State, Error> {
        let state: State =
            serde_json::from_slice(&fs::read(path)?).map_err(|error| Error::bad_checkpoint(path, &error))?;
        if (state.format.as_str(), state.version) != (FORMAT, VERSION) {
            let reason = format!("`{}` version {} is not known", state.format, state.version);
            return Err(Error::bad_checkpoint(path, &reason));
        }
        state.check_place(path)?;
        Ok(state)
    }

    /// Refuses a place in the data that so many steps do not lead to.
    fn check_place(&self, path: &Path) -> Result<(), Error> {
        let setting = |key: &str| self.settings.get(key)?.parse::<u64>().ok();
        let (Some(step_tokens), Some(row)) = (setting("total_batch_size"), setting("block_size")) else {
            return Ok(());
        };
        let tokens = self.step.checked_mul(step_tokens);
        if tokens == Some(self.tokens) && tokens == self.cursor.checked_mul(row) {
            return Ok(());
        }
        let reason = format!(
            "row {} and token {} are not where {} steps of {step_tokens} tokens lead",
            self.cursor, self.tokens, self.step
        );
        Err(Error::bad_checkpoint(path, &reason))
    }
}

/// An opened checkpoint; its tensors stay in their files until they are read.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    pub(crate) dir: PathBuf,
    pub(crate) state: State,
    pub(crate) weights: ModelWeights,
    pub(crate) moments: MappedTensors,
    /// What the run needs beside it: the model that it adapts, or learns from.
    pub(crate) base: Option<(Base, Model)>,
}

/// The name of the checkpoint after `step` updates.
pub(crate) fn name_of(step: u64) -> String {
    format!("step-{step:08}")
}

fn step_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("step-")?;
    if digits.len() >= 8 && digits.bytes().all(|b| b.is_ascii_digit()) { digits.parse().ok() } else { None }
}

/// Steps of all whole checkpoints of the run in `root`, ascending.
fn steps(root: &Path) -> Result<Vec<u64>, Error> {
    let dir = checkpoints(root);
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let mut steps = Vec::new();
    for entry in fs::read_dir(dir)? {
        steps.extend(step_of(&entry?.file_name().to_string_lossy()));
    }
    steps.sort_unstable();
    Ok(steps)
}

/// The step that `latest` names, or else the last one there is.
fn latest_step(root: &Path, steps: &[u64]) -> Option<u64> {
    named(root, LATEST).filter(|step| steps.contains(step)).or(steps.last().copied())
}

/// The step of the checkpoint that a small file names.
fn named(root: &Path, pointer: &str) -> Option<u64> {
    fs::read_to_string(root.join(pointer)).ok().and_then(|text| step_of(text.trim()))
}

/// The name of the checkpoint that resuming would go on from.
pub(crate) fn latest_name(root: &Path) -> Option<String> {
    latest_step(root, &steps(root).ok()?).map(name_of)
}

/// The checkpoint that speaks for the run in `root`: the best, or the latest where none was best. `None` where there is
/// none, or no run.
pub(crate) fn best_or_latest(root: &Path) -> Result<Option<PathBuf>, Error> {
    let steps = steps(root)?;
    let best = named(root, BEST).filter(|step| steps.contains(step));
    let step = best.or_else(|| latest_step(root, &steps));
    Ok(step.map(|step| checkpoints(root).join(name_of(step))))
}

/// Makes the last checkpoint from before `step` updates the latest, and gives its name. One of `step` updates, after
/// which training fell apart, would fall apart again.
pub(crate) fn go_back(root: &Path, step: u64) -> Option<String> {
    let steps = steps(root).ok()?;
    let latest = latest_step(root, &steps)?;
    let good = steps.into_iter().rev().find(|&s| s < step && s <= latest)?;
    if good < latest {
        // Where that fails, the name is still what there is to know.
        let _ = durable::replace(&root.join(LATEST), pointer(&name_of(good)).as_bytes());
    }
    Some(name_of(good))
}

/// Opens the checkpoint that resuming goes on from: the latest, or where that is damaged the one before, with a
/// word about it in `warnings`. `None` where there is none yet.
pub(crate) fn open_latest(root: &Path, warnings: &mut Vec<String>) -> Result<Option<Checkpoint>, Error> {
    let steps = steps(root)?;
    let latest = latest_step(root, &steps);
    let mut damages = Vec::new();
    for step in steps.into_iter().rev().filter(|&step| Some(step) <= latest) {
        match open(root, step) {
            Ok(checkpoint) => {
                if !damages.is_empty() {
                    forget_after(root, &checkpoint.state);
                }
                return Ok(Some(checkpoint));
            }
            Err(error) if is_damage(&error) => {
                warnings.push(format!("checkpoint {} is damaged, going back: {error}", name_of(step)));
                damages.push(format!("{}: {error}", name_of(step)));
            }
            Err(error) => return Err(error),
        }
    }
    match damages.is_empty() {
        true => Ok(None),
        false => Err(Error::AllDamaged { dir: checkpoints(root), damages: damages.join("; ") }),
    }
}

/// Lets nothing name a checkpoint from after `state` any more, as far as that can be written: the run has not even begun.
fn forget_after(root: &Path, state: &State) {
    let _ = durable::replace(&root.join(LATEST), pointer(&name_of(state.step)).as_bytes());
    if named(root, BEST).is_some_and(|best| best > state.step) {
        let _ = fs::remove_file(root.join(BEST));
        let _ = point_to_best(root, state);
    }
}

/// Whether the error is about what a file holds, so that an older file may do.
fn is_damage(error: &Error) -> bool {
    match error {
        Error::Io(error) | Error::Model(oxigpt_model::Error::Io(error)) => {
            matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory)
        }
        Error::NoBase { .. } | Error::OtherBase { .. } => false,
        _ => true,
    }
}

fn open(root: &Path, step: u64) -> Result<Checkpoint, Error> {
    let name = name_of(step);
    let dir = checkpoints(root).join(&name);
    let state = State::read(&dir.join(STATE))?;
    if state.step != step {
        let reason = format!("it is of step {}, and its checkpoint is {name}", state.step);
        return Err(Error::bad_checkpoint(&dir.join(STATE), &reason));
    }
    let base = Base::read(&dir)?.map(|base| Ok::<_, Error>((base.clone(), base.open(&dir)?))).transpose()?;
    let weights = match is_adapter(&dir) {
        true => Model::open(&dir)?.weights,
        false => ModelWeights::Whole(open_pretrained(&dir)?.weights),
    };
    let moments = map_tensors(dir.join(OPTIMIZER))?;
    let learned = match &weights {
        ModelWeights::Whole(tensors) => tensors,
        ModelWeights::Adapted(merged) => &merged.adapters,
    };
    check_finite(learned)?;
    check_finite(&moments)?;
    checksum::check(&dir, &state.checksums)?;
    Ok(Checkpoint { dir, state, weights, moments, base })
}

/// That the weights in `dir`, if it is a checkpoint of ours, are those that were saved. What else a checkpoint has matters
/// to a run alone.
pub(crate) fn check_weights(dir: &Path) -> Result<(), Error> {
    let Ok(mut state) = State::read(&dir.join(STATE)) else { return Ok(()) };
    state.checksums.remove(OPTIMIZER);
    checksum::check(dir, &state.checksums)
}

fn check_finite(tensors: &MappedTensors) -> Result<(), Error> {
    match tensors.not_finite()?.first() {
        Some(name) => {
            let reason = format!("not all numbers of `{name}` are finite");
            Err(Error::bad_checkpoint(Path::new(&tensors.origin()), &reason))
        }
        None => Ok(()),
    }
}

/// Writes the checkpoint of `state`, makes it the latest, and also the best if `state` says so. If it cannot be
/// written, nothing of it stays, and all others are as they were.
pub(crate) fn save(
    root: &Path,
    trainer: &Trainer,
    config: &ModelConfig,
    tokenizer: Option<&Tokenizer>,
    base: Option<&Base>,
    state: &State,
) -> Result<(), Error> {
    let name = name_of(state.step);
    let dir = checkpoints(root).join(&name);
    let partial = durable::beside(&dir);
    let written = clean_up(root)
        .and_then(|()| write(&partial, trainer, config, tokenizer, base, state))
        .and_then(|()| publish(&partial, &dir))
        .and_then(|()| Ok(durable::replace(&root.join(LATEST), pointer(&name).as_bytes())?))
        .and_then(|()| point_to_best(root, state));
    written.map_err(|source| {
        // What could not be written cannot be kept; that it cannot be removed either would change nothing.
        let _ = remove_any(&partial);
        let previous = latest_name(root).filter(|latest| *latest != name);
        Error::Save { name, previous, source: Box::new(source) }
    })
}

fn write(
    dir: &Path,
    trainer: &Trainer,
    config: &ModelConfig,
    tokenizer: Option<&Tokenizer>,
    base: Option<&Base>,
    state: &State,
) -> Result<(), Error> {
    fs::create_dir(dir)?;
    let Trainer { session, plan, .. } = trainer;
    let learned = plan.learned().of(session);
    match (&plan.shape.lora, base) {
        (Some(lora), Some(base)) => {
            save_config(dir, config)?;
            save_adapters(dir, config, lora, &base.reference(), &learned)?;
        }
        _ => save_pretrained(dir, config, &learned)?,
    }
    if let Some(base) = base {
        base.write(dir)?;
    }
    for (file, bytes) in tokenizer.into_iter().flat_map(Tokenizer::to_files) {
        durable::write(&dir.join(file), &bytes)?;
    }
    write_tensors(dir.join(OPTIMIZER), &plan.moments.of(session), &[])?;
    let state = State { checksums: checksum::of_tensors(dir)?, ..state.clone() };
    let text = serde_json::to_string_pretty(&state).expect("plain data has no way to fail");
    durable::write(&dir.join(STATE), format!("{text}\n").as_bytes())?;
    Ok(durable::sync_dir(dir)?)
}

/// Makes `best` name the best checkpoint that `state` knows, if that still exists.
pub(crate) fn point_to_best(root: &Path, state: &State) -> Result<(), Error> {
    let name = state.best.map(|best| name_of(best.step));
    match name.filter(|name| checkpoints(root).join(name).exists()) {
        Some(name) => Ok(durable::replace(&root.join(BEST), pointer(&name).as_bytes())?),
        None => Ok(()),
    }
}

fn pointer(name: &str) -> String {
    format!("{name}\n")
}

/// Removes what retention does not keep: all but the `keep` newest checkpoints up to `state.step` and the best. Those
/// of a later step belong to a future that was given up by resuming from before it.
pub(crate) fn prune(root: &Path, state: &State, keep: usize) -> Result<(), Error> {
    let steps = steps(root)?;
    let past: Vec<u64> = steps.iter().copied().filter(|&step| step <= state.step).collect();
    let kept = &past[past.len().saturating_sub(keep)..];
    let best = state.best.map(|best| best.step);
    for step in steps.iter().filter(|step| !kept.contains(step) && Some(**step) != best) {
        remove(&checkpoints(root).join(name_of(*step)))?;
    }
    Ok(())
}

/// Puts a written checkpoint where it belongs. Another one of its name first steps aside.
fn publish(partial: &Path, dir: &Path) -> Result<(), Error> {
    let old = dir.with_extension(OLD);
    let replaces = dir.exists();
    if replaces {
        fs::rename(dir, &old)?;
    }
    fs::rename(partial, dir)?;
    dir.parent().map_or(Ok(()), durable::sync_dir)?;
    if replaces { remove(&old) } else { Ok(()) }
}

/// Removes a checkpoint: first its name, then its files.
fn remove(dir: &Path) -> Result<(), Error> {
    let doomed = durable::beside(dir);
    fs::rename(dir, &doomed)?;
    Ok(remove_any(&doomed)?)
}

/// Removes a directory with all that is in it, or what is none and only has the name of one.
fn remove_any(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

/// Finishes what writing or removing a checkpoint left when it was cut off.
pub(crate) fn clean_up(root: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(checkpoints(root))? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if !name.starts_with("step-") {
            continue;
        }
        match path.extension().and_then(|extension| extension.to_str()) {
            Some(OLD) if path.with_extension("").exists() => remove(&path)?,
            Some(OLD) => fs::rename(&path, path.with_extension(""))?,
            Some(_) if name.ends_with(PARTIAL) => remove_any(&path)?,
            _ => {}
        }
    }
    Ok(())
}
