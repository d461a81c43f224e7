//! Sources of every kind, and what is said of broken ones.

use std::path::PathBuf;

use crate::common::*;
use fs_err as fs;
use oxigpt_data::{EndOfText, Format, Holdout, PrepareOptions, Split, TokenizerKind};
use parquet::basic::Compression;
use tempfile::{TempDir, tempdir};

#[test]
fn records_give_the_same_tokens_from_every_kind_of_file() {
    let dir = tempdir().unwrap();
    let documents = documents(200);
    let json = lines(&documents);
    put(
        dir.path(),
        &[
            ("a.jsonl", json.clone()),
            ("b.jsonl.gz", gzip(&json)),
            ("c.jsonl.zst", zstd::encode_all(&json[..], 1).unwrap()),
            ("d.parquet", rows(&documents, 200, Compression::SNAPPY)),
            ("e.parquet", rows(&documents, 23, Compression::ZSTD(Default::default()))),
            ("f.parquet", rows(&documents, 1, Compression::UNCOMPRESSED)),
        ],
    );
    let out = |name: &str| dir.path().join("out").join(name);
    let mut manifests = Vec::new();
    for (name, format) in [
        ("a.jsonl", jsonl()),
        ("b.jsonl.gz", jsonl()),
        ("c.jsonl.zst", jsonl()),
        ("d.parquet", parquet()),
        ("e.parquet", parquet()),
        ("f.parquet", parquet()),
    ] {
        let manifest = run(&source(format, &[dir.path().join(name)]), &out(name), &options()).unwrap();
        assert_eq!((manifest.documents, manifest.empty_documents), (198, 2));
        assert_eq!(manifest.inputs[0].file, name);
        assert_eq!(manifest.inputs[0].sha256.len(), 64);
        manifests.push((manifest.train, manifest.val));
    }
    assert!(manifests.iter().all(|splits| *splits == manifests[0]));
    // Each document has its end-of-text in front, and stands whole on one side.
    let tokenizer = oxigpt_text::Tokenizer::gpt2();
    let both = Split::BOTH.map(|split| tokens(&out("a.jsonl"), split));
    let mut found: Vec<String> = both
        .iter()
        .flat_map(|tokens| tokens.split(|&token| token == 50_256).skip(1).map(|text| tokenizer.decode(text)))
        .collect();
    let mut expected: Vec<String> = documents.into_iter().flatten().filter(|text| !text.is_empty()).collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    assert!(both.iter().all(|tokens| tokens[0] == 50_256));
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let dir = tempdir().unwrap();
    let text = "All work and no play, 1921.\nMakes Jack\u{a0}a dull boy.  \n\n".repeat(60_000);
    put(dir.path(), &[("a.txt", text.clone().into_bytes()), ("b.jsonl", lines(&documents(3000)))]);
    for (name, format, holdout) in
        [("a.txt", Format::Text, Holdout::Tail), ("b.jsonl", jsonl(), Holdout::Documents { seed: 1 })]
    {
        let contents = [1, 2, 5].map(|threads| {
            let options = PrepareOptions { threads, holdout, shard_tokens: 100_003, ..options() };
            let out = dir.path().join(format!("{name}-{threads}"));
            run(&source(format.clone(), &[dir.path().join(name)]), &out, &options).unwrap();
            content(&out)
        });
        assert!(contents.iter().all(|content| *content == contents[0]));
    }
    // Pieces of a mebibyte give the tokens of the whole.
    let cut = text.chars().count() * 4 / 5;
    let train: String = text.chars().take(cut).collect();
    let mut expected = vec![50_256];
    expected.extend(oxigpt_text::Tokenizer::gpt2().encode(&train).unwrap());
    assert_eq!(tokens(&dir.path().join("a.txt-1"), Split::Train), expected);
}

#[test]
fn the_first_shard_can_be_for_validation() {
    let dir = tempdir().unwrap();
    put(dir.path(), &[("a.jsonl", lines(&documents(50)))]);
    let all = source(jsonl(), &[dir.path().join("a.jsonl")]);
    let first = PrepareOptions { holdout: Holdout::FirstShard, shard_tokens: 1000, ..options() };
    let manifest = run(&all, &dir.path().join("first"), &first).unwrap();
    assert_eq!((manifest.val.tokens, manifest.val.shards.len()), (1000, 1));
    let everything: u64 = documents(50).iter().flatten().map(|text| text.len() as u64).sum();
    assert_eq!(manifest.val.bytes + manifest.train.bytes, everything);
    let [train, val] = Split::BOTH.map(|split| tokens(&dir.path().join("first"), split));
    let text: String = documents(50)
        .into_iter()
        .flatten()
        .filter(|text| !text.is_empty())
        .fold(String::new(), |all, text| all + "<|endoftext|>" + &text);
    let expected = oxigpt_text::Tokenizer::gpt2().encode_with_specials(&text).unwrap();
    assert_eq!([val, train].concat(), expected);
    let large = PrepareOptions { shard_tokens: 1_000_000, ..first };
    let refused = run(&all, &dir.path().join("large"), &large);
    assert_error(refused, "there is nothing for the train split", "smaller shards");
    assert!(!dir.path().join("large").exists());
}

#[test]
fn end_of_text_stands_where_it_is_wanted() {
    let dir = tempdir().unwrap();
    put(dir.path(), &[("a.txt", b"a".to_vec()), ("b.txt", b"b".to_vec()), ("v.txt", b"c".to_vec())]);
    let mut all = source(Format::Text, &["a.txt", "b.txt", "v.txt"].map(|name| dir.path().join(name)));
    all.inputs[2].val = true;
    for (end_of_text, train, val) in [
        (EndOfText::Before, vec![50_256, 64, 50_256, 65], vec![50_256, 66]),
        (EndOfText::After, vec![64, 50_256, 65, 50_256], vec![66, 50_256]),
        (EndOfText::Between, vec![64, 50_256, 65], vec![66]),
        (EndOfText::None, vec![64, 65], vec![66]),
    ] {
        let out = dir.path().join(end_of_text.to_string());
        run(&all, &out, &PrepareOptions { end_of_text, holdout: Holdout::Inputs, ..options() }).unwrap();
        assert_eq!((tokens(&out, Split::Train), tokens(&out, Split::Val)), (train, val));
        assert_eq!(end_of_text.to_string().parse::<EndOfText>().unwrap(), end_of_text);
    }
    assert_error("front".parse::<EndOfText>(), "unknown place `front`", "before, after, between, none");
}

#[test]
fn broken_inputs_are_refused_with_their_place() {
    let dir = tempdir().unwrap();
    let parquet_file = rows(&documents(100), 30, Compression::SNAPPY);
    let mut damaged = parquet_file.clone();
    damaged[200..2000].fill(0xff);
    let brotli = fixture("brotli.parquet");
    // Other text, which the page could hold as well; the file has checksums of its pages.
    let mut checked = fixture("checksums.parquet");
    let at = checked.windows(3).position(|bytes| bytes == b"cat").unwrap();
    checked[at] = b'r';
    let json = lines(&documents(100));
    let zst = zstd::encode_all(&json[..], 1).unwrap();
    let text = "some words\n".repeat(1000).into_bytes();
    let cases: &[(&str, Vec<u8>, Format, &str, &str)] = &[
        (
            "a.jsonl",
            b"{\"text\":\"a\"}\n\nnot json\n".to_vec(),
            jsonl(),
            "a.jsonl, line 3, column 2: expected",
            "one JSON object",
        ),
        (
            "b.jsonl",
            b"{\"body\":\"a\",\"id\":1}\n".to_vec(),
            jsonl(),
            "b.jsonl, line 1: there is no field `text`; there is `body`, `id`",
            "--field",
        ),
        (
            "c.jsonl",
            b"{\"text\":3}\n".to_vec(),
            jsonl(),
            "c.jsonl, line 1, column 9: invalid type: integer `3`",
            "one JSON object",
        ),
        (
            "d.jsonl",
            b"[1, 2]\n".to_vec(),
            jsonl(),
            "d.jsonl is one JSON array, not a JSON object on each line",
            "jq -c '.[]'",
        ),
        (
            "d2.jsonl",
            b"{\"text\":\"a\"}\n[1, 2]\n".to_vec(),
            jsonl(),
            "d2.jsonl, line 2, column 0: invalid type: sequence, expected an object with a string in its field `text`",
            "one JSON object",
        ),
        (
            "e.jsonl",
            b"{\"text\":\"a\"}\n{\"text\":\"\xff\"}\n".to_vec(),
            jsonl(),
            "e.jsonl, line 2: byte 10 (0xff) is not UTF-8",
            "repair it",
        ),
        ("f.jsonl", b"".to_vec(), jsonl(), "f.jsonl is empty", "leave it out"),
        (
            "g.jsonl.gz",
            gzip(&json)[..500].to_vec(),
            jsonl(),
            "g.jsonl.gz cannot be decompressed as gzip: it ends too early",
            "cut off",
        ),
        (
            "g2.jsonl.gz",
            [gzip(&json), b"something else".to_vec()].concat(),
            jsonl(),
            "g2.jsonl.gz cannot be decompressed as gzip: something else follows its end",
            "`gzip -dc FILE > TEXT` unpacks what comes before it",
        ),
        (
            "h.jsonl.zst",
            zst[..zst.len() - 9].to_vec(),
            jsonl(),
            "h.jsonl.zst cannot be decompressed as zstd: ",
            "cut off",
        ),
        (
            "i.jsonl",
            b"{}\n".to_vec(),
            jsonl(),
            "i.jsonl, line 1: there is no field `text`; there is nothing",
            "--field",
        ),
        (
            "j.parquet",
            parquet_file.clone(),
            Format::Parquet { column: "body".into() },
            "j.parquet has no column `body`; it has `id`, `text`",
            "--column",
        ),
        (
            "k.parquet",
            parquet_file.clone(),
            Format::Parquet { column: "id".into() },
            "k.parquet: column `id` holds INT64, not text",
            "--column",
        ),
        (
            "l.parquet",
            parquet_file[..3000].to_vec(),
            parquet(),
            "l.parquet cannot be read as Parquet: ",
            "cut off",
        ),
        ("m.parquet", json.clone(), parquet(), "m.parquet cannot be read as Parquet: ", "cut off"),
        ("n.parquet", damaged, parquet(), "n.parquet, row group 0, cannot be read as Parquet: ", "cut off"),
        (
            "n2.parquet",
            brotli,
            parquet(),
            "n2.parquet: column `text` is compressed with Brotli, which cannot be read",
            "compressed with zstd, snappy",
        ),
        (
            "n3.parquet",
            checked,
            parquet(),
            "n3.parquet, row group 0, cannot be read as Parquet: Page CRC checksum mismatch",
            "cut off",
        ),
        ("o.parquet", rows(&[], 1, Compression::SNAPPY), parquet(), "o.parquet is empty", "leave it out"),
        (
            "p.txt",
            gzip(&text)[..40].to_vec(),
            Format::Text,
            "p.txt cannot be decompressed as gzip: it ends too early",
            "cut off",
        ),
        (
            "p2.txt",
            parquet_file.clone(),
            Format::Text,
            "p2.txt is not text: it is Parquet",
            "name its --column",
        ),
        (
            "p3.txt",
            b"\xfd7zXZ\0...".to_vec(),
            Format::Text,
            "p3.txt is not text: it is compressed with xz",
            "gzip",
        ),
        (
            "p4.txt",
            [text.repeat(200), b"caf\xe9".to_vec()].concat(),
            Format::Text,
            "p4.txt is not UTF-8 text: byte 2200003 (0xe9), in line 200001, does not belong there",
            "iconv",
        ),
        (
            "q.jsonl",
            b"{\"text\":\"\"}\n".to_vec(),
            jsonl(),
            "there is nothing for the train split",
            "more text",
        ),
    ];
    for (name, bytes, format, message, hint) in cases {
        put(dir.path(), &[(name, bytes.clone())]);
        let out = dir.path().join("out");
        let refused = run(&source(format.clone(), &[dir.path().join(name)]), &out, &options());
        assert_error(refused, message, hint);
        assert!(!out.exists(), "{name} leaves nothing");
    }
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let dir = tempdir().unwrap();
    put(dir.path(), &[("a.jsonl", lines(&documents(9)))]);
    let path = dir.path().join("a.jsonl");
    let out = dir.path().join("out");
    let twice = source(jsonl(), &[path.clone(), dir.path().join("./a.jsonl")]);
    assert_error(run(&twice, &out, &options()), "a.jsonl is given twice", "once");
    let one = source(jsonl(), &[path]);
    let tail = PrepareOptions { holdout: Holdout::Tail, ..options() };
    assert_error(run(&one, &out, &tail), "only plain text can be cut at its end", "first shard");
    let none = PrepareOptions { shard_tokens: 0, ..options() };
    assert_error(run(&one, &out, &none), "a shard of 0 tokens is impossible", "2147483647");
    let missing = PrepareOptions { tokenizer: TokenizerKind::Files(dir.path().into()), ..options() };
    assert_error(run(&one, &out, &missing), "there is no tokenizer in", "tokenizer.json");
    assert!(!out.exists());
}

fn file(dir: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.path().join(name);
    fs::write(&path, bytes).unwrap();
    path
}

/// Documents that no shard can hold, and shards that end anywhere within one.
#[test]
fn a_document_may_be_larger_than_a_shard() {
    let dir = tempdir().unwrap();
    let long = documents(40).into_iter().flatten().collect::<String>().repeat(9);
    let parts = [Some(long.clone()), Some("short".into()), Some(long.clone()), None, Some(long)];
    for (name, format, bytes) in [
        ("lines", jsonl(), lines(&parts)),
        ("rows", parquet(), rows(&parts, 2, Compression::SNAPPY)),
        ("text", Format::Text, parts.iter().flatten().cloned().collect::<String>().into_bytes()),
    ] {
        let path = file(&dir, name, &bytes);
        let holdout = Holdout::FirstShard;
        let of = |shard_tokens| PrepareOptions { shard_tokens, holdout, ..options() };
        let prepared = |shard_tokens| {
            let out = dir.path().join(format!("{name}-{shard_tokens}"));
            let manifest = run(&source(format.clone(), std::slice::from_ref(&path)), &out, &of(shard_tokens));
            let all = [tokens(&out, Split::Val), tokens(&out, Split::Train)].concat();
            (manifest.unwrap(), all)
        };
        let (_, whole) = prepared(20_000);
        assert!(whole.len() > 40_000);
        for shard_tokens in [333, 777, 5000] {
            let (manifest, all) = prepared(shard_tokens);
            assert!(all == whole, "{name} in shards of {shard_tokens}");
            let (last, full) = manifest.train.shards.split_last().unwrap();
            assert!(full.iter().all(|shard| shard.tokens == shard_tokens as u64));
            assert!((1..=shard_tokens as u64).contains(&last.tokens));
        }
    }
}

#[test]
fn documents_that_are_all_empty_leave_nothing_to_train_on() {
    let dir = tempdir().unwrap();
    let none = vec![None, Some(String::new()), None];
    let some = vec![None, Some("a".into()), Some(String::new()), Some("b".into()), None];
    for (name, format, bytes) in
        [("lines", jsonl(), lines(&none)), ("rows", parquet(), rows(&none, 1, Compression::UNCOMPRESSED))]
    {
        let path = file(&dir, name, &bytes);
        let out = dir.path().join(format!("no-{name}"));
        let refused = run(&source(format, &[path]), &out, &options());
        assert_error(refused, "there is nothing for the train split", "use more text");
        assert!(!out.exists());
    }
    let path = file(&dir, "some", &lines(&some));
    let out = dir.path().join("out");
    let options = PrepareOptions { holdout: Holdout::FirstShard, shard_tokens: 2, ..options() };
    let manifest = run(&source(jsonl(), &[path]), &out, &options).unwrap();
    assert_eq!((manifest.documents, manifest.empty_documents), (2, 3));
    assert_eq!([tokens(&out, Split::Val), tokens(&out, Split::Train)], [[50256, 64], [50256, 65]]);
}
