//! `oxigpt data`: what a data directory holds.

use std::io::{self, Write};

use anyhow::Result;
use oxigpt_data::{Dataset, Manifest, Split, TokenWidth, resolve};
use oxigpt_text::Tokenizer;
use serde_json::{Value, json};

use crate::cli::DataArgs;
use crate::report::{bytes, thousands};

/// Tokens in a sample, and samples of a split.
const SAMPLE_TOKENS: u64 = 40;
const SAMPLES: u64 = 3;

/// Prints it.
pub(crate) fn run(args: &DataArgs) -> Result<()> {
    let dataset = Dataset::open(&resolve(&args.data))?;
    let tokenizer = dataset.tokenizer()?;
    if args.verify {
        dataset.verify()?;
        if let Some(vocab_size) = dataset.vocab_size() {
            Split::BOTH.into_iter().try_for_each(|split| dataset.split(split).validate(vocab_size))?;
        }
    }
    let mut out = io::stdout().lock();
    if args.json {
        return Ok(writeln!(out, "{}", described(&dataset, tokenizer.as_ref(), args.verify))?);
    }
    Ok(out.write_all(text(&dataset, tokenizer.as_ref(), args.verify).as_bytes())?)
}

/// The beginning of a split, its middle and its end, as text.
fn samples(dataset: &Dataset, tokenizer: &Tokenizer, split: Split) -> Vec<String> {
    let tokens = dataset.split(split);
    let length = SAMPLE_TOKENS.min(tokens.len());
    let starts = (0..SAMPLES).map(|i| (tokens.len() - length) * i / (SAMPLES - 1));
    let mut starts: Vec<u64> = starts.collect();
    starts.dedup();
    let sample = |start| {
        let mut ids = vec![0; length as usize];
        tokens.read(start, &mut ids);
        tokenizer.decode(&ids)
    };
    starts.into_iter().filter(|_| length > 0).map(sample).collect()
}

fn described(dataset: &Dataset, tokenizer: Option<&Tokenizer>, verified: bool) -> Value {
    let split = |split: Split| {
        let tokens = dataset.split(split);
        json!({
            "tokens": tokens.len(),
            "shards": tokens.shards().len(),
            "bytes_per_token": dataset.bytes_per_token(split),
            "samples": tokenizer.map(|tokenizer| samples(dataset, tokenizer, split)),
        })
    };
    json!({
        "dir": dataset.dir().display().to_string(),
        "hash": dataset.hash(),
        "vocab_size": dataset.vocab_size(),
        "tokenizer": tokenizer.map(|tokenizer| json!({ "name": tokenizer.name(), "hash": tokenizer.hash() })),
        "train": split(Split::Train),
        "val": split(Split::Val),
        "verified": verified,
        "dataset": dataset.manifest(),
    })
}

fn text(dataset: &Dataset, tokenizer: Option<&Tokenizer>, verified: bool) -> String {
    let mut lines = vec![dataset.dir().display().to_string()];
    let mut row = |name: &str, value: String| lines.push(format!("  {name:11}{value}"));
    row("tokenizer", tokenizer.map_or("unknown".into(), |tokenizer| tokenizer.name().into()));
    row("vocabulary", dataset.vocab_size().map_or("unknown".into(), |size| thousands(size as u64)));
    if let Some(manifest) = dataset.manifest() {
        row("documents", documents(manifest));
        row("source", source(manifest));
    }
    for split in Split::BOTH {
        row(split.name(), counts(dataset, split));
    }
    row("hash", dataset.hash());
    row("checked", checked(dataset, verified).into());
    if let Some(tokenizer) = tokenizer {
        for split in Split::BOTH {
            for sample in samples(dataset, tokenizer, split) {
                lines.push(format!("  {:11}{:?}", format!("{}:", split.name()), sample));
            }
        }
    }
    lines.join("\n") + "\n"
}

fn documents(manifest: &Manifest) -> String {
    match manifest.empty_documents {
        0 => thousands(manifest.documents),
        empty => format!("{}, and {} empty ones left out", thousands(manifest.documents), thousands(empty)),
    }
}

fn source(manifest: &Manifest) -> String {
    match manifest.source.as_slice() {
        [] => "unknown".into(),
        [one] => one.clone(),
        [first, .., last] => format!("{first} to {last}, {} files", manifest.source.len()),
    }
}

fn counts(dataset: &Dataset, split: Split) -> String {
    let tokens = dataset.split(split);
    let shards = tokens.shards();
    let width = shards.first().map_or(0, |shard| match shard.width() {
        TokenWidth::U16 => 2,
        TokenWidth::U32 => 4,
    });
    let mut words =
        format!("{} tokens of {width} bytes in {}", thousands(tokens.len()), many(shards.len(), "shard"));
    if let Some(per_token) = dataset.bytes_per_token(split) {
        let text = bytes(per_token * tokens.len() as f64);
        words += &format!(", from {text} of text ({per_token:.2} bytes per token)");
    }
    words
}

fn many(count: usize, thing: &str) -> String {
    if count == 1 { format!("1 {thing}") } else { format!("{count} {thing}s") }
}

fn checked(dataset: &Dataset, verified: bool) -> &'static str {
    match (verified, dataset.manifest()) {
        (true, Some(_)) => "every token, and the checksum of every shard",
        (true, None) => "every token; there are no checksums",
        (false, _) => "headers and lengths; --verify reads everything",
    }
}
