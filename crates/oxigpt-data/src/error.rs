//! Everything that can go wrong with data on disk or text to be prepared, with what was found, what was expected,
//! and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use oxigpt_text::Error as TextError;

use crate::prepare::FetchError;

/// What the functions of this crate return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error about a shard, a dataset, a batch or a text to prepare.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused; the message names the path.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A tokenizer could not be built, or not encode the text.
    #[error(transparent)]
    Text(#[from] TextError),

    /// A file is neither of the three shard layouts.
    #[error("{path} is not a token shard: it starts with neither an llm.c header nor a NumPy one")]
    UnknownShard {
        /// The file.
        path: PathBuf,
    },
    /// The magic number is known, the version is not.
    #[error("{path} has shard version {found}, expected {expected}")]
    ShardVersion {
        /// The file.
        path: PathBuf,
        /// The version in its header.
        found: i32,
        /// The version that goes with its magic number.
        expected: i32,
    },
    /// The file is shorter or longer than its header says.
    #[error("{path} is {found} bytes long, but its header promises {expected}")]
    ShardLength {
        /// The file.
        path: PathBuf,
        /// Bytes that the header promises, itself included.
        expected: u64,
        /// Bytes that are there.
        found: u64,
    },
    /// A headerless file of 2-byte tokens has an odd number of bytes.
    #[error("{path} holds 2-byte tokens, but its length of {bytes} bytes is odd")]
    OddLength {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
    },
    /// Something else than a file stands where a shard was expected.
    #[error("{path} is {found}, but a token shard is a file")]
    ShardNotFile {
        /// What was to be opened.
        path: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// A shard that `dataset.json` lists is not there.
    #[error("there is no file {path}, although dataset.json lists it")]
    MissingShard {
        /// The shard.
        path: PathBuf,
    },
    /// There is no token in the file.
    #[error("{path} holds no tokens")]
    EmptyShard {
        /// The file.
        path: PathBuf,
    },
    /// The NumPy header cannot be used.
    #[error("{path} is not a usable NumPy shard: {problem}")]
    Npy {
        /// The file.
        path: PathBuf,
        /// What is wrong with its header.
        problem: String,
    },
    /// A token does not exist in the vocabulary.
    #[error("{path}: token {token} at position {position} is not in the vocabulary of {vocab_size}")]
    TokenOutOfVocab {
        /// The shard.
        path: PathBuf,
        /// Index of the first such token in the shard.
        position: u64,
        /// The token.
        token: u32,
        /// The number of tokens that there are.
        vocab_size: usize,
    },
    /// The content is not what was written.
    #[error("{path} is damaged: its SHA-256 is {found}, but dataset.json says {expected}")]
    Checksum {
        /// The shard.
        path: PathBuf,
        /// The recorded checksum.
        expected: String,
        /// The checksum of what is there.
        found: String,
    },

    /// There is no such directory.
    #[error("there is no dataset at {dir}")]
    NoSuchDataset {
        /// The directory that was asked for.
        dir: PathBuf,
    },
    /// A file stands where a data directory was expected.
    #[error("{path} is a file, but a dataset is a directory")]
    DatasetIsFile {
        /// The file.
        path: PathBuf,
    },
    /// The directory holds nothing that looks like token shards.
    #[error("{dir} holds no dataset: neither dataset.json nor train/val shards (.bin or .npy)")]
    NoShards {
        /// The directory.
        dir: PathBuf,
    },
    /// A preparation died half-way, or is half-way.
    #[error("{dir} holds a dataset whose preparation was interrupted or is still running")]
    Incomplete {
        /// The directory.
        dir: PathBuf,
    },
    /// The names in the directory do not say which shard belongs where.
    #[error("{dir} is ambiguous: {problem}")]
    Ambiguous {
        /// The directory.
        dir: PathBuf,
        /// Why.
        problem: String,
    },
    /// `dataset.json` cannot be used.
    #[error("{path}: {problem}")]
    Manifest {
        /// The `dataset.json`.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The tokenizer beside the shards is not the one that made them.
    #[error("{dir}: the tokens were made with tokenizer {expected}, but {found}")]
    TokenizerMismatch {
        /// The data directory.
        dir: PathBuf,
        /// Name and hash in `dataset.json`.
        expected: String,
        /// What was found instead.
        found: String,
    },

    /// The tokenizer files beside the shards cannot be used.
    #[error("the tokenizer in {dir} cannot be read: {source}")]
    Tokenizer {
        /// The data directory.
        dir: PathBuf,
        /// Which file, and why.
        source: TextError,
    },

    /// nanoGPT's `meta.pkl` is no pickle, or one of more than plain data.
    #[error("{path}: {source}")]
    Pickle {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: oxigpt_pickle::Error,
    },
    /// nanoGPT's `meta.pkl` does not describe a character tokenizer.
    #[error("{path} does not describe one token per character: {problem}")]
    Meta {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },

    /// The corpus does not hold a single window.
    #[error(
        "{corpus} is too short: it holds {}, and one window of block_size {block_size} needs {needed}",
        tokens(*found)
    )]
    TooShort {
        /// Which tokens: directory and split.
        corpus: String,
        /// Tokens in it.
        found: u64,
        /// Tokens that are needed, `block_size + 1`.
        needed: u64,
        /// The length of a window.
        block_size: usize,
    },
    /// A window of no tokens was asked for.
    #[error("block_size must be at least 1")]
    ZeroBlock,
    /// The evaluation is limited to less than one window.
    #[error("an evaluation of {} does not hold one window of block_size {block_size}", tokens(*max_tokens))]
    EvalTooShort {
        /// The limit.
        max_tokens: u64,
        /// The length of a window.
        block_size: usize,
    },
    /// `data_order` is none of the three.
    #[error("unknown data_order `{found}`")]
    UnknownOrder {
        /// What was given.
        found: String,
    },
    /// The tokenizer's name is none of those that `prepare` knows.
    #[error("unknown tokenizer `{found}`")]
    UnknownTokenizer {
        /// What was given.
        found: String,
    },

    /// There are no tokenizer files.
    #[error("there is no tokenizer in {path}")]
    NoTokenizer {
        /// A folder or a file.
        path: PathBuf,
    },

    /// No text was given.
    #[error("no input file was given")]
    NoInput,
    /// There is no such text.
    #[error("there is no file {path}")]
    MissingInput {
        /// The input.
        path: PathBuf,
    },
    /// A directory was given where a text is needed.
    #[error("{path} is a directory, not a text file")]
    InputIsDirectory {
        /// The input.
        path: PathBuf,
    },
    /// A device or a socket was given where a text is needed.
    #[error("{path} is neither a file nor a pipe")]
    InputNotFile {
        /// The input.
        path: PathBuf,
    },
    /// A text starts with the byte order mark of UTF-16.
    #[error("{path} is UTF-16 text, and UTF-8 is needed")]
    Utf16 {
        /// The input.
        path: PathBuf,
    },
    /// A text holds nothing.
    #[error("{path} is empty")]
    EmptyInput {
        /// The input.
        path: PathBuf,
    },
    /// A text is not UTF-8.
    #[error("{path} is not UTF-8 text: byte {offset} (0x{byte:02x}) does not belong there")]
    NotUtf8 {
        /// The input.
        path: PathBuf,
        /// Offset of the first byte that does not belong.
        offset: u64,
        /// That byte.
        byte: u8,
    },
    /// A line is not UTF-8.
    #[error("{path}, line {line}: byte {column} (0x{byte:02x}) is not UTF-8")]
    LineNotUtf8 {
        /// The input.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// The first byte of it that does not belong, from 1.
        column: usize,
        /// That byte.
        byte: u8,
    },
    /// A value of a Parquet column is not UTF-8.
    #[error("{path}, row {row}: column `{column}` is not UTF-8 text")]
    RowNotUtf8 {
        /// The input.
        path: PathBuf,
        /// The row, from 1.
        row: u64,
        /// The column.
        column: String,
    },
    /// A line is longer than we hold in memory.
    #[error("{path}, line {line} is longer than 1 GiB")]
    LongLine {
        /// The input.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
    },
    /// A line is not a JSON object with a string in the field.
    #[error("{path}, line {line}, column {column}: {problem}")]
    Json {
        /// The input.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// The column, from 1.
        column: usize,
        /// What is wrong.
        problem: String,
    },
    /// A JSON object lacks the field.
    #[error("{path}, line {line}: there is no field `{field}`; there is {}", list(found))]
    MissingField {
        /// The input.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// The field.
        field: String,
        /// The fields that there are.
        found: Vec<String>,
    },
    /// A Parquet file cannot be read.
    #[error("{path}{} cannot be read as Parquet: {problem}", in_group(*group))]
    Parquet {
        /// The input.
        path: PathBuf,
        /// The row group, from 0, where it is known.
        group: Option<usize>,
        /// What is wrong.
        problem: String,
    },
    /// A Parquet file lacks the column.
    #[error("{path} has no column `{column}`; it has {}", list(found))]
    MissingColumn {
        /// The input.
        path: PathBuf,
        /// The column.
        column: String,
        /// The columns that it has.
        found: Vec<String>,
    },
    /// A Parquet column holds no text.
    #[error("{path}: column `{column}` holds {found}, not text")]
    ColumnType {
        /// The input.
        path: PathBuf,
        /// The column.
        column: String,
        /// What it holds.
        found: String,
    },
    /// Compressed text cannot be decompressed.
    #[error("{path} cannot be decompressed as {kind}: {problem}")]
    Compressed {
        /// The input.
        path: PathBuf,
        /// `gzip` or `zstd`.
        kind: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// The tokenizer cannot encode a document.
    #[error("{path}, {unit} {number}: {source}")]
    Unencodable {
        /// The input.
        path: PathBuf,
        /// `line`, `row` or `byte`.
        unit: &'static str,
        /// Which of them.
        number: u64,
        /// Why.
        source: TextError,
    },
    /// An input could not be fetched.
    #[error("{0}")]
    Fetch(#[source] FetchError),
    /// An input was named twice.
    #[error("{path} is given twice")]
    DuplicateInput {
        /// The input.
        path: PathBuf,
    },
    /// A folder holds no file of the kind.
    #[error("there is no {wanted} file in {path}")]
    EmptyFolder {
        /// The folder.
        path: PathBuf,
        /// Endings of names.
        wanted: String,
    },
    /// No file has such a name.
    #[error("no file matches {pattern}")]
    NoMatch {
        /// The pattern.
        pattern: String,
    },
    /// A pattern cannot be understood.
    #[error("{pattern} is no pattern of names: {problem}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// Why.
        problem: String,
    },
    /// What has been begun in the directory is something else.
    #[error("{dir} holds a preparation that was interrupted, of other inputs or with other options")]
    OtherPreparation {
        /// The output directory.
        dir: PathBuf,
    },
    /// What has been begun cannot be gone on with.
    #[error("{name} has changed since it was used for this preparation")]
    InputChanged {
        /// The input.
        name: String,
    },
    /// Whoever watches asked to stop.
    #[error("interrupted; what is done is kept")]
    Interrupted,
    /// All text went to one side.
    #[error("there is nothing for the {split} split")]
    NothingFor {
        /// `train` or `val`.
        split: &'static str,
    },
    /// Documents cannot be cut at the tail of all.
    #[error("only plain text can be cut at its end; records are chosen whole")]
    TailOfRecords,
    /// A shard of no tokens, or of too many.
    #[error("a shard of {found} tokens is impossible")]
    ShardTokens {
        /// What was given.
        found: usize,
    },
    /// The place of the end-of-text token is none of the four.
    #[error("unknown place `{found}` for the end-of-text token")]
    UnknownEndOfText {
        /// What was given.
        found: String,
    },
    /// The output directory holds a dataset already.
    #[error("{dir} already holds a dataset ({found})")]
    OutputExists {
        /// The output directory.
        dir: PathBuf,
        /// The file that shows it.
        found: String,
    },
    /// A file stands where one is to be written.
    #[error("{path} already exists and would be overwritten")]
    OutputFileExists {
        /// The file.
        path: PathBuf,
    },
    /// Somebody else writes a dataset into the same directory.
    #[error("another process is preparing a dataset in {dir}")]
    Busy {
        /// The output directory.
        dir: PathBuf,
    },
    /// The output directory's name is taken by a file.
    #[error("{path} is a file; a dataset needs a directory")]
    OutputIsFile {
        /// The output.
        path: PathBuf,
    },
    /// The validation part is no fraction.
    #[error("val_fraction is {value:?}, but must lie between 0 and 1, both excluded")]
    ValFraction {
        /// What was given.
        value: f64,
    },
    /// One of the two parts is empty.
    #[error("val_fraction {value:?} of {chars} characters leaves the {split} split empty")]
    EmptySplit {
        /// The fraction.
        value: f64,
        /// Characters in all inputs.
        chars: u64,
        /// `train` or `val`.
        split: &'static str,
    },
}

impl Error {
    /// One sentence that says what to do about it.
    pub fn hint(&self) -> Option<String> {
        use Error as E;
        let hint = match self {
            E::Io(error) => return io_hint(error),
            E::Text(error) | E::Tokenizer { source: error, .. } => return error.hint(),
            E::Pickle { source, .. } => return source.hint(),
            E::Meta { .. } => {
                "write it again with nanoGPT's prepare.py, or remove it and set vocab_size yourself"
            }
            E::UnknownShard { .. } => {
                "headerless token files must be named train.bin or val.bin; for text, run `oxigpt prepare text`"
            }
            E::ShardVersion { .. } => "write the shard again with a tool of this version's layout",
            E::ShardLength { .. } | E::OddLength { .. } | E::EmptyShard { .. } | E::Checksum { .. } => {
                "the file was cut off or damaged; copy or prepare it again"
            }
            E::ShardNotFile { .. } => {
                "move it out of the data directory, or give the directory that holds the shards"
            }
            E::MissingShard { .. } => {
                "copy it from where the dataset came from, or prepare the dataset again"
            }
            E::Npy { .. } => "save a flat array: `np.save(path, np.array(tokens, dtype=np.uint16))`",
            E::TokenOutOfVocab { .. } => {
                "the shards were made with another tokenizer; set vocab_size to match it, or prepare the text again"
            }
            E::NoSuchDataset { .. } => {
                "give the path of a data directory, or its name under data/; `oxigpt prepare` makes one"
            }
            E::DatasetIsFile { .. } => "give the directory that holds the shards",
            E::NoShards { .. } => "`oxigpt prepare text --input FILE --out DIR` makes a dataset from text",
            E::Incomplete { .. } => {
                "let it end if it is running, or run the same `oxigpt prepare` command again: it goes on where it stopped"
            }
            E::Ambiguous { .. } => {
                "keep one kind of shard per directory, each with either `train` or `val` in its name"
            }
            E::Manifest { .. } => "prepare the dataset again with `oxigpt prepare`",
            E::TokenizerMismatch { .. } => {
                "put the tokenizer files that the dataset was made with back, or prepare it again"
            }
            E::TooShort { .. } => "use more text, or a smaller block_size",
            E::ZeroBlock => "set block_size to the number of tokens that the model shall see at once",
            E::EvalTooShort { .. } => "raise the number of tokens to evaluate, or lower block_size",
            E::UnknownOrder { .. } => "use one of: shuffled, sequential, random",
            E::UnknownTokenizer { .. } => {
                "use one of: gpt2, char, byte, or the path of a tokenizer.json or of its folder"
            }
            E::NoTokenizer { .. } => "name a tokenizer.json, or a folder that holds one",
            E::NoInput => "name one or more text files with --input",
            E::MissingInput { .. } => "check the path",
            E::InputIsDirectory { .. } => "name the text files themselves, e.g. --input DIR/*.txt",
            E::InputNotFile { .. } => "save the text to a file first",
            E::Utf16 { .. } => "convert it first: `iconv -f UTF-16 -t UTF-8 FILE > FILE.utf8`",
            E::EmptyInput { .. } => "leave it out, or check that it was saved",
            E::NotUtf8 { .. } => {
                "convert it first, e.g. `iconv -f LATIN1 -t UTF-8 FILE > FILE.utf8`, or check that it is text at all"
            }
            E::LineNotUtf8 { .. } | E::RowNotUtf8 { .. } => {
                "repair it or remove it, then run the same command again"
            }
            E::LongLine { .. } => "put each document on a line of its own, as JSON Lines",
            E::Json { .. } => {
                "each line must be one JSON object; repair it or remove it, then run the same command again"
            }
            E::MissingField { .. } => "name the field that holds the text with --field",
            E::MissingColumn { .. } | E::ColumnType { .. } => {
                "name the column that holds the text with --column"
            }
            E::Parquet { .. } | E::Compressed { .. } => {
                "the file was cut off or damaged; copy or fetch it again"
            }
            E::Unencodable { source, .. } => return source.hint(),
            E::Fetch(_) => return None,
            E::DuplicateInput { .. } => "name each input once",
            E::EmptyFolder { .. } => "name the files themselves, or a pattern such as 'DIR/*'",
            E::NoMatch { .. } | E::Pattern { .. } => {
                "check the pattern; `*` is any part of a name, `**` any folders"
            }
            E::OtherPreparation { .. } => {
                "repeat the command that began it to go on with it, or begin anew with --force"
            }
            E::InputChanged { .. } => "put the file back as it was, or begin anew with --force",
            E::Interrupted => "run the same command again to go on",
            E::NothingFor { .. } => "use more text, a larger val_fraction, or smaller shards",
            E::TailOfRecords => "use val_fraction with a seed, or the first shard",
            E::ShardTokens { .. } => "use a number from 1 to 2147483647, such as 100000000",
            E::UnknownEndOfText { .. } => "use one of: before, after, between, none",
            E::OutputExists { .. } => "choose another directory, or replace the dataset with --force",
            E::OutputFileExists { .. } => {
                "choose another directory with --out, or overwrite the file with --force"
            }
            E::Busy { .. } => "let it end, or choose another directory",
            E::OutputIsFile { .. } => "choose another output directory",
            E::ValFraction { .. } => "use 0.1 to keep a tenth for validation",
            E::EmptySplit { .. } => "use more text, or another val_fraction",
        };
        Some(hint.to_string())
    }
}

impl Error {
    /// The error with the place of the document that it is about.
    pub(crate) fn at(self, path: &Path, unit: &'static str, number: u64) -> Error {
        match self {
            Error::Text(source) => Error::Unencodable { path: path.into(), unit, number, source },
            other => other,
        }
    }
}

/// Names in words; a long list is cut off.
fn list(names: &[String]) -> String {
    let shown: Vec<String> = names.iter().take(20).map(|name| format!("`{name}`")).collect();
    match names.len() {
        0 => "nothing".into(),
        21.. => format!("{}, and {} more", shown.join(", "), names.len() - 20),
        _ => shown.join(", "),
    }
}

fn in_group(group: Option<usize>) -> String {
    group.map_or(String::new(), |group| format!(", row group {group},"))
}

/// A number of tokens in words.
pub(crate) fn tokens(count: u64) -> String {
    if count == 1 { "1 token".into() } else { format!("{count} tokens") }
}

fn io_hint(error: &io::Error) -> Option<String> {
    let hint = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            "free some disk space, or choose another disk; nothing half-written will be taken for whole"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "check the permissions of the file and of its directory"
        }
        io::ErrorKind::NotFound => "check the path",
        io::ErrorKind::IsADirectory => "a file belongs there: move the directory away",
        _ => return None,
    };
    Some(hint.to_string())
}
