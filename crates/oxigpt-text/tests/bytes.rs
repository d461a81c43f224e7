//! The byte tokenizer.

use oxigpt_text::Tokenizer;
use proptest::collection::vec;
use proptest::prelude::*;

#[test]
fn ids_are_bytes_and_one_more_ends_documents() {
    let bytes = Tokenizer::bytes();
    assert_eq!(bytes.name(), "byte");
    assert_eq!(bytes.vocab_size(), 257);
    assert_eq!(bytes.end_of_text(), Some(256));
    assert_eq!(bytes.encode("aé\0").unwrap(), [97, 0xC3, 0xA9, 0]);
    assert_eq!(bytes.encode("<|endoftext|>").unwrap().len(), 13);
    assert_eq!(bytes.encode_with_specials("a<|endoftext|>b").unwrap(), [97, 256, 98]);
    assert_eq!(bytes.decode(&[97, 256, 0xC3, 257, u32::MAX]), "a<|endoftext|>\u{FFFD}\u{FFFD}\u{FFFD}");
    assert_eq!(bytes.hash(), "d772ea1d160b3e145b0954bfa75f5c5351341b28cabf332e2783fa8b6d7bffaf");
}

#[test]
fn its_files_give_it_back() {
    let files = Tokenizer::bytes().to_files();
    assert_eq!(
        files.iter().map(|(name, _)| name).collect::<Vec<_>>(),
        ["tokenizer.json", "tokenizer_config.json"]
    );
    let read = |name: &str| files.iter().find(|(own, _)| own == name).map(|(_, bytes)| bytes.clone());
    let again = Tokenizer::from_files(read).unwrap().unwrap();
    assert_eq!(again.name(), "byte");
}

proptest! {
    #[test]
    fn text_survives(text in any::<String>()) {
        let ids = Tokenizer::bytes().encode(&text).unwrap();
        prop_assert_eq!(Tokenizer::bytes().decode(&ids), text);
    }

    #[test]
    fn any_bytes_are_ids(bytes in vec(any::<u8>(), 0..20)) {
        let ids: Vec<u32> = bytes.iter().copied().map(u32::from).collect();
        prop_assert_eq!(Tokenizer::bytes().decode_bytes(&ids), bytes);
    }
}
