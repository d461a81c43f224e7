//! Files of one JSON object a line, and the values in them, with errors that say where they stand.

use std::path::{Path, PathBuf};

use fs_err as fs;
use serde_json::{Map, Value};

use super::TaskError;

/// A line of a file.
pub(super) struct Record {
    path: PathBuf,
    line: usize,
    values: Map<String, Value>,
}

/// The records of a file, at least one. Blank lines are passed over.
pub(super) fn read(path: &Path) -> Result<Vec<Record>, TaskError> {
    let bytes = fs::read(path)?;
    let bytes = bytes.strip_prefix("\u{FEFF}".as_bytes()).unwrap_or(&bytes);
    let lines = (1..).zip(bytes.split(|&byte| byte == b'\n'));
    let records: Result<Vec<_>, _> = lines
        .filter(|(_, bytes)| !bytes.trim_ascii().is_empty())
        .map(|(line, bytes)| Record::parse(path, line, bytes))
        .collect();
    let records = records?;
    if records.is_empty() {
        return Err(TaskError::Empty { path: path.into(), found: "no items" });
    }
    Ok(records)
}

impl Record {
    fn parse(path: &Path, line: usize, bytes: &[u8]) -> Result<Record, TaskError> {
        let text = std::str::from_utf8(bytes).map_err(|_| TaskError::NotUtf8 { path: path.into(), line })?;
        let values = serde_json::from_str(text).map_err(|error| TaskError::NotJson {
            path: path.into(),
            line,
            reason: reason(&error),
        })?;
        Ok(Record { path: path.into(), line, values })
    }

    /// A value that must be there.
    pub(super) fn value(&self, key: &'static str) -> Result<&Value, TaskError> {
        let missing = || TaskError::MissingKey { path: self.path.clone(), line: self.line, key };
        self.optional(key).ok_or_else(missing)
    }

    fn optional(&self, key: &str) -> Option<&Value> {
        self.values.get(key).filter(|value| !value.is_null())
    }

    /// A text that must be there, and have more than spaces.
    pub(super) fn text(&self, key: &'static str) -> Result<&str, TaskError> {
        const EXPECTED: &str = "a text";
        let value = self.value(key)?;
        let text = value.as_str().ok_or_else(|| self.unfit(key, kind(value), EXPECTED))?;
        if text.trim().is_empty() {
            return Err(self.unfit(key, "empty", EXPECTED));
        }
        Ok(text)
    }

    /// A text that may be empty, or not there.
    pub(super) fn optional_text(&self, key: &'static str) -> Result<Option<&str>, TaskError> {
        let Some(value) = self.optional(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.unfit(key, kind(value), "a text"))
    }

    /// An error about the value of a key.
    pub(super) fn unfit(
        &self,
        key: &'static str,
        found: impl Into<String>,
        expected: &'static str,
    ) -> TaskError {
        TaskError::Value { path: self.path.clone(), line: self.line, key, found: found.into(), expected }
    }
}

/// What kind of value stands where another was expected.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// What the parser says, with a place that counts columns only: it saw one line.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.replace(" at line 1 column ", " at column ")
}
