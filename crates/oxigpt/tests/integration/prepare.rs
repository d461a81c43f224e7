//! Text in, a data directory out.

use crate::support::{Place, refused};
use insta::assert_snapshot;

const TEXT: &str = "the cat sat on the mat\n";

#[test]
fn text_by_characters() {
    let place = Place::new();
    place.write("a.txt", TEXT.repeat(10));
    let args = ["prepare", "text", "--input", "a.txt", "--tokenizer", "char", "--out", "data/cat"];
    assert_snapshot!(place.run(&args), @"
    exit 0
    --- stdout
    data/cat: 207 training tokens, 23 validation tokens, a vocabulary of 11
    --- stderr
    reading 230 B
    encoding 230 B
    writing 230 B
    ");
    assert!(place.path().join("data/cat/train_000000.bin").exists());

    assert_snapshot!(place.run(&args), @"
    exit 1
    --- stdout
    --- stderr
    error: data/cat already holds a dataset (dataset.json)
    hint: choose another directory, or replace the dataset with --force
    ");
    let again = [&args[..], &["--force", "--val_fraction=0.5"]].concat();
    assert_snapshot!(place.run(&again), @"
    exit 0
    --- stdout
    data/cat: 115 training tokens, 115 validation tokens, a vocabulary of 11
    --- stderr
    reading 230 B
    encoding 230 B
    writing 230 B
    ");
}

#[test]
fn several_files_by_gpt2_as_json() {
    let place = Place::new();
    place.write("a.txt", TEXT);
    place.write("b.txt", TEXT);
    let args = [
        "prepare",
        "text",
        "--input",
        "a.txt",
        "b.txt",
        "--tokenizer=gpt2",
        "--out=d",
        "--val-fraction=0.3",
        "--json",
    ];
    let output = place.output(&args);
    assert_eq!(output.status.code(), Some(0));
    let manifest: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(manifest["vocab_size"], 50257);
    assert_eq!(manifest["source"], serde_json::json!(["a.txt", "b.txt"]));
    assert_eq!(manifest["documents"], 2);
}

#[test]
fn built_in_stories() {
    let place = Place::new();
    let output = place.output(&["prepare", "stories", "--out", "data/stories"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(told.starts_with("data/stories: ") && told.contains(" training tokens, "), "{told}");
}

/// A set that is to be fetched: first it is seen whether there is a place for it.
#[test]
fn a_place_is_refused_before_anything_is_fetched() {
    let place = Place::new();
    place.write("out/mine.txt", TEXT);
    assert_snapshot!(place.failed(&["prepare", "shakespeare", "--out=out"]), @"
    error: out holds other things (mine.txt) and no dataset
    hint: choose a directory of its own, or put the dataset there all the same with --force
    ");
    assert_snapshot!(place.failed(&["prepare", "shakespeare", "--out=new"]), @"
    error: HF_HUB_OFFLINE forbids to download https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt
    hint: unset HF_HUB_OFFLINE to download it, or point HF_HOME at the cache that has it
    ");
    assert!(!place.path().join("new").exists());
    // What is there already is not fetched.
    place.write("old/input.txt", TEXT.repeat(10));
    place.done(&["prepare", "shakespeare", "--out=old"]);
}

#[test]
fn text_that_cannot_be_prepared() {
    let place = Place::new();
    place.write("empty.txt", "");
    place.write("latin1.txt", b"caf\xe9 au lait");
    place.write("short.txt", "x");
    let prepare =
        |file: &str| place.run(&["prepare", "text", "--input", file, "--tokenizer=char", "--out=d"]);
    assert_snapshot!(prepare("missing.txt"), @"
    exit 1
    --- stdout
    --- stderr
    error: there is no file missing.txt
    hint: check the path
    ");
    assert_snapshot!(prepare("empty.txt"), @"
    exit 1
    --- stdout
    --- stderr
    error: empty.txt is empty
    hint: leave it out, or check that it was saved
    ");
    assert_snapshot!(prepare("latin1.txt"), @"
    exit 1
    --- stdout
    --- stderr
    error: latin1.txt is not UTF-8 text: byte 3 (0xe9), in line 1, does not belong there
    hint: convert it first, e.g. `iconv -f LATIN1 -t UTF-8 FILE > FILE.utf8`, or check that it is text at all
    ");
    assert_snapshot!(prepare("short.txt"), @"
    exit 1
    --- stdout
    --- stderr
    reading 1 B
    error: val_fraction 0.1 of 1 character leaves the train split empty
    hint: use more text, or a smaller val_fraction
    ");
    assert_snapshot!(prepare("."), @"
    exit 1
    --- stdout
    --- stderr
    error: ./empty.txt is empty
    hint: leave it out, or check that it was saved
    ");
    assert!(!place.path().join("d").exists());
}

#[test]
fn options_that_cannot_be_meant() {
    let text = ["prepare", "text", "--input=a.txt", "--out=d"];
    let with = |extra: &[&str]| refused(&[&text[..], extra].concat());
    assert_snapshot!(with(&["--tokenizer=bpe"]), @"
    exit 2
    error: invalid value 'bpe' for '--tokenizer <gpt2|char|byte|PATH>': use gpt2, char, byte, or the path of a tokenizer
    hint: add --help to see what can be written here
    ");
    assert_snapshot!(with(&["--tokenizer=char", "--val-fraction=1"]), @"
    exit 2
    error: invalid value '1' for '--val-fraction <X>': it must be a number between 0 and 1, such as 0.1
    hint: add --help to see what can be written here
    ");
    assert_snapshot!(with(&[]), @"
    exit 2
    error: the following required arguments were not provided:
      --tokenizer <gpt2|char|byte|PATH>

    Usage: oxigpt prepare text --input <FILE>... --tokenizer <gpt2|char|byte|PATH> --out <DIR>
    hint: add --help to see what can be written here
    ");
    assert_snapshot!(refused(&["prepare", "web"]), @"
    exit 2
    error: unrecognized subcommand 'web'

    Usage: oxigpt prepare <COMMAND>
    hint: add --help to see what can be written here
    ");
}
