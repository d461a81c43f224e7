//! Preparing text: nanoGPT's numbers, what stands in the directory, and every way it can go wrong.

use std::path::{Path, PathBuf};

use crate::common::{assert_error, fixture, headerless, put};
use fs_err as fs;
use oxigpt_data::{
    Dataset, DatasetError, Error, Manifest, PrepareOptions, Progress, Split, Stage, TokenizerKind,
    prepare_stories, prepare_text,
};
use tempfile::{TempDir, tempdir};

const CHAR: TokenizerKind = TokenizerKind::Char;
const GPT2: TokenizerKind = TokenizerKind::Gpt2;

fn options(tokenizer: TokenizerKind) -> PrepareOptions {
    PrepareOptions { tokenizer, ..PrepareOptions::default() }
}

/// Files of these contents, named 0.txt, 1.txt, ...
fn inputs(dir: &TempDir, texts: &[&[u8]]) -> Vec<PathBuf> {
    let paths: Vec<PathBuf> = (0..texts.len()).map(|i| dir.path().join(format!("{i}.txt"))).collect();
    paths.iter().zip(texts).for_each(|(path, text)| fs::write(path, text).unwrap());
    paths
}

fn prepare(dir: &TempDir, texts: &[&[u8]], options: &PrepareOptions) -> oxigpt_data::Result<Manifest> {
    prepare_text(&inputs(dir, texts), &dir.path().join("out"), options, &mut |_| ())
}

fn tokens(dir: &Path, split: Split) -> Vec<u32> {
    let dataset = Dataset::open(dir).unwrap();
    let mut out = vec![0; dataset.split(split).len() as usize];
    dataset.split(split).read(0, &mut out);
    out
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The numbers that nanoGPT prints for Tiny Shakespeare (1,115,394 bytes; its path in OXIGPT_TINYSHAKESPEARE).
#[test]
#[ignore = "needs the whole text: OXIGPT_TINYSHAKESPEARE=input.txt cargo test -- --ignored"]
fn tiny_shakespeare_gives_nanogpt_s_numbers() {
    let input = PathBuf::from(std::env::var_os("OXIGPT_TINYSHAKESPEARE").expect("the path of the text"));
    for (kind, vocab_size, train, val) in [(CHAR, 65, 1_003_854, 111_540), (GPT2, 50_257, 301_966, 36_059)] {
        let dir = tempdir().unwrap();
        let manifest =
            prepare_text(std::slice::from_ref(&input), dir.path(), &options(kind), &mut |_| ()).unwrap();
        assert_eq!(
            (manifest.vocab_size, manifest.train.tokens, manifest.val.tokens),
            (vocab_size, train, val)
        );
    }
}

#[test]
fn the_text_is_split_by_characters_and_each_part_encoded_by_itself() {
    let dir = tempdir().unwrap();
    // 10 characters, 13 bytes; nine tenths of them end in the middle of a word.
    let manifest = prepare(&dir, &["h\u{e9}h\u{e9} wor\u{1e0}d".as_bytes()], &options(CHAR)).unwrap();
    let out = dir.path().join("out");
    assert_eq!((manifest.train.tokens, manifest.val.tokens), (9, 1));
    assert_eq!((manifest.train.bytes, manifest.val.bytes), (12, 1));
    assert_eq!(manifest.vocab_size, 8);
    // The sorted set: ' ' d h o r w U+00E9 U+01E0.
    assert_eq!(tokens(&out, Split::Train), [2, 6, 2, 6, 0, 5, 3, 4, 7]);
    assert_eq!(tokens(&out, Split::Val), [1]);

    let manifest =
        prepare(&dir, &[b"hello world"], &PrepareOptions { force: true, ..options(GPT2) }).unwrap();
    // "hello wor" and "ld".
    assert_eq!(tokens(&out, Split::Train), [31_373, 476]);
    assert_eq!(tokens(&out, Split::Val), [335]);
    assert_eq!(manifest.val.bytes, 2);
}

#[test]
fn documents_are_parted_by_one_end_of_text_and_only_inside_a_part() {
    let dir = tempdir().unwrap();
    let half = PrepareOptions { val_fraction: 0.5, ..options(GPT2) };
    // "a" = 64, "b" = 65, "c" = 66, "d" = 67; the cut is a border of documents.
    let manifest = prepare(&dir, &[b"a", b"b", b"c", b"d"], &half).unwrap();
    let out = dir.path().join("out");
    assert_eq!(tokens(&out, Split::Train), [64, 50_256, 65]);
    assert_eq!(tokens(&out, Split::Val), [66, 50_256, 67]);
    assert_eq!((manifest.documents, manifest.train.bytes), (4, 2));
    assert_eq!(manifest.source, ["0.txt", "1.txt", "2.txt", "3.txt"]);
    // The cut is inside a document.
    prepare(&dir, &[b"a", b" b b", b"c"], &PrepareOptions { force: true, ..half.clone() }).unwrap();
    assert_eq!(tokens(&out, Split::Train), [64, 50_256, 275]);
    assert_eq!(tokens(&out, Split::Val), [275, 50_256, 66]);
    // Characters have no such token; a literal one is text.
    let force_char = PrepareOptions { tokenizer: CHAR, force: true, ..half };
    let manifest = prepare(&dir, &[b"ab", b"<|endoftext|>"], &force_char).unwrap();
    assert_eq!(manifest.train.tokens + manifest.val.tokens, 15);
}

#[test]
fn a_directory_holds_what_its_dataset_json_lists() {
    let dir = tempdir().unwrap();
    let text = "to be or not to be ".repeat(10);
    let small = PrepareOptions { shard_tokens: 100, ..options(CHAR) };
    let manifest = prepare(&dir, &[text.as_bytes()], &small).unwrap();
    let out = dir.path().join("out");
    let files: Vec<&str> = manifest.train.shards.iter().map(|shard| shard.file.as_str()).collect();
    assert_eq!(files, ["train_000000.bin", "train_000001.bin"]);
    assert_eq!(manifest.train.shards.iter().map(|shard| shard.tokens).collect::<Vec<_>>(), [100, 71]);
    let names = names(&out);
    assert!(names.contains(&"dataset.json".to_string()) && names.contains(&"val_000000.bin".to_string()));
    assert!(names.iter().all(|name| !name.contains("partial") && !name.contains("tmp")), "{names:?}");
    assert_eq!(Dataset::open(&out).unwrap().manifest(), Some(&manifest));
    Dataset::open(&out).unwrap().verify().unwrap();
}

#[test]
fn progress_counts_bytes_of_text() {
    let dir = tempdir().unwrap();
    let paths = inputs(&dir, &[&[b'a'; 1000], &[b'b'; 500]]);
    let mut seen: Vec<Progress> = Vec::new();
    prepare_text(&paths, &dir.path().join("out"), &options(CHAR), &mut |p| seen.push(p)).unwrap();
    for stage in [Stage::Read, Stage::Encode, Stage::Write] {
        let last = seen.iter().rfind(|p| p.stage == stage).unwrap();
        assert_eq!((last.done, last.total), (1500, 1500), "{stage:?}");
    }
    assert!(seen.is_sorted_by_key(|p| (p.stage as u8, p.done)));
}

#[test]
fn the_stories_become_a_dataset_of_characters() {
    let dir = tempdir().unwrap();
    let manifest = prepare_stories(&dir.path().join("stories"), false).unwrap();
    assert_eq!(manifest.source, ["stories"]);
    assert_eq!(manifest.tokenizer.name, "char");
    assert!(manifest.train.tokens >= 1_000_000 && manifest.vocab_size < 64);
    assert_error(prepare_stories(&dir.path().join("stories"), false), "already holds a dataset", "--force");
}

#[test]
fn bad_inputs_are_refused() {
    let dir = tempdir().unwrap();
    let out = dir.path().join("out");
    let run = |paths: &[PathBuf], options: &PrepareOptions| prepare_text(paths, &out, options, &mut |_| ());
    let good = inputs(&dir, &[b"some text to split"]);
    let missing = dir.path().join("missing.txt");
    let chars = options(CHAR);
    assert_error(run(&[], &chars), "no input file", "--input");
    assert_error(run(&[good[0].clone(), missing], &chars), "there is no file", "check the path");
    assert_error(run(&[dir.path().into()], &chars), "is a directory, not a text file", "*.txt");
    put(
        dir.path(),
        &[("empty.txt", vec![]), ("latin.txt", b"caf\xe9 au lait".to_vec()), ("one.txt", vec![b'x'])],
    );
    assert_error(run(&[dir.path().join("empty.txt")], &chars), "empty.txt is empty", "saved");
    assert_error(
        run(&[dir.path().join("latin.txt")], &chars),
        "latin.txt is not UTF-8 text: byte 3 (0xe9), in line 1, does not belong there",
        "iconv",
    );
    put(dir.path(), &[("le.txt", b"\xff\xfeh\0i\0".to_vec()), ("be.txt", b"\xfe\xff\0h\0i".to_vec())]);
    for name in ["le.txt", "be.txt"] {
        let message = format!("{name} is UTF-16 text");
        assert_error(run(&[dir.path().join(name)], &chars), &message, "iconv -f UTF-16");
    }
    put(dir.path(), &[("mark.txt", b"\xef\xbb\xbf".to_vec())]);
    assert_error(run(&[dir.path().join("mark.txt")], &chars), "mark.txt is empty", "saved");
    #[cfg(unix)]
    assert_error(run(&["/dev/zero".into()], &chars), "/dev/zero is neither a file nor a pipe", "to a file");
    assert_error(
        run(&[dir.path().join("one.txt")], &chars),
        "of 1 character leaves the train split empty",
        "a smaller val_fraction",
    );
    let tiny = PrepareOptions { val_fraction: 1e-300, ..options(CHAR) };
    let message = "val_fraction 1e-300 of 18 characters leaves the val split empty";
    assert_error(run(&good, &tiny), message, "a larger val_fraction");
    for val_fraction in [0.0, 1.0, -0.1, 1.5, f64::NAN, f64::INFINITY] {
        let bad = PrepareOptions { val_fraction, ..options(CHAR) };
        assert_error(run(&good, &bad), "but must lie between 0 and 1", "use 0.1");
    }
    assert_error("gpt3".parse::<TokenizerKind>(), "unknown tokenizer `gpt3`", "gpt2, char");
    assert_eq!(
        ["gpt2", "char"].map(|name| name.parse::<TokenizerKind>().unwrap().to_string()),
        ["gpt2", "char"]
    );
    assert!(!out.exists(), "a refused preparation leaves nothing");
}

#[test]
fn a_dataset_is_never_overwritten_silently() {
    let dir = tempdir().unwrap();
    let out = dir.path().join("out");
    let sharded = PrepareOptions { shard_tokens: 5, ..options(CHAR) };
    prepare(&dir, &[b"the first text of all"], &sharded).unwrap();
    let before = fs::read(out.join("train_000000.bin")).unwrap();
    assert_error(
        prepare(&dir, &[b"another"], &options(CHAR)),
        "already holds a dataset (dataset.json)",
        "--force",
    );
    assert_eq!(fs::read(out.join("train_000000.bin")).unwrap(), before);
    let force = PrepareOptions { force: true, ..options(CHAR) };
    prepare(&dir, &[b"another one"], &force).unwrap();
    assert!(!out.join("train_000001.bin").exists(), "shards of the old dataset are gone");
    Dataset::open(&out).unwrap().verify().unwrap();

    let foreign = dir.path().join("foreign");
    fs::create_dir(&foreign).unwrap();
    put(&foreign, &[("val.bin", headerless(&[1]))]);
    let paths = inputs(&dir, &[b"some text to split"]);
    let run = |out: &Path| prepare_text(&paths, out, &options(CHAR), &mut |_| ());
    assert_error(run(&foreign), "already holds a dataset (val.bin)", "another directory");
    assert_error(run(&paths[0]), "0.txt is a file; a dataset needs a directory", "another output");
    // What stands in a directory of another kind stays alone, unless that is wanted.
    let beside = dir.path().join("beside");
    fs::create_dir(&beside).unwrap();
    put(&beside, &[("notes.txt", b"text".to_vec())]);
    assert_error(run(&beside), "beside holds other things (notes.txt) and no dataset", "--force");
    assert_eq!(names(&beside), ["notes.txt"]);
    prepare_text(&paths, &beside, &PrepareOptions { force: true, ..options(CHAR) }, &mut |_| ()).unwrap();
    assert!(beside.join("notes.txt").exists());
    // Nor does what stands where shards are staged, and an input stays what it is.
    let staged = dir.path().join("staged");
    fs::create_dir_all(staged.join(".partial")).unwrap();
    put(&staged, &[(".partial/mine.txt", b"text".to_vec())]);
    assert_error(run(&staged), "staged holds other things (.partial/mine.txt) and no dataset", "--force");
    assert_eq!(fs::read(staged.join(".partial/mine.txt")).unwrap(), b"text");
    put(&staged, &[("train_000000.bin", b"some text".to_vec())]);
    let force = PrepareOptions { force: true, ..options(CHAR) };
    let taken = prepare_text(&[staged.join("train_000000.bin")], &staged, &force, &mut |_| ());
    assert_error(
        taken,
        "train_000000.bin is an input, and the dataset may have a file of that name",
        "rename",
    );
    assert_eq!(fs::read(staged.join("train_000000.bin")).unwrap(), b"some text");
    // Its inputs are no other things.
    let own = dir.path().join("own");
    fs::create_dir_all(own.join("texts")).unwrap();
    put(&own, &[("texts/a.txt", b"some text".to_vec()), ("b.txt", b"some text".to_vec())]);
    put(&own, &[(".gitignore", vec![])]);
    let inputs = ["texts/a.txt", "b.txt"].map(|name| own.join(name));
    prepare_text(&inputs, &own, &options(CHAR), &mut |_| ()).unwrap();
    assert!(own.join("texts/a.txt").exists() && own.join("dataset.json").exists());
}

/// With `force`, a dataset of any layout is replaced whole: what is read is what was prepared last.
#[test]
fn datasets_of_other_layouts_are_replaced() {
    let dir = tempdir().unwrap();
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    let theirs = [("train.bin", headerless(&[1, 2])), ("val.bin", headerless(&[1]))];
    put(&out, &[("meta.pkl", fixture("meta.pkl"))]);
    put(&out, &theirs);
    put(&out, &[("prepare.py", b"pass".to_vec()), ("training_args.bin", b"PK..".to_vec())]);
    let force = PrepareOptions { force: true, ..options(GPT2) };
    prepare(&dir, &[b"some text to split"], &force).unwrap();
    let ours = ["dataset.json", "prepare.py", "train_000000.bin", "training_args.bin", "val_000000.bin"];
    assert_eq!(names(&out), ours);
    Dataset::open(&out).unwrap().verify().unwrap();
}

#[cfg(unix)]
#[test]
fn an_output_that_can_be_no_directory() {
    let dir = tempdir().unwrap();
    let paths = inputs(&dir, &[b"some text to split"]);
    let run = |out: &Path| prepare_text(&paths, out, &options(CHAR), &mut |_| ());
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(dir.path().join("nowhere"), &link).unwrap();
    assert_error(run(&link), "link is a link to something that is not there", "remove the link");
    assert_error(run(Path::new("/dev/full")), "/dev/full is a file; a dataset needs a directory", "another");
}

#[test]
fn threads_beyond_reason_are_refused() {
    let dir = tempdir().unwrap();
    let many = PrepareOptions { threads: 9_999_999, ..options(CHAR) };
    let refused = prepare(&dir, &[b"some text to split"], &many);
    assert_error(refused, "cannot start 9999999 worker threads: with ", "ask for fewer with --threads=N");
}

#[test]
fn a_failure_leaves_nothing_that_could_be_taken_for_whole() {
    let dir = tempdir().unwrap();
    let paths = inputs(&dir, &[b"some text to split"]);
    let run = |out: &Path| prepare_text(&paths, out, &options(CHAR), &mut |_| ());
    // Its parent is a file, so that not even the staging directory can be made.
    let error = run(&paths[0].join("out")).unwrap_err();
    assert!(error.to_string().contains("0.txt"), "{error}");
    // A directory stands where a shard is to go, so that moving up fails half-way.
    let out = dir.path().join("out");
    fs::create_dir_all(out.join("val_000000.bin/in the way")).unwrap();
    let refused = prepare_text(&paths, &out, &PrepareOptions { force: true, ..options(CHAR) }, &mut |_| ());
    assert!(refused.unwrap_err().to_string().contains("val_000000.bin"));
    assert_error(Dataset::open(&out), "interrupted", "again");
    // With that out of the way, the next attempt clears what the failed one left, and what a killed one would have.
    fs::remove_dir_all(out.join("val_000000.bin")).unwrap();
    put(&out, &[(".prepare.lock", vec![])]);
    prepare_text(&paths, &out, &PrepareOptions { force: true, ..options(CHAR) }, &mut |_| ()).unwrap();
    assert!(!out.join(".partial").exists() && (!cfg!(unix) || !out.join(".prepare.lock").exists()));
    Dataset::open(&out).unwrap().verify().unwrap();
}

#[test]
fn files_of_others_are_not_overwritten_unasked() {
    let dir = tempdir().unwrap();
    let out = dir.path().join("out");
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs::create_dir_all(&out).unwrap();
        put(&out, &[(name, b"mine".to_vec())]);
        for kind in [CHAR, GPT2] {
            let refused = prepare(&dir, &[b"some text to split"], &options(kind));
            assert_error(refused, &format!("holds other things ({name}) and no dataset"), "--force");
        }
        assert_eq!(names(&out), [name]);
        assert_eq!(fs::read(out.join(name)).unwrap(), b"mine");
        prepare(&dir, &[b"some text"], &PrepareOptions { force: true, ..options(CHAR) }).unwrap();
        assert_ne!(fs::read(out.join(name)).unwrap(), b"mine");
        fs::remove_dir_all(&out).unwrap();
    }
}

#[test]
fn what_replaces_a_dataset_removes_its_tokenizer_but_nobody_else_s() {
    let dir = tempdir().unwrap();
    let out = dir.path().join("out");
    prepare(&dir, &[b"some text to split"], &options(CHAR)).unwrap();
    assert!(out.join("tokenizer.json").exists());
    prepare(&dir, &[b"some text to split"], &PrepareOptions { force: true, ..options(GPT2) }).unwrap();
    assert_eq!(names(&out), ["dataset.json", "train_000000.bin", "val_000000.bin"]);

    prepare(&dir, &[b"some text to split"], &PrepareOptions { force: true, ..options(CHAR) }).unwrap();
    put(&out, &[("tokenizer_config.json", b"mine".to_vec()), ("notes.txt", b"mine".to_vec())]);
    prepare(&dir, &[b"some text to split"], &PrepareOptions { force: true, ..options(GPT2) }).unwrap();
    let kept = ["dataset.json", "notes.txt", "tokenizer_config.json", "train_000000.bin", "val_000000.bin"];
    assert_eq!(names(&out), kept);
}

/// Different datasets of the same layout into one place: what is there in the end is one of them, whole.
#[test]
fn preparations_of_one_place_come_one_after_the_other() {
    let dir = tempdir().unwrap();
    let texts = [b"aaaaaaaaaabbbbbbbbbb", b"cccccccccc..........", b"xyxyxyxyxyxyxyxyxyxy"];
    let paths = inputs(&dir, &texts.map(|text| &text[..]));
    let out = dir.path().join("out");
    let force = PrepareOptions { force: true, shard_tokens: 2, ..options(CHAR) };
    std::thread::scope(|scope| {
        for path in &paths {
            let run = || {
                for _ in 0..5 {
                    prepare_text(std::slice::from_ref(path), &out, &force, &mut |_| ()).unwrap();
                }
            };
            scope.spawn(run);
        }
    });
    let dataset = Dataset::open(&out).unwrap();
    dataset.verify().unwrap();
    dataset.tokenizer().unwrap();
    let shards = names(&out).into_iter().filter(|name| name.ends_with(".bin")).count();
    assert_eq!(shards, 10);
    assert!(names(&out).iter().all(|name| !name.starts_with('.')), "{:?}", names(&out));
}

/// As when two runs start that both need the built-in data set first: whoever is later finds it, and moves nothing.
#[test]
fn a_dataset_that_is_there_already_is_left_alone_unless_it_is_damaged() {
    let dir = tempdir().unwrap();
    let out = dir.path().join("out");
    let force = PrepareOptions { force: true, ..options(CHAR) };
    let text: &[u8] = b"some text to split";
    prepare(&dir, &[text], &force).unwrap();
    let written = || fs::metadata(out.join("train_000000.bin")).unwrap().modified().unwrap();
    let before = written();
    let first = prepare(&dir, &[text], &force).unwrap();
    assert_eq!(written(), before);
    let mut bytes = fs::read(out.join("val_000000.bin")).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(out.join("val_000000.bin"), bytes).unwrap();
    assert_eq!(prepare(&dir, &[text], &force).unwrap(), first);
    Dataset::open(&out).unwrap().verify().unwrap();
    assert_ne!(written(), before);
}

#[test]
fn a_byte_order_mark_is_no_text() {
    let dir = tempdir().unwrap();
    let half = PrepareOptions { val_fraction: 0.5, ..options(CHAR) };
    // Only one at the start is a mark; within a text it is the character that it is.
    let texts = ["\u{feff}ab", "\u{feff}c\u{feff}"].map(str::as_bytes);
    let manifest = prepare(&dir, &texts, &half).unwrap();
    assert_eq!((manifest.vocab_size, manifest.train.bytes, manifest.val.bytes), (4, 2, 4));
    assert_eq!(tokens(&dir.path().join("out"), Split::Train), [0, 1]);
    assert_eq!(tokens(&dir.path().join("out"), Split::Val), [2, 3]);
}

/// A named pipe, as a shell makes one of `<(command)`.
#[cfg(unix)]
#[test]
fn a_pipe_is_read() {
    let dir = tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    std::thread::scope(|scope| {
        scope.spawn(|| fs::write(&pipe, "some text to split").unwrap());
        let out = dir.path().join("out");
        let manifest = prepare_text(std::slice::from_ref(&pipe), &out, &options(CHAR), &mut |_| ()).unwrap();
        assert_eq!(manifest.train.tokens + manifest.val.tokens, 18);
    });
}

/// What a run does whose data set is built in, several times at once: each ends with the whole data set open.
#[test]
fn first_uses_at_once_all_find_the_dataset() {
    for _ in 0..10 {
        let dir = tempdir().unwrap();
        let path = inputs(&dir, &[b"some text to split"]);
        let out = dir.path().join("out");
        let force = PrepareOptions { force: true, shard_tokens: 4, ..options(CHAR) };
        let first_use = &|| {
            let dataset = match Dataset::open(&out) {
                Err(Error::Dataset(DatasetError::NoSuchDataset { .. } | DatasetError::Incomplete { .. })) => {
                    prepare_text(&path, &out, &force, &mut |_| ()).unwrap();
                    Dataset::open(&out).unwrap()
                }
                dataset => dataset.unwrap(),
            };
            assert!(dataset.manifest().is_some());
            dataset.validate(dataset.vocab_size().unwrap()).unwrap();
        };
        std::thread::scope(|scope| {
            for pause in 0..6 {
                scope.spawn(move || {
                    std::thread::sleep(std::time::Duration::from_micros(400 * pause));
                    first_use();
                });
            }
        });
    }
}
