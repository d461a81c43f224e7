//! `oxigpt convert`: a model in the format of another program.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Result;
use fs_err as fs;
use oxigpt_model::Precision;
use oxigpt_train::discard_partial;
use serde_json::json;

use crate::cli::{ConvertArgs, Dtype, Target};
use crate::hint::CliError;
use crate::model;
use crate::report::{bytes, thousands};

/// The name of llm.c's file in a directory.
const LLMC_FILE: &str = "model.bin";

/// Writes the model, and says what was written.
pub(crate) fn run(args: &ConvertArgs) -> Result<()> {
    if (args.to, args.dtype) == (Target::Hf, Dtype::Bfloat16) {
        return Err(CliError::usage(
            "a Hugging Face directory is written in float32",
            "leave out --dtype; transformers converts when it loads, by from_pretrained(DIR, dtype=...)",
        )
        .into());
    }
    let model = model::open(&args.model)?;
    let target = match args.to {
        Target::Hf => args.target.clone(),
        Target::Llmc => llmc_path(&args.target),
    };
    discard_when_interrupted(target.clone())?;
    match args.to {
        Target::Hf => model.save_as_directory(&target)?,
        Target::Llmc => model.save_as_llmc(&target, precision(args.dtype))?,
    }
    let (parameters, size) = (model.config.parameter_count().total, size_of(&target)?);
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", json!({ "path": target, "parameters": parameters, "bytes": size }))?;
    } else {
        let parameters = thousands(parameters as u64);
        writeln!(out, "{}: {parameters} parameters, {}", target.display(), bytes(size as f64))?;
    }
    Ok(())
}

/// Ctrl-C leaves nothing behind.
fn discard_when_interrupted(target: PathBuf) -> Result<()> {
    Ok(ctrlc::set_handler(move || {
        discard_partial(&target);
        std::process::exit(130);
    })?)
}

/// llm.c's format is one file, which may be named by its directory.
fn llmc_path(target: &Path) -> PathBuf {
    let names_a_directory = target.is_dir() || target.to_string_lossy().ends_with(['/', '\\']);
    if names_a_directory { target.join(LLMC_FILE) } else { target.to_owned() }
}

fn precision(dtype: Dtype) -> Precision {
    match dtype {
        Dtype::Float32 => Precision::Float32,
        Dtype::Bfloat16 => Precision::Bfloat16,
    }
}

/// Bytes of a file, or of all files in a directory.
fn size_of(path: &Path) -> io::Result<u64> {
    if path.is_file() {
        return Ok(fs::metadata(path)?.len());
    }
    fs::read_dir(path)?.map(|entry| Ok(entry?.metadata()?.len())).sum()
}
