//! What a run that is resumed must share with what it was, and what it may change.

use std::collections::BTreeMap;

use oxigpt_data::Dataset;

use crate::checkpoint::State;
use crate::error::Error;
use crate::settings::{KEYS, Settings};

/// Keys that shape only what is still to come, or do not shape the result at all. `batch_size` and
/// `gradient_accumulation_steps` may trade places: their product is fixed by `total_batch_size`. The data may have
/// moved: what they are is checked by their hash.
const CHANGEABLE: &[&str] = &[
    "out_dir",
    "init_from",
    "dataset",
    "device",
    "threads",
    "deterministic",
    "batch_size",
    "gradient_accumulation_steps",
    "recompute",
    "max_iters",
    "learning_rate",
    "min_lr",
    "decay_lr",
    "warmup_iters",
    "lr_decay_iters",
    "grad_clip",
    "eval_only",
    "eval_interval",
    "eval_iters",
    "eval_tokens",
    "hellaswag",
    "hellaswag_limit",
    "always_save_checkpoint",
    "save_interval",
    "keep_checkpoints",
    "log_interval",
    "sample_interval",
    "sample_start",
    "sample_tokens",
];

/// All settings as text, for `state.json`.
pub(crate) fn texts(settings: &Settings) -> BTreeMap<String, String> {
    KEYS.iter().filter_map(|key| Some((key.name.to_owned(), settings.text_of(key.name)?))).collect()
}

/// Whether a run with `settings` on data of `hash` is the one that `state` is of.
pub(crate) fn check(state: &State, settings: &Settings, dataset: &Dataset) -> Result<(), Error> {
    // In the order in which people see them.
    for key in KEYS.iter().map(|key| key.name).filter(|key| !CHANGEABLE.contains(key)) {
        let (Some(was), Some(now)) = (state.settings.get(key), settings.text_of(key)) else { continue };
        if *was != now {
            return Err(Error::Changed { key: key.into(), was: was.clone(), now });
        }
    }
    let now = dataset.hash();
    if state.data_hash != now {
        let (run, was) = ((&settings.out_dir).into(), state.data_hash.clone());
        return Err(Error::OtherData { run, dataset: dataset.dir().into(), was, now });
    }
    let max_iters = settings.max_iters as u64;
    if state.step > max_iters {
        return Err(Error::Beyond { step: state.step, max_iters });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_changeable_key_is_a_key() {
        for key in CHANGEABLE {
            assert!(KEYS.iter().any(|known| known.name == *key), "{key}");
        }
    }
}
