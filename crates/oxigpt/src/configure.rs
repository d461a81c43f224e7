//! From a configuration as typed to settings that can run: recipes, files and flags, laid over one another.

use std::path::Path;

use anyhow::Result;
use oxigpt_train::settings::{KEYS, Settings, nearest};

use crate::cli::{ConfigArgs, Flags};
use crate::hint::CliError;
use crate::recipes::{self, RECIPES};
use crate::report;

/// What is trained where nothing is named.
const DEFAULT_RECIPE: &str = "demo";

/// The settings that the arguments ask for, checked and complete; doubts are told on standard error.
pub(crate) fn settings(args: &ConfigArgs) -> Result<Settings> {
    let asked = layered(&args.recipes, &args.flags)?;
    let settings = if asked.init_from == "resume" { resumed(&asked.out_dir, args)? } else { asked };
    let settings = settings.resolve()?;
    for warning in settings.warnings() {
        report::warning(&warning);
    }
    Ok(settings)
}

fn layered(recipes: &[String], flags: &Flags) -> Result<Settings> {
    let mut settings = Settings::default();
    if recipes.is_empty() {
        apply_recipe(&mut settings, DEFAULT_RECIPE)?;
    }
    for recipe in recipes {
        apply_recipe(&mut settings, recipe)?;
    }
    apply_flags(&mut settings, flags)?;
    Ok(settings)
}

/// A run goes on as it was begun: its own configuration is the base, and only single keys are laid over it. What a
/// recipe would have set otherwise is told.
fn resumed(out_dir: &str, ConfigArgs { recipes, flags }: &ConfigArgs) -> Result<Settings> {
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
    for recipe in recipes {
        warn_of_ignored(recipe, &settings)?;
    }
    apply_flags(&mut settings, flags)?;
    // Both as asked for, whatever the directory was called when the run began.
    Ok(Settings { out_dir: out_dir.to_owned(), init_from: "resume".to_owned(), ..settings })
}

/// Tells which keys of a recipe are not those of the run, which goes on without them.
fn warn_of_ignored(recipe: &str, run: &Settings) -> Result<()> {
    let mut changed = run.clone();
    apply_recipe(&mut changed, recipe)?;
    // These follow from other keys where they are 0, and a run's configuration holds what followed.
    let follows = |key: &str| match key {
        "total_batch_size" => changed.total_batch_size == 0,
        "eval_tokens" => changed.eval_tokens == 0,
        _ => ["out_dir", "init_from"].contains(&key),
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
