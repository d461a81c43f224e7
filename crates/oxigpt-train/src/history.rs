//! What a run has recorded, read back: its configuration, its facts, and its losses.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use fs_err as fs;
use serde::Deserialize;
use serde_json::Value;

use crate::error::Error;
use crate::run_dir::{CONFIG, FACTS, METRICS};
use crate::settings::Settings;

/// The record of a run. A run that is at work has one, too.
#[derive(Clone, Debug)]
pub struct History {
    /// The run directory, as it was named.
    pub dir: PathBuf,
    /// Its configuration.
    pub settings: Settings,
    /// Its `run.json`: version, machine, data. Null where that cannot be read.
    pub facts: Value,
    /// Updates, in order.
    pub train: Vec<TrainPoint>,
    /// Evaluations, in order.
    pub evals: Vec<EvalPoint>,
    /// Lines of `metrics.jsonl` that are no events, or events of another shape.
    pub bad_lines: usize,
}

/// A recorded update.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct TrainPoint {
    /// Which, counted from 0.
    pub step: u64,
    /// What was minimised, before the update: nats per token, unless the run is a distillation.
    pub loss: f64,
    /// Tokens a second.
    pub tokens_per_s: f64,
}

/// A recorded evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct EvalPoint {
    /// Updates made before.
    pub step: u64,
    /// Nats per token on training text.
    pub train_loss: f64,
    /// Nats per token on validation text.
    pub val_loss: f64,
}

impl History {
    /// Reads the record of the run in `dir`. Damaged lines are left out and counted; a last line without its end is being
    /// written.
    ///
    /// # Errors
    /// [`Error::NotARun`] if `dir` has no configuration of a run; or if that cannot be read.
    pub fn read(dir: &Path) -> Result<History, Error> {
        let config = dir.join(CONFIG);
        if !config.is_file() {
            return Err(Error::NotARun { dir: dir.into() });
        }
        let mut settings = Settings::default();
        settings.apply_file(&config)?;
        let facts = fs::read(dir.join(FACTS)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let mut history = History {
            dir: dir.into(),
            settings,
            facts: facts.unwrap_or_default(),
            train: Vec::new(),
            evals: Vec::new(),
            bad_lines: 0,
        };
        match fs::read(dir.join(METRICS)) {
            Ok(bytes) => history.take(&String::from_utf8_lossy(&bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        Ok(history)
    }

    /// Takes events over; of two of one step, the later.
    fn take(&mut self, text: &str) {
        let (mut train, mut evals) = (BTreeMap::new(), BTreeMap::new());
        for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            match parse(line) {
                Some(Line::Train(point)) => drop(train.insert(point.step, point)),
                Some(Line::Eval(point)) => drop(evals.insert(point.step, point)),
                Some(Line::Other) => {}
                None => self.bad_lines += 1,
            }
        }
        (self.train, self.evals) = (train.into_values().collect(), evals.into_values().collect());
    }

    /// Updates made so far, as far as they are recorded.
    pub fn steps(&self) -> u64 {
        let updates = self.train.last().map_or(0, |point| point.step + 1);
        updates.max(self.evals.last().map_or(0, |point| point.step))
    }

    /// Tokens that a step learns from.
    pub fn tokens_per_step(&self) -> u64 {
        let Settings { total_batch_size, .. } = self.settings;
        if total_batch_size > 0 { total_batch_size as u64 } else { self.settings.tokens_per_step() as u64 }
    }

    /// The evaluation with the lowest validation loss; the first of several.
    pub fn best(&self) -> Option<EvalPoint> {
        self.evals.iter().copied().min_by(|a, b| a.val_loss.total_cmp(&b.val_loss))
    }

    /// Median of the tokens a second of all recorded updates.
    pub fn tokens_per_s(&self) -> Option<f64> {
        let mut speeds: Vec<f64> = self.train.iter().map(|point| point.tokens_per_s).collect();
        speeds.sort_by(f64::total_cmp);
        speeds.get(speeds.len() / 2).copied()
    }
}

/// A line of the record, as far as it is looked at here.
enum Line {
    Train(TrainPoint),
    Eval(EvalPoint),
    Other,
}

/// Reads a line; a number that is not finite is `null` there, and makes the line a bad one.
fn parse(line: &str) -> Option<Line> {
    let event: Value = serde_json::from_str(line).ok()?;
    Some(match event["event"].as_str()? {
        "train" => Line::Train(serde_json::from_value(event).ok()?),
        "eval" => Line::Eval(serde_json::from_value(event).ok()?),
        _ => Line::Other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(metrics: &str) -> History {
        let dir = tempfile::tempdir().unwrap();
        fs::write(
            dir.path().join(CONFIG),
            "batch_size = 2\nblock_size = 8\ngradient_accumulation_steps = 3\n",
        )
        .unwrap();
        fs::write(dir.path().join(METRICS), metrics).unwrap();
        History::read(dir.path()).unwrap()
    }

    #[test]
    fn events_are_read_in_order_and_the_later_of_two_counts() {
        let history = history(
            "{\"event\":\"eval\",\"step\":2,\"train_loss\":2.0,\"val_loss\":3.0,\"tokens\":9}\n\
             {\"event\":\"train\",\"step\":0,\"loss\":4.0,\"tokens_per_s\":10.0}\n\
             {\"event\":\"train\",\"step\":9,\"loss\":1.0,\"tokens_per_s\":30.0}\n\
             {\"event\":\"train\",\"step\":5,\"loss\":2.0,\"tokens_per_s\":20.0}\n\
             {\"event\":\"eval\",\"step\":10,\"train_loss\":2.0,\"val_loss\":2.5}\n\
             {\"event\":\"eval\",\"step\":10,\"train_loss\":2.0,\"val_loss\":3.5}\n\
             {\"event\":\"sample\",\"step\":10,\"text\":\"\"}\n",
        );
        assert_eq!(history.bad_lines, 0);
        assert_eq!(history.train.iter().map(|point| point.step).collect::<Vec<_>>(), [0, 5, 9]);
        assert_eq!(history.evals.iter().map(|point| point.val_loss).collect::<Vec<_>>(), [3.0, 3.5]);
        assert_eq!((history.steps(), history.tokens_per_step()), (10, 48));
        assert_eq!(history.best().map(|point| point.step), Some(2));
        assert_eq!(history.tokens_per_s(), Some(20.0));
    }

    #[test]
    fn damage_is_counted_and_what_is_being_written_is_left_out() {
        let history = history(
            "{\"event\":\"train\",\"step\":0,\"loss\":null,\"tokens_per_s\":10.0}\n\
             \u{0}\u{0}\n\
             [1]\n\
             {\"event\":\"train\",\"step\":1,\"loss\":4.0,\"tokens_per_s\":10.0}\n\
             {\"event\":\"train\",\"step\":2,\"loss\":4.0,\"tok",
        );
        assert_eq!((history.bad_lines, history.train.len(), history.steps()), (3, 1, 2));
        assert!(self::history("").best().is_none());
    }
}
