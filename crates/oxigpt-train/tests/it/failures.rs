//! Runs that cannot be, or cannot go on: what is said, and that nothing is lost.

use fs_err as fs;
use oxigpt_train::settings::Settings;
use oxigpt_train::{Error, Event};
use serde_json::Value;

use crate::support::*;

/// Message and hint of a run that must fail before it has touched anything.
fn refused(settings: Settings) -> String {
    let out = settings.out_dir.clone();
    let existed = fs::metadata(&out).is_ok();
    let told = told(run(settings));
    assert_eq!(fs::metadata(&out).is_ok(), existed, "{told}");
    told
}

#[test]
fn a_directory_with_a_run_in_it_is_not_written_over() {
    let place = Place::new();
    let settings = Settings { max_iters: 1, ..place.settings("run") };
    run(settings.clone()).unwrap();
    let before = read(&place.path("run/metrics.jsonl"));
    let dir = place.text("run");
    assert_eq!(
        refused(settings.clone()),
        format!(
            "{dir} already holds a run (config.toml) | go on with it by --init_from=resume --out_dir={dir}, or choose \
             another --out_dir"
        )
    );
    assert_eq!(read(&place.path("run/metrics.jsonl")), before);
    // Any single part of a run is enough.
    for name in ["config.toml", "run.json", "log.txt"] {
        fs::remove_file(place.path("run").join(name)).unwrap();
    }
    assert!(refused(settings.clone()).contains("already holds a run (metrics.jsonl)"));

    // A run that was cut off before anything stood in its directory can begin there.
    fs::create_dir(place.path("empty")).unwrap();
    fs::write(place.path("empty/config.toml.tmp"), "torn").unwrap();
    run(Settings { out_dir: place.text("empty"), ..settings.clone() }).unwrap();

    fs::write(place.path("file"), "").unwrap();
    let told = refused(place.settings("file"));
    assert!(told.ends_with("file is a file; a run needs a directory | choose another --out_dir"), "{told}");

    fs::create_dir(place.path("notes")).unwrap();
    fs::write(place.path("notes/notes.txt"), "mine").unwrap();
    run(Settings { out_dir: place.text("notes"), ..settings }).unwrap();
    assert_eq!(read(&place.path("notes/notes.txt")), "mine");
}

#[test]
fn there_must_be_something_to_resume() {
    let place = Place::new();
    let told = refused(resumed(&place.settings("run")));
    assert!(told.contains("there is no run to resume in "), "{told}");
    assert!(told.contains("it has no config.toml | leave out --init_from=resume to start one"), "{told}");
}

#[test]
fn impossible_requests_are_refused_before_anything_is_written() {
    let place = Place::new();
    let settings = || place.settings("run");
    let cases = [
        (
            Settings { init_from: "gpt2".into(), ..settings() },
            "the run begins with the weights of gpt2, which were not given | open the model first",
        ),
        (Settings { n_head: 3, ..settings() }, "n_embd = 16 cannot be cut into n_head = 3 equal heads | "),
        (
            Settings { max_iters: 1 << 33, ..settings() },
            "max_iters = 8589934592 is more than the 4294967295 updates that can be counted | set a smaller",
        ),
        (
            Settings { eval_tokens: 7, ..settings() },
            "an evaluation of 7 tokens does not hold one window of block_size 8 | raise the number",
        ),
        (
            Settings { sample_interval: 1, sample_start: "Hi".into(), ..settings() },
            "sample_start: the character vocabulary (of 13) lacks 1 character of the text: 'H' | use only",
        ),
        (
            Settings { sample_interval: 1, sample_start: String::new(), ..settings() },
            "`sample_start` is empty | a sample continues at least one character",
        ),
        (
            Settings { n_layer: 100, n_embd: 1 << 14, ..settings() },
            "GiB are available | lower batch_size (total_batch_size keeps the step the same, batch_size = \"auto\" finds",
        ),
    ];
    for (settings, expected) in cases {
        let told = refused(settings);
        assert!(told.contains(expected), "{told}");
    }
}

#[test]
fn unusable_data_are_refused_before_anything_is_written() {
    let place = Place::new();
    place.prepare("short", &"one two three ".repeat(10));
    let bins = |name: &str, files: &[(&str, &[u16])]| {
        fs::create_dir(place.path(name)).unwrap();
        for (file, tokens) in files {
            let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
            fs::write(place.path(name).join(file), bytes).unwrap();
        }
    };
    let tokens: Vec<u16> = (0..99).collect();
    bins("bins", &[("train.bin", &tokens), ("val.bin", &[0; 99])]);
    bins("no-val", &[("train.bin", &tokens)]);
    let with = |name: &str| Settings { dataset: place.text(name), ..place.settings("run") };
    let cases = [
        (with("nowhere"), "nowhere | give the path of a data directory, or its name under data/"),
        (
            Settings { block_size: 16, ..with("short") },
            "short (val) is too short: it holds 14 tokens, and one window of block_size 16 needs 17 | use more text",
        ),
        (
            Settings { block_size: 200, ..with("short") },
            "short (train) is too short: it holds 126 tokens, and one window of block_size 200 needs 201 | use more",
        ),
        (
            Settings { gradient_accumulation_steps: 4, ..with("short") },
            "short (train) is too short: it holds 126 tokens, and one step of 128 tokens needs 129 | use more text, or \
             a smaller step: lower gradient_accumulation_steps, batch_size or block_size",
        ),
        (
            with("no-val"),
            "no-val has no val tokens | prepare the data with a part for training and a part for",
        ),
        (
            with("bins"),
            "bins does not say how large its vocabulary is | set --vocab_size=N to the number of tokens; GPT-2's",
        ),
        (
            Settings { vocab_size: 98, ..with("bins") },
            "bins/train.bin: token 98 at position 98 is not in the vocabulary of 98 | the shards were made with",
        ),
        (
            Settings { vocab_size: 11, ..with("data") },
            "data has 13 tokens | leave vocab_size out, or set --vocab_size=13 or more",
        ),
    ];
    for (settings, expected) in cases {
        let told = refused(settings);
        assert!(told.contains(expected), "{told}");
    }
}

#[test]
fn a_run_that_diverges_stops_with_a_report_and_leaves_the_last_good_checkpoint() {
    let place = Place::new();
    run(place.settings("whole")).unwrap();
    let settings = place.settings("run");
    run_to(settings.clone(), 3);

    let wild = Settings { learning_rate: 1e15, min_lr: 1e15, save_interval: 1, ..resumed(&settings) };
    let mut events = Vec::new();
    let error = run_until(wild, |event| {
        events.push(event.clone());
        false
    })
    .unwrap_err();
    let Error::Diverged(report) = &error else { panic!("{error}") };
    // The weights of step 4 give no loss: they are whole, and yet lead nowhere.
    assert_eq!(report.last_checkpoint.as_deref(), Some("step-00000003"));
    assert_eq!((report.step, report.what), (4, "the loss"));
    let data = report.data.as_ref().unwrap();
    assert_eq!((data.first_row, data.rows, data.epoch, data.windows.len()), (32, 4, 0, 4));
    assert!(!report.gradients[0].norm.is_finite());
    assert_eq!(report.gradients.len(), 15, "one for each tensor");
    let message = error.to_string();
    assert!(
        message.starts_with("training has diverged: the loss is not finite after 4 updates; data: "),
        "{message}"
    );
    assert!(error.hint().unwrap().starts_with("lower learning_rate"), "{:?}", error.hint());
    assert!(matches!(events.last(), Some(Event::Failure(_))));
    let lines = read(&place.path("run/metrics.jsonl"));
    let last: Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
    assert_eq!((&last["event"], &last["step"]), (&"failure".into(), &4.into()));

    // From before the wild update, the run goes on as it would have.
    run(resumed(&settings)).unwrap();
    let weights = |run| fs::read(place.checkpoint(run, 8).join("model.safetensors")).unwrap();
    assert!(weights("run") == weights("whole"));
}

/// Weights that are not finite are never saved, however they came to be.
#[test]
fn a_checkpoint_holds_no_weight_that_is_not_finite() {
    let place = Place::new();
    let settings = Settings {
        learning_rate: 1e39,
        min_lr: 1e39,
        warmup_iters: 0,
        eval_interval: 99,
        save_interval: 1,
        ..place.settings("run")
    };
    let error = run(settings).unwrap_err();
    let Error::Diverged(report) = &error else { panic!("{error}") };
    assert_eq!((report.step, report.what), (1, "a weight"));
    assert!(!report.bad_weights.is_empty());
    assert!(error.to_string().ends_with("there is no checkpoint from before"), "{error}");
    assert!(place.checkpoints("run").is_empty());
}

#[test]
fn a_checkpoint_that_cannot_be_written_leaves_the_others() {
    let place = Place::new();
    run(place.settings("whole")).unwrap();
    let settings = place.settings("run");
    let error = run_until(settings.clone(), |event| {
        if matches!(event, Event::Eval(eval) if eval.step == 6) {
            // Neither a file nor its remains: the name is taken by something that cannot be written to.
            fs::create_dir(place.path("run/latest.tmp")).unwrap();
        }
        false
    })
    .unwrap_err();
    assert!(error.to_string().starts_with("checkpoint step-00000006 could not be saved: "), "{error}");
    assert!(error.to_string().contains("latest.tmp"), "{error}");
    let hint = error.hint().unwrap();
    assert!(hint.ends_with("step-00000003 is whole, --init_from=resume goes on from there"), "{hint}");
    fs::remove_dir(place.path("run/latest.tmp")).unwrap();
    run(resumed(&settings)).unwrap();
    let weights = |run| fs::read(place.checkpoint(run, 8).join("model.safetensors")).unwrap();
    assert!(weights("run") == weights("whole"));
}
