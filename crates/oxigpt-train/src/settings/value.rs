//! What a setting may be: the few kinds of value, how each is read from TOML and from a flag, and how it is written.

use oxigpt_compute::{Gelu, Recompute};
use oxigpt_data::DataOrder;

/// What leaves a choice to the program.
const AUTO: &str = "auto";

/// The kind of value that a key takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A whole number, 0 or more.
    Integer,
    /// A whole number, or `auto`.
    Count,
    /// Any number.
    Float,
    /// Any text.
    Text,
    /// `true`, `false`, or the path of a file.
    File,
    /// One of these words.
    Choice(&'static [&'static str]),
}

impl Kind {
    /// Reads the text of a flag; `None` where it is not of this kind.
    pub fn parse(self, text: &str) -> Option<toml::Value> {
        match self {
            Self::Bool => match text {
                "true" | "True" => Some(true.into()),
                "false" | "False" => Some(false.into()),
                _ => None,
            },
            Self::Integer => text.replace('_', "").parse::<i64>().ok().map(Into::into),
            Self::Count if unquoted(text) == AUTO => Some(AUTO.into()),
            Self::Count => Self::Integer.parse(text),
            Self::Float => text.replace('_', "").parse::<f64>().ok().map(Into::into),
            Self::File => Self::Bool.parse(text).or_else(|| Self::Text.parse(text)),
            Self::Text | Self::Choice(_) => Some(unquoted(text).into()),
        }
    }

    /// What the kind expects, as the end of "must be ...".
    pub fn expected(self) -> String {
        match self {
            Self::Bool => "true or false".to_owned(),
            Self::Integer => "a whole number, 0 or more".to_owned(),
            Self::Count => "a whole number, or auto".to_owned(),
            Self::Float => "a number".to_owned(),
            Self::Text => "text".to_owned(),
            Self::File => "true, false, or the path of a file".to_owned(),
            Self::Choice(words) => format!("one of {}", words.join(", ")),
        }
    }
}

fn unquoted(text: &str) -> &str {
    ['"', '\''].iter().find_map(|&quote| text.strip_prefix(quote)?.strip_suffix(quote)).unwrap_or(text)
}

/// A value as it stands in a TOML file, on one line.
pub(super) fn toml_text(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => quoted(text),
        toml::Value::Float(number) => format!("{number:?}"),
        other => other.to_string(),
    }
}

fn quoted(text: &str) -> String {
    let escape = |c: char| match c {
        '\n' => "\\n".to_owned(),
        '\t' => "\\t".to_owned(),
        '"' | '\\' => format!("\\{c}"),
        c if c.is_control() => format!("\\u{:04x}", u32::from(c)),
        c => c.to_string(),
    };
    format!("\"{}\"", text.chars().map(escape).collect::<String>())
}

/// A field of the settings, seen without its type.
pub(super) trait Value {
    fn kind(&self) -> Kind;
    /// Takes the value over, or returns false where it is of another kind.
    fn assign(&mut self, value: &toml::Value) -> bool;
    fn to_toml(&self) -> toml::Value;
}

/// Stores what was read, and says whether there was something to store.
fn store<T>(slot: &mut T, read: Option<T>) -> bool {
    read.map(|value| *slot = value).is_some()
}

impl Value for bool {
    fn kind(&self) -> Kind {
        Kind::Bool
    }
    fn assign(&mut self, value: &toml::Value) -> bool {
        store(self, value.as_bool())
    }
    fn to_toml(&self) -> toml::Value {
        (*self).into()
    }
}

impl Value for f64 {
    fn kind(&self) -> Kind {
        Kind::Float
    }
    fn assign(&mut self, value: &toml::Value) -> bool {
        store(self, value.as_float().or_else(|| value.as_integer().map(|i| i as f64)))
    }
    fn to_toml(&self) -> toml::Value {
        (*self).into()
    }
}

impl Value for String {
    fn kind(&self) -> Kind {
        Kind::Text
    }
    fn assign(&mut self, value: &toml::Value) -> bool {
        store(self, value.as_str().map(str::to_owned))
    }
    fn to_toml(&self) -> toml::Value {
        self.as_str().into()
    }
}

/// Sequences in a micro-batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchSize {
    /// As many as fit: see [`fit`](crate::fit).
    Auto,
    /// So many.
    Rows(usize),
}

impl BatchSize {
    /// nanoGPT's.
    pub(super) const DEFAULT: usize = 12;

    /// How many; one at least, as long as that is not known.
    pub fn rows(self) -> usize {
        match self {
            Self::Auto => 1,
            Self::Rows(rows) => rows,
        }
    }
}

impl Value for BatchSize {
    fn kind(&self) -> Kind {
        Kind::Count
    }
    fn assign(&mut self, value: &toml::Value) -> bool {
        if value.as_str() == Some(AUTO) {
            *self = Self::Auto;
            return true;
        }
        let mut rows = 0;
        let known = rows.assign(value);
        store(self, known.then_some(Self::Rows(rows)))
    }
    fn to_toml(&self) -> toml::Value {
        match self {
            Self::Auto => AUTO.into(),
            Self::Rows(rows) => rows.to_toml(),
        }
    }
}

/// The file of a task that a run is measured by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum TaskFile {
    /// The task is not asked for.
    #[default]
    None,
    /// As it is published.
    Published,
    /// At a path.
    At(String),
}

impl Value for TaskFile {
    fn kind(&self) -> Kind {
        Kind::File
    }
    fn assign(&mut self, value: &toml::Value) -> bool {
        let read = match value {
            toml::Value::Boolean(asked) => Some(if *asked { Self::Published } else { Self::None }),
            toml::Value::String(path) if !path.is_empty() => Some(Self::At(path.clone())),
            _ => None,
        };
        store(self, read)
    }
    fn to_toml(&self) -> toml::Value {
        match self {
            Self::None => false.into(),
            Self::Published => true.into(),
            Self::At(path) => path.as_str().into(),
        }
    }
}

macro_rules! integer_value {
    ($($type:ty)+) => {$(
        impl Value for $type {
            fn kind(&self) -> Kind {
                Kind::Integer
            }
            fn assign(&mut self, value: &toml::Value) -> bool {
                store(self, value.as_integer().and_then(|i| i.try_into().ok()))
            }
            fn to_toml(&self) -> toml::Value {
                // TOML's integers end at i64::MAX, and so does everything that was read from one.
                i64::try_from(*self).unwrap_or(i64::MAX).into()
            }
        }
    )+};
}

integer_value! { usize u64 }

/// Nothing is `auto`: what suits the model and the device.
impl Value for Option<Recompute> {
    fn kind(&self) -> Kind {
        Kind::Choice(&[AUTO, "none", "gelu", "block"])
    }
    fn assign(&mut self, value: &toml::Value) -> bool {
        let read = match value.as_str() {
            Some(AUTO) => Some(None),
            Some("none") => Some(Some(Recompute::None)),
            Some("gelu") => Some(Some(Recompute::Gelu)),
            Some("block") => Some(Some(Recompute::Block)),
            _ => None,
        };
        store(self, read)
    }
    fn to_toml(&self) -> toml::Value {
        let word = match self {
            None => AUTO,
            Some(Recompute::None) => "none",
            Some(Recompute::Gelu) => "gelu",
            Some(Recompute::Block) => "block",
        };
        word.into()
    }
}

/// Makes the variants of an enum words in a recipe.
macro_rules! choice {
    ($type:ty { $($variant:ident = $word:literal,)+ }) => {
        impl Value for $type {
            fn kind(&self) -> Kind {
                Kind::Choice(&[$($word),+])
            }
            fn assign(&mut self, value: &toml::Value) -> bool {
                store(self, match value.as_str() { $(Some($word) => Some(Self::$variant),)+ _ => None })
            }
            fn to_toml(&self) -> toml::Value {
                match self { $(Self::$variant => $word.into(),)+ }
            }
        }
    };
}

choice! { Gelu { Tanh = "tanh", Erf = "erf", } }
choice! { DataOrder { Shuffled = "shuffled", Sequential = "sequential", Random = "random", } }
