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
    assert!(error.hint().unwrap().contains("give a tokenizer.json that the current Python package"));
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

    let vocab = String::from_utf8(gpt2_without_tokenizer_json()["vocab.json"].clone()).unwrap();
    let swapped = vocab.replace("\"A\":32,", "\"A\":33,").replace("\"B\":33,", "\"B\":32,");
    files.insert("vocab.json".to_owned(), swapped.into_bytes());
    assert_refused(&files, "vocab.json: an unsupported tokenizer: token 32 is not GPT-2's, \"A\"");
}

#[test]
fn other_merges_are_refused() {
    let mut files = gpt2_without_tokenizer_json();
    files.insert("merges.txt".to_owned(), b"#version: 0.2\na b\n".to_vec());
    assert_refused(&files, "merges.txt: an unsupported tokenizer: its merges are not GPT-2's");
}

#[test]
fn other_tokens_than_gpt2s_are_refused_where_there_is_no_tokenizer_json() {
    let mut files = gpt2_without_tokenizer_json();
    files.insert("added_tokens.json".to_owned(), br#"{"<user>": 50257}"#.to_vec());
    assert_refused(
        &files,
        "added_tokens.json: an unsupported tokenizer: it adds the token \"<user>\" to GPT-2's",
    );
}

/// A `tokenizer.json` that differs in anything from GPT-2's is taken as it is.
#[test]
fn what_is_almost_gpt2_is_another_tokenizer() {
    let is_json = |change: fn(&mut Value)| read(&changed(&Tokenizer::gpt2(), change)).unwrap().unwrap();
    let text = "I'm, the end";
    let gpt2 = Tokenizer::gpt2().encode(text).unwrap();
    let others = [
        is_json(|json| {
            json["model"]["vocab"]["A"] = json!(33);
            json["model"]["vocab"]["B"] = json!(32);
        }),
        is_json(|json| json["model"]["merges"].as_array_mut().unwrap().swap(0, 1)),
        is_json(|json| {
            let added = json["added_tokens"].as_array_mut().unwrap();
            added.push(json!({"id": 50257, "content": "[PAD]", "special": true, "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false}));
        }),
    ];
    for other in &others {
        assert_eq!(other.name(), "tokenizer.json");
        assert_eq!(other.end_of_text(), Some(50_256));
        assert_eq!(other.encode(text).unwrap(), gpt2);
    }
    assert_eq!(others[2].vocab_size(), 50_258);
    assert_eq!(others[2].encode_with_specials("[PAD]").unwrap(), [50_257]);
    let prefixed = is_json(|json| json["pre_tokenizer"]["add_prefix_space"] = json!(true));
    assert_eq!(prefixed.encode("the").unwrap(), Tokenizer::gpt2().encode(" the").unwrap());
}

#[test]
fn models_that_are_none_are_refused() {
    let chars = Tokenizer::chars_of("ab").unwrap();
    let with_type = |name: &str| changed(&chars, |json| json["model"]["type"] = json!(name));
    assert_refused(
        &with_type("Rwkv"),
        "tokenizer.json: an unsupported tokenizer: its model is \"Rwkv\", which is none of BPE, WordPiece, WordLevel and \
         Unigram",
    );
    let no_model = changed(&chars, |json| json["model"] = Value::Null);
    assert_refused(&no_model, "tokenizer.json: an unsupported tokenizer: it has no model");
    let error = read(&with_type("WordPiece")).unwrap_err();
    assert!(error.to_string().starts_with("tokenizer.json: an unsupported tokenizer: "), "{error}");
    let json = |json: &str| Files::from([("tokenizer.json".to_owned(), json.as_bytes().to_vec())]);
    for other in ["[]", "7", "\"text\"", "{}"] {
        assert_refused(&json(other), "tokenizer.json: an unsupported tokenizer: it has no model");
    }
}

#[test]
fn merges_without_the_prefix_of_their_file_are_refused() {
    let files = changed(&Tokenizer::gpt2(), |json| json["model"]["continuing_subword_prefix"] = json!("##"));
    assert_refused(
        &files,
        "tokenizer.json: an unsupported tokenizer: the right half of the merge [\"Ġ\",\"t\"] does not begin with \"##\"",
    );
}

#[test]
fn ids_without_bound_are_refused() {
    let chars = Tokenizer::chars_of("ab").unwrap();
    let files = changed(&chars, |json| json["model"]["vocab"]["c"] = json!(1 << 20));
    assert_refused(
        &files,
        "tokenizer.json: an unsupported tokenizer: its highest id is 1048576; the limit is 1048575",
    );
    let files = changed(&chars, |json| json["model"]["vocab"] = json!({}));
    assert_refused(&files, "tokenizer.json: an unsupported tokenizer: it has no tokens");
}

#[test]
fn what_is_almost_a_character_tokenizer_is_another_tokenizer() {
    let chars = Tokenizer::chars_of("ab").unwrap();
    let named = |change: fn(&mut Value)| read(&changed(&chars, change)).unwrap().unwrap().name();
    assert_eq!(named(|_| ()), "char");
    assert_eq!(named(|json| json["model"]["vocab"] = json!({"ab": 0})), "tokenizer.json");
    assert_eq!(named(|json| json["model"]["vocab"] = json!({"a": 0, "b": 2})), "tokenizer.json");
    assert_eq!(named(|json| json["pre_tokenizer"] = json!({"type": "Whitespace"})), "tokenizer.json");
    assert_eq!(named(|json| json["normalizer"] = json!({"type": "NFC"})), "tokenizer.json");
}
