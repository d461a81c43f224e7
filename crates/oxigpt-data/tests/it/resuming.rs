//! Preparations that are cut off and go on, and what is refused because it has changed meanwhile.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::common::*;
use fs_err as fs;
use oxigpt_data::{
    Dataset, Error, Format, Holdout, Place, PrepareOptions, Progress, Source, Stage, TokenizerKind, prepare,
};
use parquet::basic::Compression;
use tempfile::{TempDir, tempdir};

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

/// Each attempt gets a block further, or two. A panic leaves things as a killed process does.
#[test]
fn what_was_cut_off_goes_on_and_ends_with_the_same_bytes() {
    for format in [Format::Text, jsonl(), parquet()] {
        let dir = tempdir().unwrap();
        let (source, whole) = three_files(&dir, &format);
        for is_polite in [true, false] {
            let out = dir.path().join("out");
            let mut cuts = 0;
            loop {
                let (mut reports, mut before) = (0, None);
                let mut watch = |at: Progress| {
                    let is_next = at.stage == Stage::Encode && before.replace(at.done) != Some(at.done);
                    reports += usize::from(is_next);
                    match reports {
                        2.. if is_polite => ControlFlow::Break(()),
                        2.. => panic!("killed"),
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
        if at.stage == Stage::Encode {
            first.get_or_insert(at.done);
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    let two: u64 = source.inputs[..2].iter().map(|input| input.bytes).sum();
    assert!(first.unwrap() >= two, "it begins with the third");
    assert_eq!(content(&out), whole);
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

/// A preparation that stops after some blocks; how it was left.
fn cut_off(source: &Source, out: &Path, options: &PrepareOptions, blocks: usize) {
    let (mut reports, mut before) = (0, None);
    let mut watch = |at: Progress| {
        let is_next = at.stage == Stage::Encode && before.replace(at.done) != Some(at.done);
        reports += usize::from(is_next);
        if reports > blocks { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    assert_error(prepare(source, out, options, &mut watch), "interrupted", "same command again");
}

/// Whatever has happened to what was finished: the same bytes as ever, or an error.
#[test]
fn damage_between_two_attempts_is_found() {
    for format in [Format::Text, jsonl()] {
        let dir = tempdir().unwrap();
        let (source, whole) = three_files(&dir, &format);
        let options = resumable(&format);
        let (out, kept) = (dir.path().join("out"), dir.path().join("kept"));
        cut_off(&source, &out, &options, 2);
        let staging = out.join(".partial");
        let shards = content(&staging).into_iter().filter(|(name, _)| name.ends_with(".bin"));
        let shards: Vec<_> = shards.collect();
        assert!(shards.len() > 4, "full ones, and those that are not");
        fs::rename(&out, &kept).unwrap();
        let damaged = |bytes: &[u8]| {
            let (mut flipped, last) = (bytes.to_vec(), bytes.len() - 1);
            flipped[last] ^= 1;
            [Some(flipped), Some(bytes[..last].to_vec()), Some(vec![0; bytes.len()]), None]
        };
        let kinds = [0, 1, 2, 3].into_iter().cycle();
        let last_ones = shards.iter().rev().chain(shards.iter().rev()).take(8);
        for ((name, bytes), kind) in last_ones.zip(kinds) {
            copy(&kept.join(".partial"), &staging);
            match &damaged(bytes)[kind] {
                Some(content) => fs::write(staging.join(name), content).unwrap(),
                None => fs::remove_file(staging.join(name)).unwrap(),
            }
            let message = format!("{name} is damaged: it is not what the interrupted preparation wrote");
            assert_error(run(&source, &out, &options), &message, "begin anew with --force");
            assert!(staging.exists() && Dataset::open(&out).is_err());
            fs::remove_dir_all(&out).unwrap();
        }
        copy(&kept.join(".partial"), &staging);
        fs::write(staging.join(&shards[0].0), b"").unwrap();
        run(&source, &out, &PrepareOptions { force: true, ..options.clone() }).unwrap();
        assert_eq!(content(&out), whole);
        fs::remove_dir_all(&out).unwrap();
        copy(&kept.join(".partial"), &staging);
        run(&source, &out, &options).unwrap();
        assert_eq!(content(&out), whole);
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    content(from).into_iter().for_each(|(name, bytes)| fs::write(to.join(name), bytes).unwrap());
}

/// All files were made, and some of them moved, when it was cut off.
#[test]
fn a_finished_preparation_is_checked_before_it_is_put_in_place() {
    let dir = tempdir().unwrap();
    let (mut source, _) = three_files(&dir, &jsonl());
    source.inputs.truncate(1);
    let options = PrepareOptions { tokenizer: TokenizerKind::Char, ..resumable(&jsonl()) };
    run(&source, &dir.path().join("whole"), &PrepareOptions { force: true, ..options.clone() }).unwrap();
    let whole = content(&dir.path().join("whole"));
    let out = dir.path().join("out");
    let interrupted = || {
        // A directory in the way of the second file.
        fs::create_dir_all(out.join("val_000000.bin/in the way")).unwrap();
        run(&source, &out, &PrepareOptions { force: true, ..options.clone() }).unwrap_err();
        fs::remove_dir_all(out.join("val_000000.bin")).unwrap();
    };
    let place = |name: &str| {
        let staged = out.join(".partial").join(name);
        if staged.exists() { staged } else { out.join(name) }
    };
    for name in ["train_000000.bin", "val_000000.bin", "tokenizer.json"] {
        interrupted();
        let mut bytes = fs::read(place(name)).unwrap();
        let last = bytes.len() - 3;
        bytes[last] ^= 1;
        fs::write(place(name), bytes).unwrap();
        let message = format!("{name} is damaged");
        assert_error(run(&source, &out, &options), &message, "begin anew with --force");
        fs::remove_dir_all(&out).unwrap();
    }
    // Without damage it ends, and so it does where dataset.json has to be written again.
    for spoil in [false, true] {
        interrupted();
        if spoil {
            for (name, _) in content(&out) {
                if name.ends_with(".bin") || name.ends_with(".json") {
                    fs::rename(out.join(&name), out.join(".partial").join(&name)).unwrap();
                }
            }
            fs::write(out.join(".partial/dataset.json"), "{").unwrap();
        }
        run(&source, &out, &options).unwrap();
        assert_eq!(content(&out), whole);
        fs::remove_dir_all(&out).unwrap();
    }
}

/// In the middle of a block, whose tokens fill many shards.
#[test]
fn it_stops_between_two_shards() {
    let dir = tempdir().unwrap();
    let (source, _) = three_files(&dir, &jsonl());
    let options = PrepareOptions { shard_tokens: 1, ..resumable(&jsonl()) };
    let out = dir.path().join("out");
    let mut reports = 0;
    let mut watch = |at: Progress| {
        reports += usize::from(at.stage == Stage::Encode);
        if reports >= 10 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    assert_error(prepare(&source, &out, &options, &mut watch), "interrupted", "same command again");
    assert_eq!(reports, 10);
    assert!(!out.exists(), "nothing was finished");
}

/// What a tokenizer at a path makes of a text depends on the file as well.
#[test]
fn another_tokenizer_at_the_same_path_is_refused() {
    let dir = tempdir().unwrap();
    let (source, _) = three_files(&dir, &jsonl());
    let path = dir.path().join("tokenizer.json");
    let write = |tokenizer: &oxigpt_text::Tokenizer| {
        let files = tokenizer.to_files();
        fs::write(&path, &files.iter().find(|(name, _)| name == "tokenizer.json").unwrap().1).unwrap();
    };
    write(&oxigpt_text::Tokenizer::bytes());
    let options = PrepareOptions { tokenizer: TokenizerKind::Files(path.clone()), ..resumable(&jsonl()) };
    let out = dir.path().join("out");
    cut_off(&source, &out, &options, 2);
    let alphabet: String = (' '..='~').chain(['\n', '\u{fc}', '\u{df}', '\u{1f600}']).collect();
    write(&oxigpt_text::Tokenizer::chars_of(&alphabet).unwrap());
    assert_error(run(&source, &out, &options), "of other inputs or with other options", "--force");
    write(&oxigpt_text::Tokenizer::bytes());
    run(&source, &out, &options).unwrap();
}

/// Nothing of the only input can be kept, so that there is nothing to go on from once it is repaired.
#[test]
fn a_first_input_that_was_broken_begins_anew() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("a.jsonl");
    let good = lines(&documents(3000));
    let source = source(jsonl(), std::slice::from_ref(&path));
    let out = dir.path().join("out");
    fs::write(&path, [&good[..], b"not json\n"].concat()).unwrap();
    assert_error(run(&source, &out, &resumable(&jsonl())), "a.jsonl, line 3001, ", "same command again");
    fs::write(&path, good).unwrap();
    run(&source, &out, &resumable(&jsonl())).unwrap();
}
