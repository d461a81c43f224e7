//! `oxigpt prepare`: text becomes a data directory that training reads.

mod sets;

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use oxigpt_data::{
    EndOfText, Format, Holdout, Manifest, PrepareOptions, Progress, Source, Stage, TokenizerKind, prepare,
    prepare_stories,
};

use oxigpt_train::Model;

use self::sets::{Set, Shared};
use crate::cli::{HowArgs, OutputArgs, PrepareSource, RecordArgs, SetArgs, TextArgs};
use crate::report::{self, ByteBar};

/// Where a path names a run, the tokenizer is that of its checkpoint.
fn tokenizer(kind: &TokenizerKind) -> Result<TokenizerKind> {
    Ok(match kind {
        TokenizerKind::Files(path) if path.join("checkpoints").is_dir() => {
            TokenizerKind::Files(Model::open(path)?.path)
        }
        kind => kind.clone(),
    })
}

/// What documents are chosen by where no seed is given.
const SEED: u64 = 1337;

/// Prepares one source, and says how many tokens it gave.
pub(crate) fn run(source: &PrepareSource) -> Result<()> {
    match source {
        PrepareSource::Text(args) => text(args),
        PrepareSource::Jsonl(args) => records(Format::Jsonl { field: args.field.clone() }, &args.records),
        PrepareSource::Parquet(args) => {
            records(Format::Parquet { column: args.column.clone() }, &args.records)
        }
        PrepareSource::Shakespeare(args) => shakespeare("shakespeare", TokenizerKind::Gpt2, args),
        PrepareSource::ShakespeareChar(args) => shakespeare("shakespeare-char", TokenizerKind::Char, args),
        PrepareSource::Openwebtext(args) => of_hub("openwebtext", &sets::OPENWEBTEXT, args),
        PrepareSource::FinewebEdu(args) => match args.subset.as_str() {
            "sample-100BT" => of_hub("fineweb-edu-100BT", &sets::fineweb_edu("sample/100BT"), &args.set),
            _ => of_hub("fineweb-edu", &sets::fineweb_edu("sample/10BT"), &args.set),
        },
        PrepareSource::Tinystories(args) => of_hub("tinystories", &sets::TINYSTORIES, args),
        PrepareSource::Stories(output) => told(&prepare_stories(&output.out, output.written.force)?, output),
    }
}

fn text(args: &TextArgs) -> Result<()> {
    let by_default = PrepareOptions {
        tokenizer: tokenizer(&args.tokenizer)?,
        end_of_text: EndOfText::Between,
        holdout: Holdout::Tail,
        ..PrepareOptions::default()
    };
    let options = with(by_default, &args.how, args.output.written.force);
    carry_out(&Source::find(Format::Text, &args.files.input)?, &options, &args.output, &shared()?)
}

fn records(format: Format, args: &RecordArgs) -> Result<()> {
    let by_default = PrepareOptions {
        tokenizer: tokenizer(&args.tokenizer)?,
        end_of_text: EndOfText::Before,
        holdout: Holdout::Documents { seed: SEED },
        ..PrepareOptions::default()
    };
    let options = with(by_default, &args.how, args.output.written.force);
    carry_out(&Source::find(format, &args.files.input)?, &options, &args.output, &shared()?)
}

/// Options as they are by default, but for what was typed.
fn with(by_default: PrepareOptions, how: &HowArgs, force: bool) -> PrepareOptions {
    let holdout = match how.val_seed {
        _ if how.val_shard => Holdout::FirstShard,
        Some(seed) => Holdout::Documents { seed },
        None => by_default.holdout,
    };
    PrepareOptions {
        end_of_text: how.eot.unwrap_or(by_default.end_of_text),
        holdout,
        val_fraction: how.val_fraction.unwrap_or(by_default.val_fraction),
        force,
        shard_tokens: how.shard_tokens,
        threads: how.threads,
        ..by_default
    }
}

fn shakespeare(name: &str, tokenizer: TokenizerKind, args: &SetArgs) -> Result<()> {
    let (output, shared) = (output_of(name, args), shared()?);
    let (source, by_default) = sets::shakespeare(tokenizer, &output.out, &shared)?;
    let options = with(by_default, &args.how, args.written.force);
    carry_out(&source, &options, &output, &shared)
}

fn of_hub(name: &str, set: &Set, args: &SetArgs) -> Result<()> {
    let (output, shared) = (output_of(name, args), shared()?);
    let (source, by_default) = sets::of_hub(set, args.discard, &shared)?;
    let options = with(by_default, &args.how, args.written.force);
    carry_out(&source, &options, &output, &shared)
}

fn output_of(name: &str, args: &SetArgs) -> OutputArgs {
    let out = args.out.clone().unwrap_or_else(|| Path::new("data").join(name));
    OutputArgs { out, written: args.written }
}

fn shared() -> Result<Shared> {
    Ok(Shared { bar: Arc::new(Mutex::new(ByteBar::new())), stop: stop_on_signal()? })
}

fn carry_out(source: &Source, options: &PrepareOptions, output: &OutputArgs, shared: &Shared) -> Result<()> {
    let bar = || shared.bar.lock().unwrap_or_else(PoisonError::into_inner);
    let manifest = prepare(source, &output.out, options, &mut |Progress { stage, done, total }| {
        bar().show(stage_name(stage), done, total);
        if shared.stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    bar().finish();
    told(&manifest?, output)
}

/// The first signal asks the preparation to save what is done; a second one ends the program at once.
fn stop_on_signal() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let asked = stop.clone();
    ctrlc::set_handler(move || {
        if asked.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    })
    .context("cannot listen for interruptions")?;
    Ok(stop)
}

pub(super) fn stage_name(stage: Stage) -> &'static str {
    match stage {
        Stage::Check => "checking",
        Stage::Read => "reading",
        Stage::Encode => "encoding",
        Stage::Write => "writing",
        Stage::Merge => "merging",
    }
}

fn told(manifest: &Manifest, output: &OutputArgs) -> Result<()> {
    let mut out = io::stdout().lock();
    if output.written.json {
        writeln!(out, "{}", serde_json::to_string(manifest)?)?;
        return Ok(());
    }
    if manifest.empty_documents > 0 {
        report::note(&format!("empty documents left out: {}", report::thousands(manifest.empty_documents)));
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
