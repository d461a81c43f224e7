//! Tokenizers to files and back, and what is refused.
#![allow(clippy::unwrap_used, reason = "a test's helpers fail as the test does")]

use std::collections::HashMap;

use oxigpt_text::{Error, Tokenizer};
use serde_json::{Value, json};

type Files = HashMap<String, Vec<u8>>;

fn files(tokenizer: &Tokenizer) -> Files {
    tokenizer.to_files().into_iter().collect()
}

fn read(files: &Files) -> Result<Option<Tokenizer>, Error> {
    Tokenizer::from_files(|name| files.get(name).cloned())
}

fn gpt2_without_tokenizer_json() -> Files {
    let mut files = files(&Tokenizer::gpt2());
    files.remove("tokenizer.json").unwrap();
    files
}

/// `tokenizer`'s `tokenizer.json` after a change.
fn changed(tokenizer: &Tokenizer, change: impl FnOnce(&mut Value)) -> Files {
    let mut json: Value = serde_json::from_slice(&files(tokenizer)["tokenizer.json"]).unwrap();
    change(&mut json);
    Files::from([("tokenizer.json".to_owned(), json.to_string().into_bytes())])
}

#[track_caller]
fn assert_refused(files: &Files, message: &str) {
    let error = read(files).unwrap_err();
    assert_eq!(error.to_string(), message);
    assert!(
        error.hint().unwrap().contains("only GPT-2's own tokenizer and character tokenizers can be read")
    );
}

#[test]
fn no_files_no_tokenizer() {
    assert!(read(&Files::new()).unwrap().is_none());
}

#[test]
fn gpt2_is_recognised_from_any_of_its_files() {
    let all = files(&Tokenizer::gpt2());
    for kept in
        [vec!["tokenizer.json"], vec!["vocab.json", "merges.txt"], vec!["vocab.json"], vec!["merges.txt"]]
    {
        let some = all.iter().filter(|(name, _)| kept.contains(&name.as_str()));
        let some: Files = some.map(|(name, content)| (name.clone(), content.clone())).collect();
        assert_eq!(some.len(), kept.len());
        assert_eq!(read(&some).unwrap().unwrap().name(), "gpt2", "{kept:?}");
    }
}

#[test]
fn gpt2_files_are_spelled_as_openai_does() {
    let files = files(&Tokenizer::gpt2());
    let text = |name: &str| String::from_utf8(files[name].clone()).unwrap();
    let merges = text("merges.txt");
    assert!(merges.starts_with("#version: 0.2\nĠ t\nĠ a\nh e\n"), "{:?}", &merges[..40]);
    assert!(merges.ends_with("\nĠColl ider\nĠinform ants\nĠg azed\n"));
    assert_eq!(merges.lines().count(), 50_001);
    assert!(text("vocab.json").starts_with(r#"{"!":0,"\"":1,"#));
    assert!(text("vocab.json").ends_with(r#","<|endoftext|>":50256}"#));
}

#[test]
fn characters_survive_with_their_ids() {
    for text in ["hello\n\"world\" é🎉\\\0\u{2028}", "x"] {
        let chars = Tokenizer::chars_of(text).unwrap();
        let again = read(&files(&chars)).unwrap().unwrap();
        assert_eq!(again.name(), "char");
        assert_eq!(again.hash(), chars.hash());
        assert_eq!(again.encode(text).unwrap(), chars.encode(text).unwrap());
    }
}

#[test]
fn merges_may_be_pairs() {
    let files = changed(&Tokenizer::gpt2(), |json| {
        for merge in json["model"]["merges"].as_array_mut().unwrap() {
            *merge = json!(merge.as_str().unwrap().split(' ').collect::<Vec<_>>());
        }
    });
    assert_eq!(read(&files).unwrap().unwrap().name(), "gpt2");
}

#[test]
fn damaged_json_is_named() {
    for name in ["tokenizer.json", "vocab.json"] {
        let files = Files::from([(name.to_owned(), b"{\"model\": ".to_vec())]);
        let error = read(&files).unwrap_err();
        assert_eq!(error.to_string(), format!("{name}: not the JSON of a tokenizer"));
        assert_eq!(error.hint().unwrap(), "fetch or write the tokenizer files again; this one is damaged");
    }
}

#[test]
fn other_vocabularies_are_refused() {
    let mut files = gpt2_without_tokenizer_json();
    files.insert("vocab.json".to_owned(), br#"{"a": 0, "b": 1}"#.to_vec());
    assert_refused(&files, "vocab.json: an unsupported tokenizer: it has 2 tokens, GPT-2 has 50257");

    let files = changed(&Tokenizer::gpt2(), |json| {
        json["model"]["vocab"]["A"] = json!(33);
        json["model"]["vocab"]["B"] = json!(32);
    });
    assert_refused(&files, "tokenizer.json: an unsupported tokenizer: token 32 is not GPT-2's, \"A\"");
}

#[test]
fn other_merges_are_refused() {
    let mut files = gpt2_without_tokenizer_json();
    files.insert("merges.txt".to_owned(), b"#version: 0.2\na b\n".to_vec());
    assert_refused(&files, "merges.txt: an unsupported tokenizer: its merges are not GPT-2's");
    let files =
        changed(&Tokenizer::gpt2(), |json| json["model"]["merges"].as_array_mut().unwrap().swap(0, 1));
    assert_refused(&files, "tokenizer.json: an unsupported tokenizer: its merges are not GPT-2's");
}

#[test]
fn other_models_are_refused() {
    let chars = Tokenizer::chars_of("ab").unwrap();
    let files = changed(&chars, |json| json["model"]["type"] = json!("WordPiece"));
    assert_refused(&files, "tokenizer.json: an unsupported tokenizer: its model is not a byte-pair encoding");
    let files = changed(&chars, |json| json["normalizer"] = json!({"type": "NFC"}));
    assert_refused(&files, "tokenizer.json: an unsupported tokenizer: it normalizes the text");
    for add_prefix in [json!({"type": "ByteLevel", "add_prefix_space": true}), json!({"type": "Whitespace"})]
    {
        let files = changed(&Tokenizer::gpt2(), |json| json["pre_tokenizer"] = add_prefix);
        assert_refused(
            &files,
            "tokenizer.json: an unsupported tokenizer: it does not cut the text as GPT-2 does",
        );
    }
}

#[test]
fn added_tokens_are_refused() {
    let mut files = gpt2_without_tokenizer_json();
    files.insert("added_tokens.json".to_owned(), br#"{"<user>": 50257}"#.to_vec());
    assert_refused(
        &files,
        "added_tokens.json: an unsupported tokenizer: it adds the token \"<user>\" to GPT-2's",
    );
    let files = changed(&Tokenizer::gpt2(), |json| {
        let added = json["added_tokens"].as_array_mut().unwrap();
        added.push(json!({"id": 50257, "content": "[PAD]", "special": true}));
    });
    assert_refused(
        &files,
        "tokenizer.json: an unsupported tokenizer: it adds the token \"[PAD]\" to GPT-2's",
    );
}

#[test]
fn what_is_almost_a_character_tokenizer_is_refused() {
    let chars = Tokenizer::chars_of("ab").unwrap();
    let with_vocab = |vocab: Value| changed(&chars, |json| json["model"]["vocab"] = vocab);
    let prefix = "tokenizer.json: an unsupported tokenizer: ";
    let refused = |vocab, reason: &str| assert_refused(&with_vocab(vocab), &format!("{prefix}{reason}"));
    refused(json!({"ab": 0}), "it has no merges, but the token \"ab\" is not one character");
    refused(json!({"a": 0, "b": 2}), "the token \"b\" has id 2, but there are 2 tokens");
    refused(json!({"a": 0, "b": 0}), "two of its tokens have the same id");
    let split = changed(&chars, |json| json["pre_tokenizer"] = json!({"type": "Whitespace"}));
    assert_refused(&split, &format!("{prefix}it has no merges, but is not one token per character either"));
    assert!(matches!(read(&with_vocab(json!({}))).unwrap_err(), Error::EmptyVocabulary));
    assert!(matches!(read(&with_vocab(json!(["a"]))).unwrap_err(), Error::Json { .. }));
}
