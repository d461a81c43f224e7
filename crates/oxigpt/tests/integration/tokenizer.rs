//! Tokenizers that are learned from text.

use std::fmt::Write;
use std::io::{BufRead, BufReader};

use insta::assert_snapshot;
use serde_json::Value;

use crate::support::{Place, fixture};

/// A place with a text, as a file and as lines of JSON.
fn place() -> Place {
    let place = Place::new();
    let text = fs_err::read_to_string(fixture("oxigpt-data", "shakespeare.txt")).unwrap();
    place.write("texts/a.txt", &text);
    place.write("texts/deep/b.md", &text);
    let mut lines = String::new();
    for part in text.split("\n\n") {
        writeln!(lines, "{}", serde_json::json!({ "words": part })).unwrap();
    }
    place.write("lines.jsonl", lines);
    place
}

#[test]
fn learned_and_used() {
    let place = place();
    let learn = ["tokenizer", "train", "--input=texts", "--vocab-size=400", "--out=tok"];
    assert_snapshot!(place.run(&learn), @"
    exit 0
    --- stdout
    tok: a tokenizer of 400 tokens, learned from 23.4 KiB of text
    --- stderr
    reading 23.44 KiB
    merging 23.44 KiB
    ");
    assert_snapshot!(place.run(&learn), @"
    exit 1
    --- stdout
    --- stderr
    error: tok/tokenizer.json already exists and would be overwritten
    hint: choose another directory with --out, or overwrite the file with --force
    ");
    place.done(&[&learn[..], &["--force"]].concat());
    place.done(&["prepare", "text", "--input=texts/a.txt", "--tokenizer=tok", "--out=data/mine"]);
    let told = place.done(&["data", "mine"]);
    assert!(told.contains("tokenizer  tokenizer.json\n") && told.contains("vocabulary 400\n"), "{told}");
}

#[test]
fn piped_compressed_and_in_records() {
    let place = place();
    let text = place.read("texts/a.txt");
    let learn = |out: &str, more: &[&str]| {
        let out = format!("--out={out}");
        let args = [&["tokenizer", "train", "--vocab-size=300", "--json", &out], more].concat();
        let output = place.command(&args).write_stdin(text.clone()).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let told = learn("file.json", &["--input=texts/a.txt"]);
    assert_eq!(
        (&told["vocab_size"], &told["documents"], &told["bytes"]),
        (&300.into(), &1.into(), &12000.into())
    );
    assert_eq!(learn("piped.json", &["--input=-"])["hash"], told["hash"]);
    assert!(place.read("piped.json") == place.read("file.json"));
    let lines = learn("lines.json", &["--input=lines.jsonl", "--field=words"]);
    assert!(lines["documents"].as_u64().unwrap() > 10);
    assert!(!place.path().join("tokenizer.json").exists());
}

#[test]
fn what_cannot_be_learned() {
    let place = place();
    let learn = |size: &str, input: &str| {
        let (size, input) = (format!("--vocab-size={size}"), format!("--input={input}"));
        let text = place.run(&["tokenizer", "train", "--out=tok", &size, &input]);
        text.replacen("--- stdout\n--- stderr\n", "", 1)
    };
    assert_snapshot!(learn("200", "texts"), @"
    exit 1
    error: a vocabulary of 200 tokens cannot be trained: with 1 special token the smallest has 257, the largest 1048576
    hint: ask for at least 257; every byte and every special token is one
    ");
    assert_snapshot!(learn("many", "texts"), @"
    exit 2
    error: invalid value 'many' for '--vocab-size <N>': it must be a whole number, 0 or more
    hint: add --help to see what can be written here
    ");
    assert_snapshot!(learn("300", "missing.txt"), @"
    exit 1
    error: there is no file missing.txt
    hint: check the path
    ");
    assert_snapshot!(learn("300", "nothing/*.txt"), @"
    exit 1
    error: no file matches nothing/*.txt
    hint: check the pattern; `*` is any part of a name, `**` any folders
    ");
    assert!(!place.path().join("tok").exists());
}

/// Merging takes its time, and there is nothing to finish.
#[cfg(unix)]
#[test]
fn a_signal_ends_it_at_once() {
    let place = Place::new();
    let letters =
        |i: u32| (0..8).map(move |n| char::from(b'a' + (i.wrapping_mul(0x9e37_79b9) >> (4 * n) & 15) as u8));
    let words: String = (0..200_000).flat_map(|i| letters(i).chain([' '])).collect();
    place.write("words.txt", words);
    for signal in ["-TERM", "-INT"] {
        let learn = ["tokenizer", "train", "--input=words.txt", "--vocab-size=60000", "--out=tok"];
        let mut child = place.start(&learn);
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("merging")));
        let pid = child.id().to_string();
        assert!(std::process::Command::new("kill").args([signal, &pid]).status().unwrap().success());
        assert_eq!(child.wait().unwrap().code(), Some(130));
        assert!(!place.path().join("tok").exists());
    }
}

/// A text with few words has few pairs.
#[test]
fn fewer_tokens_than_asked_for() {
    let place = Place::new();
    place.write("a.txt", "the cat sat on the mat. ".repeat(20));
    assert_snapshot!(place.run(&["tokenizer", "train", "--input=a.txt", "--vocab-size=1000", "--out=tok.json"]), @"
    exit 0
    --- stdout
    tok.json: a tokenizer of 269 tokens, learned from 480 B of text
    --- stderr
    reading 480 B
    merging 480 B
    269 tokens are all there can be: no further pair occurs twice in this text
    ");
}
