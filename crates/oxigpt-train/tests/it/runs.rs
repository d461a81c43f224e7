//! Runs that go well: what they learn, tell and leave behind.

use fs_err as fs;
use oxigpt_model::open_pretrained;
use oxigpt_text::Tokenizer;
use oxigpt_train::settings::Settings;
use oxigpt_train::{Event, Outcome, learning_rate};
use serde_json::Value;

use crate::support::*;

fn train_losses(events: &[Event]) -> Vec<f64> {
    events.iter().filter_map(|e| if let Event::Train(t) = e { Some(t.loss) } else { None }).collect()
}

#[test]
fn a_run_learns_and_leaves_everything_behind() {
    let place = Place::new();
    let settings = Settings {
        max_iters: 120,
        dropout: 0.0,
        eval_interval: 50,
        sample_interval: 60,
        log_interval: 10,
        ..place.settings("run")
    };
    let (outcome, events) = run(settings.clone()).unwrap();

    let losses = train_losses(&events);
    let Some(Event::Started(started)) = events.first() else { panic!("{events:?}") };
    assert_eq!((started.vocab_size, started.micro_batches, started.tokens_per_step), (13, 2, 64));
    assert_eq!(losses.len(), 120, "not one update more or less");
    assert!((losses[0] - started.initial_loss).abs() < 0.1, "{} {}", losses[0], started.initial_loss);
    assert!(losses[119] < 0.6 * losses[0], "{losses:?}");
    let Outcome::Finished(summary) = outcome else { panic!("{outcome:?}") };
    assert_eq!((summary.step, summary.best_step), (120, Some(120)));

    let root = place.path("run");
    assert_eq!(
        names(&root),
        ["best", "checkpoints", "config.toml", "latest", "log.txt", "metrics.jsonl", "run.json"]
    );
    assert_eq!(place.checkpoints("run"), ["step-00000100", "step-00000120"]);
    assert_eq!(read(&root.join("latest")), "step-00000120\n");
    assert_eq!(read(&root.join("best")), "step-00000120\n");
    let mut saved = Settings::default();
    saved.apply_file(&root.join("config.toml")).unwrap();
    assert_eq!(saved, settings.resolve().unwrap());
    let facts: Value = serde_json::from_str(&read(&root.join("run.json"))).unwrap();
    assert_eq!(facts["data"]["hash"], started.data_hash);
    assert_eq!(facts["data"]["vocab_size"], 13);
}

/// A checkpoint is a Hugging Face directory with its tokenizer, and what resuming needs.
#[test]
fn a_checkpoint_is_a_model_that_others_can_read() {
    let place = Place::new();
    run(place.settings("run")).unwrap();
    let dir = place.checkpoint("run", 8);
    let expected = [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    assert_eq!(names(&dir), expected);
    let config = open_pretrained(&dir).unwrap().config;
    assert_eq!((config.n_layer, config.vocab_size, config.block_size), (2, 13, 8));
    let tokenizer = Tokenizer::from_files(|name| fs::read(dir.join(name)).ok()).unwrap().unwrap();
    assert_eq!(tokenizer.vocab_size(), 13);
    let state: Value = serde_json::from_str(&read(&dir.join("state.json"))).unwrap();
    assert_eq!(state["step"], 8);
    assert_eq!(state["cursor"], 64, "8 steps of 8 rows");
    assert_eq!(state["tokens"], 512);
}

#[test]
fn events_come_when_they_are_due() {
    let place = Place::new();
    let settings = Settings {
        sample_interval: 4,
        save_interval: 5,
        always_save_checkpoint: false,
        ..place.settings("run")
    };
    let (_, events) = run(settings.clone()).unwrap();
    let told: Vec<String> = events
        .iter()
        .map(|event| match event {
            Event::Started(e) => format!("started {}", e.step),
            Event::Train(e) => format!("train {}", e.step),
            Event::Eval(e) => format!("eval {}", e.step),
            Event::Sample(e) => format!("sample {}", e.step),
            Event::Checkpoint(e) => format!("checkpoint {}{}", e.step, if e.best { " best" } else { "" }),
            Event::Finished(e) => format!("finished {}", e.step),
            other => panic!("{other:?}"),
        })
        .collect();
    let expected = "started 0, eval 0, train 0, train 1, train 2, eval 3, checkpoint 3 best, train 3, sample 4, \
                    train 4, checkpoint 5, train 5, eval 6, checkpoint 6 best, train 6, train 7, eval 8, sample 8, \
                    checkpoint 8 best, finished 8";
    assert_eq!(told.join(", "), expected);

    for event in &events {
        if let Event::Train(train) = event {
            assert_eq!(train.lr, learning_rate(&settings, train.step));
            assert!(
                train.grad_norm > 0.0 && train.mfu > 0.0 && train.tokens_per_s > 0.0 && train.step_ms > 0.0
            );
        }
        if let Event::Sample(sample) = event {
            assert_eq!((sample.start.as_str(), sample.text.chars().count()), ("\n", 200));
        }
    }
    let lines = read(&place.path("run/metrics.jsonl"));
    let recorded: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(recorded.len(), events.len());
    let log = read(&place.path("run/log.txt"));
    let streams: Vec<_> = log.lines().map(|line| line.rsplit_once(' ').unwrap().0).collect();
    assert_eq!(
        streams.join(", "),
        "0 val, 0 train, 1 train, 2 train, 3 val, 3 train, 4 train, 5 train, 6 val, 6 train, 7 train, 8 val"
    );
}

#[test]
fn only_every_log_interval_is_recorded_and_the_last() {
    let place = Place::new();
    let (_, events) = run(Settings { log_interval: 3, ..place.settings("run") }).unwrap();
    assert_eq!(train_losses(&events).len(), 8, "the observer hears of each");
    let log = read(&place.path("run/log.txt"));
    let steps: Vec<_> =
        log.lines().filter_map(|line| line.split_once(" train ")).map(|(step, _)| step).collect();
    assert_eq!(steps, ["0", "3", "6", "7"]);
}

/// The weights do not depend on what is watched, nor on the number of threads.
#[test]
fn evaluations_samples_checkpoints_and_threads_change_no_weight() {
    let place = Place::new();
    run(place.settings("plain")).unwrap();
    let busy = Settings {
        eval_interval: 1,
        eval_iters: 3,
        sample_interval: 2,
        save_interval: 1,
        threads: 2,
        ..place.settings("busy")
    };
    run(busy).unwrap();
    for file in ["model.safetensors", "optimizer.safetensors"] {
        let read = |run| fs::read(place.checkpoint(run, 8).join(file)).unwrap();
        assert!(read("plain") == read("busy"), "{file}");
    }
}

#[test]
fn another_seed_is_another_run() {
    let place = Place::new();
    let (_, one) = run(place.settings("one")).unwrap();
    let (_, two) = run(Settings { seed: 1, ..place.settings("two") }).unwrap();
    assert_ne!(train_losses(&one), train_losses(&two));
}

#[test]
fn the_last_and_the_best_checkpoints_are_kept() {
    let place = Place::new();
    // A rate that breaks what was learned makes the first evaluation the best.
    let settings = Settings {
        eval_interval: 4,
        save_interval: 1,
        keep_checkpoints: 2,
        learning_rate: 1e-2,
        warmup_iters: 0,
        min_lr: 2.0,
        lr_decay_iters: 5,
        max_iters: 12,
        ..place.settings("run")
    };
    let (outcome, events) = run(settings).unwrap();
    assert_eq!(summary(&outcome).best_step, Some(4), "{events:?}");
    assert_eq!(place.checkpoints("run"), ["step-00000004", "step-00000011", "step-00000012"]);
    assert_eq!(read(&place.path("run/best")), "step-00000004\n");
    assert_eq!(read(&place.path("run/latest")), "step-00000012\n");
}

/// nanoGPT's token files bring no tokenizer: GPT-2's is taken where the words suffice, else there are no samples.
#[test]
fn token_files_without_a_tokenizer_will_do() {
    let place = Place::new();
    let dir = place.path("bare");
    fs::create_dir(&dir).unwrap();
    let tokens: Vec<u8> = (0..400u16).flat_map(|i| (i % 7).to_le_bytes()).collect();
    for name in ["train.bin", "val.bin"] {
        fs::write(dir.join(name), &tokens).unwrap();
    }
    let settings =
        Settings { dataset: place.text("bare"), vocab_size: 7, sample_interval: 4, ..place.settings("run") };
    let (_, events) = run(settings).unwrap();
    let warnings: Vec<_> = events
        .iter()
        .filter_map(|e| if let Event::Warning { message, .. } = e { Some(message) } else { None })
        .collect();
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].starts_with("there will be no samples: "), "{warnings:?}");
    assert!(!events.iter().any(|e| matches!(e, Event::Sample(_))));
    assert!(!place.checkpoint("run", 8).join("tokenizer.json").exists());

    let gpt2 = Settings { vocab_size: 50257, max_iters: 1, n_layer: 1, ..place.settings("gpt2") };
    run(Settings { dataset: place.text("bare"), ..gpt2 }).unwrap();
    assert!(place.checkpoint("gpt2", 1).join("vocab.json").exists());
}
