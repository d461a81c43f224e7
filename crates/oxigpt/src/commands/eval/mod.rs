//! `oxigpt eval`: how good a model is, on a data set and on tasks.

mod data;
mod tables;
mod tasks;

use std::io::{self, Write};

use anyhow::Result;
use oxigpt_compute::{Plan, Session};
use oxigpt_model::{ModelConfig, TensorSource, TensorTable};
use oxigpt_train::Model;
use oxigpt_train::settings::{BatchSize, Settings};
use serde_json::{Map, Value};

use crate::cli::EvalArgs;
use crate::configure;
use crate::hint::CliError;

/// So many tokens keep a CPU as busy as more do; and after each pass there is progress to tell.
const PASS_TOKENS: usize = 2048;

/// The model that is measured, and how.
struct Subject {
    settings: Settings,
    model: Model,
}

/// What one measurement found.
struct Section {
    /// What the object on standard output has of it.
    json: Map<String, Value>,
    /// The same for people.
    table: String,
}

/// Measures the model on all that was asked for, and prints the numbers. Every file is read before the first of them.
pub(crate) fn run(args: EvalArgs) -> Result<()> {
    let (json, asked) = (args.json, tasks::Asked::new(&args)?);
    let windows = data::Windows::of(&args);
    let (settings, model) = configure::evaluation(args)?;
    let subject = Subject { settings, model };
    let has_data = !subject.settings.dataset.is_empty();
    let data = has_data.then(|| data::open(&subject, &windows)).transpose()?;
    let tasks = asked.iter().map(|task| task.open(&subject)).collect::<Result<Vec<_>>>()?;

    let mut found = Map::new();
    let mut tell = |section: Section| {
        let gap = if found.is_empty() { "" } else { "\n" };
        found.extend(section.json);
        if json { Ok(()) } else { write!(io::stdout(), "{gap}{}", section.table) }
    };
    if let Some(data) = data {
        tell(data.measure(&subject)?)?;
    }
    for task in tasks {
        tell(task.measure(&subject)?)?;
    }
    if json {
        writeln!(io::stdout(), "{}", Value::Object(found))?;
    }
    Ok(())
}

impl Subject {
    /// Its shape, with the attention and the context that it is measured with.
    fn config(&self) -> Result<ModelConfig> {
        let mut config = ModelConfig { attention: self.settings.attention(), ..self.model.config.clone() };
        config.crop_block_size(self.settings.block_size)?;
        Ok(config)
    }

    /// Windows that are evaluated at once.
    fn rows(&self) -> usize {
        let enough = PASS_TOKENS.div_ceil(self.settings.block_size);
        match self.settings.batch_size {
            BatchSize::Rows(rows) if self.settings.device == "cpu" => rows.min(enough),
            BatchSize::Rows(rows) => rows,
            BatchSize::Auto => enough,
        }
    }

    /// What is wrong with a model whose losses are not finite, as far as its weights show it.
    fn not_finite(&self) -> CliError {
        let name = &self.model.name;
        let message = match self.model.weights.not_finite().unwrap_or_default().first() {
            Some(tensor) => format!("{name} gives NaN: not all numbers of its tensor `{tensor}` are finite"),
            None => format!("{name} gives NaN, although all its weights are finite"),
        };
        let hint = "its weights are damaged, or its training has diverged: use an earlier checkpoint";
        CliError::failure(message, hint)
    }

    /// A session of a plan, with its weights in it.
    fn session(&self, plan: Plan, parameters: &TensorTable) -> Result<Session> {
        let plan = plan.with_precision(self.settings.precision());
        let mut session = self.settings.machine().session(plan)?;
        parameters.upload(&mut session, &self.model.weights)?;
        Ok(session)
    }
}
