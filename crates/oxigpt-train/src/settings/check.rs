//! What follows from the settings, and which combinations of them no run can have.

use oxigpt_model::AttentionError;

use super::error::impossible;
use super::{BatchSize, Settings, SettingsError, Start, TaskFile};
use crate::machine;

impl Settings {
    /// Tokens that one step (one update) learns from.
    pub fn tokens_per_step(&self) -> usize {
        self.gradient_accumulation_steps.saturating_mul(self.tokens_per_micro_batch())
    }

    /// Tokens that pass through the model at once.
    pub fn tokens_per_micro_batch(&self) -> usize {
        self.batch_size.rows().saturating_mul(self.block_size)
    }

    /// Checks the settings and fills in the keys that follow from others, so that a run's `config.toml` says all.
    ///
    /// `vocab_size`, `threads` and `lr_decay_iters` may stay 0: they follow from the data set, from the machine, and
    /// from a `max_iters` that a resumed run may raise. Of a micro-batch that is still to be fitted (see
    /// [`fit`](crate::fit)) nothing follows.
    pub fn resolve(self) -> Result<Self, SettingsError> {
        let mut settings = self.on_this_machine()?;
        if settings.batch_size == BatchSize::Auto {
            settings.check_step_is_known()?;
            if settings.eval_tokens == 0 {
                // What is evaluated is the same on every machine.
                let rows = settings.eval_iters.saturating_mul(BatchSize::DEFAULT);
                settings.eval_tokens = rows.saturating_mul(settings.block_size);
            }
            return Ok(settings);
        }
        if settings.total_batch_size > 0 {
            settings.gradient_accumulation_steps =
                settings.total_batch_size / settings.tokens_per_micro_batch();
        }
        settings.total_batch_size = settings.tokens_per_step();
        if settings.eval_tokens == 0 {
            settings.eval_tokens = settings.eval_iters.saturating_mul(settings.tokens_per_micro_batch());
        }
        Ok(settings)
    }

    /// Checks the settings, and chooses what they leave to the machine: `auto` as `dtype` and `recompute`.
    pub fn on_this_machine(mut self) -> Result<Self, SettingsError> {
        self.validate()?;
        if self.dtype == "auto" {
            let dtype = if self.machine().has_bfloat16() { "bfloat16" } else { "float32" };
            dtype.clone_into(&mut self.dtype);
        }
        self.recompute = Some(self.recompute());
        Ok(self)
    }

    /// Refuses what no run can have, and what this version cannot do yet.
    pub fn validate(&self) -> Result<(), SettingsError> {
        if self.out_dir.is_empty() {
            return Err(impossible(
                "`out_dir` is empty".into(),
                "name a directory, such as --out_dir=out/mine",
            ));
        }
        if self.sample_interval > 0 && self.sample_start.is_empty() {
            return Err(impossible(
                "`sample_start` is empty".into(),
                "a sample continues at least one character, such as the default, a line break",
            ));
        }
        self.check_counts()?;
        self.check_rates()?;
        self.check_shapes()?;
        self.check_attention()?;
        self.check_tuning()?;
        self.check_available()
    }

    /// Refuses numbers that no gradient can change.
    pub fn check_trainable(&self) -> Result<(), SettingsError> {
        if self.dtype != "int8" {
            return Ok(());
        }
        let message = "weights in int8 cannot be trained, only evaluated and sampled".to_owned();
        Err(impossible(
            message,
            "train with --dtype=bfloat16 or --dtype=float32, then `oxigpt sample --dtype=int8`",
        ))
    }

    /// What is allowed but probably not meant.
    pub fn warnings(&self) -> Vec<String> {
        let Self {
            warmup_iters, max_iters, lr_decay_iters, min_lr, learning_rate, decay_lr, init_from, ..
        } = self;
        let mut warnings: Vec<_> = machine::passed_over(&self.device).into_iter().collect();
        if warmup_iters > max_iters {
            warnings.push(format!(
                "warmup_iters = {warmup_iters} is more than max_iters = {max_iters}: the learning rate never \
                 reaches its highest value"
            ));
        }
        if *decay_lr && init_from == "resume" && (1..*max_iters).contains(lr_decay_iters) {
            warnings.push(format!(
                "lr_decay_iters = {lr_decay_iters} is less than max_iters = {max_iters}: the learning rate stays at \
                 min_lr = {min_lr} from there on; --lr_decay_iters=0 lets it fall until the end"
            ));
        }
        let Self { lora_rank, lora_alpha, lora_targets, attn_scale, .. } = Self::default();
        if self.lora_rank == lora_rank && (self.lora_alpha, &self.lora_targets) != (lora_alpha, &lora_targets)
        {
            warnings.push(
                "lora_rank = 0: there are no adapters, whatever lora_alpha and lora_targets say".into(),
            );
        }
        if self.hellaswag == TaskFile::None && self.hellaswag_limit > 0 {
            warnings.push(format!(
                "hellaswag_limit = {}: HellaSwag is not asked for; --hellaswag does that",
                self.hellaswag_limit
            ));
        }
        if self.attention().scale().is_none() && self.attn_scale != attn_scale {
            warnings.push(format!(
                "attn_scale = {}: {} attention is divided by nothing, only pointwise kinds are",
                self.attn_scale, self.attn_type
            ));
        }
        if *decay_lr && min_lr > learning_rate {
            warnings.push(format!(
                "min_lr = {min_lr} is more than learning_rate = {learning_rate}: the learning rate will rise"
            ));
        }
        warnings
    }

    fn check_counts(&self) -> Result<(), SettingsError> {
        let counts = [
            ("n_layer", self.n_layer),
            ("n_head", self.n_head),
            ("n_embd", self.n_embd),
            ("block_size", self.block_size),
            ("batch_size", self.batch_size.rows()),
            ("gradient_accumulation_steps", self.gradient_accumulation_steps),
            ("max_iters", self.max_iters),
            ("eval_interval", self.eval_interval),
            ("eval_iters", self.eval_iters),
            ("log_interval", self.log_interval),
            ("keep_checkpoints", self.keep_checkpoints),
            ("sample_tokens", self.sample_tokens),
        ];
        match counts.iter().find(|(_, count)| *count == 0) {
            Some((key, _)) => Err(impossible(format!("`{key}` is 0"), "it must be at least 1")),
            None => Ok(()),
        }
    }

    fn check_rates(&self) -> Result<(), SettingsError> {
        let not_negative = [
            ("learning_rate", self.learning_rate),
            ("min_lr", self.min_lr),
            ("weight_decay", self.weight_decay),
            ("grad_clip", self.grad_clip),
        ];
        let below_one = [("dropout", self.dropout), ("beta1", self.beta1), ("beta2", self.beta2)];
        for (key, rate) in not_negative {
            if !(rate.is_finite() && rate >= 0.0) {
                return Err(impossible(
                    format!("`{key}` is {rate}"),
                    "it must be a finite number, 0 or more",
                ));
            }
        }
        for (key, rate) in below_one {
            if !(0.0..1.0).contains(&rate) {
                return Err(impossible(format!("`{key}` is {rate}"), "it must be at least 0 and below 1"));
            }
        }
        Ok(())
    }

    fn check_shapes(&self) -> Result<(), SettingsError> {
        let Self { n_embd, n_head, block_size, total_batch_size, .. } = self;
        let batch_size = self.batch_size.rows();
        if n_embd % n_head != 0 {
            let near = nearest_multiple(*n_embd, *n_head);
            return Err(impossible(
                format!("n_embd = {n_embd} cannot be cut into n_head = {n_head} equal heads"),
                &format!("the nearest width that can is --n_embd={near}"),
            ));
        }
        let micro_batch = batch_size.checked_mul(*block_size).ok_or_else(|| {
            impossible(
                format!(
                    "batch_size = {batch_size} times block_size = {block_size} is not a number of tokens"
                ),
                "make them smaller",
            )
        })?;
        if total_batch_size % micro_batch != 0 {
            let near = nearest_multiple(*total_batch_size, micro_batch);
            return Err(impossible(
                format!(
                    "total_batch_size = {total_batch_size} is not a whole number of micro-batches of \
                     batch_size x block_size = {batch_size} x {block_size} = {micro_batch} tokens"
                ),
                &format!("the nearest size that is: --total_batch_size={near}"),
            ));
        }
        Ok(())
    }

    /// A micro-batch that is fitted into a step must not decide how large the step is.
    fn check_step_is_known(&self) -> Result<(), SettingsError> {
        if self.total_batch_size > 0 || self.eval_only {
            return Ok(());
        }
        Err(impossible(
            "batch_size = \"auto\" cuts a step into micro-batches, and nothing says how large the step is"
                .into(),
            &format!(
                "say it in tokens: --total_batch_size=N, a multiple of block_size = {}",
                self.block_size
            ),
        ))
    }

    fn check_attention(&self) -> Result<(), SettingsError> {
        let told = |error: AttentionError| {
            let hint = match error.key {
                "attn_scale" => "`block`, the default, is what a model was trained with at its whole context",
                "attn_clamp" => "leave attn_clamp out",
                _ => "`softmax` is what GPT-2 and most others have",
            };
            impossible(error.to_string(), hint)
        };
        self.parse_attention().map(drop).map_err(told)
    }

    fn check_tuning(&self) -> Result<(), SettingsError> {
        let is_wrong =
            |error: oxigpt_model::Error| impossible(error.to_string(), &error.hint().unwrap_or_default());
        if let Some(lora) = self.lora().map_err(is_wrong)? {
            lora.validate(&self.model_config(1)).map_err(is_wrong)?;
            let is_distilled = matches!(self.start(), Start::Layerwise(_)) && self.distill_mix == 0.0;
            if is_distilled && !lora.targets.reach_attention() {
                return Err(impossible(
                    format!("lora_targets = \"{}\", but attention is what is distilled", self.lora_targets),
                    "name attn.c_attn or attn.c_proj too, or add the loss on the text with distill_mix",
                ));
            }
        }
        if self.lora_rank > 0 && self.start() == Start::Scratch {
            return Err(impossible(
                format!("lora_rank = {}, but the run begins with random weights", self.lora_rank),
                "adapters need a model that they adapt: add --from=MODEL, or leave out lora_rank",
            ));
        }
        if !(0.0..=1.0).contains(&self.distill_mix) {
            return Err(impossible(
                format!("`distill_mix` is {}", self.distill_mix),
                "it must be between 0, the squared error alone, and 1, the loss on the text alone",
            ));
        }
        if self.distill_mix > 0.0 && matches!(self.start(), Start::Scratch | Start::Model(_)) {
            return Err(impossible(
                format!("distill_mix = {}, but nothing is distilled", self.distill_mix),
                "a layer-wise distillation begins with --init_from=layerwise:MODEL",
            ));
        }
        Ok(())
    }

    fn check_available(&self) -> Result<(), SettingsError> {
        if !machine::is_device(&self.device) {
            let message = format!("`device` must be one of cpu, cuda, cuda:N, auto, not \"{}\"", self.device);
            return Err(impossible(
                message,
                "use `device = \"cpu\"`, or \"auto\"; `oxigpt devices` lists the GPUs",
            ));
        }
        let limits = [
            ("dtype", &self.dtype, &["float32", "bfloat16", "auto", "int8"][..], &["float16"][..]),
            ("float32_matmul_precision", &self.float32_matmul_precision, &["highest", "high"], &[]),
        ];
        for (key, value, available, later) in limits {
            if !available.contains(&value.as_str()) {
                let value = value.clone();
                if !later.iter().any(|word| value.starts_with(word)) {
                    let message = format!("`{key}` must be one of {}, not \"{value}\"", available.join(", "));
                    // An abbreviation has at least its first letter in common with what was meant.
                    let meant = available.iter().find(|word| word.chars().next() == value.chars().next());
                    let meant = meant.unwrap_or(&available[0]);
                    return Err(impossible(message, &format!("use `{key} = \"{meant}\"`")));
                }
                return Err(SettingsError::NotAvailable { key, value, available: available[0] });
            }
        }
        Ok(())
    }
}

/// The multiple of `unit` nearest to `size`, and at least one `unit`.
fn nearest_multiple(size: usize, unit: usize) -> usize {
    ((size.saturating_add(unit / 2)) / unit).max(1) * unit
}
