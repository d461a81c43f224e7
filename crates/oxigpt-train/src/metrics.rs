//! The record of a run: `metrics.jsonl`, one JSON object an event, and `log.txt`, build-nanogpt's lines for people.
//!
//! Both only grow. A run that is resumed first drops what was recorded beyond the step it goes on from: it will
//! happen again.

use std::io::{self, Write};
use std::path::Path;

use fs_err as fs;
use serde_json::Value;

use crate::durable;
use crate::error::Error;
use crate::event::Event;
use crate::run_dir::{LOG, METRICS};

/// The open files.
pub(crate) struct Metrics {
    events: fs::File,
    log: fs::File,
}

impl Metrics {
    /// Opens the files of the run in `root`, without what will happen again in a run that goes on after `step`
    /// updates: all that comes after them, and if they are not `settled`, what is due then.
    pub(crate) fn open(root: &Path, step: u64, settled: bool) -> Result<Metrics, Error> {
        let open = |name: &str, parse: fn(&str) -> Option<(String, u64)>| {
            let path = root.join(name);
            drop_lines(&path, |line| {
                parse(line).is_some_and(|(kind, at)| !happens_again(&kind, at, step, settled))
            })?;
            fs::OpenOptions::new().create(true).append(true).open(&path)
        };
        Ok(Metrics { events: open(METRICS, parse_event)?, log: open(LOG, parse_log_line)? })
    }

    /// Whether an event of a kind has been recorded at a step.
    pub(crate) fn has(root: &Path, kind: &str, step: u64) -> Result<bool, Error> {
        let text = fs::read(root.join(METRICS))?;
        Ok(String::from_utf8_lossy(&text)
            .lines()
            .filter_map(parse_event)
            .any(|event| event == (kind.into(), step)))
    }

    /// Appends an event.
    pub(crate) fn record(&mut self, event: &Event) -> Result<(), Error> {
        let mut line = serde_json::to_vec(event).map_err(io::Error::from)?;
        line.push(b'\n');
        self.events.write_all(&line)?;
        match event {
            Event::Train(train) => writeln!(self.log, "{} train {:.6}", train.step, train.loss)?,
            Event::Eval(eval) => writeln!(self.log, "{} val {:.4}", eval.step, eval.val_loss)?,
            Event::HellaSwag(score) => writeln!(self.log, "{} hella {:.4}", score.step, score.acc_norm)?,
            _ => {}
        }
        Ok(())
    }

    /// Makes all that was recorded durable.
    pub(crate) fn sync(&self) -> Result<(), Error> {
        self.events.sync_data()?;
        Ok(self.log.sync_data()?)
    }
}

/// Rewrites a file without the lines that are not to be kept, unless it has none of them.
fn drop_lines(path: &Path, keep: impl Fn(&str) -> bool) -> io::Result<()> {
    let text = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        text => String::from_utf8_lossy(&text?).into_owned(),
    };
    // A last line without its end was cut off, whatever it says.
    let kept: String = text.split_inclusive('\n').filter(|line| line.ends_with('\n') && keep(line)).collect();
    if kept.len() == text.len() { Ok(()) } else { durable::replace(path, kept.as_bytes()) }
}

/// Whether what was recorded at a step happens again. An update bears the number of those before it; everything
/// else, that of those made.
fn happens_again(kind: &str, at: u64, step: u64, settled: bool) -> bool {
    match kind {
        "train" => at >= step,
        "eval" | "val" | "hellaswag" | "hella" | "sample" if !settled => at >= step,
        _ => at > step,
    }
}

/// Kind and step of an event.
fn parse_event(line: &str) -> Option<(String, u64)> {
    let event: Value = serde_json::from_str(line).ok()?;
    Some((event["event"].as_str()?.to_owned(), event["step"].as_u64()?))
}

/// Kind and step of a line of the log.
fn parse_log_line(line: &str) -> Option<(String, u64)> {
    let mut words = line.split_whitespace();
    let at = words.next()?.parse().ok()?;
    Some((words.next()?.to_owned(), at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Eval, Train};

    fn train(step: u64) -> Event {
        Event::Train(Train {
            step,
            loss: 4.25,
            lr: 1e-3,
            grad_norm: 0.5,
            step_ms: 2.0,
            tokens_per_s: 3.0,
            mfu: 0.1,
            range: None,
        })
    }

    fn eval(step: u64) -> Event {
        Event::Eval(Eval { step, train_loss: 4.0, val_loss: 4.125, tokens: 64, eval_ms: 1.0, range: None })
    }

    #[test]
    fn lines_are_those_of_the_agreement() {
        let dir = tempfile::tempdir().unwrap();
        let mut metrics = Metrics::open(dir.path(), 0, false).unwrap();
        metrics.record(&train(7)).unwrap();
        metrics.record(&eval(8)).unwrap();
        let text = fs::read_to_string(dir.path().join(METRICS)).unwrap();
        assert_eq!(
            text,
            "{\"event\":\"train\",\"step\":7,\"loss\":4.25,\"lr\":0.001,\"grad_norm\":0.5,\"step_ms\":2.0,\
             \"tokens_per_s\":3.0,\"mfu\":0.1}\n\
             {\"event\":\"eval\",\"step\":8,\"train_loss\":4.0,\"val_loss\":4.125,\"tokens\":64,\"eval_ms\":1.0}\n"
        );
        assert_eq!(fs::read_to_string(dir.path().join(LOG)).unwrap(), "7 train 4.250000\n8 val 4.1250\n");
    }

    #[test]
    fn resuming_drops_what_will_happen_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut metrics = Metrics::open(dir.path(), 0, false).unwrap();
        for event in [eval(0), train(0), train(1), eval(2), train(2), eval(3)] {
            metrics.record(&event).unwrap();
        }
        let path = dir.path().join(METRICS);
        let whole = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{whole}{{\"event\":\"train\",\"st")).unwrap();
        Metrics::open(dir.path(), 2, true).unwrap();
        let kept: String = whole.split_inclusive('\n').take(4).collect();
        assert_eq!(fs::read_to_string(&path).unwrap(), kept);
        assert_eq!(
            fs::read_to_string(dir.path().join(LOG)).unwrap(),
            "0 val 4.1250\n0 train 4.250000\n1 train 4.250000\n2 val 4.1250\n"
        );
        // Updates alone are kept of what is due after them.
        Metrics::open(dir.path(), 2, false).unwrap();
        let kept: String = whole.split_inclusive('\n').take(3).collect();
        assert_eq!(fs::read_to_string(&path).unwrap(), kept);
    }

    #[test]
    fn a_last_line_without_its_end_goes_even_if_it_reads_well() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(LOG);
        fs::write(&path, "0 val 4.1250\n0 train 4.25").unwrap();
        Metrics::open(dir.path(), 5, true).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "0 val 4.1250\n");
    }
}
