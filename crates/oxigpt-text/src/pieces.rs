//! GPT-2's pre-tokenizer: cuts a text into the pieces within which bytes may merge. Its definition is the pattern
//! `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`, matched here by hand in one pass.
//! The classes are those of Unicode 16, in a table made by `examples/make_tables.rs`.

use std::sync::LazyLock;

/// The runs of characters of one class: `first character << 2 | class`, little-endian u32, ascending.
static RUNS: &[u8] = include_bytes!("../assets/unicode_classes.bin");

/// The class of every character up to the last one that is not [`Class::Other`].
static CLASSES: LazyLock<Vec<Class>> = LazyLock::new(class_table);

/// The class of each ASCII character by its byte, for the loop in which most of the time is spent.
static ASCII: [Option<Class>; 256] = ascii_classes();

/// What the pattern tells apart.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(u8)]
pub(crate) enum Class {
    /// `\p{L}`
    Letter,
    /// `\p{N}`
    Number,
    /// `\s`
    Space,
    /// `[^\s\p{L}\p{N}]`
    Other,
}

fn class_table() -> Vec<Class> {
    let mut table = Vec::new();
    let mut current = Class::Other;
    for run in RUNS.chunks_exact(4) {
        let run = u32::from_le_bytes([run[0], run[1], run[2], run[3]]);
        table.resize((run >> 2) as usize, current);
        current = [Class::Letter, Class::Number, Class::Space, Class::Other][(run & 3) as usize];
    }
    table
}

const fn ascii_classes() -> [Option<Class>; 256] {
    let mut classes = [None; 256];
    let mut byte = 0;
    while byte < 128 {
        classes[byte] = Some(match byte as u8 {
            b'a'..=b'z' | b'A'..=b'Z' => Class::Letter,
            b'0'..=b'9' => Class::Number,
            b'\t'..=b'\r' | b' ' => Class::Space,
            _ => Class::Other,
        });
        byte += 1;
    }
    classes
}

/// The pieces of `text`, in order; joined, they are `text`.
pub(crate) fn pieces(text: &str) -> Pieces<'_> {
    Pieces { rest: text, classes: &CLASSES }
}

/// An iterator over the pieces of a text.
pub(crate) struct Pieces<'a> {
    rest: &'a str,
    classes: &'static [Class],
}

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a str;

    #[inline]
    fn next(&mut self) -> Option<&'a str> {
        if self.rest.is_empty() {
            return None;
        }
        let (piece, rest) = self.rest.split_at(self.piece_len());
        self.rest = rest;
        Some(piece)
    }
}

impl Pieces<'_> {
    /// The length in bytes of the first piece of the rest, which is not empty.
    fn piece_len(&self) -> usize {
        let bytes = self.rest.as_bytes();
        if let Some(len) = contraction_len(bytes) {
            return len;
        }
        let lead = usize::from(bytes[0] == b' ' && bytes.len() > 1);
        let (class, len) = self.class_at(lead);
        if class != Class::Space {
            return self.run_end(class, lead + len);
        }
        self.space_len()
    }

    /// A run of white space gives up its last character to the word after it, unless it would then be empty.
    fn space_len(&self) -> usize {
        let end = self.run_end(Class::Space, 0);
        let last = self.rest[..end].chars().next_back().map_or(0, char::len_utf8);
        if end == self.rest.len() || end == last { end } else { end - last }
    }

    /// Where the run of `class` that goes on at byte `at` ends.
    fn run_end(&self, class: Class, mut at: usize) -> usize {
        let bytes = self.rest.as_bytes();
        loop {
            while at < bytes.len() && ASCII[usize::from(bytes[at])] == Some(class) {
                at += 1;
            }
            if at == bytes.len() || bytes[at].is_ascii() {
                return at;
            }
            let (next, len) = self.class_at(at);
            if next != class {
                return at;
            }
            at += len;
        }
    }

    /// The class and length in bytes of the character that begins at byte `at`.
    #[inline]
    fn class_at(&self, at: usize) -> (Class, usize) {
        if let Some(class) = ASCII[usize::from(self.rest.as_bytes()[at])] {
            return (class, 1);
        }
        let c = self.rest[at..].chars().next().expect("a character begins at `at`");
        (self.classes.get(c as usize).copied().unwrap_or(Class::Other), c.len_utf8())
    }
}

/// The length of the contraction that `bytes` begins with, if any. Lower case only, as in GPT-2.
#[inline]
fn contraction_len(bytes: &[u8]) -> Option<usize> {
    match bytes {
        [b'\'', b's' | b't' | b'm' | b'd', ..] => Some(2),
        [b'\'', b'r' | b'v', b'e', ..] | [b'\'', b'l', b'l', ..] => Some(3),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use regex::Regex;

    fn split(text: &str) -> Vec<&str> {
        pieces(text).collect()
    }

    #[test]
    fn classes_are_those_of_the_pattern_for_every_character() {
        let classes = [(r"^\p{L}$", Class::Letter), (r"^\p{N}$", Class::Number), (r"^\s$", Class::Space)]
            .map(|(pattern, class)| (Regex::new(pattern).unwrap(), class));
        for c in '\0'..=char::MAX {
            let text = c.to_string();
            let expected = classes.iter().find(|(regex, _)| regex.is_match(&text));
            let got = Pieces { rest: &text, classes: &CLASSES }.class_at(0);
            assert_eq!(got, (expected.map_or(Class::Other, |&(_, class)| class), c.len_utf8()), "{c:?}");
        }
    }

    #[test]
    fn words_take_one_space() {
        assert_eq!(split("Hello  world 42nd!?"), ["Hello", " ", " world", " 42", "nd", "!?"]);
    }

    #[test]
    fn contractions_are_lower_case_and_need_the_plain_apostrophe_first() {
        assert_eq!(split("I'll they've 'S '''s"), ["I", "'ll", " they", "'ve", " '", "S", " '''", "s"]);
        assert_eq!(split("'r 'vex 'l"), ["'", "r", " '", "vex", " '", "l"]);
        assert_eq!(split("a 's"), ["a", " '", "s"]);
    }

    #[test]
    fn a_run_of_space_leaves_its_last_character_to_what_follows() {
        assert_eq!(split("a \n\n b"), ["a", " \n\n", " b"]);
        assert_eq!(split("a\n\nb"), ["a", "\n", "\n", "b"]);
        assert_eq!(split("a\u{3000}\u{3000}b\u{A0}"), ["a", "\u{3000}", "\u{3000}", "b", "\u{A0}"]);
        assert_eq!(split("a  "), ["a", "  "]);
        assert_eq!(split(" "), [" "]);
    }
}
