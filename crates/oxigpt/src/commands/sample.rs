//! `oxigpt sample`: a model continues a text, and we watch.

use std::cell::RefCell;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use fs_err as fs;
use oxigpt_compute::Session;
use oxigpt_model::{Decoder, SampleOptions, decode_plan, generate, load_pretrained};
use oxigpt_text::{StreamDecoder, Tokenizer};
use serde_json::json;

use crate::cli::SampleArgs;
use crate::hint::CliError;
use oxigpt_train::machine;

/// Between one sample and the next.
const RULE: &str = "---------------";

/// A model that is ready to speak.
struct Model {
    session: Session,
    decoder: Decoder,
    tokenizer: Tokenizer,
}

/// Prints the samples as they come, or all of them as one JSON object.
pub(crate) fn run(args: &SampleArgs) -> Result<()> {
    let start = start_text(&args.start)?;
    let mut model = Model::open(&model_dir(&args.from)?, args.threads)?;
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
fn options(args: &SampleArgs, index: usize, model: &Model) -> SampleOptions {
    SampleOptions {
        temperature: args.temperature,
        top_k: (args.top_k > 0).then_some(args.top_k),
        max_new_tokens: args.max_new_tokens,
        seed: args.seed.wrapping_add(index as u64),
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

/// The directory that holds the weights: the model itself, or the best or else the latest checkpoint of a run.
fn model_dir(from: &Path) -> Result<PathBuf> {
    if from.join("config.json").exists() {
        return Ok(from.to_owned());
    }
    for pointer in ["best", "latest"] {
        let pointer = from.join(pointer);
        if pointer.is_file() {
            return Ok(from.join("checkpoints").join(fs::read_to_string(pointer)?.trim()));
        }
    }
    let message = format!("there is no model in {}", from.display());
    Err(CliError::failure(
        message,
        "name a run directory that has a checkpoint, or a Hugging Face GPT-2 directory",
    )
    .into())
}

impl Model {
    fn open(dir: &Path, threads: usize) -> Result<Model> {
        let (config, weights) = load_pretrained(dir)?;
        let tokenizer = tokenizer_of(dir)?
            // GPT-2's own directories need not bring what every program has.
            .unwrap_or_else(Tokenizer::gpt2);
        if tokenizer.vocab_size() > config.vocab_size {
            let message = format!(
                "{}: the tokenizer {} has {} tokens, and the model only {}",
                dir.display(),
                tokenizer.name(),
                tokenizer.vocab_size(),
                config.vocab_size
            );
            return Err(CliError::failure(
                message,
                "put the files of the model's own tokenizer beside its weights",
            )
            .into());
        }
        let (plan, table, decoder) = decode_plan(&config)?;
        let mut session = Session::new(plan, machine::backend(threads)?)?;
        table.upload(&mut session, &weights)?;
        Ok(Model { session, decoder, tokenizer })
    }

    /// Generates one sample, and writes its text piece by piece.
    fn continue_text(
        &mut self,
        prompt: &[u32],
        options: &SampleOptions,
        out: &mut dyn Write,
    ) -> Result<Vec<u32>> {
        let Model { session, decoder, tokenizer } = self;
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

/// The tokenizer of a directory, if it has one. A file that cannot be read is not one that is not there.
fn tokenizer_of(dir: &Path) -> Result<Option<Tokenizer>> {
    let unreadable = RefCell::new(None);
    let read = |name: &str| match fs::read(dir.join(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            unreadable.replace(Some(error));
            None
        }
        bytes => bytes.ok(),
    };
    let tokenizer = Tokenizer::from_files(read);
    match unreadable.into_inner() {
        Some(error) => Err(error.into()),
        None => tokenizer.with_context(|| format!("{}: the tokenizer", dir.display())),
    }
}

fn write_now(out: &mut dyn Write, text: &str) -> io::Result<()> {
    out.write_all(text.as_bytes())?;
    out.flush()
}
