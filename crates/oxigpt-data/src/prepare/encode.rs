//! Blocks into tokens, which is what all cores do; and blocks into what must be known of a text before it can be encoded.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use oxigpt_text::Tokenizer;

use super::block::{Block, Position};
use super::choose::Chooser;
use super::source::Source;
use crate::dataset::Split;
use crate::error::{Error, PrepareError, Result};

/// Where the end-of-text token stands, if the tokenizer has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndOfText {
    /// Before each document, as build-nanogpt and llm.c have it.
    Before,
    /// After each document, as nanoGPT has it for OpenWebText.
    After,
    /// Between each two documents of a split.
    Between,
    /// Nowhere.
    None,
}

impl FromStr for EndOfText {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let all = [EndOfText::Before, EndOfText::After, EndOfText::Between, EndOfText::None];
        let found = all.into_iter().find(|place| place.to_string() == name);
        found.ok_or_else(|| Error::from(PrepareError::UnknownEndOfText { found: name.into() }))
    }
}

impl fmt::Display for EndOfText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EndOfText::Before => "before",
            EndOfText::After => "after",
            EndOfText::Between => "between",
            EndOfText::None => "none",
        })
    }
}

/// What a block has become. Everything about the split `s` stands at `[s as usize]`.
pub(crate) struct Encoded {
    pub(crate) tokens: [Vec<u32>; 2],
    /// Bytes of text that they stand for.
    pub(crate) bytes: [u64; 2],
    pub(crate) documents: u64,
    pub(crate) empty_documents: u64,
    pub(crate) next: Position,
    pub(crate) read: u64,
}

/// Encodes blocks of a source.
pub(crate) struct Encoder<'a> {
    pub(crate) source: &'a Source,
    pub(crate) tokenizer: &'a Tokenizer,
    pub(crate) chooser: Chooser,
    pub(crate) end_of_text: EndOfText,
}

impl Encoder<'_> {
    /// The token that goes in front of documents, and the one behind.
    fn marks(&self) -> (Option<u32>, Option<u32>) {
        let token = self.tokenizer.end_of_text();
        match self.end_of_text {
            // The one at the beginning of a split is left out when it is written.
            EndOfText::Before | EndOfText::Between => (token, None),
            EndOfText::After => (None, token),
            EndOfText::None => (None, None),
        }
    }

    /// The tokens of a block. Empty documents are counted, and leave nothing.
    pub(crate) fn encode(&self, block: &Block) -> Result<Encoded> {
        let (before, after) = self.marks();
        let mut encoded = Encoded {
            tokens: [Vec::new(), Vec::new()],
            bytes: [0; 2],
            documents: 0,
            empty_documents: 0,
            next: block.next,
            read: block.read,
        };
        block.documents(&self.source.format, &mut |document| {
            if document.starts && document.ends && document.text.is_empty() {
                encoded.empty_documents += 1;
                return Ok(());
            }
            let input = &self.source.inputs[block.next.input];
            let split =
                document.split.unwrap_or_else(|| self.chooser.split_of(document.text.as_bytes(), input, 0));
            let tokens = &mut encoded.tokens[split as usize];
            if document.starts {
                encoded.documents += 1;
                tokens.extend(before);
            }
            self.tokenizer.encode_into(document.text, tokens)?;
            if document.ends {
                tokens.extend(after);
            }
            encoded.bytes[split as usize] += document.text.len() as u64;
            Ok(())
        })?;
        Ok(encoded)
    }

    /// Bytes of text that the first tokens of a block stand for.
    pub(crate) fn bytes_of(&self, tokens: &[u32]) -> u64 {
        let end = self.tokenizer.end_of_text();
        let text: Vec<u32> = tokens.iter().copied().filter(|&token| Some(token) != end).collect();
        self.tokenizer.decode_bytes(&text).len() as u64
    }
}

/// What is counted of a text.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counted {
    pub(crate) chars: u64,
    /// Each character that occurs.
    pub(crate) alphabet: BTreeSet<char>,
}

/// Counts the characters of a block, and collects them if they are to be the vocabulary.
pub(crate) fn count(source: &Source, block: &Block, collect: bool) -> Result<Counted> {
    let mut counted = Counted::default();
    let mut ascii = [false; 128];
    block.documents(&source.format, &mut |document| {
        counted.chars += document.text.chars().count() as u64;
        if collect {
            for c in document.text.chars() {
                if c.is_ascii() {
                    ascii[c as usize] = true;
                } else {
                    counted.alphabet.insert(c);
                }
            }
        }
        Ok(())
    })?;
    counted.alphabet.extend((0..128u8).filter(|&c| ascii[usize::from(c)]).map(char::from));
    Ok(counted)
}

/// What no split may be.
pub(crate) fn check_splits(tokens: [u64; 2]) -> Result<()> {
    match Split::BOTH.into_iter().find(|&split| tokens[split as usize] == 0) {
        Some(split) => Err(PrepareError::NothingFor { split: split.name() }.into()),
        None => Ok(()),
    }
}
