//! `oxigpt sample`: a model continues a text, and we watch.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::time::Instant;

use anyhow::Result;
use fs_err as fs;
use oxigpt_compute::Session;
use oxigpt_model::{Decoder, SampleOptions, decode_plan, generate};
use oxigpt_text::{StreamDecoder, Tokenizer};
use serde_json::json;

use crate::cli::{AttentionFlags, SampleArgs};
use crate::configure;
use crate::model;
use oxigpt_train::machine;

/// Between one sample and the next.
const RULE: &str = "---------------";

/// A model that is ready to speak.
struct Speaker {
    session: Session,
    decoder: Decoder,
    tokenizer: Tokenizer,
}

/// Prints the samples as they come, or all of them as one JSON object.
pub(crate) fn run(args: &SampleArgs) -> Result<()> {
    let start = start_text(&args.start)?;
    let mut model = Speaker::open(&args.from, args.threads, &args.attention)?;
    let prompt = model.tokenizer.encode_with_specials(&start)?;
    let mut out = io::stdout().lock();
    let mut samples = Vec::new();
    let began = Instant::now();
    for index in 0..args.num_samples {
        if args.json {
            samples.push(model.continue_text(&prompt, &options(args, index, &model), &mut io::sink())?);
            continue;
        }
        if index > 0 {
            writeln!(out, "{RULE}")?;
        }
        write!(out, "{start}")?;
        model.continue_text(&prompt, &options(args, index, &model), &mut out)?;
        writeln!(out)?;
    }
    if args.json {
        let tokens: usize = samples.iter().map(Vec::len).sum();
        let texts: Vec<_> = samples.iter().map(|ids| sample_json(&model.tokenizer, &start, ids)).collect();
        let rate = tokens as f64 / began.elapsed().as_secs_f64();
        writeln!(out, "{}", json!({ "samples": texts, "tokens": tokens, "tokens_per_s": rate }))?;
    }
    Ok(())
}

fn sample_json(tokenizer: &Tokenizer, start: &str, ids: &[u32]) -> serde_json::Value {
    json!({ "start": start, "text": tokenizer.decode(ids), "tokens": ids.len() })
}

/// The options of the sample of an index: each has a seed of its own.
fn options(args: &SampleArgs, index: usize, model: &Speaker) -> SampleOptions {
    SampleOptions {
        temperature: args.temperature,
        top_k: (args.top_k > 0).then_some(args.top_k),
        max_new_tokens: args.max_new_tokens,
        seed: args.seed.wrapping_add(index as u64),
        words: Some(model.tokenizer.vocab_size()),
        stop: args.stop.then(|| model.tokenizer.end_of_text()).flatten(),
    }
}

/// The text to continue: as typed, or the content of a file.
fn start_text(start: &str) -> Result<String> {
    match start.strip_prefix("FILE:") {
        Some(path) => Ok(fs::read_to_string(path)?),
        None => Ok(start.to_owned()),
    }
}

impl Speaker {
    fn open(name: &str, threads: usize, attention: &AttentionFlags) -> Result<Speaker> {
        let model = model::open(name)?;
        let tokenizer = model.tokenizer.ok_or_else(|| model::no_tokenizer(name, &model.config))?;
        let config = configure::with_attention(model.config, attention)?;
        let (plan, table, decoder) = decode_plan(&config)?;
        let mut session = machine::session(plan, threads)?;
        table.upload(&mut session, &model.weights)?;
        Ok(Speaker { session, decoder, tokenizer })
    }

    /// Generates one sample, and writes its text piece by piece.
    fn continue_text(
        &mut self,
        prompt: &[u32],
        options: &SampleOptions,
        out: &mut dyn Write,
    ) -> Result<Vec<u32>> {
        let Speaker { session, decoder, tokenizer } = self;
        let mut text = StreamDecoder::new();
        let mut written = Ok(());
        let mut show = |token| {
            written = write_now(out, &text.push(tokenizer, token));
            if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        let tokens = generate(session, decoder, prompt, options, &mut show)?;
        written?;
        write_now(out, &text.finish())?;
        Ok(tokens)
    }
}

fn write_now(out: &mut dyn Write, text: &str) -> io::Result<()> {
    out.write_all(text.as_bytes())?;
    out.flush()
}
