//! A disk that is full while a checkpoint is written: alone in its process, because the limit that plays the full
//! disk is the process's.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use fs_err as fs;
use oxigpt_data::{PrepareOptions, TokenizerKind, prepare_text};
use oxigpt_train::settings::{BatchSize, Settings};
use oxigpt_train::{Event, Outcome, Request, train};

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

#[test]
fn a_full_disk_costs_the_checkpoint_at_hand_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("text"), "the cat sat on the mat. ".repeat(99)).unwrap();
    let options = PrepareOptions { tokenizer: TokenizerKind::Char, ..PrepareOptions::default() };
    prepare_text(&[path("text")], &path("data"), &options, &mut |_| ()).unwrap();
    let settings = Settings {
        out_dir: path("run").to_str().unwrap().into(),
        dataset: path("data").to_str().unwrap().into(),
        threads: 1,
        batch_size: BatchSize::Rows(2),
        block_size: 16,
        gradient_accumulation_steps: 1,
        n_layer: 1,
        n_head: 2,
        n_embd: 32,
        max_iters: 6,
        eval_interval: 2,
        eval_iters: 2,
        ..Settings::default()
    };
    let request = |init_from: &str| Request {
        settings: Settings { init_from: init_from.into(), ..settings.clone() },
        model: None,
        hellaswag: None,
        stop: Default::default(),
        peak_flops: Some(1e11),
    };
    let mut fill_up = |event: &Event| {
        if matches!(event, Event::Eval(eval) if eval.step == 4) {
            limit_files(20_000);
        }
    };
    let error = train(request("scratch"), &mut fill_up).unwrap_err();
    limit_files(libc::RLIM_INFINITY);

    let message = error.to_string();
    assert!(message.starts_with("checkpoint step-00000004 could not be saved: "), "{message}");
    assert!(message.contains("model.safetensors"), "{message}");
    assert_eq!(
        error.hint().unwrap(),
        "free some disk space; step-00000002 is whole, --init_from=resume goes on from there"
    );
    let names: Vec<_> =
        fs::read_dir(path("run/checkpoints")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["step-00000002"], "what was written in part has been removed");

    let outcome = train(request("resume"), &mut |_: &Event| ()).unwrap();
    assert!(matches!(outcome, Outcome::Finished(summary) if summary.step == 6));
}
