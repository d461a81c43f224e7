//! From text to a data directory.
//!
//! The inputs are read as one text, in the order given, as they are but for a byte order mark. It is cut at
//! `int((1 - val_fraction) * characters)`, the head for training, the tail for validation, and each part is encoded by
//! itself (nanoGPT's rule). Each input is a document: where two meet within a part, the tokens have one end-of-text
//! between them if the tokenizer has such a token. There is none within a file, nor at the ends of a part.
//! `<|endoftext|>` written in a text is plain text.
//!
//! The text and its tokens are held in memory.

use std::fmt;
use std::fs::FileType;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use fs_err as fs;
use oxigpt_text::Tokenizer;

use crate::dataset::Split;
use crate::dataset_writer::{Draft, Part, check_free, write_dataset};
use crate::error::{Error, Result};
use crate::manifest::Manifest;
use crate::stories::{DEFAULT_STORIES_BYTES, DEFAULT_STORIES_SEED, stories};

/// Bytes of text that are encoded between two reports of progress.
const PIECE: usize = 1 << 20;

/// What some editors put before a text in UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Which tokenizer makes the tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenizerKind {
    /// GPT-2's byte-pair encoding.
    Gpt2,
    /// One token per character; the vocabulary is the sorted set of the text's characters.
    Char,
}

impl FromStr for TokenizerKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "gpt2" => Ok(TokenizerKind::Gpt2),
            "char" => Ok(TokenizerKind::Char),
            _ => Err(Error::UnknownTokenizer { found: name.into() }),
        }
    }
}

impl fmt::Display for TokenizerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TokenizerKind::Gpt2 => "gpt2",
            TokenizerKind::Char => "char",
        })
    }
}

/// How a text is prepared.
#[derive(Clone, Debug)]
pub struct PrepareOptions {
    /// What makes the tokens.
    pub tokenizer: TokenizerKind,
    /// The part of the characters, at the end, that is kept for validation.
    pub val_fraction: f64,
    /// Replace a dataset that is already there.
    pub force: bool,
    /// Tokens per shard; the last one of a split is shorter.
    pub shard_tokens: usize,
}

impl Default for PrepareOptions {
    /// GPT-2, a tenth for validation, nothing replaced, 10^8 tokens per shard.
    fn default() -> Self {
        PrepareOptions {
            tokenizer: TokenizerKind::Gpt2,
            val_fraction: 0.1,
            force: false,
            shard_tokens: 100_000_000,
        }
    }
}

/// What a preparation is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Reading the inputs.
    Read,
    /// Turning text into tokens.
    Encode,
    /// Writing shards.
    Write,
}

/// How far a preparation is, in bytes of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What it is doing.
    pub stage: Stage,
    /// Bytes of text done in this stage.
    pub done: u64,
    /// Bytes of text in all.
    pub total: u64,
}

/// Prepares text files as a dataset in the directory `out`, which is made if need be. Returns what `dataset.json` says.
///
/// # Errors
/// If an input is missing, a directory, empty or not UTF-8; if `out` already holds a dataset, or a file where one is to
/// be written, and `force` is off; if another process keeps writing to `out`; if `val_fraction` is out of range or leaves
/// a split empty; if the disk is full. `out` is then as it was before.
pub fn prepare_text(
    inputs: &[PathBuf],
    out: &Path,
    options: &PrepareOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<Manifest> {
    check_options(out, options)?;
    let corpus = read_inputs(inputs, progress)?;
    let source =
        inputs.iter().map(|path| path.file_name().unwrap_or_default().to_string_lossy().into_owned());
    prepare(&corpus, source.collect(), out, options, progress)
}

/// Prepares the embedded default corpus as a dataset of characters in the directory `out`. Where `out` holds it already,
/// undamaged, `force` leaves it as it is, so that several processes may do this at once.
///
/// # Errors
/// If `out` already holds a dataset and `force` is off, or it cannot be written.
pub fn prepare_stories(out: &Path, force: bool) -> Result<Manifest> {
    let options = PrepareOptions { tokenizer: TokenizerKind::Char, force, ..PrepareOptions::default() };
    check_options(out, &options)?;
    let text = stories(DEFAULT_STORIES_SEED, DEFAULT_STORIES_BYTES);
    let corpus = Corpus { document_ends: vec![text.len()], text };
    prepare(&corpus, vec!["stories".into()], out, &options, &mut |_| ())
}

/// All inputs as one text, and where in it each of them ends.
struct Corpus {
    text: String,
    document_ends: Vec<usize>,
}

fn check_options(out: &Path, options: &PrepareOptions) -> Result<()> {
    let value = options.val_fraction;
    // Written so that NaN fails as well.
    if !(value > 0.0 && value < 1.0) {
        return Err(Error::ValFraction { value });
    }
    if out.is_file() {
        return Err(Error::OutputIsFile { path: out.into() });
    }
    if options.force || !out.is_dir() {
        return Ok(());
    }
    check_free(out)
}

fn read_inputs(inputs: &[PathBuf], progress: &mut dyn FnMut(Progress)) -> Result<Corpus> {
    if inputs.is_empty() {
        return Err(Error::NoInput);
    }
    let mut total = 0;
    for path in inputs {
        match fs::metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::MissingInput { path: path.into() });
            }
            Ok(metadata) if metadata.is_dir() => return Err(Error::InputIsDirectory { path: path.into() }),
            // A device may never end.
            Ok(metadata) if !metadata.is_file() && !is_pipe(metadata.file_type()) => {
                return Err(Error::InputNotFile { path: path.into() });
            }
            metadata => total += metadata?.len(),
        }
    }
    let mut corpus = Corpus { text: String::new(), document_ends: Vec::with_capacity(inputs.len()) };
    for path in inputs {
        let text = read_text(path)?;
        // The usual single input is not copied.
        if corpus.text.is_empty() {
            corpus.text = text;
        } else {
            corpus.text += &text;
        }
        corpus.document_ends.push(corpus.text.len());
        progress(Progress { stage: Stage::Read, done: corpus.text.len() as u64, total });
    }
    Ok(corpus)
}

#[cfg(unix)]
fn is_pipe(kind: FileType) -> bool {
    use std::os::unix::fs::FileTypeExt;
    kind.is_fifo()
}

/// What pipes there are elsewhere have no path.
#[cfg(not(unix))]
fn is_pipe(_: FileType) -> bool {
    false
}

/// The text of a file, without a byte order mark.
fn read_text(path: &Path) -> Result<String> {
    let mut bytes = fs::read(path)?;
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err(Error::Utf16 { path: path.into() });
    }
    if bytes.starts_with(BYTE_ORDER_MARK) {
        bytes.drain(..BYTE_ORDER_MARK.len());
    }
    if bytes.is_empty() {
        return Err(Error::EmptyInput { path: path.into() });
    }
    String::from_utf8(bytes).map_err(|error| {
        let offset = error.utf8_error().valid_up_to();
        Error::NotUtf8 { path: path.into(), offset, byte: error.as_bytes()[offset] }
    })
}

fn prepare(
    corpus: &Corpus,
    source: Vec<String>,
    out: &Path,
    options: &PrepareOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<Manifest> {
    let cut = split_point(&corpus.text, options.val_fraction)?;
    let tokenizer = match options.tokenizer {
        TokenizerKind::Gpt2 => Tokenizer::gpt2(),
        TokenizerKind::Char => Tokenizer::chars_of(&corpus.text)?,
    };
    let total = corpus.text.len();
    let mut encode_part = |range: Range<usize>| -> Result<Part> {
        let bytes = range.len() as u64;
        let tokens = encode(&tokenizer, corpus, range, &mut |done| {
            progress(Progress { stage: Stage::Encode, done: done as u64, total: total as u64 });
        })?;
        Ok(Part { tokens, bytes })
    };
    let parts = [encode_part(0..cut)?, encode_part(cut..total)?];
    progress(Progress { stage: Stage::Write, done: 0, total: total as u64 });
    let documents = corpus.document_ends.len() as u64;
    let draft = Draft { tokenizer: &tokenizer, source, documents, parts };
    let manifest = write_dataset(out, &draft, options.shard_tokens, options.force)?;
    progress(Progress { stage: Stage::Write, done: total as u64, total: total as u64 });
    Ok(manifest)
}

/// The byte at which the validation part starts.
fn split_point(text: &str, val_fraction: f64) -> Result<usize> {
    let chars = text.chars().count();
    let train_chars = ((1.0 - val_fraction) * chars as f64) as usize;
    let empty = |split: Split| Err(Error::EmptySplit { value: val_fraction, chars, split: split.name() });
    if train_chars == 0 {
        return empty(Split::Train);
    }
    match text.char_indices().nth(train_chars) {
        Some((byte, _)) => Ok(byte),
        None => empty(Split::Val),
    }
}

/// The tokens of a range of the text, with an end-of-text token wherever two documents meet within it.
fn encode(
    tokenizer: &Tokenizer,
    corpus: &Corpus,
    range: Range<usize>,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<u32>> {
    let mut tokens = Vec::with_capacity(range.len() / 3);
    let mut start = range.start;
    let borders = corpus.document_ends.iter().copied().filter(|&end| range.start < end && end < range.end);
    for end in borders.chain([range.end]) {
        if start > range.start {
            tokens.extend(tokenizer.end_of_text());
        }
        while start < end {
            let piece = next_piece(&corpus.text[start..end]);
            tokenizer.encode_into(piece, &mut tokens)?;
            start += piece.len();
            progress(start);
        }
    }
    Ok(tokens)
}

/// The next piece of about [`PIECE`] bytes that can be encoded by itself. It ends before a line break that follows a
/// letter, digit or mark: no token of ours has a line break behind anything but white space.
fn next_piece(text: &str) -> &str {
    let mut from = PIECE.min(text.len());
    while let Some(found) = text.as_bytes()[from..].iter().position(|&byte| byte == b'\n') {
        let cut = from + found;
        let before = text[..cut].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c.is_ascii_punctuation()) {
            return &text[..cut];
        }
        from = cut + 1;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_give_the_tokens_of_the_whole() {
        let lines =
            ["It's one line,\n\n", "  indented and two  \n", "\u{3000}\n wide \u{e9}\n", "x\r\n\t42 !\n"];
        let text: String = (0..250_000).map(|i| lines[i * i % 7 % lines.len()]).collect();
        assert!(text.len() > 2 * PIECE);
        let corpus = Corpus { document_ends: vec![text.len()], text };
        let tokenizer = Tokenizer::gpt2();
        let mut reports = Vec::new();
        let range = 0..corpus.text.len();
        let tokens = encode(&tokenizer, &corpus, range, &mut |done| reports.push(done)).unwrap();
        assert!(reports.len() > 1 && reports.last() == Some(&corpus.text.len()));
        assert_eq!(tokens, tokenizer.encode(&corpus.text).unwrap());
    }

    #[test]
    fn text_without_line_breaks_is_one_piece() {
        let text = "a ".repeat(PIECE);
        assert_eq!(next_piece(&text).len(), text.len());
    }
}
