//! The loss of a model on a data set, and what follows from it.

use std::num::NonZeroU64;
use std::ops::ControlFlow;
use std::time::Instant;

use anyhow::Result;
use oxigpt_data::{EvalWindows, Split, eval_windows};
use oxigpt_eval::{Loss, evaluate, target_bytes};
use oxigpt_model::eval_plan;
use oxigpt_text::Tokenizer;
use oxigpt_train::{Error, open_dataset};
use serde_json::{Map, Value, json};

use super::{Section, Subject};
use crate::cli::EvalArgs;
use crate::report::{self, CountBar, duration, thousands};

/// Which windows of the data are asked for.
pub(super) struct Windows {
    split: Split,
    limit: Option<u64>,
}

/// A data set whose windows are known to suit the model.
pub(super) struct Opened {
    windows: EvalWindows,
    /// Nothing where the text of the tokens is not known.
    tokenizer: Option<Tokenizer>,
    /// What is going to be measured.
    title: String,
}

/// What an evaluation found.
struct Found {
    loss: Loss,
    block_size: usize,
    bits_per_byte: Option<f64>,
    seconds: f64,
}

impl Windows {
    pub(super) fn of(args: &EvalArgs) -> Windows {
        let split = if args.split.as_deref() == Some("train") { Split::Train } else { Split::Val };
        Windows { split, limit: args.limit_windows.map(NonZeroU64::get) }
    }
}

/// Opens the data set of the settings.
pub(super) fn open(Subject { settings, model }: &Subject, asked: &Windows) -> Result<Opened> {
    let Windows { split, limit } = *asked;
    let dataset = open_dataset(&settings.dataset)?;
    if dataset.split(split).is_empty() {
        return Err(Error::NoSplit { dataset: dataset.dir().into(), split: split.name() }.into());
    }
    let tokenizer = model.tokenizer_for(&dataset)?;
    if let Some(doubt) = model.doubt_about(&dataset) {
        report::warning(&doubt);
    }
    dataset.validate_split(split, model.config.vocab_size)?;
    let limit = limit.map(|windows| windows.saturating_mul(settings.block_size as u64));
    let windows = eval_windows(dataset.split(split), settings.block_size, limit)?;
    let title = format!(
        "{} on {} ({}): {} windows of {} tokens",
        model.name,
        dataset.dir().display(),
        split.name(),
        thousands(windows.len()),
        thousands(settings.block_size as u64),
    );
    Ok(Opened { windows, tokenizer, title })
}

impl Opened {
    /// Measures the model on every window.
    pub(super) fn measure(&self, subject: &Subject) -> Result<Section> {
        report::note(&self.title);
        let began = Instant::now();
        let loss = self.loss(subject)?;
        if !loss.nats_per_token.is_finite() {
            return Err(subject.not_finite().into());
        }
        let bits_per_byte = self.tokenizer.as_ref().map(|tokenizer| {
            let bytes = target_bytes(&self.windows, tokenizer);
            loss.bits_per_byte(bytes as f64 / loss.tokens as f64)
        });
        if let Some(warning) = loss.range.and_then(|range| range.warning(subject.settings.attention())) {
            report::warning(&warning);
        }
        let block_size = subject.settings.block_size;
        let found = Found { loss, block_size, bits_per_byte, seconds: began.elapsed().as_secs_f64() };
        Ok(Section { json: found.json(), table: found.table() })
    }

    fn loss(&self, subject: &Subject) -> Result<Loss> {
        let rows = subject.rows().min(usize::try_from(self.windows.len()).unwrap_or(usize::MAX));
        let (plan, parameters, pass) = eval_plan(
            &subject.config()?,
            rows,
            subject.settings.block_size,
            subject.settings.eval_storage(),
        )?;
        let mut session = subject.session(plan, &parameters)?;
        let bar = CountBar::new(self.windows.len(), "windows");
        let mut progress = |done| {
            bar.show(done);
            ControlFlow::Continue(())
        };
        let loss = evaluate(&mut session, &pass, &self.windows, &mut progress)?;
        bar.finish();
        Ok(loss.expect("nothing broke it off"))
    }
}

impl Found {
    fn json(&self) -> Map<String, Value> {
        let fields = [
            ("loss", json!(self.loss.nats_per_token)),
            ("perplexity", json!(self.loss.perplexity())),
            ("bits_per_byte", json!(self.bits_per_byte)),
            ("tokens", json!(self.loss.tokens)),
            ("windows", json!(self.loss.windows)),
            ("seconds", json!(self.seconds)),
        ];
        let mut found: Map<_, _> = fields.map(|(key, value)| (key.to_owned(), value)).into_iter().collect();
        // How far scores went, where attention is a polynomial.
        if let Value::Object(range) = json!(self.loss.range) {
            found.extend(range);
        }
        found
    }

    fn table(&self) -> String {
        let Loss { nats_per_token, tokens, windows, .. } = self.loss;
        let bits = match self.bits_per_byte {
            Some(bits) => format!("{bits:.4}"),
            None => "not known: neither the model nor the data has a tokenizer".to_owned(),
        };
        format!(
            "loss           {nats_per_token:.4} nats per token\n\
             perplexity     {:.2}\n\
             bits per byte  {bits}\n\
             over           {} tokens in {} windows of {}\n\
             time           {}, {} tokens/s\n",
            self.loss.perplexity(),
            thousands(tokens),
            thousands(windows),
            thousands(self.block_size as u64),
            duration(self.seconds),
            thousands((tokens as f64 / self.seconds) as u64),
        )
    }
}
