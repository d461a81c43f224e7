//! What can be typed behind `oxigpt prepare` and `oxigpt data`.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use oxigpt_data::{EndOfText, TokenizerKind};

use super::whole;

pub(crate) const PREPARING: &str = "\
Examples:
  oxigpt prepare text --input book.txt --tokenizer char --out data/book
  oxigpt prepare text --input notes/ 'more/**/*.md' --tokenizer gpt2 --out data/notes
  oxigpt prepare jsonl --input shards/*.jsonl.zst --field text --out data/web
  oxigpt prepare parquet --input shards/ --column text --val-shard --out data/web
  oxigpt prepare fineweb-edu --subset sample-10BT --discard
  zcat dump.jsonl.gz | oxigpt prepare jsonl --input - --out data/dump

An input is a file, a folder, a pattern in quotes, - for what is piped to the program, or <(command) in a shell; \
gzip and zstd are seen and undone. The output is a folder of its own.
The path of a tokenizer is that of a tokenizer.json (`oxigpt tokenizer train` makes one), of nanoGPT's meta.pkl, or of \
a folder: a tokenizer's, a data set's, a model's or a run's, so that new text gets the tokens that a model knows.
Memory does not grow with the input. Interrupted, the same command goes on where it stopped, and ends with the same bytes.
";

/// Where the text comes from.
#[derive(Debug, Subcommand)]
pub(crate) enum PrepareSource {
    /// Files of text
    Text(TextArgs),
    /// Files with a JSON object on each line
    Jsonl(JsonlArgs),
    /// Parquet files
    Parquet(ParquetArgs),
    /// Tiny Shakespeare as nanoGPT has it, in GPT-2's tokens
    Shakespeare(SetArgs),
    /// Tiny Shakespeare as nanoGPT has it, in characters
    ShakespeareChar(SetArgs),
    /// OpenWebText as nanoGPT has it: end-of-text after each document, 0.05 % for validation
    Openwebtext(SetArgs),
    /// FineWeb-Edu as build-nanogpt has it: end-of-text before each document, the first shard for validation
    FinewebEdu(FinewebArgs),
    /// TinyStories: end-of-text before each story, its own files for validation
    Tinystories(SetArgs),
    /// The built-in corpus of the recipe `demo`: short stories, in characters
    Stories(OutputArgs),
}

#[derive(Debug, Args)]
pub(crate) struct TextArgs {
    #[command(flatten)]
    pub(crate) files: FilesArgs,
    /// What makes the tokens: GPT-2's byte-pair encoding, one token per character or byte, or the tokenizer at a path
    #[arg(long, value_parser = tokenizer_parser(), value_name = TOKENIZERS)]
    pub(crate) tokenizer: TokenizerKind,
    #[command(flatten)]
    pub(crate) how: HowArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct JsonlArgs {
    /// The field of each object that is the document
    #[arg(long, default_value = "text", value_name = "NAME")]
    pub(crate) field: String,
    #[command(flatten)]
    pub(crate) records: RecordArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ParquetArgs {
    /// The column whose values are the documents
    #[arg(long, default_value = "text", value_name = "NAME")]
    pub(crate) column: String,
    #[command(flatten)]
    pub(crate) records: RecordArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RecordArgs {
    #[command(flatten)]
    pub(crate) files: FilesArgs,
    /// What makes the tokens: GPT-2's byte-pair encoding, one token per character or byte, or the tokenizer at a path
    #[arg(long, value_parser = tokenizer_parser(), default_value = "gpt2", value_name = TOKENIZERS)]
    pub(crate) tokenizer: TokenizerKind,
    #[command(flatten)]
    pub(crate) how: HowArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct FinewebArgs {
    /// How much of it
    #[arg(long, default_value = "sample-10BT", value_name = "sample-10BT|sample-100BT")]
    #[arg(value_parser = PossibleValuesParser::new(["sample-10BT", "sample-100BT"]), hide_possible_values = true)]
    pub(crate) subset: String,
    #[command(flatten)]
    pub(crate) set: SetArgs,
}

#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// Remove fetched files from the cache of the hub as soon as they are not needed any more
    #[arg(long)]
    pub(crate) discard: bool,
    #[command(flatten)]
    pub(crate) how: HowArgs,
    /// The data directory to write [default: data/ and the name of the set]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) written: WrittenArgs,
}

/// Where text is read from.
#[derive(Debug, Args)]
pub(crate) struct FilesArgs {
    /// Files (of plain text, each is a document), folders, patterns; - for standard input
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    pub(crate) input: Vec<PathBuf>,
}

/// How text becomes tokens.
#[derive(Debug, Args)]
pub(crate) struct HowArgs {
    /// Part that is kept for validation: the end of plain text, or so many of the documents [default: 0.1, or as it is usual for a set]
    #[arg(long, alias = "val_fraction", value_name = "X", value_parser = fraction)]
    pub(crate) val_fraction: Option<f64>,
    /// Choose whole documents for validation, by what they say and this seed [default for records: 1337]
    #[arg(long, alias = "val_seed", value_name = "N", value_parser = whole::<u64>)]
    pub(crate) val_seed: Option<u64>,
    /// Keep the first shard for validation
    #[arg(long, alias = "val_shard", conflicts_with_all = ["val_fraction", "val_seed"])]
    pub(crate) val_shard: bool,
    /// Where the end-of-text token stands, seen from a document [default: between for text, before for records, as it is usual for a set]
    #[arg(long, value_name = "before|after|between|none", value_parser = end_of_text_parser())]
    #[arg(hide_possible_values = true)]
    pub(crate) eot: Option<EndOfText>,
    /// Tokens per shard
    #[arg(long, alias = "shard_tokens", default_value_t = 100_000_000, value_name = "N", value_parser = whole::<usize>)]
    pub(crate) shard_tokens: usize,
    /// Threads that encode; 0 = one per core. The tokens do not depend on it
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = whole::<usize>)]
    pub(crate) threads: usize,
}

#[derive(Debug, Args)]
pub(crate) struct OutputArgs {
    /// The data directory to write
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) written: WrittenArgs,
}

/// What becomes of a data directory.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct WrittenArgs {
    /// Replace a data set that is already there, of whatever layout, give up an interrupted one that cannot be gone on with, and write among other files
    #[arg(long)]
    pub(crate) force: bool,
    /// Print what dataset.json says, as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DataArgs {
    /// A data directory, or its name under data/
    #[arg(value_name = "DIR")]
    pub(crate) data: String,
    /// Read everything: compare all checksums, look at every token
    #[arg(long)]
    pub(crate) verify: bool,
    /// Print it as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

pub(super) const TOKENIZERS: &str = "gpt2|char|byte|PATH";

pub(super) fn tokenizer_parser() -> impl TypedValueParser<Value = TokenizerKind> {
    clap::builder::NonEmptyStringValueParser::new().try_map(|name| {
        name.parse::<TokenizerKind>().map_err(|_| "use gpt2, char, byte, or the path of a tokenizer")
    })
}

fn end_of_text_parser() -> impl TypedValueParser<Value = EndOfText> {
    PossibleValuesParser::new(["before", "after", "between", "none"])
        .try_map(|name| name.parse::<EndOfText>())
}

/// A part of a whole: more than nothing, less than all.
fn fraction(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if value > 0.0 && value < 1.0 => Ok(value),
        _ => Err("it must be a number between 0 and 1, such as 0.1".to_owned()),
    }
}
