//! Sources of every kind, what is said of broken ones, and preparations that are cut off and go on.

use std::io::Write;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::common::{assert_error, put};
use fs_err as fs;
use oxigpt_data::{
    Dataset, EndOfText, Error, Format, Holdout, Input, Manifest, Place, PrepareOptions, Progress, Source,
    Split, Stage, TokenizerKind, prepare,
};
use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use tempfile::{TempDir, tempdir};

fn options() -> PrepareOptions {
    PrepareOptions {
        end_of_text: EndOfText::Before,
        holdout: Holdout::Documents { seed: 7 },
        val_fraction: 0.2,
        threads: 2,
        ..PrepareOptions::default()
    }
}

fn source(format: Format, paths: &[PathBuf]) -> Source {
    Source { format, inputs: paths.iter().map(Input::file).collect() }
}

fn jsonl() -> Format {
    Format::Jsonl { field: "text".into() }
}

fn parquet() -> Format {
    Format::Parquet { column: "text".into() }
}

fn run(source: &Source, out: &Path, options: &PrepareOptions) -> oxigpt_data::Result<Manifest> {
    prepare(source, out, options, &mut |_| ControlFlow::Continue(()))
}

fn tokens(dir: &Path, split: Split) -> Vec<u32> {
    let dataset = Dataset::open(dir).unwrap();
    let mut out = vec![0; dataset.split(split).len() as usize];
    dataset.split(split).read(0, &mut out);
    out
}

/// Documents that differ, some of them long, one empty, one null.
fn documents(count: usize) -> Vec<Option<String>> {
    let text = |i: usize| match i {
        3 => None,
        5 => Some(String::new()),
        _ => Some(format!("Document {i}, \"quoted\"\n").repeat(1 + i * i % 37) + "Gr\u{fc}\u{df}e \u{1f600}"),
    };
    (0..count).map(text).collect()
}

fn lines(documents: &[Option<String>]) -> Vec<u8> {
    let lines = documents.iter().enumerate();
    let lines = lines.map(|(id, text)| serde_json::json!({ "id": id, "text": text, "meta": { "text": 1 } }));
    lines.flat_map(|line| (line.to_string() + "\n").into_bytes()).collect()
}

/// A file of two columns, in row groups of `group` rows, each cut into several calls.
fn rows(documents: &[Option<String>], group: usize, compression: Compression) -> Vec<u8> {
    let schema = "message m { required int64 id; optional binary text (UTF8); }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties =
        WriterProperties::builder().set_compression(compression).set_data_page_row_count_limit(7);
    let mut writer =
        SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties.set_write_batch_size(3).build()))
            .unwrap();
    for rows in documents.chunks(group) {
        let mut group = writer.next_row_group().unwrap();
        let mut ids = group.next_column().unwrap().unwrap();
        let numbers: Vec<i64> = (0..rows.len() as i64).collect();
        ids.typed::<Int64Type>().write_batch(&numbers, None, None).unwrap();
        ids.close().unwrap();
        let mut texts = group.next_column().unwrap().unwrap();
        let levels: Vec<i16> = rows.iter().map(|text| i16::from(text.is_some())).collect();
        let values: Vec<ByteArray> = rows.iter().flatten().map(|text| text.as_str().into()).collect();
        texts.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None).unwrap();
        texts.close().unwrap();
        group.close().unwrap();
    }
    writer.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Everything in a data directory, by name.
fn content(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries
        .map(|path| {
            (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap_or_default())
        })
        .collect();
    files.sort();
    files
}

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

/// Three files, and what a preparation of them gives that nobody interrupts.
fn three_files(dir: &TempDir, format: &Format) -> (Source, Vec<(String, Vec<u8>)>) {
    let parts = [documents(400), documents(300), documents(200)];
    let paths: Vec<PathBuf> = (0..3).map(|i| dir.path().join(format!("{i}.data"))).collect();
    for (path, part) in paths.iter().zip(&parts) {
        let bytes = match format {
            Format::Jsonl { .. } => gzip(&lines(part)),
            Format::Parquet { .. } => rows(part, 90, Compression::SNAPPY),
            Format::Text => part.iter().flatten().cloned().collect::<String>().repeat(8).into_bytes(),
        };
        fs::write(path, bytes).unwrap();
    }
    let source = source(format.clone(), &paths);
    run(&source, &dir.path().join("whole"), &resumable(format)).unwrap();
    (source, content(&dir.path().join("whole")))
}

fn resumable(format: &Format) -> PrepareOptions {
    let holdout = if *format == Format::Text { Holdout::Tail } else { Holdout::Documents { seed: 3 } };
    PrepareOptions { save_every: 1, shard_tokens: 5000, holdout, ..options() }
}

/// Each attempt gets two blocks further. A panic leaves things as a killed process does.
#[test]
fn what_was_cut_off_goes_on_and_ends_with_the_same_bytes() {
    for format in [Format::Text, jsonl(), parquet()] {
        let dir = tempdir().unwrap();
        let (source, whole) = three_files(&dir, &format);
        for is_polite in [true, false] {
            let out = dir.path().join("out");
            let mut cuts = 0;
            loop {
                let mut reports = 0;
                let mut watch = |at: Progress| {
                    reports += usize::from(at.stage == Stage::Encode);
                    match reports {
                        3.. if is_polite => ControlFlow::Break(()),
                        3.. => panic!("killed"),
                        _ => ControlFlow::Continue(()),
                    }
                };
                let attempt = || prepare(&source, &out, &resumable(&format), &mut watch);
                match catch_unwind(AssertUnwindSafe(attempt)) {
                    Ok(Ok(_)) => break,
                    Ok(Err(error)) => assert!(matches!(error, Error::Interrupted), "{error}"),
                    Err(_) => {}
                }
                cuts += 1;
                assert!(cuts < 20);
            }
            assert!(cuts > 1);
            assert_eq!(content(&out), whole);
            fs::remove_dir_all(&out).unwrap();
        }
    }
}

#[test]
fn a_changed_input_is_refused_by_name() {
    let dir = tempdir().unwrap();
    let (source, whole) = three_files(&dir, &jsonl());
    let out = dir.path().join("out");
    let options = resumable(&jsonl());
    // Until the second input is done.
    let mut stop = |at: Progress| {
        let two: u64 = source.inputs[..2].iter().map(|input| input.bytes).sum();
        if at.done >= two { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    assert_error(prepare(&source, &out, &options, &mut stop), "interrupted", "same command again");
    assert_error(Dataset::open(&out), "was interrupted", "goes on where it stopped");
    let other = PrepareOptions { shard_tokens: 6000, ..options.clone() };
    assert_error(run(&source, &out, &other), "of other inputs or with other options", "--force");
    let before = fs::read(dir.path().join("1.data")).unwrap();
    fs::write(dir.path().join("1.data"), gzip(&lines(&documents(10)))).unwrap();
    assert_error(run(&source, &out, &options), "1.data has changed since it was used", "--force");
    // The third has not been used yet, but the first two have.
    run(&source, &out, &PrepareOptions { force: true, ..options.clone() }).unwrap();
    assert_ne!(content(&out), whole);
    fs::write(dir.path().join("1.data"), before).unwrap();
    run(&source, &out, &PrepareOptions { force: true, ..options }).unwrap();
    assert_eq!(content(&out), whole);
}

#[test]
fn whole_inputs_are_kept_where_a_later_one_is_broken() {
    let dir = tempdir().unwrap();
    let (source, whole) = three_files(&dir, &jsonl());
    let out = dir.path().join("out");
    let good = fs::read(dir.path().join("2.data")).unwrap();
    let broken = [lines(&documents(150)), b"{\"text\": \"no end\n".to_vec()].concat();
    fs::write(dir.path().join("2.data"), broken).unwrap();
    let refused = run(&source, &out, &resumable(&jsonl()));
    assert_error(refused, "2.data, line 151, column 16: ", "same command again");
    fs::write(dir.path().join("2.data"), good).unwrap();
    let mut first = None;
    prepare(&source, &out, &resumable(&jsonl()), &mut |at| {
        first.get_or_insert(at.done);
        ControlFlow::Continue(())
    })
    .unwrap();
    let two: u64 = source.inputs[..2].iter().map(|input| input.bytes).sum();
    assert!(first.unwrap() >= two, "it begins with the third");
    assert_eq!(content(&out), whole);
}

#[test]
fn broken_inputs_are_refused_with_their_place() {
    let dir = tempdir().unwrap();
    let parquet_file = rows(&documents(100), 30, Compression::SNAPPY);
    let mut damaged = parquet_file.clone();
    damaged[200..2000].fill(0xff);
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
            "d.jsonl, line 1, column 0: invalid type: sequence, expected an object with a string in its field `text`",
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
        ("o.parquet", rows(&[], 1, Compression::SNAPPY), parquet(), "o.parquet is empty", "leave it out"),
        (
            "p.txt",
            gzip(&text)[..40].to_vec(),
            Format::Text,
            "p.txt cannot be decompressed as gzip: it ends too early",
            "cut off",
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

/// Fetched as a model's files are: when its turn has come, and told when it is not needed any more.
#[test]
fn fetched_inputs_are_released_when_they_are_safe() {
    use std::sync::Mutex;
    struct Remote(PathBuf, Arc<Mutex<Vec<String>>>);
    impl oxigpt_data::Fetch for Remote {
        fn fetch(&self) -> Result<PathBuf, oxigpt_data::FetchError> {
            self.1.lock().unwrap().push(format!("fetch {}", self.0.file_name().unwrap().display()));
            if self.0.exists() { Ok(self.0.clone()) } else { Err("the line is dead".into()) }
        }
        fn release(&self) {
            self.1.lock().unwrap().push(format!("release {}", self.0.file_name().unwrap().display()));
        }
    }
    let dir = tempdir().unwrap();
    let (mut source, whole) = three_files(&dir, &jsonl());
    let told = Arc::new(Mutex::new(Vec::new()));
    for input in &mut source.inputs {
        let Place::File(path) = &input.place else { panic!("they are files") };
        let path = path.clone();
        input.sha256 = Some("00".repeat(32));
        input.place = Place::Fetched(Arc::new(Remote(path, told.clone())));
    }
    let hidden = dir.path().join("hidden");
    fs::rename(dir.path().join("2.data"), &hidden).unwrap();
    let out = dir.path().join("out");
    let failed = run(&source, &out, &resumable(&jsonl()));
    assert!(matches!(&failed, Err(Error::Fetch(error)) if error.to_string() == "the line is dead"));
    fs::rename(&hidden, dir.path().join("2.data")).unwrap();
    run(&source, &out, &resumable(&jsonl())).unwrap();
    let told = told.lock().unwrap();
    let released: Vec<&str> = told.iter().filter_map(|told| told.strip_prefix("release ")).collect();
    assert!(released.starts_with(&["0.data", "1.data"]) && released.ends_with(&["2.data"]), "{released:?}");
    assert_eq!(told.iter().filter(|told| *told == "fetch 0.data").count(), 1);
    let shards = |content: &[(String, Vec<u8>)]| {
        content.iter().filter(|(name, _)| name.ends_with(".bin")).cloned().collect::<Vec<_>>()
    };
    assert_eq!(shards(&content(&out)), shards(&whole));
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
