//! The character tokenizer.

use oxigpt_text::{CharTokenizer, Error, Tokenizer};
use proptest::prelude::*;

fn message(error: &Error) -> String {
    format!("{error}\nhint: {}", error.hint().unwrap_or_default())
}

#[test]
fn ids_are_the_places_in_the_sorted_set() {
    let chars = Tokenizer::chars_of("héllo\nworld 🎉").unwrap();
    assert_eq!(chars.name(), "char");
    assert_eq!(chars.vocab_size(), 10);
    assert_eq!(chars.encode("\n dwé🎉").unwrap(), [0, 1, 2, 7, 8, 9]);
    assert_eq!(chars.encode_with_specials("hello".replace('e', "é").as_str()).unwrap(), [3, 8, 4, 4, 5]);
    assert_eq!(chars.decode(&[3, 8, 4, 4, 5, 9]), "héllo🎉");
    assert_eq!(chars.end_of_text(), None);
}

#[test]
fn ids_outside_the_vocabulary_decode_to_the_replacement_character() {
    let chars = Tokenizer::chars_of("ab").unwrap();
    assert_eq!(chars.decode(&[0, 2, 1, u32::MAX]), "a\u{FFFD}b\u{FFFD}");
}

#[test]
fn a_list_of_characters_keeps_its_order() {
    let chars = Tokenizer::Char(CharTokenizer::new(vec!['z', 'a']).unwrap());
    assert_eq!(chars.encode("az").unwrap(), [1, 0]);
}

#[test]
fn the_hash_depends_on_the_vocabulary_alone() {
    assert_eq!(
        Tokenizer::chars_of("abé").unwrap().hash(),
        "cc4b9080e9142dae2e7c7c3070d92e428069e1871c75b9b57d2d7a979b042c10"
    );
    assert_eq!(Tokenizer::chars_of("ébbaa").unwrap().hash(), Tokenizer::chars_of("abé").unwrap().hash());
    assert_ne!(Tokenizer::chars_of("ab").unwrap().hash(), Tokenizer::chars_of("abé").unwrap().hash());
}

#[test]
fn an_empty_text_has_no_vocabulary() {
    let error = Tokenizer::chars_of("").unwrap_err();
    assert_eq!(
        message(&error),
        "the text is empty, so there is no character to make a vocabulary of\n\
         hint: give a text of at least one character"
    );
}

#[test]
fn a_repeated_character_is_an_error() {
    let error = CharTokenizer::new(vec!['a', 'b', 'a']).unwrap_err();
    assert_eq!(
        message(&error),
        "the vocabulary lists the character 'a' twice, as ids 0 and 2\n\
         hint: list every character once; its place in the list is its id"
    );
}

#[test]
fn missing_characters_are_listed_once_each_and_ten_at_most() {
    let chars = Tokenizer::chars_of("abc").unwrap();
    let error = chars.encode("a\tcab\té").unwrap_err();
    assert_eq!(
        message(&error),
        "the character vocabulary (of 3) lacks 2 characters of the text: '\\t', 'é'\n\
         hint: use only characters of the text that the vocabulary was made of, or prepare the data with the gpt2 \
         tokenizer, which encodes any text"
    );
    let error = chars.encode("0123456789ABC").unwrap_err();
    assert_eq!(
        error.to_string(),
        "the character vocabulary (of 3) lacks 13 characters of the text: \
         '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', ..."
    );
    let error = chars.encode("z").unwrap_err();
    assert_eq!(error.to_string(), "the character vocabulary (of 3) lacks 1 character of the text: 'z'");
}

#[test]
fn a_failed_encoding_appends_nothing() {
    let mut ids = vec![9];
    Tokenizer::chars_of("abc").unwrap().encode_into("abz", &mut ids).unwrap_err();
    assert_eq!(ids, [9]);
}

proptest! {
    #[test]
    fn text_survives(text in any::<String>().prop_filter("not empty", |text| !text.is_empty())) {
        let chars = Tokenizer::chars_of(&text).unwrap();
        let ids = chars.encode(&text).unwrap();
        prop_assert_eq!(ids.len(), text.chars().count());
        prop_assert_eq!(chars.decode(&ids), text);
    }
}
