//! Decoding token by token.

use oxigpt_text::{StreamDecoder, Tokenizer};
use proptest::collection::vec;
use proptest::prelude::*;

fn stream(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
    let mut decoder = StreamDecoder::new();
    let mut texts: Vec<String> = ids.iter().map(|&id| decoder.push(tokenizer, id)).collect();
    texts.push(decoder.finish());
    texts
}

/// The ids of single bytes, in which GPT-2 can spell what is not UTF-8.
fn byte_ids(bytes: &[u8]) -> Vec<u32> {
    let gpt2 = Tokenizer::gpt2();
    let id_of = |&byte: &u8| (0..256).find(|&id| gpt2.decode_bytes(&[id]) == [byte]);
    bytes.iter().map(|byte| id_of(byte).expect("every byte is a token")).collect()
}

#[test]
fn a_split_character_is_held_back_until_it_is_whole() {
    let gpt2 = Tokenizer::gpt2();
    assert_eq!(stream(&gpt2, &byte_ids("a😀b".as_bytes())), ["a", "", "", "", "😀", "b", ""]);
}

#[test]
fn invalid_bytes_are_replaced_once_they_are_certain() {
    let gpt2 = Tokenizer::gpt2();
    assert_eq!(stream(&gpt2, &byte_ids(b"\xFFa")), ["\u{FFFD}", "a", ""]);
    assert_eq!(stream(&gpt2, &byte_ids(b"\xF0\x9Fa")), ["", "", "\u{FFFD}a", ""]);
    assert_eq!(stream(&gpt2, &byte_ids(b"\xF0\x9F\xF0")), ["", "", "\u{FFFD}", "\u{FFFD}"]);
}

#[test]
fn finishing_makes_the_decoder_as_new() {
    let gpt2 = Tokenizer::gpt2();
    let mut decoder = StreamDecoder::new();
    assert_eq!(decoder.push(&gpt2, byte_ids(b"\xE6")[0]), "");
    assert_eq!(decoder.finish(), "\u{FFFD}");
    assert_eq!(decoder.push(&gpt2, 15496), "Hello");
    assert_eq!(decoder.finish(), "");
}

#[test]
fn characters_come_out_at_once() {
    let chars = Tokenizer::chars_of("aé").unwrap();
    assert_eq!(stream(&chars, &[0, 1, 2]), ["a", "é", "\u{FFFD}", ""]);
}

proptest! {
    #[test]
    fn the_pieces_are_the_decoded_whole(ids in vec(prop_oneof![0..256u32, 0..50_300u32], 0..40)) {
        let gpt2 = Tokenizer::gpt2();
        prop_assert_eq!(stream(&gpt2, &ids).concat(), gpt2.decode(&ids));
    }
}
