//! `oxigpt tokenizer`: tokenizers that are learned from text.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use oxigpt_data::{Format, Learned, Progress, Source, tokenizer_paths, train_tokenizer, write_tokenizer};
use serde_json::json;

use super::prepare::stage_name;
use crate::cli::TrainTokenizerArgs;
use crate::report::{self, ByteBar, bytes, thousands};

/// Learns a tokenizer, writes it, and says what it is.
pub(crate) fn train(args: &TrainTokenizerArgs) -> Result<()> {
    // What is in the way is found before hours of reading.
    tokenizer_paths(&args.out, args.force)?;
    let source = Source::find(format(args), &args.files.input)?;
    let (mut bar, writing) = (ByteBar::new(), end_on_signal()?);
    let mut watch = |Progress { stage, done, total }| {
        bar.show(stage_name(stage), done, total);
        ControlFlow::Continue(())
    };
    let learned = train_tokenizer(&source, args.vocab_size, args.threads, &mut watch);
    bar.finish();
    let learned = learned?;
    let _writing = writing.lock().unwrap_or_else(PoisonError::into_inner);
    write_tokenizer(&learned.tokenizer, &args.out, args.force)?;
    told(&learned, args)
}

/// A signal ends the program at once, for there is nothing to go on with; what is being written is finished before.
fn end_on_signal() -> Result<Arc<Mutex<()>>> {
    let writing = Arc::new(Mutex::new(()));
    let awaited = writing.clone();
    ctrlc::set_handler(move || {
        let _written = awaited.lock();
        std::process::exit(130);
    })
    .context("cannot listen for interruptions")?;
    Ok(writing)
}

fn format(args: &TrainTokenizerArgs) -> Format {
    match (&args.field, &args.column) {
        (Some(field), _) => Format::Jsonl { field: field.clone() },
        (_, Some(column)) => Format::Parquet { column: column.clone() },
        _ => Format::Text,
    }
}

fn told(learned: &Learned, args: &TrainTokenizerArgs) -> Result<()> {
    let Learned { tokenizer, bytes: learned_from, documents } = learned;
    let (out, vocab_size) = (args.out.display().to_string(), tokenizer.vocab_size());
    if vocab_size < args.vocab_size {
        report::note(&format!(
            "{} tokens are all there can be: no further pair occurs twice in this text",
            thousands(vocab_size as u64)
        ));
    }
    if args.json {
        let told = json!({
            "out": out,
            "vocab_size": vocab_size,
            "hash": tokenizer.hash(),
            "documents": documents,
            "bytes": learned_from,
        });
        return Ok(writeln!(io::stdout(), "{told}")?);
    }
    let (vocab_size, text) = (thousands(vocab_size as u64), bytes(*learned_from as f64));
    Ok(writeln!(io::stdout(), "{out}: a tokenizer of {vocab_size} tokens, learned from {text} of text")?)
}
