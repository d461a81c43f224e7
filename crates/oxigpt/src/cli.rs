//! What can be typed: the commands and their options, as data, and nothing of what they mean.

mod flags;
mod prepare;
mod tokenizer;

use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use clap::builder::PossibleValuesParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use oxigpt_train::data_sheet::DATA_SHEETS;
use oxigpt_train::machine;
use oxigpt_train::settings::{self, KEYS, Settings};

use crate::hint::CliError;
use crate::report;

pub(crate) use flags::{AttentionFlags, EvalFlags, Flags};
pub(crate) use prepare::{
    DataArgs, HowArgs, OutputArgs, PREPARING, PrepareSource, RecordArgs, SetArgs, TextArgs,
};
pub(crate) use tokenizer::{TIMING, TokenizeArgs, TokenizerAction, TrainTokenizerArgs};

const EXAMPLES: &str = "\
Examples:
  oxigpt train                                 a small GPT learns to tell stories
  oxigpt prepare text --input *.txt --tokenizer gpt2 --out data/mine
  oxigpt plan gpt2-124m --batch_size=8         a recipe, but for this key
  oxigpt train --from gpt2 --dataset=data/mine a model that is there learns from your own text
  oxigpt eval --from gpt2 --data data/mine     loss, perplexity, bits per byte
  oxigpt sample --from gpt2 --start \"Once\"     a model of the Hugging Face hub, or any other, speaks
  oxigpt bench train gpt2-124m --batch_size=4  how fast this machine trains
  oxigpt recipes demo > mine.toml              a recipe to start from
";

const DEFAULTS: &str = "\
Defaults are those of a file that does not set the key; `oxigpt recipes NAME` prints what a recipe sets.
";

/// What `MODEL` stands for; the words that every help text ends with that speaks of one.
macro_rules! models {
    () => {
        "\
A MODEL is one of, as its content shows:
  a run directory (its best checkpoint, or else its latest), or a checkpoint of one
  a Hugging Face GPT-2 directory
  nanoGPT's ckpt.pt, build-nanogpt's model_NNNNN.pt, llm.c's model .bin
  gpt2, gpt2-medium, gpt2-large, gpt2-xl, or OWNER/NAME on the Hugging Face hub
"
    };
}

const MODELS: &str = models!();

const EVALUATING: &str = concat!(
    models!(),
    "
Examples:
  oxigpt eval --from out/demo               on all validation tokens of the run
  oxigpt eval --from gpt2 --data data/mine --split train --json
  oxigpt eval --from gpt2 --task hellaswag  its published items, fetched once
  oxigpt eval --from gpt2 --task lambada --file lambada_test.jsonl
  oxigpt eval eval-gpt2                     model, data and batch of a recipe
"
);

const BENCHING: &str = "\
Examples:
  oxigpt bench train shakespeare-char-cpu
  oxigpt bench train gpt2-124m --batch_size=4 --dtype=bfloat16 --steps=3 --json
  oxigpt bench ops gpt2-124m --batch_size=4 --steps=1
  oxigpt bench sample gpt2-124m --dtype=int8 --texts=8
";

const COMPARING: &str = "\
Each RUN is a run directory, such as out/demo; it may still be at work. Losses are in nats per token.

Examples:
  oxigpt compare out/softmax out/gaussian
  oxigpt compare out/* --out losses.svg     the curves as a picture, too; also .png
  oxigpt compare out/a out/b --by tokens --json
";

const CONVERTING: &str = concat!(
    models!(),
    "
Examples:
  oxigpt convert out/demo demo-hf --to hf   GPT2LMHeadModel.from_pretrained(\"demo-hf\") loads it
  oxigpt convert gpt2 gpt2_124M_bf16.bin --to llmc --dtype bfloat16
"
);

const TRAINING: &str = concat!(
    "\
Defaults are those of a file that does not set the key; `oxigpt recipes NAME` prints what a recipe sets.

Examples:
  oxigpt train                                          the recipe demo: a small GPT tells stories
  oxigpt train shakespeare-char-cpu --max_iters=500     a recipe, but for this key
  oxigpt train ./mine.toml --dataset=data/mine          a file of your own
  oxigpt train --init_from=resume --out_dir=out/demo    go on with a run as if it had not stopped
  oxigpt train --from gpt2 --dataset=data/mine          a new run with the weights of a model
  oxigpt train --from gpt2 --lora_rank=16               the same, by low-rank adapters alone

Ways to start:
  --init_from=scratch     random weights
  --init_from=resume      the run in out_dir goes on: weights, moments, step, place in the same data
  --init_from=MODEL       a new run, from step 0, with the weights of a model, on other data
  --from=MODEL            short for it; --init_from=finetune --from=MODEL is the same
  --init_from=layerwise:MODEL   the same; attention alone learns, layer by layer, from the model's
The model brings its shape and its vocabulary; --dropout is free, --block_size can be lowered.

",
    models!()
);

/// Train, fine-tune, evaluate and sample GPT-2-class language models.
#[derive(Debug, Parser)]
#[command(name = "oxigpt", version, after_help = EXAMPLES, arg_required_else_help = true)]
#[command(disable_help_subcommand = true, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Commands,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Commands {
    /// Train a model, or go on training one
    #[command(after_help = TRAINING)]
    Train(TrainArgs),
    /// Turn text into the token shards that training reads
    #[command(subcommand, after_help = PREPARING)]
    Prepare(PrepareSource),
    /// Say what a data set holds, and check it
    Data(DataArgs),
    /// Make a tokenizer
    #[command(subcommand)]
    Tokenizer(TokenizerAction),
    /// Generate text with a model
    #[command(after_help = MODELS)]
    Sample(SampleArgs),
    /// Measure a model: its loss on a data set, HellaSwag, LAMBADA, WikiText
    #[command(after_help = EVALUATING)]
    Eval(EvalArgs),
    /// Write a model in the format of another program
    #[command(after_help = CONVERTING)]
    Convert(ConvertArgs),
    /// Show the losses of runs side by side, and what differs between their settings
    #[command(after_help = COMPARING)]
    Compare(CompareArgs),
    /// Measure how fast this machine trains and samples a model, or encodes text
    #[command(subcommand)]
    Bench(BenchKind),
    /// Say what a run will take: memory, work and time
    #[command(after_help = DEFAULTS)]
    Plan(PlanArgs),
    /// Say what this machine can compute on, and what a GPU still takes
    Devices(DevicesArgs),
    /// List the built-in recipes, or print one
    Recipes(RecipesArgs),
    /// Print the completion script for a shell
    Completions(CompletionsArgs),
}

#[derive(Debug, Args)]
pub(crate) struct SampleArgs {
    /// The model that speaks
    #[arg(long, value_name = "MODEL")]
    pub(crate) from: String,
    /// The text to continue; FILE:path takes it from a file
    #[arg(long, default_value = "\n", hide_default_value = true, value_name = "TEXT | FILE:path")]
    #[arg(allow_hyphen_values = true)]
    pub(crate) start: String,
    /// How many samples
    #[arg(long, alias = "num_samples", default_value = "1", value_name = "N", value_parser = whole::<NonZeroUsize>)]
    pub(crate) num_samples: NonZeroUsize,
    /// Tokens to generate in each, at most
    #[arg(long, alias = "max_new_tokens", default_value_t = 500, value_name = "N", value_parser = whole::<usize>)]
    pub(crate) max_new_tokens: usize,
    /// 0 always takes the likeliest token; 1 follows the model's probabilities
    #[arg(long, default_value_t = 0.8, value_name = "X", value_parser = temperature)]
    #[arg(allow_negative_numbers = true)]
    pub(crate) temperature: f64,
    /// Choose among so many likeliest tokens; 0 = all
    #[arg(long, alias = "top_k", default_value_t = 200, value_name = "N", value_parser = whole::<usize>)]
    pub(crate) top_k: usize,
    /// The same seed gives the same text; sample i uses seed + i
    #[arg(long, default_value_t = 1337, value_name = "N", value_parser = whole::<u64>)]
    pub(crate) seed: u64,
    /// How weights are kept: bfloat16 takes half the bytes, int8 a quarter, and fewer bytes are faster
    #[arg(long, value_enum, default_value = "float32", value_name = "float32|bfloat16|int8")]
    #[arg(hide_possible_values = true)]
    pub(crate) dtype: Kept,
    /// Stop at the end of the text, where the model says that it ends
    #[arg(long)]
    pub(crate) stop: bool,
    /// Where to compute: cpu, cuda, cuda:N, or auto
    #[arg(long, default_value = "cpu", value_name = "DEVICE", value_parser = device)]
    pub(crate) device: String,
    /// Worker threads; 0 = one per core
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = whole::<usize>)]
    pub(crate) threads: usize,
    /// Print all samples at the end, as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) attention: AttentionFlags,
}

#[derive(Debug, Args)]
pub(crate) struct TrainArgs {
    /// Print how the run ended, as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// Plan for a GPU that is not here, by its data sheet; h100 where --device=cuda finds none
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(DATA_SHEETS.iter().map(|sheet| sheet.name)))]
    pub(crate) gpu: Option<String>,
    /// Print the numbers as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
}

/// What to measure.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchKind {
    /// Training steps of one micro-batch of random tokens
    #[command(after_help = BENCHING)]
    Train(BenchArgs),
    /// The same, operator by operator
    #[command(after_help = BENCHING)]
    Ops(BenchArgs),
    /// Generating text, token by token
    #[command(after_help = BENCHING)]
    Sample(BenchSampleArgs),
    /// Encoding a text
    #[command(after_help = TIMING)]
    Tokenize(TokenizeArgs),
}

#[derive(Debug, Args)]
pub(crate) struct BenchSampleArgs {
    /// Texts that are generated side by side
    #[arg(long, default_value = "1", value_name = "N", value_parser = whole::<NonZeroUsize>)]
    pub(crate) texts: NonZeroUsize,
    #[command(flatten)]
    pub(crate) bench: BenchArgs,
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Steps (or tokens) to time [default: 10 steps, 200 tokens]
    #[arg(long, value_name = "N", value_parser = whole::<NonZeroU32>)]
    pub(crate) steps: Option<NonZeroU32>,
    /// Steps before the timed ones
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = whole::<usize>)]
    pub(crate) warmup: usize,
    /// Print the numbers as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
}

#[derive(Debug, Args)]
pub(crate) struct EvalArgs {
    /// The model to measure
    #[arg(long, value_name = "MODEL")]
    pub(crate) from: Option<String>,
    /// Data directory, or its name under data/; for a run, its own data where neither this nor a task is given
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<String>,
    /// Which part of the data [default: val]
    #[arg(long, value_name = "val|train")]
    #[arg(value_parser = PossibleValuesParser::new(["val", "train"]), hide_possible_values = true)]
    pub(crate) split: Option<String>,
    /// The first N windows only
    #[arg(long, alias = "limit_windows", value_name = "N", value_parser = whole::<NonZeroU64>)]
    pub(crate) limit_windows: Option<NonZeroU64>,
    /// A task with a published protocol, hellaswag, lambada or wikitext; may be repeated
    #[arg(long, value_enum, value_name = "TASK", hide_possible_values = true)]
    pub(crate) task: Vec<Task>,
    /// The file of a task: the first is for the first task, and so on; HellaSwag's is fetched where none is given
    #[arg(long, requires = "task", value_name = "FILE")]
    pub(crate) file: Vec<PathBuf>,
    /// The first N items of each task only: questions, passages, or lines that are not blank
    #[arg(long, requires = "task", value_name = "N", value_parser = whole::<NonZeroUsize>)]
    pub(crate) limit: Option<NonZeroUsize>,
    /// One definition of HellaSwag alone, build-nanogpt or lm-eval, in half the time of both
    #[arg(long, requires = "task", value_enum, value_name = "NAME", hide_possible_values = true)]
    pub(crate) definition: Option<Definition>,
    /// Print the numbers as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// Recipes or files of settings that say what the options do not: model, data and batch
    #[arg(value_name = "RECIPE | FILE.toml")]
    pub(crate) recipes: Vec<String>,
    #[command(flatten)]
    pub(crate) flags: EvalFlags,
}

/// A task with a published protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "lower")]
pub(crate) enum Task {
    HellaSwag,
    Lambada,
    WikiText,
}

/// A published definition of HellaSwag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Definition {
    BuildNanogpt,
    LmEval,
}

#[derive(Debug, Args)]
pub(crate) struct ConvertArgs {
    /// The model to write
    #[arg(value_name = "MODEL")]
    pub(crate) model: String,
    /// What to make: a directory, or for llmc a file (in a directory, model.bin)
    #[arg(value_name = "DIR")]
    pub(crate) target: PathBuf,
    /// A Hugging Face directory with its tokenizer, or llm.c's model file
    #[arg(long, value_enum, value_name = "hf|llmc", hide_possible_values = true)]
    pub(crate) to: Target,
    /// Number format of the weights; bfloat16 for llmc alone
    #[arg(long, value_enum, default_value = "float32", value_name = "float32|bfloat16")]
    #[arg(hide_possible_values = true)]
    pub(crate) dtype: Dtype,
    /// Print what was written, as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// Run directories
    #[arg(required = true, value_name = "RUN")]
    pub(crate) runs: Vec<PathBuf>,
    /// Draw the losses into a file, which is overwritten: .svg or .png
    #[arg(long, value_name = "FILE.svg|FILE.png")]
    pub(crate) out: Option<PathBuf>,
    /// What the losses are lined up by [default: steps, or tokens where the runs' steps differ in size]
    #[arg(long, value_enum, value_name = "steps|tokens", hide_possible_values = true)]
    pub(crate) by: Option<By>,
    /// Print everything as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// What is alike in two losses that stand side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum By {
    Steps,
    Tokens,
}

/// How weights are kept while text is generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kept {
    Float32,
    Bfloat16,
    Int8,
}

/// A format that models are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Target {
    Hf,
    Llmc,
}

/// A number format of weights in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Dtype {
    Float32,
    Bfloat16,
}

/// A whole number, from 1 on where the type has no 0.
fn whole<T: FromStr>(text: &str) -> Result<T, String> {
    let least = if "0".parse::<T>().is_ok() { 0 } else { 1 };
    text.replace('_', "").parse().map_err(|_| format!("it must be a whole number, {least} or more"))
}

fn device(text: &str) -> Result<String, String> {
    let error = || "it must be cpu, cuda, cuda:N or auto".to_owned();
    machine::is_device(text).then(|| text.to_owned()).ok_or_else(error)
}

fn temperature(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if (0.0..f64::INFINITY).contains(&value) => Ok(value),
        _ => Err("it must be a number, 0 or more, such as 0.8".to_owned()),
    }
}

#[derive(Debug, Args)]
pub(crate) struct DevicesArgs {
    /// Print what was found as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RecipesArgs {
    /// The recipe to print
    pub(crate) name: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

/// A configuration as typed: recipes first to last, then single keys first to last.
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// Built-in recipes or files of settings; later ones override earlier ones [default: demo, or finetune with a MODEL]
    #[arg(value_name = "RECIPE | FILE.toml")]
    pub(crate) recipes: Vec<String>,
    /// The model to begin a new run with: short for --init_from=MODEL
    #[arg(long, value_name = "MODEL")]
    pub(crate) from: Option<String>,
    #[command(flatten)]
    pub(crate) flags: Flags,
}

/// Reads the command line; where there is nothing to do, the answer has been printed and the exit code is the error.
pub(crate) fn parse() -> Result<Cli, ExitCode> {
    Cli::try_parse().map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A reader who hangs up is no failure.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        _ => {
            match unknown_key(&error) {
                Some(unknown) => report::error(&unknown),
                None => report::usage(&error),
            }
            ExitCode::from(2)
        }
    })
}

/// The key that is none, or the model without its flag, where that is what the command line suffers from.
fn unknown_key(error: &clap::Error) -> Option<anyhow::Error> {
    let typed: Vec<String> = std::env::args().skip(1).take(2).collect();
    let (commands, [name, rest @ ..]) = (Cli::command(), &typed[..]) else { return None };
    let command = commands.find_subcommand(name)?;
    let command = rest.first().and_then(|kind| command.find_subcommand(kind)).unwrap_or(command);
    if let (ErrorKind::UnknownArgument, Some(ContextValue::String(arg))) =
        (error.kind(), error.get(ContextKind::InvalidArg))
        && name == "sample"
        && !arg.starts_with('-')
    {
        let hint = format!("a model is named by --from={arg}, the text to continue by --start");
        return Some(CliError::usage(format!("unexpected argument `{arg}`"), hint).into());
    }
    command.get_arguments().find(|arg| arg.get_id() == KEYS[0].name)?;
    match (error.kind(), error.get(ContextKind::InvalidArg)?) {
        (ErrorKind::UnknownArgument, ContextValue::String(arg)) if arg.starts_with("--") => {
            let key = arg.trim_start_matches('-').split('=').next()?;
            if settings::kind_of(key).is_some() {
                let hint = format!("a key is written with two dashes: --{key}=VALUE");
                return Some(CliError::usage(format!("unexpected argument `{arg}`"), hint).into());
            }
            Settings::default().apply_flag(key, "").err().map(Into::into)
        }
        _ => None,
    }
}
