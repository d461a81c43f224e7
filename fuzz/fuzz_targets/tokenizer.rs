//! Tokenizers: files of any bytes are refused in words, or give a tokenizer that is true to text and to its files.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oxigpt_text::{StreamDecoder, Tokenizer};

fn check(tokenizer: &Tokenizer, text: &str) {
    let Ok(ids) = tokenizer.encode(text) else { return };
    assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
    let decoded = tokenizer.decode(&ids);
    let mut stream = StreamDecoder::new();
    let streamed: String = ids.iter().map(|&id| stream.push(tokenizer, id)).collect();
    assert_eq!(streamed + &stream.finish(), decoded);
    // A file may describe a tokenizer that changes the text.
    if !matches!(tokenizer, Tokenizer::Json(_)) {
        assert_eq!(decoded, text);
    }
}

/// The tokenizer that a tokenizer's own files give.
fn reread(tokenizer: &Tokenizer) -> Tokenizer {
    let files = tokenizer.to_files();
    let read = |name: &str| files.iter().find(|(own, _)| own == name).map(|(_, bytes)| bytes.clone());
    Tokenizer::from_files(read).expect("its own files").expect("a tokenizer")
}

fuzz_target!(|input: (&str, Option<&[u8]>, Option<&[u8]>, Option<&[u8]>)| {
    let (text, json, vocab, merges) = input;
    check(&Tokenizer::gpt2(), text);
    check(&Tokenizer::bytes(), text);
    if let Ok(chars) = Tokenizer::chars_of(text) {
        check(&chars, text);
        assert_eq!(reread(&chars).hash(), chars.hash());
    }
    let read = |name: &str| {
        let bytes = match name {
            "tokenizer.json" | "tokenizer_config.json" => json,
            "vocab.json" => vocab,
            _ => merges,
        };
        bytes.map(<[u8]>::to_vec)
    };
    if let Ok(Some(tokenizer)) = Tokenizer::from_files(read) {
        check(&tokenizer, text);
        assert_eq!(reread(&tokenizer).hash(), tokenizer.hash());
    }
});
