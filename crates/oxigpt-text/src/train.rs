//! Training a byte-level byte-pair encoding: pieces of text are counted here, as GPT-2 cuts them, and merged by the
//! library.

use rustc_hash::{FxHashMap, FxHashSet};

use crate::bpe::byte_spelling;
use crate::json::MAX_VOCAB_SIZE;
use crate::pieces::pieces;
use crate::{Error, Tokenizer, files, library};

/// The library adds up occurrences in an `i32`.
const MAX_OCCURRENCES: u64 = i32::MAX as u64;

/// How often each piece occurs.
type Counts = FxHashMap<Box<str>, u64>;

pub(crate) fn train<T: AsRef<str>>(
    texts: impl IntoIterator<Item = T>,
    vocab_size: usize,
    special_tokens: &[&str],
) -> Result<Tokenizer, Error> {
    check_size(vocab_size, special_tokens.len())?;
    check_specials(special_tokens)?;
    let mut counts = Counts::default();
    for text in texts {
        for ordinary in between(text.as_ref(), special_tokens) {
            count_pieces(ordinary, &mut counts);
        }
    }
    if counts.is_empty() {
        return Err(Error::NoTrainingText);
    }
    let spelling = byte_spelling();
    let spell = |piece: &str| piece.bytes().map(|byte| spelling[usize::from(byte)]).collect();
    let spelled = scaled(counts).map(|(piece, count)| (spell(&piece), count));
    let model = library::train(spelled, vocab_size, special_tokens).map_err(Error::Train)?;
    let (file, config) = files::of_trained(&model, special_tokens);
    files::of_tokenizer_json(file, Some(config))
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
fn between<'a>(text: &'a str, special_tokens: &[&str]) -> Vec<&'a str> {
    special_tokens
        .iter()
        .fold(vec![text], |parts, &special| parts.into_iter().flat_map(|part| part.split(special)).collect())
}

fn count_pieces(text: &str, counts: &mut Counts) {
    for piece in pieces(text) {
        match counts.get_mut(piece) {
            Some(count) => *count += 1,
            None => _ = counts.insert(piece.into(), 1),
        }
    }
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
