//! `oxigpt convert`: a model in the format of another program.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Result;
use fs_err as fs;
use oxigpt_model::Precision;
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
    let written = match args.to {
        Target::Hf => {
            model.save_as_directory(&args.target)?;
            args.target.clone()
        }
        Target::Llmc => {
            let path = llmc_path(&args.target);
            model.save_as_llmc(&path, precision(args.dtype))?;
            path
        }
    };
    let (parameters, size) = (model.config.parameter_count().total, size_of(&written)?);
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", json!({ "path": written, "parameters": parameters, "bytes": size }))?;
    } else {
        let parameters = thousands(parameters as u64);
        writeln!(out, "{}: {parameters} parameters, {}", written.display(), bytes(size as f64))?;
    }
    Ok(())
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
