//! `oxigpt recipes`: what can be trained out of the box.

use std::io::{self, Write};

use anyhow::Result;

use crate::cli::RecipesArgs;
use crate::configure::unknown_recipe;
use crate::recipes::{self, RECIPES};

/// Lists the recipes, or prints the file of one.
pub(crate) fn run(args: &RecipesArgs) -> Result<()> {
    let mut out = io::stdout().lock();
    if let Some(name) = &args.name {
        let text = recipes::find(name).ok_or_else(|| unknown_recipe(name))?;
        out.write_all(text.as_bytes())?;
        return Ok(());
    }
    let width = RECIPES.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, text) in RECIPES {
        writeln!(out, "{name:width$}  {}", recipes::summary(text))?;
    }
    Ok(())
}
