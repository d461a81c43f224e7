//! Tokenizers that are learned from the documents of a source.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use crate::common::assert_error;
use fs_err as fs;
use oxigpt_data::{
    Error, Format, Input, Learned, PrepareOptions, Source, Split, TokenizerKind, prepare_text,
    tokenizer_paths, train_tokenizer, write_tokenizer,
};
use oxigpt_text::TokenizerTrainer;
use tempfile::{TempDir, tempdir};

const TEXT: &str = include_str!("../fixtures/shakespeare.txt");

fn learn(
    format: Format,
    paths: &[PathBuf],
    vocab_size: usize,
    threads: usize,
) -> oxigpt_data::Result<Learned> {
    let source = Source { format, inputs: paths.iter().map(Input::file).collect() };
    train_tokenizer(&source, vocab_size, threads, &mut |_| ControlFlow::Continue(()))
}

fn put(dir: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.path().join(name);
    fs::write(&path, bytes).unwrap();
    path
}

/// Large enough to be cut into several blocks; no two paragraphs are the same.
fn long_text() -> String {
    (0..300).map(|i| TEXT.replace(". ", &format!(". {i} "))).collect()
}

#[test]
fn blocks_threads_and_formats_change_nothing() {
    let dir = tempdir().unwrap();
    let text = long_text();
    assert!(text.len() > 3 << 20, "{}", text.len());
    let plain = put(&dir, "a.txt", text.as_bytes());
    let compressed = put(&dir, "a.zst", &zstd::encode_all(text.as_bytes(), 1).unwrap());
    let line = serde_json::json!({ "content": &text }).to_string();
    let jsonl = put(&dir, "a.jsonl", format!("{line}\n").as_bytes());

    let mut trainer = TokenizerTrainer::new(600, &["<|endoftext|>"]).unwrap();
    trainer.add(&text);
    let expected = trainer.finish().unwrap();
    let field = Format::Jsonl { field: "content".into() };
    for (format, path, threads) in [
        (Format::Text, &plain, 1),
        (Format::Text, &plain, 3),
        (Format::Text, &compressed, 2),
        (field, &jsonl, 2),
    ] {
        let learned = learn(format, std::slice::from_ref(path), 600, threads).unwrap();
        assert_eq!(learned.tokenizer.to_files(), expected.to_files());
        assert_eq!((learned.bytes, learned.documents), (text.len() as u64, 1));
    }
}

#[test]
fn what_was_learned_prepares_text() {
    let dir = tempdir().unwrap();
    let text = put(&dir, "a.txt", TEXT.as_bytes());
    let learned = learn(Format::Text, std::slice::from_ref(&text), 300, 1).unwrap().tokenizer;
    for name in ["folder", "file.json"] {
        let out = dir.path().join("tokenizers").join(name);
        write_tokenizer(&learned, &out, false).unwrap();
        let options =
            PrepareOptions { tokenizer: TokenizerKind::Files(out.clone()), ..PrepareOptions::default() };
        let data = dir.path().join(format!("data-{name}"));
        prepare_text(std::slice::from_ref(&text), &data, &options, &mut |_| ()).unwrap();
        let dataset = oxigpt_data::Dataset::open(&data).unwrap();
        assert_eq!(dataset.vocab_size(), Some(300));
        let mut ids = vec![0; dataset.split(Split::Train).len() as usize];
        dataset.split(Split::Train).read(0, &mut ids);
        assert!(TEXT.starts_with(&learned.decode(&ids)));

        let taken = write_tokenizer(&learned, &out, false);
        assert_error(taken, "already exists and would be overwritten", "--force");
        write_tokenizer(&learned, &out, true).unwrap();
    }
}

#[test]
fn where_a_tokenizer_goes() {
    let paths = |out: &Path| tokenizer_paths(out, false).unwrap();
    assert_eq!(paths(Path::new("some/mine.json")), [Path::new("some/mine.json")]);
    assert_eq!(
        paths(Path::new("some/mine")),
        [Path::new("some/mine/tokenizer.json"), Path::new("some/mine/tokenizer_config.json")]
    );
    let dir = tempdir().unwrap();
    let taken = put(&dir, "taken", b"");
    assert_error(tokenizer_paths(&taken, true), "is a file", "choose another output directory");
    let folder = dir.path().join("folder.json");
    fs::create_dir(&folder).unwrap();
    assert_eq!(paths(&folder).len(), 2);
}

#[test]
fn what_cannot_be_learned_is_refused() {
    let dir = tempdir().unwrap();
    let text = put(&dir, "a.txt", TEXT.as_bytes());
    let latin = put(&dir, "latin.txt", b"caf\xe9");
    let missing = dir.path().join("missing.txt");
    let learned = |path: &PathBuf, size| learn(Format::Text, std::slice::from_ref(path), size, 1);
    assert_error(learned(&text, 256), "a vocabulary of 256 tokens cannot be trained", "at least 257");
    assert_error(learned(&text, 1 << 21), "the largest 1048576", "ask for fewer");
    assert_error(learned(&latin, 300), "latin.txt is not UTF-8 text: byte 3", "iconv");
    assert_error(learned(&missing, 300), "there is no file", "check the path");
    assert_error(learn(Format::Text, &[], 300, 1), "no input file", "--input");
    let source = Source { format: Format::Text, inputs: vec![Input::file(&text)] };
    let stopped = train_tokenizer(&source, 300, 1, &mut |_| ControlFlow::Break(()));
    assert!(matches!(stopped, Err(Error::Interrupted)));
}
