//! The character tokenizer: the vocabulary is a list of characters, and a character's place in it is its id.

use rustc_hash::{FxHashMap, FxHashSet};

use crate::Error;

/// A tokenizer of one token per Unicode character of a fixed set.
#[derive(Clone, Debug)]
pub struct CharTokenizer {
    tokens: Vec<char>,
    ids: FxHashMap<char, u32>,
}

impl CharTokenizer {
    /// A tokenizer whose token `i` is `tokens[i]`. The list must not be empty nor hold a character twice.
    pub fn new(tokens: Vec<char>) -> Result<CharTokenizer, Error> {
        if tokens.is_empty() {
            return Err(Error::EmptyVocabulary);
        }
        let mut ids = FxHashMap::default();
        for (&character, second) in tokens.iter().zip(0..) {
            if let Some(first) = ids.insert(character, second) {
                return Err(Error::RepeatedCharacter { character, first, second });
            }
        }
        Ok(CharTokenizer { tokens, ids })
    }

    /// A tokenizer of the characters that occur in `text`, sorted.
    pub fn of_text(text: &str) -> Result<CharTokenizer, Error> {
        let distinct: FxHashSet<char> = text.chars().collect();
        let mut tokens: Vec<char> = distinct.into_iter().collect();
        tokens.sort_unstable();
        CharTokenizer::new(tokens)
    }

    /// The vocabulary, in order of id.
    pub fn tokens(&self) -> &[char] {
        &self.tokens
    }

    pub(crate) fn vocab_size(&self) -> usize {
        self.tokens.len()
    }

    pub(crate) fn token(&self, id: u32) -> Option<char> {
        self.tokens.get(usize::try_from(id).ok()?).copied()
    }

    pub(crate) fn encode_into(&self, text: &str, out: &mut Vec<u32>) -> Result<(), Error> {
        let start = out.len();
        for c in text.chars() {
            let Some(&id) = self.ids.get(&c) else {
                out.truncate(start);
                return Err(self.unknown_characters(text));
            };
            out.push(id);
        }
        Ok(())
    }

    fn unknown_characters(&self, text: &str) -> Error {
        let mut seen = FxHashSet::default();
        let missing = text.chars().filter(|c| !self.ids.contains_key(c) && seen.insert(*c)).collect();
        Error::UnknownCharacters { missing, vocab_size: self.vocab_size() }
    }
}
