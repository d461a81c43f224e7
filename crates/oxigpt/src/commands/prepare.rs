//! `oxigpt prepare`: text becomes a data directory that training reads.

use std::io::{self, Write};

use anyhow::Result;
use oxigpt_data::{Manifest, PrepareOptions, Progress, Stage, prepare_stories, prepare_text};

use crate::cli::{OutputArgs, PrepareSource, TextArgs};
use crate::report::{self, ByteBar};

/// Prepares one source, and says how many tokens it gave.
pub(crate) fn run(source: &PrepareSource) -> Result<()> {
    match source {
        PrepareSource::Text(args) => told(&text(args)?, &args.output),
        PrepareSource::Stories(output) => told(&prepare_stories(&output.out, output.force)?, output),
    }
}

fn text(args: &TextArgs) -> Result<Manifest> {
    let options = PrepareOptions {
        tokenizer: args.tokenizer,
        val_fraction: args.val_fraction,
        force: args.output.force,
        ..PrepareOptions::default()
    };
    let mut bar = ByteBar::new();
    let mut show = |Progress { stage, done, total }| bar.show(stage_name(stage), done, total);
    let manifest = prepare_text(&args.input, &args.output.out, &options, &mut show)?;
    bar.finish();
    Ok(manifest)
}

fn stage_name(stage: Stage) -> &'static str {
    match stage {
        Stage::Read => "reading",
        Stage::Encode => "encoding",
        Stage::Write => "writing",
    }
}

fn told(manifest: &Manifest, output: &OutputArgs) -> Result<()> {
    let mut out = io::stdout().lock();
    if output.json {
        writeln!(out, "{}", serde_json::to_string(manifest)?)?;
        return Ok(());
    }
    writeln!(
        out,
        "{}: {} training tokens, {} validation tokens, a vocabulary of {}",
        output.out.display(),
        report::thousands(manifest.train.tokens),
        report::thousands(manifest.val.tokens),
        report::thousands(manifest.vocab_size as u64),
    )?;
    Ok(())
}
