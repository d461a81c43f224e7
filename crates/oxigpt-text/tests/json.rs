//! Tokenizers of a `tokenizer.json`, each kind against what the Python package `tokenizers` gives
//! (`fixtures/make_tokenizers.py`), and GPT-2's own encoder against the library's.
#![allow(clippy::unwrap_used, reason = "a test's helpers fail as the test does")]

use std::sync::LazyLock;

use oxigpt_text::{Error, StreamDecoder, Tokenizer};
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};

const EXPECTED: &str = include_str!("fixtures/tokenizers/expected.json");

const FILES: [(&str, &str); 5] = [
    ("word_piece", include_str!("fixtures/tokenizers/word_piece.json")),
    ("unigram", include_str!("fixtures/tokenizers/unigram.json")),
    ("byte_fallback", include_str!("fixtures/tokenizers/byte_fallback.json")),
    ("byte_level", include_str!("fixtures/tokenizers/byte_level.json")),
    ("byte_level_added", include_str!("fixtures/tokenizers/byte_level_added.json")),
];

fn file(kind: &str) -> &'static str {
    FILES.iter().find(|(name, _)| *name == kind).unwrap().1
}

fn read(tokenizer: &str, config: Option<&str>) -> Result<Tokenizer, Error> {
    let files = |name: &str| match name {
        "tokenizer.json" => Some(tokenizer.as_bytes().to_vec()),
        "tokenizer_config.json" => config.map(|config| config.as_bytes().to_vec()),
        _ => None,
    };
    Ok(Tokenizer::from_files(files)?.unwrap())
}

/// The tokenizers of [`FILES`], read once.
fn open(kind: &str) -> &'static Tokenizer {
    static READ: LazyLock<Vec<Tokenizer>> =
        LazyLock::new(|| FILES.iter().map(|(_, content)| read(content, None).unwrap()).collect());
    &READ[FILES.iter().position(|(name, _)| *name == kind).unwrap()]
}

/// A tokenizer after a change of its file.
fn changed(kind: &str, change: impl FnOnce(&mut Value)) -> Tokenizer {
    let mut json: Value = serde_json::from_str(file(kind)).unwrap();
    change(&mut json);
    read(&json.to_string(), None).unwrap()
}

fn stream(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let mut decoder = StreamDecoder::new();
    let text: String = ids.iter().map(|&id| decoder.push(tokenizer, id)).collect();
    text + &decoder.finish()
}

#[test]
fn every_kind_gives_what_python_gives() {
    let expected: Value = serde_json::from_str(EXPECTED).unwrap();
    let ids = |case: &Value, key: &str| -> Vec<u32> { serde_json::from_value(case[key].clone()).unwrap() };
    let mut n_cases = 0;
    for (kind, _) in FILES {
        let tokenizer = open(kind);
        assert_eq!(tokenizer.name(), "tokenizer.json");
        for case in expected[kind].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let ordinary = tokenizer.encode(text).unwrap();
            assert_eq!(ordinary, ids(case, "ids"), "{kind}: {text:?}");
            let admitted = tokenizer.encode_with_specials(text).unwrap();
            assert_eq!(admitted, ids(case, "with_specials"), "{kind}: {text:?}");
            assert_eq!(tokenizer.decode(&ordinary), case["decoded"].as_str().unwrap(), "{kind}: {text:?}");
            assert_eq!(stream(tokenizer, &ordinary), case["decoded"].as_str().unwrap(), "{kind}: {text:?}");
            n_cases += 1;
        }
    }
    assert_eq!(n_cases, 30);
}

#[test]
fn sizes_count_every_id_and_documents_end_by_the_usual_names() {
    let known = |kind| (open(kind).vocab_size(), open(kind).end_of_text());
    assert_eq!(known("word_piece"), (300, Some(3)));
    assert_eq!(known("unigram").1, Some(2));
    assert_eq!(known("byte_level"), (400, Some(0)));
    assert_eq!(known("byte_level_added"), (402, Some(0)));
    let gap = changed("byte_level", |json| json["model"]["vocab"]["unused"] = json!(999));
    assert_eq!(gap.vocab_size(), 1000);
}

#[test]
fn the_configuration_beside_says_what_ends_documents() {
    let end = |config: &str| read(file("byte_level_added"), Some(config)).unwrap().end_of_text();
    assert_eq!(end(r#"{"eos_token": "[MASK]"}"#), Some(401));
    assert_eq!(end(r#"{"eos_token": {"content": "[MASK]"}}"#), Some(401));
    assert_eq!(end(r#"{"eos_token": "absent"}"#), None);
    assert_eq!(end(r#"{"eos_token": null}"#), Some(0));
    assert_eq!(end("damaged"), Some(0));
}

#[test]
fn files_come_back_as_they_were() {
    for (kind, content) in FILES {
        let tokenizer = read(content, Some(r#"{"eos_token": "</s>"}"#)).unwrap();
        let expected = [("tokenizer.json", content), ("tokenizer_config.json", r#"{"eos_token": "</s>"}"#)]
            .map(|(name, content)| (name.to_owned(), content.as_bytes().to_vec()));
        assert_eq!(tokenizer.to_files(), expected, "{kind}");
        assert_eq!(open(kind).to_files(), expected[..1], "{kind}");
    }
}

#[test]
fn the_hash_is_of_what_the_encoding_depends_on() {
    let own = open("byte_level").hash();
    assert_eq!(own, "017af6d392d766ccef03db9beee0fc5a4cfef942ff932a080c9480c69a740816");
    assert_eq!(changed("byte_level", |_| ()).hash(), own);
    let cut = |json: &mut Value| {
        json["truncation"] =
            json!({"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0});
        json["model"]["dropout"] = json!(0.5);
        for merge in json["model"]["merges"].as_array_mut().unwrap() {
            *merge = json!(format!("{} {}", merge[0].as_str().unwrap(), merge[1].as_str().unwrap()));
        }
    };
    let uncut = changed("byte_level", cut);
    assert_eq!(uncut.hash(), own);
    assert_eq!(uncut.encode("First Citizen").unwrap(), open("byte_level").encode("First Citizen").unwrap());
    let mut hashes: Vec<String> = FILES.map(|(kind, _)| open(kind).hash()).into();
    let swap = |json: &mut Value| json["model"]["merges"].as_array_mut().unwrap().swap(3, 4);
    hashes.push(changed("byte_level", swap).hash());
    hashes.push(changed("byte_level", |json| json["normalizer"] = json!({"type": "NFC"})).hash());
    hashes.sort();
    hashes.dedup();
    assert_eq!(hashes.len(), FILES.len() + 2);
}

#[test]
fn ids_outside_the_vocabulary_decode_to_the_replacement_character() {
    for (kind, _) in FILES {
        let tokenizer = open(kind);
        let ids = tokenizer.encode("speak again").unwrap();
        let (first, rest) = ids.split_at(1);
        let text = tokenizer.decode(&[first, &[5000, u32::MAX], rest].concat());
        assert_eq!(text.replace('\u{FFFD}', ""), "speak again", "{kind}");
        assert_eq!(text.matches('\u{FFFD}').count(), 2, "{kind}");
    }
}

#[test]
fn what_has_no_token_is_an_error_where_there_is_none_for_the_unknown() {
    let words = json!({
        "version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": {"to": 0, "be": 1}, "unk_token": "?"},
    });
    let words = read(&words.to_string(), None).unwrap();
    assert_eq!(words.encode("to be").unwrap(), [0, 1]);
    assert_eq!(words.decode(&[0, 1, 0]), "to be to");
    let mut ids = vec![7];
    let error = words.encode_into("to or", &mut ids).unwrap_err();
    let source = std::error::Error::source(&error).unwrap();
    assert_eq!(source.to_string(), "WordLevel error: Missing [UNK] token from the vocabulary");
    assert_eq!(ids, [7]);
    assert_eq!(
        format!("{error}\nhint: {}", error.hint().unwrap()),
        "the tokenizer.json cannot encode the text\n\
         hint: use a tokenizer that encodes any text (gpt2, byte, or one that is trained), or clean the text"
    );
}

/// The JSON pointers of all that is in `json`, but of the vocabulary and of lists only of the first few entries.
fn pointers(json: &Value, at: &str, out: &mut Vec<String>) {
    out.push(at.to_owned());
    match json {
        Value::Object(map) => {
            let n = if at.ends_with("vocab") { 2 } else { map.len() };
            for (key, value) in map.iter().take(n) {
                pointers(value, &format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")), out);
            }
        }
        Value::Array(list) => {
            list.iter().take(2).enumerate().for_each(|(i, value)| pointers(value, &format!("{at}/{i}"), out));
        }
        _ => {}
    }
}

/// Whatever stands in one place of a file, the file is refused in words or gives a tokenizer that works.
#[test]
fn damage_in_any_place_does_not_panic() {
    let values = [json!(null), json!(0), json!(-1), json!(""), json!("é"), json!([]), json!({})];
    let text = "Citizen, l'état\n\n  speak</s> 👩[MASK] \0";
    let mut n_taken = 0;
    for (_, content) in FILES {
        let json: Value = serde_json::from_str(content).unwrap();
        let mut places = Vec::new();
        pointers(&json, "", &mut places);
        for (place, value) in places.iter().flat_map(|place| values.iter().map(move |value| (place, value))) {
            let mut damaged = json.clone();
            *damaged.pointer_mut(place).unwrap() = value.clone();
            let Ok(tokenizer) = read(&damaged.to_string(), None) else { continue };
            n_taken += 1;
            for ids in [tokenizer.encode(text), tokenizer.encode_with_specials(text)].into_iter().flatten() {
                assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()), "{place}: {value}");
                assert_eq!(stream(&tokenizer, &ids), tokenizer.decode(&ids), "{place}: {value}");
            }
        }
    }
    assert!(n_taken > 100, "{n_taken}");
}

/// Text of letters, spaces and marks of several scripts.
fn any_text() -> impl Strategy<Value = String> {
    let part = prop_oneof!["[a-z ]{1,8}", "[ \\n\\t]{1,3}", "['!?,.0-9]{1,3}", "[à-ÿ日本語👩ſ\u{300}]{1,4}"];
    vec(part, 0..12).prop_map(|parts| parts.concat())
}

/// The tokenizer `byte_level` with an added token that is not special, as our encoder does not have.
fn left_to_the_library() -> Tokenizer {
    let added = json!({"id": 400, "content": "\u{E000}", "special": false, "single_word": false,
        "lstrip": false, "rstrip": false, "normalized": false});
    changed("byte_level", |json| json["added_tokens"].as_array_mut().unwrap().push(added))
}

proptest! {
    #[test]
    fn our_encoder_gives_what_the_library_gives(text in any_text()) {
        static LIBRARY: LazyLock<Tokenizer> = LazyLock::new(left_to_the_library);
        let ids = open("byte_level").encode(&text).unwrap();
        prop_assert_eq!(&ids, &LIBRARY.encode(&text).unwrap());
        prop_assert_eq!(open("byte_level").decode(&ids), text);
    }

    #[test]
    fn streams_join_to_the_whole_for_every_kind(ids in vec(0..420u32, 0..30)) {
        for (kind, _) in FILES {
            let tokenizer = open(kind);
            prop_assert_eq!(stream(tokenizer, &ids), tokenizer.decode(&ids), "{}", kind);
        }
    }
}
