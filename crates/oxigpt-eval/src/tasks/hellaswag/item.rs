//! The items of a `hellaswag_*.jsonl`.

use std::path::Path;

use serde_json::Value;

use crate::tasks::TaskError;
use crate::tasks::records::{self, Record, kind};

/// A text and four endings, one of which is its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The text.
    pub ctx: String,
    /// How it might end.
    pub endings: [String; 4],
    /// Which of these is right, from 0.
    pub label: usize,
    /// What the text is about.
    pub activity_label: Option<String>,
    /// The text up to where the last sentence begins.
    pub ctx_a: Option<String>,
    /// The begin of the last sentence; may be empty.
    pub ctx_b: Option<String>,
}

/// The items of a file as it is published: JSON lines with `ctx`, `endings` and `label`, and for
/// [`Protocol::LmEval`](super::Protocol) `activity_label`, `ctx_a` and `ctx_b`.
///
/// # Errors
/// If the file cannot be read, has no items, or has lines that are none. An ending without text is no ending: the
/// published files have none, and one definition would divide by its length.
pub fn read(path: &Path) -> Result<Vec<Item>, TaskError> {
    records::read(path)?.iter().map(item).collect()
}

fn item(record: &Record) -> Result<Item, TaskError> {
    let optional = |key| Ok::<_, TaskError>(record.optional_text(key)?.map(str::to_owned));
    Ok(Item {
        ctx: record.text("ctx")?.to_owned(),
        endings: endings(record)?,
        label: label(record)?,
        activity_label: optional("activity_label")?,
        ctx_a: optional("ctx_a")?,
        ctx_b: optional("ctx_b")?,
    })
}

fn endings(record: &Record) -> Result<[String; 4], TaskError> {
    const EXPECTED: &str = "a list of 4 texts";
    let unfit = |found: String| record.unfit("endings", found, EXPECTED);
    let value = record.value("endings")?;
    let list = value.as_array().ok_or_else(|| unfit(kind(value).to_owned()))?;
    let text = |value: &Value| {
        let text = value.as_str().ok_or_else(|| unfit(format!("a list with {}", kind(value))))?;
        if text.trim().is_empty() {
            return Err(unfit("a list with an empty text".to_owned()));
        }
        Ok(text.to_owned())
    };
    let texts = list.iter().map(text).collect::<Result<Vec<_>, TaskError>>()?;
    texts.try_into().map_err(|texts: Vec<_>| unfit(format!("a list of {}", texts.len())))
}

/// A number, or the digits of one: both are published.
fn label(record: &Record) -> Result<usize, TaskError> {
    let value = record.value("label")?;
    let number = value.as_u64().or_else(|| value.as_str()?.parse().ok());
    let label = number.and_then(|number| usize::try_from(number).ok()).filter(|&label| label < 4);
    label.ok_or_else(|| record.unfit("label", value.to_string(), "a number from 0 to 3"))
}
