//! `batch_size = "auto"`: the largest micro-batch of a step that fits into memory.
//!
//! A plan knows its memory before it takes any, so sizes are tried on paper. What is chosen stands in the settings from then
//! on, and so in the run's `config.toml`: a resumed run has the same, and goes on bit for bit.

use std::path::Path;

use crate::corpus::planned_vocab_size;
use crate::error::Error;
use crate::estimate::Estimate;
use crate::hellaswag::planned_scoring;
use crate::machine::Machine;
use crate::settings::{BatchSize, Settings};

/// Share of the free memory that a run may take. The rest is for what is beside the plan: the program, files, others.
const SHARE: f64 = 0.9;

/// Tokens at once that are enough for a CPU: its products are as fast as they get, and what each micro-batch reads and
/// writes but for its activations, all weights and gradients, is below a hundredth of its time.
const ENOUGH_ON_CPU: usize = 8192;

/// Rows at once that are enough for anything.
const ENOUGH: usize = 1 << 16;

/// The settings of a run with a number for its `batch_size`; `published` is the published file of HellaSwag.
///
/// # Errors
/// If not even one sequence fits, or there are no such data or device.
pub fn fit(settings: Settings, published: Option<&Path>) -> Result<Settings, Error> {
    if settings.batch_size != BatchSize::Auto {
        return Ok(settings);
    }
    let vocab_size = planned_vocab_size(&settings)?;
    let scored = planned_scoring(&settings, published, vocab_size)?;
    let machine = settings.machine();
    fit_to(settings, vocab_size, scored, &machine)
}

/// The same where the data are known as [`Estimate::of`] takes them, for the memory of a machine.
///
/// # Errors
/// If not even one sequence fits, or there is no such device.
pub fn fit_to(
    settings: Settings,
    vocab_size: usize,
    scored: Option<[usize; 2]>,
    machine: &Machine,
) -> Result<Settings, Error> {
    if settings.batch_size != BatchSize::Auto {
        return Ok(settings);
    }
    let usable = machine.free_memory()?.map_or(u64::MAX, |free| (free as f64 * SHARE) as u64);
    largest(&settings, usable, |settings| {
        let estimate = Estimate::of(settings, vocab_size, scored)?;
        // On a GPU, what is saved goes through the computer's own memory.
        let is_cpu = settings.machine().is_cpu();
        Ok(if is_cpu { estimate.peak_memory_bytes() } else { estimate.memory_bytes } as u64)
    })
}

/// The settings with the most rows of which no more than `usable` is `needed`.
fn largest(
    settings: &Settings,
    usable: u64,
    needed: impl Fn(&Settings) -> Result<u64, Error>,
) -> Result<Settings, Error> {
    let with = |rows| -> Result<Settings, Error> {
        let settings = Settings { batch_size: BatchSize::Rows(rows), ..settings.clone() }.resolve()?;
        let needed = needed(&settings)?;
        let block_size = settings.block_size;
        if needed > usable { Err(Error::NothingFits { block_size, needed, usable }) } else { Ok(settings) }
    };
    let mut fitting = with(1)?;
    for rows in sizes(settings) {
        match with(rows) {
            Ok(larger) => fitting = larger,
            Err(_) => break,
        }
    }
    Ok(fitting)
}

/// Micro-batches of more than one row that make up a step, smallest first. An evaluation is not made of steps.
fn sizes(settings: &Settings) -> impl Iterator<Item = usize> {
    let Settings { block_size, total_batch_size, eval_only, .. } = *settings;
    let enough = if settings.machine().is_cpu() { ENOUGH_ON_CPU / block_size } else { ENOUGH };
    let rows_of_step = total_batch_size / block_size;
    let divides = move |rows: &usize| {
        if eval_only { rows.is_power_of_two() } else { rows_of_step.is_multiple_of(*rows) }
    };
    (2..=if eval_only { enough } else { enough.min(rows_of_step) }).filter(divides)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A step of 24 rows of 1,024 tokens, and a model of which each row takes 100 bytes, and everything else 1,000.
    fn fitted(usable: u64, more: Settings) -> Result<Settings, Error> {
        let settings =
            Settings { batch_size: BatchSize::Auto, total_batch_size: 24 * 1024, block_size: 1024, ..more };
        largest(&settings.resolve()?, usable, |settings| Ok(1000 + 100 * settings.batch_size.rows() as u64))
    }

    fn rows(usable: u64) -> usize {
        fitted(usable, Settings::default()).unwrap().batch_size.rows()
    }

    #[test]
    fn the_largest_part_of_a_step_that_fits() {
        assert_eq!([1100, 1199, 1200, 1599, 1600].map(rows), [1, 1, 2, 4, 6]);
        // More is no faster on a CPU.
        assert_eq!(rows(u64::MAX), 8);
    }

    #[test]
    fn what_follows_from_it_follows() {
        let settings = fitted(1500, Settings { eval_iters: 10, ..Settings::default() }).unwrap();
        assert_eq!((settings.gradient_accumulation_steps, settings.total_batch_size), (6, 24 * 1024));
        // Whatever fits.
        assert_eq!(settings.eval_tokens, 10 * 12 * 1024);
        let evaluation = Settings { eval_only: true, total_batch_size: 0, ..settings };
        assert_eq!(fitted(1500, evaluation).unwrap().batch_size, BatchSize::Rows(4));
    }

    #[test]
    fn where_nothing_fits_there_is_an_error() {
        let error = fitted(1099, Settings::default()).unwrap_err();
        assert!(matches!(error, Error::NothingFits { needed: 1100, usable: 1099, block_size: 1024 }));
        assert!(error.hint().unwrap().starts_with("--recompute=block takes less"));
    }

    /// What fits on paper is what the plan says.
    #[test]
    fn sizes_are_those_of_the_plan() {
        let settings = Settings {
            n_layer: 2,
            n_embd: 64,
            n_head: 2,
            batch_size: BatchSize::Auto,
            ..Settings::default()
        };
        let settings = Settings { total_batch_size: 4096, block_size: 128, ..settings }.resolve().unwrap();
        let machine = settings.machine();
        let fitted = fit_to(settings, 64, None, &machine).unwrap();
        assert_eq!(fitted.batch_size, BatchSize::Rows(32));
        assert_eq!(fit_to(fitted.clone(), 64, None, &machine).unwrap(), fitted);
    }
}
