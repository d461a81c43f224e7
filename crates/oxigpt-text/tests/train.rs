//! Training byte-pair encodings.
#![allow(clippy::unwrap_used, reason = "a test's helpers fail as the test does")]

use oxigpt_text::{Error, Tokenizer, TokenizerTrainer};
use proptest::prelude::*;

const SHAKESPEARE: &str = include_str!("fixtures/shakespeare.txt");

/// Trained by the Python package `tokenizers` on the same text: 400 tokens, `<|endoftext|>` among them.
const PYTHONS: &str = include_str!("fixtures/tokenizers/byte_level.json");

fn trained_on<T: AsRef<str>>(
    texts: impl IntoIterator<Item = T>,
    vocab_size: usize,
    special_tokens: &[&str],
) -> Result<Tokenizer, Error> {
    let mut trainer = TokenizerTrainer::new(vocab_size, special_tokens)?;
    texts.into_iter().for_each(|text| trainer.add(text.as_ref()));
    trainer.finish()
}

fn train(text: &str, vocab_size: usize) -> Tokenizer {
    trained_on([text], vocab_size, &["<|endoftext|>"]).unwrap()
}

fn read(files: &[(String, Vec<u8>)]) -> Tokenizer {
    let read = |name: &str| files.iter().find(|(own, _)| own == name).map(|(_, bytes)| bytes.clone());
    Tokenizer::from_files(read).unwrap().unwrap()
}

#[test]
fn merges_are_those_that_python_finds() {
    let trained = train(SHAKESPEARE, 400);
    let pythons = read(&[("tokenizer.json".to_owned(), PYTHONS.as_bytes().to_vec())]);
    assert_eq!((trained.vocab_size(), trained.end_of_text()), (400, Some(0)));
    assert_eq!(trained.encode(SHAKESPEARE).unwrap(), pythons.encode(SHAKESPEARE).unwrap());
    let ids: Vec<u32> = (0..400).collect();
    assert_eq!(trained.decode(&ids), pythons.decode(&ids));
}

#[test]
fn the_same_text_gives_the_same_files_in_any_order() {
    let lines: Vec<&str> = SHAKESPEARE.split_inclusive("\n\n").collect();
    let forwards = trained_on(&lines, 900, &["<|endoftext|>", "<|user|>"]).unwrap();
    let backwards = trained_on(lines.iter().rev(), 900, &["<|endoftext|>", "<|user|>"]).unwrap();
    assert_eq!(forwards.to_files(), backwards.to_files());
    assert_eq!(forwards.hash(), backwards.hash());

    let trainer = || TokenizerTrainer::new(900, &["<|endoftext|>", "<|user|>"]).unwrap();
    let (mut evens, mut odds) = (trainer(), trainer());
    lines.chunks(2).for_each(|pair| {
        evens.add(pair[0]);
        pair[1..].iter().for_each(|line| odds.add(line));
    });
    odds.absorb(evens);
    assert_eq!(odds.finish().unwrap().to_files(), forwards.to_files());
}

proptest! {
    /// Of few letters, so that one token arises in several ways and many pairs are equally frequent.
    #[test]
    fn training_is_a_function_of_the_text(text in "[ab ]{20,200}", size in 260..300usize) {
        prop_assert_eq!(train(&text, size).hash(), train(&text, size).hash());
    }
}

#[test]
fn files_give_the_same_tokenizer() {
    let trained = train(SHAKESPEARE, 500);
    let again = read(&trained.to_files());
    assert_eq!(again.name(), "tokenizer.json");
    assert_eq!(again.hash(), trained.hash());
    assert_eq!(again.end_of_text(), Some(0));
    assert_eq!(again.encode(SHAKESPEARE).unwrap(), trained.encode(SHAKESPEARE).unwrap());
}

#[test]
fn special_tokens_come_first_and_no_text_of_theirs_is_learned() {
    let text = "<|user|>hum<|endoftext|>".repeat(50) + "hum hum";
    let trained = trained_on([&text], 300, &["<|endoftext|>", "<|user|>"]).unwrap();
    let ids = trained.encode_with_specials("<|user|>hum<|endoftext|>").unwrap();
    assert_eq!((ids.len(), ids[0], ids[2]), (3, 1, 0));
    // Two merges make " hum" and "hum"; " hum" occurs once.
    assert_eq!(trained.vocab_size(), 2 + 256 + 2);
    assert!(trained.encode("<|user|>").unwrap().len() > 1);
}

#[test]
fn there_may_be_fewer_tokens_than_asked_for() {
    let trained = train("ab ab", 10_000);
    assert_eq!(trained.vocab_size(), 258);
    assert_eq!(trained.encode("abab ab").unwrap().len(), 4);
}

#[test]
fn no_special_tokens_are_needed() {
    let trained = trained_on(["aaaa"], 257, &[]).unwrap();
    assert_eq!((trained.vocab_size(), trained.end_of_text()), (257, None));
}

#[track_caller]
fn assert_refused(result: Result<Tokenizer, Error>, message: &str) {
    let error = result.unwrap_err();
    assert_eq!(format!("{error}\nhint: {}", error.hint().unwrap()), message);
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    assert_refused(
        trained_on(["text"], 256, &["<|endoftext|>"]),
        "a vocabulary of 256 tokens cannot be trained: with 1 special token the smallest has 257, the largest 1048576\n\
         hint: ask for at least 257; every byte and every special token is one",
    );
    assert_refused(
        trained_on(["text"], usize::MAX, &[]),
        "a vocabulary of 18446744073709551615 tokens cannot be trained: with 0 special tokens the smallest has 256, the \
         largest 1048576\n\
         hint: ask for fewer; common sizes are 8,000 to 65,000",
    );
}

#[test]
fn no_text_is_refused() {
    let message = "the text to train the tokenizer on is empty\n\
                   hint: give text to train on; a few megabytes of the language are enough to begin with";
    assert_refused(trained_on([""; 0], 300, &[]), message);
    assert_refused(trained_on(["", "<s>"], 300, &["<s>"]), message);
}

#[test]
fn special_tokens_that_could_be_mistaken_are_refused() {
    let hint = "hint: list each special token once, with a name that no text has, like <|endoftext|>";
    for (specials, problem) in [
        (["<s>", ""], "\"\" is empty"),
        (["<s>", "<s>"], "\"<s>\" is listed twice"),
        (["<s>", "Ġ"], "\"Ġ\" is what a file spells a byte by"),
    ] {
        assert_refused(trained_on(["text"], 300, &specials), &format!("the special token {problem}\n{hint}"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(50))]

    #[test]
    fn what_is_trained_encodes_any_text(text in "[a-d é👩\\n]{1,200}", other in any::<String>(), size in 257..400usize) {
        let trained = train(&text, size);
        prop_assert!(trained.vocab_size() <= size);
        let ids = trained.encode(&other).unwrap();
        prop_assert_eq!(trained.decode(&ids), other);
    }
}
