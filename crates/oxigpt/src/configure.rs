//! From a configuration as typed to settings that can run: recipes, files and flags, laid over one another, and all of
//! them over the shape of the model that the run begins with, where it begins with one.

use std::path::{Path, PathBuf};

use anyhow::Result;
use oxigpt_model::ModelConfig;
use oxigpt_train::settings::{BatchSize, KEYS, Settings, Start, TaskFile, nearest};
use oxigpt_train::{Model, fit, machine};

use crate::cli::{AttentionFlags, ConfigArgs, EvalArgs, EvalFlags, Flags};
use crate::fetch;
use crate::hint::CliError;
use crate::model;
use crate::recipes::{self, RECIPES};
use crate::report;

/// What is trained where nothing is named.
const DEFAULT_RECIPE: &str = "demo";
/// The same where a model to begin with is named.
const DEFAULT_FINETUNING: &str = "finetune";

/// A configuration that can run.
pub(crate) struct Configured {
    /// Checked and complete.
    pub(crate) settings: Settings,
    /// The model that the run begins with, if it begins with one.
    pub(crate) model: Option<Model>,
    /// The published file of HellaSwag, if the run is measured by it.
    pub(crate) hellaswag: Option<PathBuf>,
}

/// What the arguments ask for; doubts are told on standard error.
pub(crate) fn run(args: &ConfigArgs) -> Result<Configured> {
    let open = |name: &str| {
        let model = model::open(name)?;
        Ok((model.config.clone(), model))
    };
    let (settings, model) = configured(args, &open)?;
    let hellaswag = (settings.hellaswag == TaskFile::Published).then(fetch::hellaswag).transpose()?;
    let is_fitted = settings.batch_size == BatchSize::Auto;
    let settings = fit(settings, hellaswag.as_deref())?;
    if is_fitted {
        let rows = settings.batch_size.rows();
        report::note(&format!("batch_size = {rows}: as much of a step at once as the free memory holds\n"));
    }
    Ok(Configured { settings, model, hellaswag })
}

/// The settings alone, for which the weights of a published model need not be there.
pub(crate) fn settings(args: &ConfigArgs) -> Result<Settings> {
    Ok(configured(args, &|name| Ok((model::shape(name)?, ())))?.0)
}

/// What an evaluation needs: the model, and the settings whose data, batch and context it takes. There may be no data
/// where there are tasks.
pub(crate) fn evaluation(args: EvalArgs) -> Result<(Settings, Model)> {
    let EvalArgs { from, data, split, limit_windows, task: tasks, recipes, flags: EvalFlags(flags), .. } =
        args;
    let nowhere = Settings { dataset: String::new(), ..Settings::default() };
    let asked = layered(nowhere, "", &recipes, &flags)?;
    let init_from = start(&asked.init_from, from.as_deref(), &flags)?;
    let mut dataset = data.unwrap_or(asked.dataset.clone());
    let asked = Settings { init_from, ..asked };
    let Some(name) = asked.start().model() else {
        return Err(CliError::usage(
            "nothing says which model to evaluate",
            "add --from=MODEL, for example --from=out/demo or --from=gpt2",
        )
        .into());
    };
    if dataset.is_empty() && tasks.is_empty() {
        dataset = data_of_run(name)?;
    }
    if dataset.is_empty() && tasks.is_empty() {
        return Err(CliError::usage(
            "nothing says what to evaluate on",
            "add --data=DIR: a data directory, or its name under data/; `oxigpt prepare` makes one; or a task, such as \
             --task=hellaswag",
        )
        .into());
    }
    if dataset.is_empty() && (split.is_some() || limit_windows.is_some()) {
        let flag = if split.is_some() { "--split" } else { "--limit-windows" };
        return Err(CliError::usage(
            format!("{flag} is of a data set, and none is named"),
            format!(
                "add --data=DIR to measure the loss on one too, or leave {flag} out; --limit is of tasks"
            ),
        )
        .into());
    }
    let model = model::open(name)?;
    let args = ConfigArgs { recipes, from: None, flags };
    let settings = begun_with(name, name, &model.config, "", &args)?;
    let settings = Settings { dataset, ..settings }.on_this_machine()?;
    machine::passed_over(&settings.device).iter().for_each(|why| report::warning(why));
    Ok((settings, model))
}

/// The model with the attention that was asked for, or its own.
pub(crate) fn with_attention(
    mut model: ModelConfig,
    AttentionFlags(flags): &AttentionFlags,
) -> Result<ModelConfig> {
    let mut settings = Settings::default();
    settings.adopt(&model);
    apply_flags(&mut settings, flags)?;
    settings.validate()?;
    model.attention = settings.attention();
    Ok(model)
}

/// The data that a run learned from; nothing for any other model.
fn data_of_run(name: &str) -> Result<String> {
    let config = Path::new(name).join("config.toml");
    let mut settings = Settings { dataset: String::new(), ..Settings::default() };
    if config.exists() {
        settings.apply_file(&config)?;
    }
    Ok(settings.dataset)
}

/// Settings, and what `open` gave for the model that the run begins with, beside its shape.
fn configured<M>(
    args: &ConfigArgs,
    open: &dyn Fn(&str) -> Result<(ModelConfig, M)>,
) -> Result<(Settings, Option<M>)> {
    let ConfigArgs { from, recipes, flags } = args;
    let mut asked = layered(Settings::default(), DEFAULT_RECIPE, recipes, flags)?;
    asked.init_from = start(&asked.init_from, from.as_deref(), flags)?;
    let (settings, model) = match asked.start() {
        Start::Scratch => (asked, None),
        Start::Resume => resumed(&asked.out_dir, args, open)?,
        Start::Model(name) | Start::Layerwise(name) => {
            let (shape, model) = open(name)?;
            (begun_with(&asked.init_from, name, &shape, DEFAULT_FINETUNING, args)?, Some(model))
        }
    };
    let settings = settings.resolve()?;
    for warning in settings.warnings() {
        report::warning(&warning);
    }
    Ok((settings, model))
}

/// The settings of a run that begins with a model: what nothing else says is the model's, and what is said otherwise
/// must not contradict it.
fn begun_with(
    init_from: &str,
    name: &str,
    shape: &ModelConfig,
    default: &str,
    args: &ConfigArgs,
) -> Result<Settings> {
    let mut base = Settings::default();
    base.adopt(shape);
    let mut settings = layered(base, default, &args.recipes, &args.flags)?;
    settings.init_from = init_from.to_owned();
    if settings.vocab_size == 0 {
        settings.vocab_size = shape.vocab_size;
    }
    settings.check_against(shape, name)?;
    Ok(settings)
}

fn layered(mut settings: Settings, default: &str, recipes: &[String], flags: &Flags) -> Result<Settings> {
    if recipes.is_empty() && !default.is_empty() {
        apply_recipe(&mut settings, default)?;
    }
    for recipe in recipes {
        apply_recipe(&mut settings, recipe)?;
    }
    apply_flags(&mut settings, flags)?;
    Ok(settings)
}

/// What `init_from` shall be, where `--from` has a say. `finetune` is a word for what any model name means, and asks for
/// that name.
fn start(init_from: &str, from: Option<&str>, Flags(flags): &Flags) -> Result<String> {
    let is_typed = flags.iter().any(|(key, _)| key == "init_from");
    match (init_from, from) {
        ("finetune", None) => Err(CliError::usage(
            "init_from = finetune does not say which model to begin with",
            "add --from=MODEL, for example --from=out/demo; to go on with a run itself, --init_from=resume",
        )
        .into()),
        (typed, Some(model)) if is_typed && typed != "finetune" && typed != model => Err(CliError::usage(
            format!("--init_from={typed} and --from={model} contradict each other"),
            "--from=MODEL begins a new run with the weights of a model, --init_from=resume goes on with the run in \
             out_dir; give one of them",
        )
        .into()),
        (_, Some(model)) => Ok(model.to_owned()),
        (init_from, None) => Ok(init_from.to_owned()),
    }
}

/// A run goes on as it was begun: its own configuration is the base, and only single keys are laid over it. What a
/// recipe would have set otherwise is told.
fn resumed<M>(
    out_dir: &str,
    ConfigArgs { recipes, flags, .. }: &ConfigArgs,
    open: &dyn Fn(&str) -> Result<(ModelConfig, M)>,
) -> Result<(Settings, Option<M>)> {
    let saved = Path::new(out_dir).join("config.toml");
    if !saved.exists() {
        return Err(CliError::usage(
            format!("there is no run to resume in {out_dir}: it has no config.toml"),
            "leave out --init_from=resume to start one, or name the run directory with --out_dir=DIR",
        )
        .into());
    }
    let mut settings = Settings::default();
    settings.apply_file(&saved)?;
    // To evaluate once was asked for once.
    settings.eval_only = false;
    let model = match settings.start().model() {
        // Nothing has been saved yet, so the run begins again with what it began with.
        Some(name) if !Path::new(out_dir).join("latest").exists() => Some(open(name)?.1),
        _ => None,
    };
    for recipe in recipes {
        warn_of_ignored(recipe, &settings)?;
    }
    apply_flags(&mut settings, flags)?;
    // Both as asked for, whatever the directory was called when the run began.
    Ok((Settings { out_dir: out_dir.to_owned(), init_from: "resume".to_owned(), ..settings }, model))
}

/// Tells which keys of a recipe are not those of the run, which goes on without them.
fn warn_of_ignored(recipe: &str, run: &Settings) -> Result<()> {
    let mut changed = run.clone();
    apply_recipe(&mut changed, recipe)?;
    // These follow from other keys, or from the machine, and a run's configuration holds what followed.
    let follows = |key: &str| match key {
        "total_batch_size" => changed.total_batch_size == 0,
        "eval_tokens" => changed.eval_tokens == 0,
        "dtype" => changed.dtype == "auto",
        "batch_size" => changed.batch_size == BatchSize::Auto,
        "recompute" => changed.recompute.is_none(),
        _ => ["out_dir", "init_from", "eval_only"].contains(&key),
    };
    let text = |settings: &Settings, key: &str| settings.text_of(key).unwrap_or_default();
    let ignored: Vec<_> = KEYS
        .iter()
        .map(|key| key.name)
        .filter(|key| !follows(key) && text(&changed, key) != text(run, key))
        .map(|key| format!("--{key}={}", text(&changed, key)))
        .collect();
    if !ignored.is_empty() {
        report::warning(&format!(
            "the run goes on with its own configuration, and without what {recipe} sets otherwise; to change it, give \
             the keys themselves: {}",
            ignored.join(" ")
        ));
    }
    Ok(())
}

fn apply_flags(settings: &mut Settings, Flags(flags): &Flags) -> Result<()> {
    for (key, value) in flags {
        settings.apply_flag(key, value)?;
    }
    Ok(())
}

/// Overlays a built-in recipe or a file.
fn apply_recipe(settings: &mut Settings, name: &str) -> Result<()> {
    let is_file = || name.ends_with(".toml") || name.contains(['/', '\\']);
    match recipes::find(name) {
        Some(text) => settings.apply_toml(text, name)?,
        None if Path::new(name).is_dir() && !name.ends_with(".toml") => {
            return Err(CliError::usage(
                format!("{name} is a directory, not a recipe"),
                format!(
                    "a model or a run is named by --from={name}; training goes on with a run by --init_from=resume \
                     --out_dir={name}"
                ),
            )
            .into());
        }
        None if is_file() => settings.apply_file(Path::new(name))?,
        None => return Err(unknown_recipe(name).into()),
    }
    Ok(())
}

/// The error for a name that is no recipe.
pub(crate) fn unknown_recipe(name: &str) -> CliError {
    let names: Vec<_> = RECIPES.iter().map(|(name, _)| *name).collect();
    let hint = match nearest(name, names.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if name.contains('=') => format!("a key is written with two dashes: --{name}"),
        None => "a file of your own is named by its path, such as ./mine.toml".to_owned(),
    };
    CliError::usage(format!("unknown recipe `{name}`; there are {}", names.join(", ")), hint)
}
