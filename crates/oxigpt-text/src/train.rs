//! Training a byte-level byte-pair encoding: pieces of text are counted here, as GPT-2 cuts them, and merged by the
//! library.

use rustc_hash::{FxHashMap, FxHashSet};

use crate::bpe::byte_spelling;
use crate::json::MAX_VOCAB_SIZE;
use crate::pieces::pieces;
use crate::{Error, Tokenizer, files, library};

/// Bytes of a piece that are counted together. Words of a language are far shorter; in text without spaces, such as
/// genomes, the library would take the square of a piece's length.
const LONGEST: usize = 256;

/// The library adds up occurrences in an `i32`.
const MAX_OCCURRENCES: u64 = i32::MAX as u64;

/// How often each piece occurs.
type Counts = FxHashMap<Box<str>, u64>;

/// Learns a byte-level byte-pair encoding from text that comes bit by bit.
///
/// The special tokens get the first ids, the bytes the next 256, and then one pair after another is merged, the most
/// frequent first, until there are `vocab_size` tokens or no pair is left that occurs twice; so there may be fewer. The
/// same documents give the same tokenizer, in any order, and whether they were added to one trainer or to several.
///
/// The memory needed is proportional to the number of different words and other pieces, not to the length of the text.
#[derive(Clone, Debug)]
pub struct TokenizerTrainer {
    vocab_size: usize,
    special_tokens: Vec<String>,
    counts: Counts,
}

impl TokenizerTrainer {
    /// A trainer that has seen nothing. The first special token ends documents (`<|endoftext|>` is the usual one).
    ///
    /// # Errors
    /// If the size is less than 256 and the special tokens or more than 2^20, or if a special token is empty, repeated
    /// or the spelling of a byte.
    pub fn new(vocab_size: usize, special_tokens: &[&str]) -> Result<TokenizerTrainer, Error> {
        check_size(vocab_size, special_tokens.len())?;
        check_specials(special_tokens)?;
        let special_tokens = special_tokens.iter().map(|&token| token.to_owned()).collect();
        Ok(TokenizerTrainer { vocab_size, special_tokens, counts: Counts::default() })
    }

    /// Counts the pieces of a document, words of over 256 bytes in parts; special tokens in it are passed over.
    pub fn add(&mut self, text: &str) {
        for ordinary in between(text, &self.special_tokens) {
            count_pieces(ordinary, &mut self.counts);
        }
    }

    /// Takes over what another trainer has counted.
    pub fn absorb(&mut self, other: TokenizerTrainer) {
        for (piece, count) in other.counts {
            *self.counts.entry(piece).or_default() += count;
        }
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// If there was no text.
    pub fn finish(self) -> Result<Tokenizer, Error> {
        let TokenizerTrainer { vocab_size, special_tokens, counts } = self;
        if counts.is_empty() {
            return Err(Error::NoTrainingText);
        }
        let special_tokens: Vec<&str> = special_tokens.iter().map(String::as_str).collect();
        let spelling = byte_spelling();
        let spell = |piece: &str| piece.bytes().map(|byte| spelling[usize::from(byte)]).collect();
        let spelled = scaled(counts).map(|(piece, count)| (spell(&piece), count));
        let model = library::train(spelled, vocab_size, &special_tokens).map_err(Error::Train)?;
        let (file, config) = files::of_trained(&model, &special_tokens);
        files::of_tokenizer_json(file, Some(config))
    }
}

fn check_size(vocab_size: usize, n_specials: usize) -> Result<(), Error> {
    let smallest = 256 + n_specials;
    if (smallest..=MAX_VOCAB_SIZE).contains(&vocab_size) {
        return Ok(());
    }
    Err(Error::VocabularySize { vocab_size, smallest, n_specials, largest: MAX_VOCAB_SIZE })
}

fn check_specials(special_tokens: &[&str]) -> Result<(), Error> {
    let bytes = byte_spelling();
    let is_byte = |token: &str| bytes.iter().any(|spelled| token.chars().eq([*spelled]));
    let mut seen = FxHashSet::default();
    for &token in special_tokens {
        let problem = match token {
            "" => "is empty",
            token if is_byte(token) => "is what a file spells a byte by",
            token if !seen.insert(token) => "is listed twice",
            _ => continue,
        };
        return Err(Error::SpecialToken { token: token.to_owned(), problem });
    }
    Ok(())
}

/// What is left of `text` without the special tokens in it.
fn between<'a>(text: &'a str, special_tokens: &[String]) -> Vec<&'a str> {
    special_tokens.iter().fold(vec![text], |parts, special| {
        parts.into_iter().flat_map(|part| part.split(special.as_str())).collect()
    })
}

fn count_pieces(text: &str, counts: &mut Counts) {
    for piece in pieces(text).flat_map(parts) {
        match counts.get_mut(piece) {
            Some(count) => *count += 1,
            None => _ = counts.insert(piece.into(), 1),
        }
    }
}

/// A piece, in parts of at most [`LONGEST`] bytes that end between characters.
fn parts(mut piece: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        let end = (0..=piece.len().min(LONGEST)).rev().find(|&end| piece.is_char_boundary(end))?;
        let part;
        (part, piece) = piece.split_at(end);
        (!part.is_empty()).then_some(part)
    })
}

/// The counts, divided by the least number that lets all their pairs of bytes be counted; what is rarer than that number
/// drops out.
fn scaled(counts: Counts) -> impl Iterator<Item = (Box<str>, u64)> {
    let occurrences: u64 = counts.iter().map(|(piece, count)| piece.len() as u64 * count).sum();
    let divisor = occurrences / MAX_OCCURRENCES + 1;
    counts.into_iter().map(move |(piece, count)| (piece, count / divisor)).filter(|&(_, count)| count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_without_end_is_counted_in_parts() {
        for (piece, expected) in
            [("", 0), ("a", 1), (&*"a".repeat(LONGEST), 1), (&*"ä".repeat(LONGEST + 1), 3)]
        {
            let parts: Vec<&str> = parts(piece).collect();
            assert_eq!((parts.concat(), parts.len()), (piece.to_owned(), expected));
        }
        let mut trainer = TokenizerTrainer::new(300, &["<end>"]).unwrap();
        trainer.add(&"ab".repeat(1 << 18));
        let tokenizer = trainer.finish().unwrap();
        assert_eq!(tokenizer.encode("abababab").unwrap().len(), 1);
    }

    #[test]
    fn counts_are_scaled_to_what_the_library_can_add_up() {
        let counts = |list: &[(&str, u64)]| -> Counts {
            list.iter().map(|&(piece, count)| (piece.into(), count)).collect()
        };
        let few = counts(&[("ab", 3), ("c", 1)]);
        assert_eq!(scaled(few.clone()).collect::<Counts>(), few);
        let many = counts(&[("ab", 3 * MAX_OCCURRENCES), ("cd", 6), ("e", 7)]);
        let scaled: Counts = scaled(many).collect();
        assert_eq!(scaled, counts(&[("ab", 3 * MAX_OCCURRENCES / 7), ("e", 1)]));
        assert!(
            scaled.iter().map(|(piece, count)| piece.len() as u64 * count).sum::<u64>() <= MAX_OCCURRENCES
        );
    }
}
