//! A disk that is full in the middle of a preparation: alone in its process, because the limit that plays the full disk
//! is the process's.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use fs_err as fs;
use oxigpt_data::{
    Dataset, EndOfText, Format, Holdout, Input, PrepareOptions, Progress, Source, TokenizerKind, prepare,
};

/// From now on, no file of this process can become larger than `bytes`.
fn limit_files(bytes: u64) {
    // SAFETY: plain system calls on plain data. The signal that a write beyond the limit sends is ignored, so that
    // the write fails instead.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
        assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &limit), 0);
    }
}

fn content(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let files = entries.filter(|entry| entry.file_type().unwrap().is_file());
    files.map(|file| (file.file_name().into_string().unwrap(), fs::read(file.path()).unwrap())).collect()
}

#[test]
fn a_full_disk_costs_nothing_that_was_finished() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, lines: usize| {
        let path = dir.path().join(name);
        let line = |i: usize| format!("{{\"text\": \"document {i} of {name}\"}}\n");
        fs::write(&path, (0..lines).map(line).collect::<String>()).unwrap();
        Input::file(path)
    };
    let inputs = vec![write("a.jsonl", 1000), write("b.jsonl", 1000), write("c.jsonl", 50_000)];
    let source = Source { format: Format::Jsonl { field: "text".into() }, inputs };
    let options = PrepareOptions {
        tokenizer: TokenizerKind::Byte,
        end_of_text: EndOfText::Before,
        holdout: Holdout::Documents { seed: 1 },
        save_every: 1,
        ..PrepareOptions::default()
    };
    let whole = dir.path().join("whole");
    prepare(&source, &whole, &options, &mut |_| ControlFlow::Continue(())).unwrap();

    let out = dir.path().join("out");
    limit_files(300_000);
    let error = prepare(&source, &out, &options, &mut |_| ControlFlow::Continue(())).unwrap_err();
    limit_files(libc::RLIM_INFINITY);
    let message = error.to_string();
    assert!(message.contains("train_000000.bin"), "{message}");
    assert_eq!(
        error.hint().unwrap(),
        "free some disk space, or choose another disk; nothing half-written will be taken for whole"
    );
    assert!(content(&out).is_empty(), "nothing looks like a dataset");
    assert!(Dataset::open(&out).is_err());

    // The first two files were finished, and are not read again.
    let mut first = None;
    let mut watch = |at: Progress| {
        first.get_or_insert(at.done);
        ControlFlow::Continue(())
    };
    prepare(&source, &out, &options, &mut watch).unwrap();
    let finished: u64 = source.inputs[..2].iter().map(|input| input.bytes).sum();
    assert!(first.unwrap() > finished, "{first:?}");
    assert_eq!(content(&out), content(&whole));
}
