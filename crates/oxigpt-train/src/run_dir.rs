//! The directory of a run: what stands where in it, who may write to it, and how a new one begins.
//!
//! `config.toml` the resolved configuration, `run.json` program, machine and data, `metrics.jsonl` every event,
//! `log.txt` the same for people, `checkpoints/step-NNNNNNNN/`, and `latest` and `best`, which name one of them.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use fs_err as fs;
use serde_json::json;

use crate::corpus::Corpus;
use crate::durable;
use crate::error::Error;
use crate::machine;
use crate::settings::{Settings, Start};

pub(crate) const CONFIG: &str = "config.toml";
pub(crate) const FACTS: &str = "run.json";
pub(crate) const METRICS: &str = "metrics.jsonl";
pub(crate) const LOG: &str = "log.txt";
const CHECKPOINTS: &str = "checkpoints";

/// A run directory that this process alone writes to.
#[derive(Debug)]
pub(crate) struct RunDir {
    root: PathBuf,
    /// `run.json`, locked; the system lets go of it when the process ends, however it ends.
    facts: fs::File,
}

/// Whether `root` is the directory of a run.
pub(crate) fn is_run(root: &Path) -> bool {
    checkpoints(root).is_dir()
}

/// What the run in `root` began with: the `init_from` of its configuration.
pub(crate) fn origin(root: &Path) -> Result<String, Error> {
    let mut settings = Settings::default();
    settings.apply_file(&root.join(CONFIG))?;
    // A configuration of somebody's own may say that; what is resumed was begun.
    let is_begun = settings.start() != Start::Resume;
    Ok(if is_begun { settings.init_from } else { Settings::default().init_from })
}

/// Whether nothing was done in `root` but to evaluate once.
fn only_evaluates(root: &Path) -> bool {
    let mut settings = Settings::default();
    settings.apply_file(&root.join(CONFIG)).is_ok() && settings.eval_only
}

/// Refuses a directory that has anything of a run in it. A `run.json` without content is but the lock of one that never
/// began, and a directory for evaluations alone is that of the next one, too.
pub(crate) fn check_vacant(root: &Path, eval_only: bool) -> Result<(), Error> {
    if root.exists() && !root.is_dir() {
        return Err(Error::OutIsFile { path: root.into() });
    }
    if eval_only && only_evaluates(root) {
        return Ok(());
    }
    let is_of_a_run = |name: &&str| match fs::metadata(root.join(name)) {
        Ok(metadata) => *name != FACTS || metadata.len() > 0,
        Err(_) => false,
    };
    match [CONFIG, FACTS, METRICS, LOG, CHECKPOINTS].iter().find(|name| is_of_a_run(name)) {
        Some(&found) => Err(Error::RunExists { dir: root.into(), found }),
        None => Ok(()),
    }
}

impl RunDir {
    /// Begins a run. Whether another one has begun there meanwhile is asked when nobody else can begin any more. After
    /// the lock, the configuration comes first: with it the directory is a run that can be resumed, without it nothing
    /// is.
    pub(crate) fn create(root: &Path, settings: &Settings) -> Result<RunDir, Error> {
        fs::create_dir_all(root)?;
        let dir = RunDir::lock(root)?;
        check_vacant(root, settings.eval_only)?;
        // What an evaluation before this one told of its data.
        dir.facts.file().set_len(0)?;
        durable::replace(&root.join(CONFIG), settings.to_toml().as_bytes())?;
        fs::create_dir_all(root.join(CHECKPOINTS))?;
        Ok(dir)
    }

    /// Takes the directory of a run that has begun, to go on with it.
    pub(crate) fn resume(root: &Path) -> Result<RunDir, Error> {
        if !root.join(CONFIG).exists() {
            return Err(Error::NoRun { dir: root.into() });
        }
        let dir = RunDir::lock(root)?;
        fs::create_dir_all(root.join(CHECKPOINTS))?;
        Ok(dir)
    }

    fn lock(root: &Path) -> Result<RunDir, Error> {
        let facts = fs::OpenOptions::new().create(true).append(true).open(root.join(FACTS))?;
        match facts.file().try_lock() {
            Err(std::fs::TryLockError::WouldBlock) => Err(Error::Busy { dir: root.into() }),
            // Where the file system knows no locks, care is left to people.
            _ => Ok(RunDir { root: root.into(), facts }),
        }
    }

    /// Writes the configuration that the run works with from now on, and when it begins, what else there is to know.
    pub(crate) fn describe(&mut self, settings: &Settings, corpus: &Corpus) -> Result<(), Error> {
        durable::replace(&self.root.join(CONFIG), settings.to_toml().as_bytes())?;
        if self.facts.metadata()?.len() == 0 {
            self.facts.write_all(facts(settings, corpus).as_bytes())?;
            self.facts.sync_all()?;
        }
        Ok(())
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }
}

/// Where the checkpoints of a run stand.
pub(crate) fn checkpoints(root: &Path) -> PathBuf {
    root.join(CHECKPOINTS)
}

/// The content of `run.json`: what else one has to know to repeat a run.
fn facts(settings: &Settings, corpus: &Corpus) -> String {
    let source = corpus.dataset.manifest().map(|manifest| &manifest.source);
    let facts = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "started": utc(SystemTime::now()),
        "machine": {
            "processor": machine::processor(),
            "device": settings.machine().name(),
            "threads": settings.machine().threads(),
            "memory_bytes": machine::total_memory(),
            "system": format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        },
        "data": {
            "dir": corpus.dataset.dir(),
            "hash": corpus.hash,
            "source": source,
            "train_tokens": corpus.tokens(oxigpt_data::Split::Train),
            "val_tokens": corpus.tokens(oxigpt_data::Split::Val),
            "tokenizer": corpus.tokenizer.as_ref().map(oxigpt_text::Tokenizer::name),
            "vocab_size": corpus.vocab_size,
        },
    });
    format!("{facts:#}\n")
}

/// A time as RFC 3339 has it, in UTC.
fn utc(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (year, month, day) = civil_date(seconds / 86400);
    let clock = seconds % 86400;
    let (hour, minute, second) = (clock / 3600, clock / 60 % 60, clock % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Year, month and day in the Gregorian calendar, `days` days after 1970-01-01.
fn civil_date(mut days: u64) -> (u64, u64, u64) {
    let leap = |year: u64| {
        u64::from(year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)))
    };
    let mut year = 1970;
    while days >= 365 + leap(year) {
        days -= 365 + leap(year);
        year += 1;
    }
    let lengths = [31, 28 + leap(year), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    (year, month as u64 + 1, days + 1)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// As when two programs that both found the directory vacant begin at the same time, or one after the other.
    #[test]
    fn a_run_is_begun_by_one_alone() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("run");
        let [first, second] = [1, 2].map(|seed| Settings { seed, ..Settings::default() });
        let begun = RunDir::create(&root, &first).unwrap();
        assert!(matches!(RunDir::create(&root, &second), Err(Error::Busy { .. })));
        drop(begun);
        assert!(matches!(RunDir::create(&root, &second), Err(Error::RunExists { found: CONFIG, .. })));
        assert_eq!(fs::read_to_string(root.join(CONFIG)).unwrap(), first.to_toml());

        // One that was killed between its lock and its configuration is no run.
        fs::remove_file(root.join(CONFIG)).unwrap();
        fs::remove_dir(root.join(CHECKPOINTS)).unwrap();
        drop(RunDir::create(&root, &second).unwrap());
        assert_eq!(fs::read_to_string(root.join(CONFIG)).unwrap(), second.to_toml());
    }

    #[test]
    fn times_are_written_in_utc() {
        let at = |seconds| utc(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(at(1_735_689_599), "2024-12-31T23:59:59Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00Z");
    }
}
