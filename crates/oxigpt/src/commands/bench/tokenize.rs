//! How fast text is encoded.

use std::slice::Chunks;
use std::thread;
use std::time::Instant;

use anyhow::Result;
use oxigpt_compute::cpu::threads;
use oxigpt_data::{Format, Source, read_text};
use oxigpt_text::Tokenizer;
use oxigpt_train::words::count;
use serde_json::{Value, json};

use crate::cli::TokenizeArgs;
use crate::report::{bytes, duration, thousands};

/// The text is encoded as documents of about this many bytes, which texts of the web have.
const DOCUMENT: usize = 4096;

/// The time is the median of so many.
const ROUNDS: usize = 5;

/// Encodes a text several times, and says how long that takes.
pub(super) fn time(args: &TokenizeArgs) -> Result<(String, Value)> {
    let text = read_text(&Source::find(Format::Text, &args.files.input)?)?;
    let tokenizer = match args.tokenizer.load()? {
        Some(tokenizer) => tokenizer,
        None => Tokenizer::chars_of(&text)?,
    };
    let documents = documents(&text);
    let share = documents.len().div_ceil(threads(args.threads)?).max(1);
    let threads = documents.chunks(share).len();
    let (mut seconds, mut tokens) = (Vec::new(), 0);
    for _ in 0..ROUNDS {
        let began = Instant::now();
        tokens = encode_all(&tokenizer, documents.chunks(share))?;
        seconds.push(began.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    let (size, rates) = (text.len() as f64, [ROUNDS - 1, ROUNDS / 2, 0].map(|i| seconds[i]));
    let [slowest, rate, fastest] = rates.map(|seconds| size / seconds);
    let found = json!({
        "bytes": text.len(),
        "tokens": tokens,
        "threads": threads,
        "tokenizer": args.tokenizer.to_string(),
        "bytes_per_s": rate,
        "bytes_per_s_min": slowest,
        "bytes_per_s_max": fastest,
        "tokens_per_s": tokens as f64 / seconds[ROUNDS / 2],
    });
    let table = format!(
        "text             {} bytes, {} tokens by {}\n\
         speed            {}/s ({}/s to {}/s, {ROUNDS} rounds of {} on {})\n\
         \x20                {} tokens/s\n",
        thousands(text.len() as u64),
        thousands(tokens as u64),
        args.tokenizer,
        bytes(rate),
        bytes(slowest),
        bytes(fastest),
        duration(seconds[ROUNDS / 2]),
        count(threads as u64, "thread"),
        thousands((tokens as f64 / seconds[ROUNDS / 2]) as u64),
    );
    Ok((table, found))
}

/// `text` cut at the line end after every [`DOCUMENT`] bytes.
fn documents(text: &str) -> Vec<&str> {
    let mut documents = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let line_end = rest.bytes().skip(DOCUMENT).position(|byte| byte == b'\n');
        let end = line_end.map_or(rest.len(), |at| DOCUMENT + at + 1);
        let (document, after) = rest.split_at(end);
        documents.push(document);
        rest = after;
    }
    documents
}

/// Encodes shares of documents, each on a thread of its own, and counts the tokens.
fn encode_all(tokenizer: &Tokenizer, shares: Chunks<'_, &str>) -> Result<usize> {
    let counts: Vec<Result<usize>> = thread::scope(|scope| {
        let workers: Vec<_> = shares.map(|share| scope.spawn(|| count_tokens(tokenizer, share))).collect();
        let join = |worker: thread::ScopedJoinHandle<_>| {
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        workers.into_iter().map(join).collect()
    });
    counts.into_iter().sum()
}

fn count_tokens(tokenizer: &Tokenizer, documents: &[&str]) -> Result<usize> {
    let (mut ids, mut count) = (Vec::new(), 0);
    for document in documents {
        ids.clear();
        tokenizer.encode_into(document, &mut ids)?;
        count += ids.len();
    }
    Ok(count)
}
