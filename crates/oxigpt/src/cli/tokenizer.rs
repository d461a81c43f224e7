//! What can be typed behind `oxigpt tokenizer` and `oxigpt bench tokenize`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use oxigpt_data::TokenizerKind;

use super::prepare::{FilesArgs, TOKENIZERS, tokenizer_parser};
use super::whole;

const TRAINING: &str = "\
Examples:
  oxigpt tokenizer train --input texts/ --vocab-size 16000 --out tokenizers/mine
  oxigpt tokenizer train --input dump.jsonl.zst --field text --vocab-size 32000 --out mine.json
  zcat dump.txt.gz | oxigpt tokenizer train --input - --vocab-size 8000 --out mine.json
  oxigpt prepare text --input texts/ --tokenizer tokenizers/mine --out data/mine

It is a byte-level byte-pair encoding like GPT-2's, which encodes any text, in the files of Hugging Face tokenizers. \
The same documents give the same tokenizer, in any order. gzip and zstd are seen and undone.
";

/// What to do with tokenizers.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenizerAction {
    /// Learn a tokenizer from text, for another language or another kind of text than GPT-2's
    #[command(after_help = TRAINING)]
    Train(TrainTokenizerArgs),
}

#[derive(Debug, Args)]
pub(crate) struct TrainTokenizerArgs {
    #[command(flatten)]
    pub(crate) files: FilesArgs,
    /// The inputs are JSON Lines, and this field of each object is a document
    #[arg(long, value_name = "NAME")]
    pub(crate) field: Option<String>,
    /// The inputs are Parquet, and the values of this column are documents
    #[arg(long, value_name = "NAME", conflicts_with = "field")]
    pub(crate) column: Option<String>,
    /// Tokens, with <|endoftext|> and the 256 bytes; fewer if the text has no further pair twice
    #[arg(long, alias = "vocab_size", value_name = "N", value_parser = whole::<usize>)]
    pub(crate) vocab_size: usize,
    /// What to write: NAME.json, or the files of a tokenizer in a directory
    #[arg(long, value_name = "FILE.json | DIR")]
    pub(crate) out: PathBuf,
    /// Threads that read; 0 = one per core. The tokenizer does not depend on it
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = whole::<usize>)]
    pub(crate) threads: usize,
    /// Replace a tokenizer that is already there
    #[arg(long)]
    pub(crate) force: bool,
    /// Print what was learned, as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

pub(crate) const TIMING: &str = "\
Examples:
  oxigpt bench tokenize --input book.txt
  oxigpt bench tokenize --input texts/ more.txt.gz
  oxigpt bench tokenize --input book.txt --threads 1 --tokenizer tokenizers/mine --json
";

#[derive(Debug, Args)]
pub(crate) struct TokenizeArgs {
    #[command(flatten)]
    pub(crate) files: FilesArgs,
    /// What makes the tokens: GPT-2's byte-pair encoding, one token per character or byte, or the tokenizer at a path
    #[arg(long, value_parser = tokenizer_parser(), default_value = "gpt2", value_name = TOKENIZERS)]
    pub(crate) tokenizer: TokenizerKind,
    /// Threads; 0 = one per core
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = whole::<usize>)]
    pub(crate) threads: usize,
    /// Print the numbers as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}
