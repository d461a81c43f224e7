//! What one worker takes at a time: about a mebibyte of the inputs, as it stands in the file. Only what must happen in
//! order has happened to it: reading, decompressing, cutting. Turning it into documents is the worker's part.

use std::path::Path;
use std::sync::Arc;

use parquet::data_type::ByteArray;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::source::Format;
use crate::dataset::Split;
use crate::error::{InputError, Result};

/// Bytes of text that a block holds, unless a document needs more.
pub(crate) const PIECE: usize = 1 << 20;

/// What some editors put before a text in UTF-8.
pub(crate) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A place between two blocks. Going on from it gives the same blocks as never having stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// Index of the input.
    pub(crate) input: usize,
    /// Bytes of its text, or rows of it, that are done.
    pub(crate) offset: u64,
    /// Lines of it that are done, where it is text.
    pub(crate) lines: u64,
    /// Characters of all inputs that are done, where they are counted.
    pub(crate) chars: u64,
    /// Where the document goes that it is in the middle of.
    pub(crate) split: Option<Split>,
}

/// Some documents of an input, or a piece of one.
pub(crate) struct Block {
    /// The input, as errors call it.
    pub(crate) path: Arc<Path>,
    pub(crate) content: Content,
    /// Where the next block begins.
    pub(crate) next: Position,
    /// Bytes of the input's file that have been read until there.
    pub(crate) read: u64,
}

/// The content of a block.
pub(crate) enum Content {
    /// A piece of a text that is one document, and where it begins.
    Piece { bytes: Vec<u8>, before: Position, starts: bool, ends: bool, split: Option<Split> },
    /// Whole lines, each a JSON object; how many came before.
    Lines { bytes: Vec<u8>, lines_before: u64 },
    /// Values of a Parquet column; the number of rows before the first.
    Rows { values: Vec<Option<ByteArray>>, rows_before: u64 },
}

/// Line ends in a piece of text.
pub(crate) fn count_lines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|&&byte| byte == b'\n').count() as u64
}

/// A document, or a piece of one.
pub(crate) struct Document<'a> {
    pub(crate) text: &'a str,
    /// Whether it is the first piece of its document.
    pub(crate) starts: bool,
    /// Whether it is the last.
    pub(crate) ends: bool,
    /// Where it goes, if that is known.
    pub(crate) split: Option<Split>,
}

impl Document<'_> {
    fn whole(text: &str) -> Document<'_> {
        Document { text, starts: true, ends: true, split: None }
    }
}

impl Block {
    /// Shows every document in order, with the words that say where it is.
    pub(crate) fn documents(
        &self,
        format: &Format,
        visit: &mut dyn FnMut(Document<'_>) -> Result<()>,
    ) -> Result<()> {
        match (&self.content, format) {
            (Content::Lines { bytes, lines_before }, Format::Jsonl { field }) => {
                self.lines(bytes, *lines_before, field, visit)
            }
            (Content::Rows { values, rows_before }, Format::Parquet { column }) => {
                for (value, row) in values.iter().zip(rows_before + 1..) {
                    let bytes = value.as_ref().map_or(&[][..], ByteArray::data);
                    let text = str::from_utf8(bytes).map_err(|_| InputError::RowNotUtf8 {
                        path: self.path.to_path_buf(),
                        row,
                        column: column.clone(),
                    })?;
                    visit(Document::whole(text)).map_err(|error| error.at(&self.path, "row", row))?;
                }
                Ok(())
            }
            (Content::Piece { bytes, before, starts, ends, split }, _) => {
                let Position { offset, lines, .. } = before;
                let text = str::from_utf8(bytes).map_err(|error| InputError::NotUtf8 {
                    path: self.path.to_path_buf(),
                    offset: offset + error.valid_up_to() as u64,
                    line: 1 + lines + count_lines(&bytes[..error.valid_up_to()]),
                    byte: bytes[error.valid_up_to()],
                })?;
                visit(Document { text, starts: *starts, ends: *ends, split: *split })
                    .map_err(|error| error.at(&self.path, "byte", *offset))
            }
            _ => Ok(()),
        }
    }

    fn lines(
        &self,
        bytes: &[u8],
        lines_before: u64,
        field: &str,
        visit: &mut dyn FnMut(Document<'_>) -> Result<()>,
    ) -> Result<()> {
        let bytes =
            if lines_before == 0 { bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes) } else { bytes };
        for (line_bytes, line) in bytes.split(|&byte| byte == b'\n').zip(lines_before + 1..) {
            let path = || self.path.to_path_buf();
            let text = str::from_utf8(line_bytes).map_err(|error| InputError::LineNotUtf8 {
                path: path(),
                line,
                column: error.valid_up_to() + 1,
                byte: line_bytes[error.valid_up_to()],
            })?;
            if text.trim_ascii().is_empty() {
                continue;
            }
            let mut json = serde_json::Deserializer::from_str(text);
            let found = FieldOf(field).deserialize(&mut json).and_then(|found| json.end().map(|()| found));
            match found {
                Ok(Found::Text(text)) => {
                    visit(Document::whole(&text)).map_err(|error| error.at(&self.path, "line", line))?;
                }
                Ok(Found::Null) => visit(Document::whole(""))?,
                Ok(Found::Missing(found)) => {
                    return Err(
                        InputError::MissingField { path: path(), line, field: field.into(), found }.into()
                    );
                }
                Err(error) => {
                    let words = error.to_string();
                    let problem = words.split(" at line ").next().unwrap_or_default().to_string();
                    return Err(
                        InputError::Json { path: path(), line, column: error.column(), problem }.into()
                    );
                }
            }
        }
        Ok(())
    }
}

/// What an object has under a name.
enum Found {
    Text(String),
    Null,
    /// Nothing; the names that it does have.
    Missing(Vec<String>),
}

/// Reads one field of a JSON object and passes over the others.
struct FieldOf<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for FieldOf<'_> {
    type Value = Found;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Found, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for FieldOf<'_> {
    type Value = Found;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "an object with a string in its field `{}`", self.0)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Found, A::Error> {
        let (mut found, mut names) = (None, Vec::new());
        while let Some(name) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            if name == self.0 {
                found = Some(map.next_value::<Option<String>>()?);
            } else {
                map.next_value::<IgnoredAny>()?;
                if found.is_none() {
                    names.push(name.into_owned());
                }
            }
        }
        Ok(match found {
            Some(Some(text)) => Found::Text(text),
            Some(None) => Found::Null,
            None => Found::Missing(names),
        })
    }
}
