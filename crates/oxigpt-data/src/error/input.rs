//! Text that cannot be read, each with its place.

use std::path::PathBuf;

use oxigpt_text::Error as TextError;

/// What is wrong with a gzip file that goes on behind its end.
pub(crate) const GARBAGE: &str = "something else follows its end";

/// An error about a text to prepare.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
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
    /// Parquet that comes through a pipe, in which there is no seeking.
    #[error("{path} is a pipe, and Parquet can only be read from a file")]
    PipedParquet {
        /// The input.
        path: PathBuf,
    },
    /// A text starts with the byte order mark of UTF-16.
    #[error("{path} is UTF-16 text, and UTF-8 is needed")]
    Utf16 {
        /// The input.
        path: PathBuf,
    },
    /// A file is known not to be text.
    #[error("{path} is not text: it is {format}")]
    OtherFormat {
        /// The input.
        path: PathBuf,
        /// What it is.
        format: &'static str,
    },
    /// A text holds nothing.
    #[error("{path} is empty")]
    EmptyInput {
        /// The input.
        path: PathBuf,
    },
    /// A text is not UTF-8.
    #[error("{path} is not UTF-8 text: byte {offset} (0x{byte:02x}), in line {line}, does not belong there")]
    NotUtf8 {
        /// The input.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
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
    /// A file is JSON, but not in lines.
    #[error("{path} is one JSON array, not a JSON object on each line")]
    JsonArray {
        /// The input.
        path: PathBuf,
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
    /// A Parquet column is compressed in a way that we cannot undo.
    #[error("{path}: column `{column}` is compressed with {codec}, which cannot be read")]
    Codec {
        /// The input.
        path: PathBuf,
        /// The column.
        column: String,
        /// With what.
        codec: &'static str,
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
}

impl InputError {
    /// One sentence that says what to do about it.
    pub fn hint(&self) -> Option<String> {
        use InputError as E;
        let hint = match self {
            E::NoInput => "name one or more text files with --input",
            E::MissingInput { .. } => "check the path",
            E::InputIsDirectory { .. } => "name the text files themselves, e.g. --input DIR/*.txt",
            E::InputNotFile { .. } => "save the text to a file first",
            E::PipedParquet { .. } => "save it to a file first",
            E::Utf16 { .. } => "convert it first: `iconv -f UTF-16 -t UTF-8 FILE > FILE.utf8`",
            E::OtherFormat { format: "Parquet", .. } => {
                "prepare it with `oxigpt prepare parquet`; to learn a tokenizer from it, name its --column"
            }
            E::OtherFormat { .. } => "turn it into text first; gzip and zstd alone are undone here",
            E::JsonArray { .. } => "make lines of it: `jq -c '.[]' FILE > FILE.jsonl`",
            E::Codec { .. } => "write the file again, compressed with zstd, snappy, gzip, lz4, or not at all",
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
            E::Compressed { problem, .. } if problem == GARBAGE => {
                "`gzip -dc FILE > TEXT` unpacks what comes before it"
            }
            E::Parquet { .. } | E::Compressed { .. } => {
                "the file was cut off or damaged; copy or fetch it again"
            }
            E::Unencodable { source, .. } => return source.hint(),
            E::DuplicateInput { .. } => "name each input once",
            E::EmptyFolder { .. } => "name the files themselves, or a pattern such as 'DIR/*'",
            E::NoMatch { .. } | E::Pattern { .. } => {
                "check the pattern; `*` is any part of a name, `**` any folders"
            }
        };
        Some(hint.to_owned())
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
