//! From text to a data directory, in one pass over the inputs.
//!
//! One thread reads and decompresses the inputs and cuts them into blocks of about a mebibyte; all cores turn blocks
//! into documents and tokens; the calling thread appends the tokens, in order, to shards on the disk. So the memory
//! needed does not depend on the size of the inputs, nor on that of the shards: with n threads there are at most n + 2
//! blocks, each of 1 MiB of text (16 MiB where plain text has no white space; more where a single JSON line, or
//! a value of a Parquet column, is larger) and its tokens, four bytes each; and the list of inputs and the tokenizer.
//!
//! What is to be known of all text beforehand costs one more pass, which only counts: where to cut off the tail, and
//! what characters there are.
//!
//! The tokens are a pure function of inputs and options, whatever the number of threads and however often the
//! preparation was interrupted. `<|endoftext|>` written in a text is plain text. With GPT-2's encoding, characters and
//! bytes, cutting changes no token, unless 16 MiB of text have no white space; with another `tokenizer.json` it may,
//! once in a mebibyte of a text file (records are never cut).

mod block;
mod blocks;
mod choose;
mod encode;
mod extent;
mod find;
mod inputs;
mod journal;
mod learn;
mod left;
mod open;
mod pipeline;
mod rows;
mod run;
mod source;
mod staged;
mod tokenizer;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use oxigpt_compute::cpu::threads;

pub use choose::Holdout;
pub use encode::EndOfText;
pub use learn::{Learned, tokenizer_paths, train_tokenizer, write_tokenizer};
pub use source::{Fetch, FetchError, Format, Input, Place, Source};
pub use tokenizer::TokenizerKind;

use crate::error::{PrepareError, Result};
use crate::manifest::Manifest;
use crate::stories::{DEFAULT_STORIES_BYTES, DEFAULT_STORIES_SEED, stories};

/// How a text is prepared.
#[derive(Clone, Debug)]
pub struct PrepareOptions {
    /// What makes the tokens.
    pub tokenizer: TokenizerKind,
    /// Where the end-of-text token stands.
    pub end_of_text: EndOfText,
    /// What is kept for validation.
    pub holdout: Holdout,
    /// How much of it, for [`Holdout::Tail`] and [`Holdout::Documents`].
    pub val_fraction: f64,
    /// Replace a dataset that is already there, and abandon what was interrupted if it cannot be gone on with.
    pub force: bool,
    /// Tokens per shard; the last one of a split is shorter.
    pub shard_tokens: usize,
    /// Threads that encode; 0 is one per core.
    pub threads: usize,
    /// After so many bytes of the inputs, what is done is made safe on the disk: an interruption costs no more.
    pub save_every: u64,
}

impl Default for PrepareOptions {
    /// GPT-2, a tenth at the end for validation, end-of-text between documents, nothing replaced, 10^8 tokens per shard.
    fn default() -> Self {
        PrepareOptions {
            tokenizer: TokenizerKind::Gpt2,
            end_of_text: EndOfText::Between,
            holdout: Holdout::Tail,
            val_fraction: 0.1,
            force: false,
            shard_tokens: 100_000_000,
            threads: 0,
            save_every: 64 << 20,
        }
    }
}

/// What a preparation is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Comparing what an interrupted preparation has left with its checksums.
    Check,
    /// Counting characters of the inputs, or their words.
    Read,
    /// Turning text into tokens.
    Encode,
    /// Finishing the last shards.
    Write,
    /// Merging pairs into the tokens of a new tokenizer.
    Merge,
}

/// How far a preparation is, in bytes of its inputs as they are on the disk; of what is left, for [`Stage::Check`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What it is doing.
    pub stage: Stage,
    /// Bytes done in this stage.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
}

/// Is told how far a preparation is, and can stop it.
pub type Watch<'a> = &'a mut dyn FnMut(Progress) -> ControlFlow<()>;

/// Prepares a source as a dataset in the directory `out`, which is made if need be. Returns what `dataset.json` says.
///
/// If it is interrupted, in whatever way, the same call goes on where it stopped (at most [`PrepareOptions::save_every`]
/// bytes before), and the dataset is the same, byte for byte. Inputs that are piped must be piped again, from the start.
///
/// # Errors
/// If an input is missing, empty, or not what its format says; if one that has been used is another one by now; if
/// `out` holds a dataset, or a file where one is to be written, and `force` is off; if another process keeps writing to
/// `out`; if the disk is full; if an option is out of range, or leaves a split empty; if whoever watches stops it. What
/// has been done of whole inputs is kept in `out`, in a hidden directory, and nothing else in `out` has changed.
pub fn prepare(source: &Source, out: &Path, options: &PrepareOptions, watch: Watch<'_>) -> Result<Manifest> {
    check_options(source, options)?;
    check_out(out)?;
    run::run(source, out, options, watch)
}

/// [`prepare`] for plain files, each of which is a document.
///
/// # Errors
/// As there.
pub fn prepare_text(
    inputs: &[PathBuf],
    out: &Path,
    options: &PrepareOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<Manifest> {
    let source = Source { format: Format::Text, inputs: inputs.iter().map(Input::file).collect() };
    prepare(&source, out, options, &mut |at| {
        progress(at);
        ControlFlow::Continue(())
    })
}

/// The text of all documents of a source, one behind the other, in memory.
///
/// # Errors
/// If an input is missing, empty, or not what its format says.
pub fn read_text(source: &Source) -> Result<String> {
    inputs::check_inputs(&source.inputs)?;
    let mut text = String::new();
    let cutter = blocks::Cutter { source, chooser: choose::Chooser::All, opened: &|_, _| Ok(()) };
    cutter.run(block::Position::default(), &mut |block| {
        block.documents(&source.format, &mut |document| {
            text.push_str(document.text);
            Ok(())
        })
    })?;
    Ok(text)
}

/// Prepares the embedded default corpus as a dataset of characters in the directory `out`. Where `out` holds it already,
/// undamaged, `force` leaves it as it is, so that several processes may do this at once.
///
/// # Errors
/// If `out` already holds a dataset and `force` is off, or it cannot be written.
pub fn prepare_stories(out: &Path, force: bool) -> Result<Manifest> {
    let options = PrepareOptions { tokenizer: TokenizerKind::Char, force, ..PrepareOptions::default() };
    let text = stories(DEFAULT_STORIES_SEED, DEFAULT_STORIES_BYTES);
    let bytes = text.len() as u64;
    let place = Place::Memory(text.into());
    let input = Input { name: "stories".into(), place, bytes, sha256: None, val: false };
    let source = Source { format: Format::Text, inputs: vec![input] };
    prepare(&source, out, &options, &mut |_| ControlFlow::Continue(()))
}

fn check_options(source: &Source, options: &PrepareOptions) -> Result<()> {
    let value = options.val_fraction;
    // Written so that NaN fails as well.
    if !(value > 0.0 && value < 1.0) {
        return Err(PrepareError::ValFraction { value }.into());
    }
    if options.holdout == Holdout::Tail && source.format != Format::Text {
        return Err(PrepareError::TailOfRecords.into());
    }
    if options.shard_tokens == 0 || i32::try_from(options.shard_tokens).is_err() {
        return Err(PrepareError::ShardTokens { found: options.shard_tokens }.into());
    }
    Ok(threads(options.threads).map(drop)?)
}

/// That what a directory is to be is nothing else.
fn check_out(out: &Path) -> Result<()> {
    let stands = out.symlink_metadata().is_ok();
    match (stands, out.is_dir(), out.exists()) {
        (true, false, true) => Err(PrepareError::OutputIsFile { path: out.into() }.into()),
        (true, false, false) => Err(PrepareError::OutputIsDeadLink { path: out.into() }.into()),
        _ => Ok(()),
    }
}
