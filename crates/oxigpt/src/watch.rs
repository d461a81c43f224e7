//! Shows a training run to a person: a table at its start, then a bar on a terminal, or plain lines elsewhere.

use std::fmt::Write;

use indicatif::{ProgressBar, ProgressStyle};
use oxigpt_model::ScoreRange;
use oxigpt_train::words::{count, shell_word};
use oxigpt_train::{Eval, Event, HellaSwagScore, Observer, Sample, Started, Summary, Train};

use crate::report::{self, CountBar, bytes, duration, metric, parameters, thousands};

/// Watches a run.
pub(crate) struct Watch {
    bar: ProgressBar,
    /// Of an evaluation that takes long, and what it counts.
    evaluation: Option<(CountBar, &'static str)>,
    log_interval: u64,
    max_iters: u64,
    pace: Pace,
}

/// How fast steps have been lately.
#[derive(Default)]
struct Pace {
    steps: u32,
    step_ms: f64,
}

impl Pace {
    /// Takes in one more step: a running mean over the last twenty or so. The first steps, which still fetch their
    /// memory, are forgotten at once.
    fn add(&mut self, step_ms: f64) {
        self.steps += 1;
        let weight = if self.steps <= 3 { 1.0 } else { 0.05 };
        self.step_ms += weight * (step_ms - self.step_ms);
    }
}

impl Watch {
    pub(crate) fn new(log_interval: usize) -> Watch {
        Watch {
            bar: ProgressBar::hidden(),
            evaluation: None,
            log_interval: log_interval as u64,
            max_iters: 0,
            pace: Pace::default(),
        }
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
        if let Some((evaluation, _)) = &self.evaluation {
            evaluation.finish();
        }
    }

    /// A line about an evaluation that is done.
    fn evaluated(&mut self, text: &str) {
        if let Some((evaluation, _)) = self.evaluation.take() {
            evaluation.finish();
        }
        self.line(text);
    }

    fn line(&self, text: &str) {
        self.bar.suspend(|| report::note(text));
    }

    fn started(&mut self, started: &Started) {
        self.max_iters = started.max_iters;
        report::note(&table(started));
        self.bar = ProgressBar::new(started.max_iters);
        let template = "{bar:32} {pos}/{len}  {msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style.progress_chars("━━╌"));
        }
        self.bar.set_position(started.step);
    }

    fn stepped(&mut self, train: &Train) {
        self.pace.add(train.step_ms);
        let done = train.step + 1;
        let left = (self.max_iters - done) as f64 * self.pace.step_ms / 1e3;
        self.bar.set_position(done);
        if self.bar.is_hidden() {
            if train.step.is_multiple_of(self.log_interval) || done == self.max_iters {
                self.line(&format!("{} | {} left", step_line(train), duration(left)));
            }
            return;
        }
        let tokens_per_s = thousands(train.tokens_per_s as u64);
        let Train { loss, mfu, .. } = train;
        self.bar.set_message(format!(
            "loss {loss:.3}  {tokens_per_s} tokens/s  {:.0} % of peak  {} left",
            mfu * 100.0,
            duration(left)
        ));
    }
}

impl Observer for Watch {
    fn event(&mut self, event: &Event) {
        match event {
            Event::Started(started) => self.started(started),
            Event::Train(train) => self.stepped(train),
            Event::Eval(eval) => self.evaluated(&eval_line(eval)),
            Event::HellaSwag(score) => self.evaluated(&hellaswag_line(score)),
            Event::Sample(sample) => self.line(&sample_text(sample)),
            Event::Checkpoint(saved) => {
                let best = if saved.best { ", the best so far" } else { "" };
                self.line(&format!("step {:5} | saved {}{best}", saved.step, saved.name));
            }
            Event::Warning { message, .. } => self.bar.suspend(|| report::warning(message)),
            Event::Failure(_) => self.finish(),
            Event::Finished(summary) => {
                self.finish();
                report::note(&ending(summary));
            }
        }
    }

    fn evaluating(&mut self, done: u64, total: u64, unit: &'static str) {
        // In training on a terminal, the bar of the run is there to be written on.
        if self.max_iters > 0 && !self.bar.is_hidden() {
            return self.bar.set_message(format!(
                "evaluating: {} of {} {unit}",
                thousands(done),
                thousands(total)
            ));
        }
        if self.evaluation.as_ref().is_none_or(|(_, counted)| *counted != unit) {
            self.evaluation = Some((CountBar::new(total, unit), unit));
        }
        if let Some((evaluation, _)) = &self.evaluation {
            evaluation.show(done);
        }
    }
}

fn step_line(train: &Train) -> String {
    let Train { step, loss, lr, grad_norm, step_ms, mfu, range, .. } = train;
    let tokens_per_s = thousands(train.tokens_per_s as u64);
    format!(
        "step {step:5} | loss {loss:.6} | lr {lr:.4e} | norm {grad_norm:.4} | {step_ms:.2} ms | {tokens_per_s} tokens/s | mfu {:.1} %{}",
        mfu * 100.0,
        scores(*range)
    )
}

fn eval_line(eval: &Eval) -> String {
    let Eval { step, train_loss, val_loss, range, .. } = eval;
    format!("step {step:5} | train loss {train_loss:.4} | val loss {val_loss:.4}{}", scores(*range))
}

/// Nothing unless some attention scores leave the range of their polynomial.
fn scores(range: Option<ScoreRange>) -> String {
    match range.filter(|range| range.below > 0) {
        Some(range) => {
            format!(
                " | {:.2} % of scores out of range, down to {:.1}",
                100.0 * range.share_below(),
                range.lowest
            )
        }
        None => String::new(),
    }
}

fn hellaswag_line(score: &HellaSwagScore) -> String {
    let HellaSwagScore { step, acc, acc_norm, interval: [low, high], items, hellaswag_ms, .. } = score;
    format!(
        "step {step:5} | HellaSwag acc_norm {acc_norm:.4} ({low:.4} to {high:.4}) | acc {acc:.4} | {} items in {}",
        thousands(*items),
        duration(hellaswag_ms / 1e3)
    )
}

fn sample_text(sample: &Sample) -> String {
    let rule = "-".repeat(15);
    format!("{rule}\n{}{}\n{rule}", sample.start, sample.text)
}

fn table(started: &Started) -> String {
    let mut text = String::new();
    let mut row = |label: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{label:12} {value}");
    };
    row("parameters", parameters(started.parameters, started.trained_parameters));
    row(
        "data",
        format!(
            "{}: {} tokens to train on, {} to validate on; the run sees {:.1} epochs",
            started.dataset.display(),
            thousands(started.train_tokens),
            thousands(started.val_tokens),
            started.epochs
        ),
    );
    row(
        "step",
        format!(
            "{} tokens in {} micro-batches, {}",
            thousands(started.tokens_per_step as u64),
            started.micro_batches,
            metric(started.flops_per_step, "FLOP")
        ),
    );
    row(
        "machine",
        format!("{}, {} in matrix products", started.machine, metric(started.peak_flops_per_s, "FLOP/s")),
    );
    if let Some(attention) = &started.attention {
        row("attention", format!("by {attention}"));
    }
    row("memory", bytes(started.memory_bytes as f64));
    for (role, size) in started.memory.iter().filter(|(_, size)| **size > 0) {
        row("", format!("{role:12} {:>10}", bytes(*size as f64)));
    }
    if started.init_from == "scratch" {
        row(
            "first loss",
            format!(
                "about {:.4}, which is ln {}: a model that has learned nothing",
                started.initial_loss, started.vocab_size
            ),
        );
    } else {
        row("begun with", format!("the weights of {}", started.init_from));
    }
    if started.step > 0 {
        row("resumed", format!("at step {} of {}", started.step, started.max_iters));
    }
    text
}

fn ending(summary: &Summary) -> String {
    let (dir, steps) = (summary.run_dir.to_string_lossy(), count(summary.step, "step"));
    let dir = shell_word(&dir);
    let best = match (summary.best_val_loss, summary.best_step) {
        (Some(loss), Some(step)) => format!("; best validation loss {loss:.4}, at step {step}"),
        _ => String::new(),
    };
    if summary.interrupted {
        return format!(
            "interrupted after {steps} and saved{best}\nto go on:  oxigpt train --init_from=resume --out_dir={dir}"
        );
    }
    format!("{steps} done{best}\nto hear it: oxigpt sample --from {dir}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ending_can_be_typed_again() {
        let mut summary = Summary {
            step: 1,
            run_dir: "my run".into(),
            interrupted: false,
            best_val_loss: None,
            best_step: None,
        };
        assert_eq!(ending(&summary), "1 step done\nto hear it: oxigpt sample --from 'my run'");
        summary.interrupted = true;
        assert!(ending(&summary).ends_with("--init_from=resume --out_dir='my run'"), "{}", ending(&summary));
    }
}
