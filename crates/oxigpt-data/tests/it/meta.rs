//! nanoGPT's `meta.pkl`: read as data, and refused unless it is one token per character.

use std::path::Path;

use crate::common::{assert_error, headerless, put};
use fs_err as fs;
use oxigpt_data::{Dataset, Error, tokenizer_beside};
use oxigpt_text::Tokenizer;
use tempfile::tempdir;

/// A pickled dict.
fn dict(entries: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let entries: Vec<u8> = entries.iter().flat_map(|(key, value)| [&key[..], value].concat()).collect();
    [b"}(", &entries[..], b"u"].concat()
}

fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

fn int(value: u8) -> Vec<u8> {
    vec![b'K', value]
}

/// A whole `meta.pkl`: its size, ids with their tokens, and tokens with their ids.
fn meta(size: u8, itos: &[(u8, &str)], stoi: &[(&str, u8)]) -> Vec<u8> {
    let itos: Vec<_> = itos.iter().map(|&(id, token)| (int(id), text(token))).collect();
    let stoi: Vec<_> = stoi.iter().map(|&(token, id)| (text(token), int(id))).collect();
    let all = [(text("vocab_size"), int(size)), (text("itos"), dict(&itos)), (text("stoi"), dict(&stoi))];
    [b"\x80\x02", &dict(&all)[..], b"."].concat()
}

fn read(bytes: &[u8]) -> Result<Option<Tokenizer>, Error> {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("meta.pkl"), bytes).unwrap();
    tokenizer_beside(dir.path())
}

#[test]
fn nanogpts_own_gives_its_characters() {
    let dir = tempdir().unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/meta.pkl");
    fs::copy(fixture, dir.path().join("meta.pkl")).unwrap();
    put(dir.path(), &[("train.bin", headerless(&[18, 47, 56, 57, 58])), ("val.bin", headerless(&[0, 64]))]);
    let dataset = Dataset::open(dir.path()).unwrap();
    assert_eq!(dataset.vocab_size(), Some(65));
    let tokenizer = dataset.tokenizer().unwrap().unwrap();
    assert_eq!(tokenizer.decode(&[18, 47, 56, 57, 58, 0, 64]), "First\nz");
    assert_error(dataset.validate(64), "token 64", "made with another tokenizer");
    dataset.validate(65).unwrap();
}

/// Tokenizer files of ours say it better.
#[test]
fn tokenizer_files_go_before_it() {
    let dir = tempdir().unwrap();
    let files = Tokenizer::chars_of("xyz").unwrap().to_files();
    files.iter().for_each(|(name, bytes)| fs::write(dir.path().join(name), bytes).unwrap());
    fs::write(dir.path().join("meta.pkl"), "no pickle").unwrap();
    assert_eq!(tokenizer_beside(dir.path()).unwrap().unwrap().vocab_size(), 3);
}

#[test]
fn the_order_of_entries_is_free() {
    let tokenizer = read(&meta(2, &[(1, "b"), (0, "é")], &[("b", 1), ("é", 0)])).unwrap().unwrap();
    assert_eq!(tokenizer.decode(&[0, 1]), "éb");
}

#[test]
fn what_is_no_character_tokenizer_is_refused() {
    let hint = "write it again with nanoGPT's prepare.py";
    let refused = |bytes: Vec<u8>, message: &str| assert_error(read(&bytes), message, hint);
    let both = [(0, "a"), (1, "b")];
    let ids = [("a", 0), ("b", 1)];
    refused(b"\x80\x02}.".to_vec(), "it has no `vocab_size`");
    refused([b"\x80\x02", &dict(&[(text("vocab_size"), int(2))])[..], b"."].concat(), "it has no `itos`");
    refused(meta(3, &both, &ids), "its vocab_size is 3, but `itos` has 2 tokens");
    refused(meta(2, &[(0, "a"), (2, "b")], &ids), "an id of `itos` is none of 0 to 1");
    refused(meta(2, &[(0, "a"), (0, "b")], &ids), "two tokens of `itos` have the same id");
    refused(meta(2, &[(0, "a"), (1, "bc")], &ids), "the token \"bc\" is not one character");
    refused(meta(2, &[(0, "a"), (1, "")], &ids), "the token \"\" is not one character");
    refused(meta(2, &both, &[("a", 0)]), "`stoi` has 1 tokens, but `itos` has 2");
    refused(meta(2, &both, &[("a", 1), ("b", 0)]), "disagree on the id of 'a'");
    refused(meta(2, &[(0, "a"), (1, "a")], &[("a", 0), ("a", 1)]), "lists the character 'a' twice");
    refused(meta(0, &[], &[]), "no character");
}

#[test]
fn a_pickle_that_would_run_something_is_refused() {
    assert_error(
        read(b"cos\nsystem\n(S'true'\ntR."),
        "meta.pkl: the pickle asks for `os.system`",
        "take care",
    );
    assert_error(read(b"\x80\x02}"), "the pickle is damaged", "fetch or save it again");
    assert_error(read(b"not a pickle"), "pickle", "");
}

#[test]
fn one_that_cannot_be_read_is_not_absent() {
    let dir = tempdir().unwrap();
    fs::create_dir(dir.path().join("meta.pkl")).unwrap();
    assert!(matches!(tokenizer_beside(dir.path()), Err(Error::Io(_))));
}
