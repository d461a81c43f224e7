//! `oxigpt sample`: a model continues a text, and we watch.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::time::Instant;

use anyhow::Result;
use fs_err as fs;
use oxigpt_compute::Session;
use oxigpt_model::{DecodeShape, Decoder, SampleOptions, Storage, decode_plan, generate_side_by_side};
use oxigpt_text::{StreamDecoder, Tokenizer};
use serde_json::json;

use crate::cli::{Kept, SampleArgs};
use crate::configure;
use crate::hint::CliError;
use crate::model;
use crate::report;
use oxigpt_train::machine::{self, Machine};

/// Between one sample and the next.
const RULE: &str = "---------------";

/// Texts that are generated side by side at most: from there on, more texts at once are hardly more tokens a second.
const SIDE_BY_SIDE: usize = 32;

/// A model that is ready to speak.
struct Speaker {
    session: Session,
    decoder: Decoder,
    tokenizer: Tokenizer,
    prompt: Vec<u32>,
}

/// Prints the samples as they come, or all of them as one JSON object. Of samples that are generated side by side the first is
/// seen as it comes, the others when they are done.
pub(crate) fn run(args: &SampleArgs) -> Result<()> {
    let start = start_text(&args.start)?;
    let mut speaker = Speaker::open(args, &start)?;
    let mut out = io::stdout().lock();
    let mut samples = Vec::new();
    let began = Instant::now();
    let num_samples = args.num_samples.get();
    for first in (0..num_samples).step_by(SIDE_BY_SIDE) {
        let last = (first + SIDE_BY_SIDE).min(num_samples);
        let options: Vec<_> = (first..last).map(|index| options(args, index, &speaker)).collect();
        if args.json {
            samples.extend(speaker.continue_text(&options, "", &mut io::sink())?.0);
            continue;
        }
        let head = if first > 0 { format!("{RULE}\n{start}") } else { start.clone() };
        let (_, others) = speaker.continue_text(&options, &head, &mut out)?;
        writeln!(out)?;
        for text in others {
            writeln!(out, "{RULE}\n{start}{text}")?;
        }
    }
    if args.json {
        let tokens: usize = samples.iter().map(Vec::len).sum();
        let texts: Vec<_> = samples.iter().map(|ids| sample_json(&speaker.tokenizer, &start, ids)).collect();
        let rate = tokens as f64 / began.elapsed().as_secs_f64();
        let memory = speaker.session.memory_bytes();
        let object =
            json!({ "samples": texts, "tokens": tokens, "tokens_per_s": rate, "memory_bytes": memory });
        writeln!(out, "{object}")?;
    }
    Ok(())
}

fn sample_json(tokenizer: &Tokenizer, start: &str, ids: &[u32]) -> serde_json::Value {
    json!({ "start": start, "text": tokenizer.decode(ids), "tokens": ids.len() })
}

/// The options of the sample of an index: each has a seed of its own.
fn options(args: &SampleArgs, index: usize, speaker: &Speaker) -> SampleOptions {
    SampleOptions {
        temperature: args.temperature,
        top_k: (args.top_k > 0).then_some(args.top_k),
        max_new_tokens: args.max_new_tokens,
        seed: args.seed.wrapping_add(index as u64),
        words: Some(speaker.tokenizer.vocab_size()),
        stop: args.stop.then(|| speaker.tokenizer.end_of_text()).flatten(),
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
    fn open(args: &SampleArgs, start: &str) -> Result<Speaker> {
        let model = model::open(&args.from)?;
        let tokenizer = model.tokenizer.ok_or_else(|| model::no_tokenizer(&args.from, &model.config))?;
        let config = configure::with_attention(model.config, &args.attention)?;
        let prompt = tokenizer.encode_with_specials(start)?;
        if prompt.is_empty() {
            return Err(CliError::usage(
                "--start gives no text to continue",
                "leave it out to begin with a line break, or give at least one character",
            )
            .into());
        }
        let storage = match args.dtype {
            Kept::Float32 => Storage::Float32,
            Kept::Bfloat16 => Storage::Bfloat16,
            Kept::Int8 => Storage::Int8,
        };
        let positions = prompt.len().saturating_add(args.max_new_tokens).clamp(1, config.block_size);
        let shape = DecodeShape { batch_size: args.num_samples.get().min(SIDE_BY_SIDE), positions, storage };
        let (plan, table, decoder) = decode_plan(&config, &shape)?;
        machine::passed_over(&args.device).iter().for_each(|why| report::warning(why));
        let machine = Machine::new(&args.device, args.threads, false);
        let mut session = machine.session(plan)?;
        table.upload(&mut session, &model.weights)?;
        Ok(Speaker { session, decoder, tokenizer, prompt })
    }

    /// Generates one sample for each of the options, and writes the first piece by piece, behind `head`, which waits for the
    /// first token: what fails has said nothing. Gives the tokens of all, and the texts of all others.
    fn continue_text(
        &mut self,
        options: &[SampleOptions],
        head: &str,
        out: &mut dyn Write,
    ) -> Result<(Vec<Vec<u32>>, Vec<String>)> {
        let Speaker { session, decoder, tokenizer, prompt } = self;
        let mut text = StreamDecoder::new();
        let (mut head, mut written) = (head.to_owned(), Ok(()));
        let mut show = |index, token| {
            if index == 0 {
                let piece = std::mem::take(&mut head) + &text.push(tokenizer, token);
                written = write_now(out, &piece);
            }
            if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        let tokens = generate_side_by_side(session, decoder, prompt, options, &mut show)?;
        written?;
        write_now(out, &(head + &text.finish()))?;
        let others = tokens.iter().skip(1).map(|ids| tokenizer.decode(ids)).collect();
        Ok((tokens, others))
    }
}

fn write_now(out: &mut dyn Write, text: &str) -> io::Result<()> {
    out.write_all(text.as_bytes())?;
    out.flush()
}
