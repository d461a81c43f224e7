//! What can be wrong with a configuration, and what to do about it.

use std::fmt;
use std::io;

use super::{KEYS, Kind, Settings, nearest};

/// Where a setting was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A flag.
    CommandLine,
    /// A line of a recipe, built in or the user's.
    File {
        /// Its path, or the name of the recipe.
        name: String,
        /// Counted from 1.
        line: usize,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommandLine => write!(f, "command line"),
            Self::File { name, line } => write!(f, "{name}:{line}"),
        }
    }
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A file that cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A file that is not flat TOML.
    #[error("{at}: not a recipe: {message}")]
    Syntax {
        /// Where.
        at: Origin,
        /// What is wrong there.
        message: String,
    },
    /// A key that does not exist.
    #[error("{at}: unknown key `{key}`")]
    UnknownKey {
        /// As written.
        key: String,
        /// Where.
        at: Origin,
    },
    /// A value of another kind than the key takes.
    #[error("{at}: `{key}` must be {expected}, not {value}", expected = kind.expected())]
    BadValue {
        /// The key.
        key: String,
        /// What it takes.
        kind: Kind,
        /// What was given.
        value: String,
        /// Where.
        at: Origin,
    },
    /// A value that no run can have, alone or beside the others.
    #[error("{message}")]
    Impossible {
        /// What is wrong, with the numbers.
        message: String,
        /// What would be right.
        hint: String,
    },
    /// A value that names something not yet built.
    #[error("`{key}` = \"{value}\" is not available yet in this version")]
    NotAvailable {
        /// The key.
        key: &'static str,
        /// What was asked for.
        value: String,
        /// What there is.
        available: &'static str,
    },
}

/// Keys of other programs, and what to do with them here.
const FOREIGN_KEYS: &[(&str, &str)] = &[
    ("compile", "leave it out: there is nothing to compile"),
    ("backend", "leave it out: there is no process group to choose"),
    ("wandb_log", "leave it out: every run writes its metrics to metrics.jsonl"),
    ("wandb_project", "leave it out: every run writes its metrics to metrics.jsonl"),
    ("wandb_run_name", "name the run by its directory, with --out_dir=out/NAME"),
    ("lr", "the highest learning rate is `learning_rate`"),
    ("max_steps", "the number of steps is `max_iters`"),
];

impl SettingsError {
    pub(super) fn unknown_key(key: &str, at: &Origin) -> Self {
        Self::UnknownKey { key: key.to_owned(), at: at.clone() }
    }

    pub(super) fn bad_value(key: &str, kind: Kind, value: &str, at: &Origin) -> Self {
        Self::BadValue { key: key.to_owned(), kind, value: value.to_owned(), at: at.clone() }
    }

    /// What to do about it: one sentence.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Io(error) if error.kind() == io::ErrorKind::NotFound => {
                Some("check the path; `oxigpt recipes` lists what is built in".to_owned())
            }
            Self::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
                Some("a recipe is TOML, which is text in UTF-8".to_owned())
            }
            Self::Io(error) if error.kind() == io::ErrorKind::IsADirectory => {
                Some("name the file of settings in it".to_owned())
            }
            Self::Io(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Some("check the permissions of the file".to_owned())
            }
            Self::Io(_) => None,
            Self::Syntax { .. } => Some(
                "a recipe has lines such as `n_layer = 12`, `bias = true` and `dataset = \"stories\"`".into(),
            ),
            Self::UnknownKey { key, .. } => Some(advice_on_unknown(key)),
            Self::BadValue { kind: Kind::Integer | Kind::Count, value, .. }
                if value.len() > 18 && value.bytes().all(|b| b.is_ascii_digit() || b == b'_') =>
            {
                Some(format!("the largest number is {}", i64::MAX))
            }
            Self::BadValue { key, .. } => {
                let example = Settings::default().text_of(key)?;
                Some(format!("for example `{key} = {example}`, the default"))
            }
            Self::Impossible { hint, .. } => Some(hint.clone()),
            Self::NotAvailable { key, available, .. } => Some(format!("use `{key} = \"{available}\"`")),
        }
    }
}

/// The error for values that no run can have.
pub(super) fn impossible(message: String, hint: &str) -> SettingsError {
    SettingsError::Impossible { message, hint: hint.to_owned() }
}

fn advice_on_unknown(key: &str) -> String {
    if let Some((_, advice)) = FOREIGN_KEYS.iter().find(|(foreign, _)| *foreign == key) {
        return (*advice).to_owned();
    }
    match nearest(key, KEYS.iter().map(|key| key.name)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "`oxigpt train --help` lists every key".to_owned(),
    }
}
