//! The settings of a run: one flat table of keys, and the rules by which files and the command line fill it in.
//!
//! A key is nanoGPT's wherever nanoGPT has it, and so is its default, so that flags and habits carry over. The
//! table below is the only place that knows a key: the struct, the help text, the type checks and `config.toml`
//! all come from it. Filling in is plain overlaying: the defaults, then each recipe, then each `--key=value`, and
//! what comes later wins. [`Settings::resolve`] then derives what follows from the rest and refuses the impossible.

mod check;
mod error;
mod shape;
mod start;
mod value;

use std::collections::BTreeMap;
use std::path::Path;

use fs_err as fs;
use oxigpt_compute::{Gelu, Recompute};
use oxigpt_data::DataOrder;
use strsim::damerau_levenshtein;
use toml::Spanned;

pub use error::{Origin, SettingsError};
pub use start::Start;
use value::Value;
pub use value::{BatchSize, Kind, TaskFile};

/// What the help text and the error messages say of one key.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// The name, as in a recipe.
    pub name: &'static str,
    /// The heading under which it is listed.
    pub group: &'static str,
    /// One line: what it is, in which unit.
    pub doc: &'static str,
}

/// Makes the struct, its defaults, and the table of keys out of one list.
macro_rules! settings {
    ($($group:literal { $(#[doc = $doc:literal] $name:ident: $type:ty = $default:expr;)+ })+) => {
        /// The resolved configuration of a run, one field per key.
        #[derive(Debug, Clone, PartialEq)]
        pub struct Settings { $($(#[doc = $doc] pub $name: $type,)+)+ }

        impl Default for Settings {
            fn default() -> Self {
                Self { $($($name: $default,)+)+ }
            }
        }

        /// Every key, in the order in which people see them.
        pub const KEYS: &[Key] = &[
            $($(Key { name: stringify!($name), group: $group, doc: $doc.trim_ascii() },)+)+
        ];

        impl Settings {
            fn field(&self, key: &str) -> Option<&dyn Value> {
                match key { $($(stringify!($name) => Some(&self.$name),)+)+ _ => None }
            }

            fn field_mut(&mut self, key: &str) -> Option<&mut dyn Value> {
                match key { $($(stringify!($name) => Some(&mut self.$name),)+)+ _ => None }
            }
        }
    };
}

settings! {
    "Run" {
        /// run directory: configuration, metrics, checkpoints
        out_dir: String = "out".to_owned();
        /// scratch; resume: go on with the run in out_dir; a MODEL to begin a new run with; or layerwise:MODEL
        init_from: String = "scratch".to_owned();
        /// seed of initialisation, batches, dropout and samples
        seed: u64 = 1337;
        /// where the run computes: cpu, cuda, cuda:N, or auto
        device: String = "cpu".to_owned();
        /// operands of matrix products: float32, bfloat16, auto; not to train, int8
        dtype: String = "float32".to_owned();
        /// float32 products on a GPU: highest, or high (TF32)
        float32_matmul_precision: String = "highest".to_owned();
        /// the same bits at every rerun; false lets a GPU add in any order where that is faster
        deterministic: bool = true;
        /// worker threads; 0 = one per core
        threads: usize = 0;
    }
    "Data" {
        /// data directory, or its name under data/
        dataset: String = "openwebtext".to_owned();
        /// windows: each once an epoch, one after the other, or drawn with replacement
        data_order: DataOrder = DataOrder::Shuffled;
        /// sequences in a micro-batch; auto = as many of total_batch_size as fit into memory
        batch_size: BatchSize = BatchSize::Rows(BatchSize::DEFAULT);
        /// tokens in a sequence: the longest context
        block_size: usize = 1024;
        /// tokens in a step; 0 = gradient_accumulation_steps x batch_size x block_size
        total_batch_size: usize = 0;
        /// micro-batches in a step; follows from total_batch_size where that is set
        gradient_accumulation_steps: usize = 40;
        /// what the backward pass makes again to save memory: none, gelu (and layer norms), block, or auto; the same bits, except gelu's in bfloat16 on a GPU
        recompute: Option<Recompute> = None;
    }
    "Model" {
        /// transformer blocks
        n_layer: usize = 12;
        /// attention heads in a block; divides n_embd
        n_head: usize = 12;
        /// width of the residual stream
        n_embd: usize = 768;
        /// tokens in the vocabulary; 0 = the data set's
        vocab_size: usize = 0;
        /// probability of dropping an activation while training
        dropout: f64 = 0.0;
        /// biases in the linear layers and layer norms
        bias: bool = false;
        /// by the tanh approximation (GPT-2), or exact (nanoGPT)
        gelu: Gelu = Gelu::Erf;
        /// how attention scores become weights: softmax, gaussian, gaussian-poly-N, pointwise-F
        attn_type: String = "softmax".to_owned();
        /// what pointwise weights are divided by: block (block_size), position (keys seen), length (of the text)
        attn_scale: String = "block".to_owned();
        /// whether weights of gaussian-poly-N are zero below its range, where they would grow again
        attn_clamp: bool = false;
    }
    "Tuning" {
        /// rank of low-rank adapters that are trained instead of the weights (LoRA); 0 = none
        lora_rank: usize = 0;
        /// what the adapters change is scaled by lora_alpha / lora_rank
        lora_alpha: f64 = 16.0;
        /// linear layers with adapters, of attn.c_attn, attn.c_proj, mlp.c_fc, mlp.c_proj
        lora_targets: String = "c_attn,attn.c_proj".to_owned();
        /// share of the loss on the text in what a layer-wise distillation minimises
        distill_mix: f64 = 0.0;
    }
    "Optimizer" {
        /// highest learning rate
        learning_rate: f64 = 6e-4;
        /// steps (optimizer updates) in the run
        max_iters: usize = 600_000;
        /// AdamW's decay of matrices and embeddings, and of adapters
        weight_decay: f64 = 0.1;
        /// AdamW's first-moment decay rate
        beta1: f64 = 0.9;
        /// AdamW's second-moment decay rate
        beta2: f64 = 0.95;
        /// largest global gradient norm; 0 = no clipping
        grad_clip: f64 = 1.0;
        /// whether the learning rate falls along a cosine after the warm-up
        decay_lr: bool = true;
        /// steps of linear warm-up
        warmup_iters: usize = 2000;
        /// step at which the learning rate reaches min_lr; 0 = max_iters
        lr_decay_iters: usize = 0;
        /// lowest learning rate
        min_lr: f64 = 6e-5;
    }
    "Evaluation and checkpoints" {
        /// evaluate once instead of training
        eval_only: bool = false;
        /// steps between evaluations
        eval_interval: usize = 2000;
        /// batches in an evaluation, where eval_tokens is 0
        eval_iters: usize = 200;
        /// tokens of the fixed validation windows; 0 = eval_iters x batch_size (if auto, 12) x block_size
        eval_tokens: usize = 0;
        /// HellaSwag at every evaluation: true for the published file, or the path of a hellaswag_*.jsonl
        hellaswag: TaskFile = TaskFile::None;
        /// items of it, from the first on; 0 = all
        hellaswag_limit: usize = 0;
        /// save at every evaluation, not only at a better one
        always_save_checkpoint: bool = true;
        /// steps between checkpoints; 0 = at evaluations only
        save_interval: usize = 0;
        /// newest checkpoints to keep, beside the best
        keep_checkpoints: usize = 2;
    }
    "Reports" {
        /// steps between log lines
        log_interval: usize = 1;
        /// steps between samples; 0 = none
        sample_interval: usize = 0;
        /// text that a sample continues
        sample_start: String = "\n".to_owned();
        /// tokens in a sample
        sample_tokens: usize = 200;
    }
}

impl Settings {
    /// Overlays the keys of a TOML file.
    pub fn apply_file(&mut self, path: &Path) -> Result<(), SettingsError> {
        self.apply_toml(&fs::read_to_string(path)?, &path.display().to_string())
    }

    /// Overlays the keys of TOML text; `name` is what the errors call it.
    pub fn apply_toml(&mut self, text: &str, name: &str) -> Result<(), SettingsError> {
        let at = |offset: usize| Origin::File {
            name: name.to_owned(),
            line: 1 + text[..offset].matches('\n').count(),
        };
        // In the order of the alphabet, which sets total_batch_size after gradient_accumulation_steps, and eval_tokens
        // after eval_iters.
        let entries: BTreeMap<Spanned<String>, toml::Value> = toml::from_str(text).map_err(|error| {
            let offset = error.span().map_or(0, |span| span.start);
            SettingsError::Syntax { at: at(offset), message: error.message().to_owned() }
        })?;
        for (key, value) in &entries {
            let at = at(key.span().start);
            if value.is_table() {
                let message = format!("`{}` is a section, and settings have none", key.get_ref());
                return Err(SettingsError::Syntax { at, message });
            }
            self.set(key.get_ref(), value, &at)?;
        }
        Ok(())
    }

    /// Overlays one `--key=value` of the command line, whose value is still text.
    pub fn apply_flag(&mut self, key: &str, text: &str) -> Result<(), SettingsError> {
        let at = Origin::CommandLine;
        let key = canonical(key);
        let kind = kind_of(&key).ok_or_else(|| SettingsError::unknown_key(&key, &at))?;
        let value = kind.parse(text).ok_or_else(|| SettingsError::bad_value(&key, kind, text, &at))?;
        self.set(&key, &value, &at)
    }

    fn set(&mut self, key: &str, value: &toml::Value, at: &Origin) -> Result<(), SettingsError> {
        let key = canonical(key);
        let field = self.field_mut(&key).ok_or_else(|| SettingsError::unknown_key(&key, at))?;
        if !field.assign(value) {
            return Err(SettingsError::bad_value(&key, field.kind(), &value::toml_text(value), at));
        }
        // Two keys say how large a step is, and two how long an evaluation: the later must not be undone by the earlier.
        match key.as_str() {
            "gradient_accumulation_steps" => self.total_batch_size = 0,
            "eval_iters" => self.eval_tokens = 0,
            _ => {}
        }
        Ok(())
    }

    /// The value of a key as TOML text, or `None` where there is no such key.
    pub fn text_of(&self, key: &str) -> Option<String> {
        self.field(key).map(|field| value::toml_text(&field.to_toml()))
    }

    /// The whole configuration as a TOML file with a comment per key, which reads back as the same settings.
    pub fn to_toml(&self) -> String {
        let entries: Vec<_> = KEYS
            .iter()
            .map(|key| (key, format!("{} = {}", key.name, self.text_of(key.name).unwrap_or_default())))
            .collect();
        let width = entries.iter().map(|(_, entry)| entry.len()).max().unwrap_or(0).min(40);
        let mut text = String::new();
        let mut group = "";
        for (key, entry) in entries {
            if key.group != group {
                let blank_line = if group.is_empty() { "" } else { "\n" };
                text += &format!("{blank_line}# {}\n", key.group);
                group = key.group;
            }
            text += &format!("{entry:width$}  # {}\n", key.doc);
        }
        text
    }
}

/// The kind of value that a key takes, or `None` where there is no such key; `-` and `_` are alike.
pub fn kind_of(key: &str) -> Option<Kind> {
    Settings::default().field(&canonical(key)).map(Value::kind)
}

/// The candidate that a mistyped or unfinished word most likely meant, if any is near.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |candidate: &str| {
        if word.len() >= 3 && candidate.starts_with(word) { 0 } else { damerau_levenshtein(word, candidate) }
    };
    let best = candidates.into_iter().min_by_key(|candidate| distance(candidate))?;
    (distance(best) <= 1 + word.len() / 3).then_some(best)
}

fn canonical(key: &str) -> String {
    key.replace('-', "_")
}

#[cfg(test)]
mod tests;
