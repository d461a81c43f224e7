//! How things are shown. Results go to standard output, and everything else to standard error.

use std::cell::Cell;
use std::fmt::Display;
use std::io::Write;
use std::time::{Duration, Instant};

use clap::builder::styling::{AnsiColor, Style};
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use crate::hint;

const RED: Style = AnsiColor::Red.on_default().bold();
const YELLOW: Style = AnsiColor::Yellow.on_default().bold();
const CYAN: Style = AnsiColor::Cyan.on_default().bold();

/// Shows an error with its causes, and the hint as the last line.
pub(crate) fn error(error: &anyhow::Error) {
    labelled(RED, "error", &causes(error));
    if let Some(hint) = hint::hint(error) {
        labelled(CYAN, "hint", &hint);
    }
}

/// The error and its causes on one line; a cause that the words before already hold is not said twice.
fn causes(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |said, cause| match cause.to_string() {
        cause if said.is_empty() => cause,
        cause if said.contains(&cause) => said,
        cause => format!("{said}: {cause}"),
    })
}

/// Shows what the command-line parser did not understand.
pub(crate) fn usage(error: &clap::Error) {
    let text = error.to_string();
    let text = text.trim_start_matches("error: ").trim_end();
    match text.rsplit_once("\n\nFor more information, try '") {
        Some((text, _)) => {
            labelled(RED, "error", &text);
            labelled(CYAN, "hint", &"add --help to see what can be written here");
        }
        None => eprint(&text),
    }
}

/// Shows a doubt that does not stop the program.
pub(crate) fn warning(text: &str) {
    labelled(YELLOW, "warning", &text);
}

/// Tells something, as it is.
pub(crate) fn note(text: &str) {
    eprint(&text.trim_end());
}

/// A whole number with its digits in groups of three.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Weights of a model, and how many are trained, where that is another number.
pub(crate) fn parameters(total: usize, trained: usize) -> String {
    let total_text = thousands(total as u64);
    if trained == 0 || trained == total {
        total_text
    } else {
        format!("{total_text}, and {} trained", thousands(trained as u64))
    }
}

/// A large number in three digits and a decimal unit: `1.24 GFLOP`.
pub(crate) fn metric(number: f64, unit: &str) -> String {
    const PREFIXES: [&str; 7] = ["", "k", "M", "G", "T", "P", "E"];
    let steps = scale(number, 1000.0, PREFIXES.len());
    format!("{} {}{unit}", three_digits(number / 1000f64.powi(steps)), PREFIXES[steps as usize])
}

/// A number of bytes in three digits and a binary unit: `1.24 GiB`.
pub(crate) fn bytes(number: f64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let steps = scale(number, 1024.0, UNITS.len());
    format!("{} {}", three_digits(number / 1024f64.powi(steps)), UNITS[steps as usize])
}

/// How many powers of `base` fit into the number, of those that have a name.
fn scale(number: f64, base: f64, names: usize) -> i32 {
    let fits = |&steps: &i32| number >= base.powi(steps);
    (1..names as i32).take_while(fits).last().unwrap_or(0)
}

fn three_digits(number: f64) -> String {
    let decimals = match number {
        n if n >= 99.95 || n.fract() == 0.0 => 0,
        n if n >= 9.995 => 1,
        _ => 2,
    };
    format!("{number:.decimals$}")
}

/// A time span in the unit that fits it: `12.3 ms`, `4.56 s`, `7 min 30 s`, `3 h 20 min`, `12 days 4 h`.
pub(crate) fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match seconds {
        s if s < 1e-3 => format!("{} us", three_digits(s * 1e6)),
        s if s < 1.0 => format!("{} ms", three_digits(s * 1e3)),
        s if s < 120.0 => format!("{} s", three_digits(s)),
        s if s < 7200.0 => format!("{} min {} s", whole / 60, whole % 60),
        s if s < 172_800.0 => format!("{} h {} min", whole / 3600, whole / 60 % 60),
        _ => format!("{} days {} h", whole / 86400, whole / 3600 % 24),
    }
}

/// Progress through bytes, stage by stage: a bar on a terminal, a line per stage elsewhere.
pub(crate) struct ByteBar {
    bar: ProgressBar,
    stage: String,
    /// When the stage began, how much of it was done already, and when it was told of last.
    began: (Instant, u64),
    told: Instant,
}

impl ByteBar {
    pub(crate) fn new() -> Self {
        let template = "{msg:9} {wide_bar} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}";
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let now = Instant::now();
        Self { bar: ProgressBar::new(0).with_style(style), stage: String::new(), began: (now, 0), told: now }
    }

    /// Moves to `done` of `total` bytes of a stage.
    pub(crate) fn show(&mut self, stage: &str, done: u64, total: u64) {
        if stage != self.stage {
            self.stage = stage.to_owned();
            self.bar.reset();
            self.bar.set_message(self.stage.clone());
            if self.bar.is_hidden() {
                let size = if total > 0 { format!(" {}", HumanBytes(total)) } else { String::new() };
                eprint(&format_args!("{stage}{size}"));
            }
            self.told = Instant::now();
            self.began = (self.told, done);
        }
        if self.bar.is_hidden() && self.told.elapsed() >= CountBar::PAUSE {
            self.told = Instant::now();
            let rate = done.saturating_sub(self.began.1) as f64 / self.began.0.elapsed().as_secs_f64();
            let left = duration(total.saturating_sub(done) as f64 / rate.max(1.0));
            let (done, total, rate) = (HumanBytes(done), HumanBytes(total), bytes(rate));
            eprint(&format_args!("{stage} {done} of {total}, {rate}/s, {left} left"));
        }
        self.bar.set_length(total);
        self.bar.set_position(done);
    }

    /// Tells something beside the bar.
    pub(crate) fn note(&self, text: &str) {
        self.bar.suspend(|| note(text));
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// Progress through the windows or items of an evaluation: a bar on a terminal, a line now and then elsewhere.
pub(crate) struct CountBar {
    bar: ProgressBar,
    unit: &'static str,
    began: Instant,
    told: Cell<Instant>,
}

impl CountBar {
    /// Where there is no terminal, as long from one line to the next.
    const PAUSE: Duration = Duration::from_secs(20);

    /// Of so many of what.
    pub(crate) fn new(total: u64, unit: &'static str) -> Self {
        let template = "evaluating {wide_bar} {pos}/{len} {msg} {eta}";
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let now = Instant::now();
        let bar = ProgressBar::new(total).with_style(style).with_message(unit);
        Self { bar, unit, began: now, told: Cell::new(now) }
    }

    /// Says how many there are, where that was not known before.
    pub(crate) fn set_total(&self, total: u64) {
        self.bar.set_length(total);
    }

    /// Moves to `done` of them.
    pub(crate) fn show(&self, done: u64) {
        self.bar.set_position(done);
        if !self.bar.is_hidden() || self.told.get().elapsed() < Self::PAUSE || done == 0 {
            return;
        }
        self.told.set(Instant::now());
        let (total, unit) = (self.bar.length().unwrap_or(done), self.unit);
        let left = self.began.elapsed().as_secs_f64() * total.saturating_sub(done) as f64 / done as f64;
        eprint(&format_args!("evaluated {done} of {total} {unit}, {} left", duration(left)));
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

fn labelled(style: Style, label: &str, text: &dyn Display) {
    eprint(&format_args!("{style}{label}:{style:#} {text}"));
}

/// One line to standard error; where that is closed, there is nobody to tell.
fn eprint(text: &dyn Display) {
    let _ = writeln!(anstream::stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        assert_eq!([0, 999, 1000, 1_003_854].map(thousands), ["0", "999", "1,000", "1,003,854"]);
        let work = [0.0, 999.0, 1500.0, 9.9996e9, 5e20].map(|number| metric(number, "B"));
        assert_eq!(work, ["0 B", "999 B", "1.50 kB", "10.0 GB", "500 EB"]);
        assert_eq!([0.0, 1024.0, 1.5e6, 2e9].map(bytes), ["0 B", "1 KiB", "1.43 MiB", "1.86 GiB"]);
        let spans = [2e-5, 0.0123, 4.56, 450.0, 12000.0, 1_051_200.0].map(duration);
        assert_eq!(spans, ["20 us", "12.3 ms", "4.56 s", "7 min 30 s", "3 h 20 min", "12 days 4 h"]);
    }
}
