//! Data that other programs have prepared: they train as they are.

use std::iter::once;

use serde_json::Value;

use crate::support::{Place, fixture};

/// Tokens of a language of 65 words with some structure.
fn tokens(count: u32) -> Vec<u16> {
    (0..count).map(|i| ((i * i % 61 + i % 7) % 65) as u16).collect()
}

fn little_endian(tokens: &[u16]) -> Vec<u8> {
    tokens.iter().flat_map(|token| token.to_le_bytes()).collect()
}

/// llm.c's header.
fn with_header(tokens: &[u16]) -> Vec<u8> {
    let words = [20_240_520, 1, tokens.len() as i32];
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.resize(1024, 0);
    bytes.extend(little_endian(tokens));
    bytes
}

/// What `np.save` writes.
fn numpy(tokens: &[u16]) -> Vec<u8> {
    let dictionary = format!("{{'descr': '<u2', 'fortran_order': False, 'shape': ({},), }}", tokens.len());
    let header = format!("{dictionary:117}\n");
    [
        b"\x93NUMPY\x01\x00",
        &(header.len() as u16).to_le_bytes()[..],
        header.as_bytes(),
        &little_endian(tokens),
    ]
    .concat()
}

/// The same tokens in one file or in two shards, in each of the three layouts.
#[test]
fn every_layout_trains_and_to_the_same_losses() {
    let place = Place::for_training();
    let (train, val) = (tokens(3000), tokens(700));
    place.write("data/nanogpt/train.bin", little_endian(&train));
    place.write("data/nanogpt/val.bin", little_endian(&val));
    place.write("data/nanogpt/meta.pkl", fs_err::read(fixture("oxigpt-data", "meta.pkl")).unwrap());
    type Write = fn(&[u16]) -> Vec<u8>;
    for (name, extension, write) in [("edufineweb", "npy", numpy as Write), ("fineweb", "bin", with_header)] {
        let path = |split: &str, index| format!("data/{name}/{name}_{split}_{index:06}.{extension}");
        place.write(&path("val", 0), write(&val));
        place.write(&path("train", 1), write(&train[..1234]));
        place.write(&path("train", 2), write(&train[1234..]));
    }
    let losses = |dataset: &str| {
        let (dataset, out) = (format!("--dataset={dataset}"), format!("--out_dir=run-{dataset}"));
        place.done(&["train", "tiny.toml", "--max_iters=4", "--vocab_size=65", &dataset, &out]);
        let metrics = place.read_text(&format!("{}/metrics.jsonl", &out["--out_dir=".len()..]));
        let events = metrics.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let losses = events.filter_map(|event| event.get("val_loss").or(event.get("loss")).cloned());
        losses.collect::<Vec<_>>()
    };
    let nanogpt = losses("nanogpt");
    assert!(nanogpt.len() > 2, "{nanogpt:?}");
    assert_eq!(losses("edufineweb"), nanogpt);
    assert_eq!(losses("fineweb"), nanogpt);

    // nanoGPT's says how many words there are, and which.
    let told = place.done(&["data", "nanogpt"]);
    assert!(told.contains("tokenizer  char\n") && told.contains("vocabulary 65\n"), "{told}");
    place.done(&["train", "tiny.toml", "--max_iters=1", "--dataset=nanogpt", "--out_dir=known"]);
    let message = place.failed(&["train", "tiny.toml", "--dataset=edufineweb", "--out_dir=unknown"]);
    assert!(message.contains("data/edufineweb does not say how large its vocabulary is"), "{message}");
}

/// New text gets the tokens of what is there: a data set's, nanoGPT's or a run's.
#[test]
fn tokenizers_of_other_places() {
    let place = Place::for_training();
    place.done(&["train", "tiny.toml", "--max_iters=1"]);
    place.write("new.txt", "a mat on the cat. \n".repeat(9));
    place.write("more.txt", "the mat on a cat\n".repeat(9));
    let meta = fs_err::read(fixture("oxigpt-data", "meta.pkl")).unwrap();
    place.write("nano/chars.pkl", &meta);
    place.write("nano/meta.pkl", &meta);
    let hash = |dir: &str| {
        let manifest: Value = serde_json::from_slice(&place.read(&format!("{dir}/dataset.json"))).unwrap();
        manifest["tokenizer"]["hash"].clone()
    };
    for (i, path) in ["data/cat", "run", "data/cat/tokenizer.json"].into_iter().enumerate() {
        let out = format!("data/new-{i}");
        let args = ["prepare", "text", "--input=more.txt", "--tokenizer", path, "--out", &out];
        place.done(&args);
        assert_eq!(hash(&out), hash("data/cat"), "{path}");
    }
    for (i, path) in ["nano", "nano/chars.pkl"].into_iter().enumerate() {
        let out = format!("data/nano-{i}");
        place.done(&["prepare", "text", "--input=more.txt", "--tokenizer", path, "--out", &out]);
        assert!(place.done(&["data", &out]).contains("vocabulary 65\n"), "{path}");
    }
    let message =
        place.failed(&["prepare", "text", "--input=new.txt", "--tokenizer=data/cat", "--out=data/x"]);
    assert!(
        message
            .contains("new.txt, byte 0: the character vocabulary (of 11) lacks 1 character of the text: '.'"),
        "{message}"
    );
    let message = place.failed(&["prepare", "text", "--input=new.txt", "--tokenizer=./none", "--out=data/x"]);
    assert!(message.contains("hint: check the path"), "{message}");
    place.write("empty/a.txt", "a");
    let message = place.failed(&["prepare", "text", "--input=new.txt", "--tokenizer=empty", "--out=data/x"]);
    assert!(message.contains("there is no tokenizer in empty"), "{message}");
}

/// Tokens of four bytes, from the text to a sample.
#[test]
fn a_vocabulary_that_two_bytes_do_not_hold() {
    let place = Place::new();
    // What a sample begins with is one of them.
    let characters: String = once('\n').chain((0x100..0x11900).filter_map(char::from_u32)).collect();
    place.write("a.txt", &characters);
    place.done(&["prepare", "text", "--input=a.txt", "--tokenizer=char", "--out=data/wide"]);
    let told = place.done(&["data", "wide", "--verify"]);
    assert!(told.contains("vocabulary 69,633\n") && told.contains(" tokens of 4 bytes in 1 shard"), "{told}");
    let shape = ["--n_layer=1", "--n_head=1", "--n_embd=8", "--block_size=8", "--batch_size=2"];
    let run = ["train", "overfit", "--dataset=wide", "--out_dir=run", "--max_iters=1", "--eval_iters=1"];
    place.done(&[&run[..], &shape].concat());
    let sample = ["sample", "--from=run", "--start=\u{11000}", "--max-new-tokens=3", "--seed=1"];
    let text = place.done(&sample);
    assert_eq!(text.trim_end().chars().count(), 4, "{text:?}");
    assert!(text.starts_with('\u{11000}'), "{text:?}");
}
