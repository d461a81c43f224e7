//! One file per command: each turns what was typed into calls of the libraries.

mod bench;
mod compare;
mod convert;
mod data;
mod devices;
mod eval;
mod plan;
mod prepare;
mod recipes;
mod sample;
mod tokenizer;
mod train;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Result;
use clap::CommandFactory;

use crate::cli::{Cli, Commands, CompletionsArgs, TokenizerAction};

/// Does what was asked.
pub(crate) fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Commands::Train(args) => return train::run(&args),
        Commands::Prepare(source) => prepare::run(&source)?,
        Commands::Data(args) => data::run(&args)?,
        Commands::Tokenizer(TokenizerAction::Train(args)) => tokenizer::train(&args)?,
        Commands::Sample(args) => sample::run(&args)?,
        Commands::Eval(args) => eval::run(args)?,
        Commands::Convert(args) => convert::run(&args)?,
        Commands::Compare(args) => compare::run(&args)?,
        Commands::Bench(kind) => bench::run(&kind)?,
        Commands::Plan(args) => plan::run(args)?,
        Commands::Devices(args) => devices::run(&args)?,
        Commands::Recipes(args) => recipes::run(&args)?,
        Commands::Completions(args) => completions(&args)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn completions(args: &CompletionsArgs) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "oxigpt", &mut script);
    io::stdout().write_all(&script)?;
    Ok(())
}
