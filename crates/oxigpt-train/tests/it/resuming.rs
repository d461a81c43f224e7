//! Runs that are cut off and go on: as if nothing had happened.

use std::path::Path;

use fs_err as fs;
use oxigpt_model::{Recompute, TensorSource, map_tensors};
use oxigpt_train::settings::{BatchSize, Settings, TaskFile};
use oxigpt_train::{Error, Event, Outcome, Request, train};
use serde_json::Value;

use crate::support::*;

/// The files that two runs have in common if they are the same run.
pub(crate) fn assert_same_end(place: &Place, one: &str, other: &str) {
    for file in ["model.safetensors", "optimizer.safetensors"] {
        let read = |run| fs::read(place.checkpoint(run, 8).join(file)).unwrap();
        assert!(read(one) == read(other), "{file} of {one} and {other}");
    }
    let state = |run| {
        let mut state: Value =
            serde_json::from_str(&read(&place.checkpoint(run, 8).join("state.json"))).unwrap();
        state["settings"] = Value::Null;
        state
    };
    assert_eq!(state(one), state(other));
    assert_eq!(read(&place.path(one).join("log.txt")), read(&place.path(other).join("log.txt")));
    assert_eq!(metrics(&place.path(one)), metrics(&place.path(other)));
    assert_eq!(read(&place.path(one).join("best")), read(&place.path(other).join("best")));
}

/// What a run recorded of its course, without times.
fn metrics(root: &Path) -> Vec<Value> {
    let mut events: Vec<Value> =
        read(&root.join("metrics.jsonl")).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of_the_course = ["train", "eval", "hellaswag", "sample"];
    events.retain(|event| of_the_course.contains(&event["event"].as_str().unwrap()));
    for event in &mut events {
        let event = event.as_object_mut().unwrap();
        event.retain(|key, _| {
            !["step_ms", "tokens_per_s", "mfu", "eval_ms", "hellaswag_ms"].contains(&key.as_str())
        });
    }
    events
}

/// A run with all that happens beside its updates.
fn sampling(place: &Place, run: &str) -> Settings {
    let hellaswag = TaskFile::At(place.items());
    Settings { sample_interval: 4, sample_tokens: 10, hellaswag, ..place.settings(run) }
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn a_run_stopped_anywhere_goes_on_bit_for_bit() {
    let place = Place::new();
    run(sampling(&place, "whole")).unwrap();
    for stop in 1..=8 {
        let name = format!("stopped-{stop}");
        let settings = sampling(&place, &name);
        let (outcome, _) = run_to(settings.clone(), stop);
        assert!(matches!(outcome, Outcome::Interrupted(_)), "{outcome:?}");
        assert_eq!(summary(&outcome).step, stop);
        let (outcome, events) = run(resumed(&settings)).unwrap();
        assert!(matches!(outcome, Outcome::Finished(_)));
        assert!(matches!(&events[0], Event::Started(started) if started.step == stop));
        assert_same_end(&place, "whole", &name);
    }
}

#[test]
fn a_run_can_be_stopped_at_every_step() {
    let place = Place::new();
    run(sampling(&place, "whole")).unwrap();
    let settings = sampling(&place, "steps");
    run_to(settings.clone(), 1);
    for step in 2..=8 {
        run_to(resumed(&settings), step);
    }
    run(resumed(&settings)).unwrap();
    assert_same_end(&place, "whole", "steps");
}

/// A copy of the run directory as it was at an event is what a run that was killed then leaves behind.
#[test]
fn a_run_killed_anywhere_goes_on_bit_for_bit() {
    let place = Place::new();
    let mut events = 0;
    run_until(sampling(&place, "whole"), |_| {
        copy_dir(&place.path("whole"), &place.path(&format!("killed-{events}")));
        events += 1;
        false
    })
    .unwrap();
    assert!(events > 15);
    for killed in 0..events {
        let name = format!("killed-{killed}");
        run(resumed(&sampling(&place, &name))).unwrap();
        assert_same_end(&place, "whole", &name);
    }
}

#[test]
fn the_number_of_threads_may_change() {
    let place = Place::new();
    run(place.settings("whole")).unwrap();
    let settings = place.settings("threads");
    run_to(settings.clone(), 5);
    run(Settings { threads: 2, ..resumed(&settings) }).unwrap();
    assert_same_end(&place, "whole", "threads");
}

#[test]
fn in_bfloat16_too_threads_and_interruptions_change_nothing() {
    let place = Place::new();
    let in_bfloat16 = |name: &str| Settings { dtype: "bfloat16".into(), ..place.settings(name) };
    run(in_bfloat16("whole")).unwrap();
    let settings = in_bfloat16("stopped");
    run_to(settings.clone(), 5);
    run(Settings { threads: 2, ..resumed(&settings) }).unwrap();
    assert_same_end(&place, "whole", "stopped");
    run(place.settings("float32")).unwrap();
    let weights = |name: &str| fs::read(place.checkpoint(name, 8).join("model.safetensors")).unwrap();
    assert_ne!(weights("whole"), weights("float32"));
}

/// What is made again makes no difference, in the middle of a run either.
#[test]
fn recomputation_may_change() {
    let place = Place::new();
    run(place.settings("kept")).unwrap();
    for recompute in [Recompute::Gelu, Recompute::Block] {
        let name = format!("{recompute:?}");
        run_to(place.settings(&name), 5);
        let again = Settings { recompute: Some(recompute), ..resumed(&place.settings(&name)) };
        run(again).unwrap();
        assert_same_end(&place, "kept", &name);
    }
}

#[test]
fn another_micro_batch_gives_the_same_up_to_rounding() {
    let place = Place::new();
    run(place.settings("whole")).unwrap();
    for batch_size in [1, 2, 8] {
        let settings = place.settings(&format!("batch-{batch_size}"));
        run_to(settings.clone(), 3);
        let (_, events) = run(Settings {
            batch_size: BatchSize::Rows(batch_size),
            gradient_accumulation_steps: 8 / batch_size,
            ..resumed(&settings)
        })
        .unwrap();
        assert!(matches!(&events[0], Event::Started(started) if started.micro_batches == 8 / batch_size));
        let open = |run: &str| map_tensors(place.checkpoint(run, 8).join("model.safetensors")).unwrap();
        let (whole, other) = (open("whole"), open(&format!("batch-{batch_size}")));
        for (name, _) in whole.shapes() {
            let (a, b) = (whole.read(&name).unwrap(), other.read(&name).unwrap());
            let difference = a.iter().zip(b.iter()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(difference < 1e-4, "{name}: {difference}");
        }
    }
}

#[test]
fn a_finished_run_has_nothing_to_do_and_can_be_prolonged() {
    let place = Place::new();
    // The horizon of the schedule is part of what the run was begun with.
    let longer = |run: &str| Settings { lr_decay_iters: 8, max_iters: 12, ..place.settings(run) };
    run(longer("longer")).unwrap();

    let settings = place.settings("run");
    run(settings.clone()).unwrap();
    let before = read(&place.path("run/log.txt"));
    let (outcome, events) = run(resumed(&settings)).unwrap();
    assert!(matches!(outcome, Outcome::Finished(_)));
    assert_eq!(events.len(), 2, "{events:?}");
    assert_eq!(read(&place.path("run/log.txt")), before);

    run(resumed(&longer("run"))).unwrap();
    for file in ["model.safetensors", "optimizer.safetensors"] {
        let read = |run| fs::read(place.checkpoint(run, 12).join(file)).unwrap();
        // Only the evaluation at what was the end comes in addition.
        assert!(read("run") == read("longer"), "{file}");
    }
    let mut saved = Settings::default();
    saved.apply_file(&place.path("run/config.toml")).unwrap();
    assert_eq!((saved.max_iters, saved.init_from.as_str()), (12, "scratch"));
}

#[test]
fn a_checkpoint_whose_event_was_lost_is_told_on_resuming() {
    let place = Place::new();
    let settings = stopped(&place, "run");
    let path = place.path("run/metrics.jsonl");
    let events = || -> Vec<Value> {
        let lines: Vec<Value> = read(&path).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        lines.into_iter().filter(|event| event["event"] == "checkpoint").collect()
    };
    let before = events();
    assert_eq!((before.len(), &before[1]["step"]), (2, &6.into()));
    let kept: String =
        read(&path).split_inclusive('\n').filter(|line| !line.contains("step-00000006")).collect();
    fs::write(&path, kept).unwrap();
    // Saved once more after its evaluation, for which there had been no time.
    for _ in 0..2 {
        run(resumed(&settings)).unwrap();
        let mut told = events();
        let mut expected = before[1].clone();
        (expected["save_ms"], told[1]["save_ms"]) = (Value::Null, Value::Null);
        assert_eq!(told[1], expected);
        assert_eq!(
            told.iter().map(|event| event["step"].as_u64().unwrap()).collect::<Vec<_>>(),
            [3, 6, 6, 8]
        );
    }
}

/// The rate falls until what is the end by now.
#[test]
fn the_learning_rate_of_a_prolonged_run_follows() {
    let place = Place::new();
    run(place.settings("run")).unwrap();
    let mut saved = Settings::default();
    saved.apply_file(&place.path("run/config.toml")).unwrap();
    let longer = Settings { max_iters: 12, ..resumed(&saved) };
    let (_, events) = run(longer).unwrap();
    let rates: Vec<_> =
        events.iter().filter_map(|e| if let Event::Train(t) = e { Some(t.lr) } else { None }).collect();
    assert_eq!(rates.len(), 4);
    assert!(rates[0] > 2.0 * saved.min_lr && rates.is_sorted_by(|a, b| a > b), "{rates:?}");
}

/// A run that has been stopped after 6 of 8 steps, with checkpoints after 3 and 6.
pub(crate) fn stopped(place: &Place, name: &str) -> Settings {
    let settings = place.settings(name);
    run_to(settings.clone(), 6);
    assert_eq!(place.checkpoints(name), ["step-00000003", "step-00000006"]);
    settings
}

pub(crate) fn warnings(events: &[Event]) -> Vec<String> {
    let warning =
        |e: &Event| if let Event::Warning { message, .. } = e { Some(message.clone()) } else { None };
    events.iter().filter_map(warning).collect()
}

#[test]
fn what_was_half_written_is_never_taken_for_whole() {
    let place = Place::new();
    run(place.settings("whole")).unwrap();
    let settings = stopped(&place, "run");
    let checkpoints = place.path("run/checkpoints");
    // A newer checkpoint that was not finished, one that was being removed, and pointers and lines that were torn.
    copy_dir(&place.checkpoint("run", 6), &checkpoints.join("step-00000007.tmp"));
    fs::remove_file(checkpoints.join("step-00000007.tmp/state.json")).unwrap();
    fs::create_dir(checkpoints.join("step-00000001.old.tmp")).unwrap();
    fs::write(checkpoints.join("step-00000024.tmp"), "a file").unwrap();
    fs::write(place.path("run/latest.tmp"), "step-0").unwrap();
    for file in ["metrics.jsonl", "log.txt"] {
        let path = place.path("run").join(file);
        fs::write(&path, read(&path) + "7 tra").unwrap();
    }
    let (_, events) = run(resumed(&settings)).unwrap();
    assert!(warnings(&events).is_empty());
    assert_same_end(&place, "whole", "run");
    assert_eq!(place.checkpoints("run"), ["step-00000006", "step-00000008"]);
    assert!(!place.path("run/latest.tmp").exists());
}

#[test]
fn a_checkpoint_that_was_being_replaced_comes_back() {
    let place = Place::new();
    run(place.settings("whole")).unwrap();
    let settings = stopped(&place, "run");
    fs::rename(place.checkpoint("run", 6), place.path("run/checkpoints/step-00000006.old")).unwrap();
    let (_, events) = run(resumed(&settings)).unwrap();
    assert!(matches!(&events[0], Event::Started(started) if started.step == 6));
    assert_same_end(&place, "whole", "run");

    // Where its successor is in place, it goes.
    copy_dir(&place.checkpoint("run", 8), &place.path("run/checkpoints/step-00000008.old"));
    run(resumed(&settings)).unwrap();
    assert_eq!(place.checkpoints("run"), ["step-00000006", "step-00000008"]);
}

#[test]
fn a_run_killed_before_its_first_checkpoint_begins_again() {
    let place = Place::new();
    run(place.settings("whole")).unwrap();
    run_until(place.settings("early"), |event| {
        if matches!(event, Event::Train(train) if train.step == 1) {
            copy_dir(&place.path("early"), &place.path("killed"));
        }
        false
    })
    .unwrap();
    // The configuration is the first thing that is written, and enough.
    fs::create_dir(place.path("just-begun")).unwrap();
    fs::copy(place.path("early/config.toml"), place.path("just-begun/config.toml")).unwrap();
    for name in ["killed", "just-begun"] {
        let (_, events) = run(resumed(&place.settings(name))).unwrap();
        assert_eq!(warnings(&events), ["there is no checkpoint yet: the run begins again"]);
        assert_same_end(&place, "whole", name);
        let facts: Value = serde_json::from_str(&read(&place.path(name).join("run.json"))).unwrap();
        assert_eq!(facts["data"]["train_tokens"], 12_950);
    }
}

/// `latest` is what resuming goes by: whoever points it further back gives up what came after.
#[test]
fn latest_says_where_to_go_on() {
    let place = Place::new();
    run(place.settings("whole")).unwrap();
    let settings = place.settings("run");
    run(settings.clone()).unwrap();
    assert_eq!(place.checkpoints("run"), ["step-00000006", "step-00000008"]);
    fs::write(place.path("run/latest"), "step-00000006").unwrap();
    let (_, events) = run(resumed(&settings)).unwrap();
    assert!(matches!(&events[0], Event::Started(started) if started.step == 6));
    assert_same_end(&place, "whole", "run");

    // Where it names nothing, the newest is the latest.
    fs::write(place.path("run/latest"), "nonsense").unwrap();
    let (_, events) = run(resumed(&settings)).unwrap();
    assert!(matches!(&events[0], Event::Started(started) if started.step == 8));
}

#[test]
fn what_would_change_the_past_is_refused() {
    let place = Place::new();
    let settings = resumed(&stopped(&place, "run"));
    let refused = |settings| told(run(settings));
    assert_eq!(
        refused(Settings { seed: 7, ..settings.clone() }),
        "`seed` was 1337 when this run began, and cannot become 7 | leave --seed at 1337, or start another run with \
         another --out_dir"
    );
    let cases = [
        (Settings { n_layer: 3, ..settings.clone() }, "`n_layer` was 2 "),
        (Settings { block_size: 4, ..settings.clone() }, "`block_size` was 8 "),
        (Settings { batch_size: BatchSize::Rows(8), ..settings.clone() }, "`total_batch_size` was 64 "),
        (Settings { weight_decay: 0.0, ..settings.clone() }, "`weight_decay` was 0.1 "),
        (Settings { dropout: 0.0, ..settings.clone() }, "`dropout` was 0.1 "),
        (Settings { gelu: oxigpt_model::Gelu::Tanh, ..settings.clone() }, "`gelu` was \"erf\" "),
    ];
    for (settings, message) in cases {
        let told = refused(settings);
        assert!(told.starts_with(message), "{told}");
    }
    assert_eq!(
        refused(Settings { max_iters: 5, ..settings.clone() }),
        "this run has already made 6 updates, more than max_iters = 5 | raise --max_iters to train on"
    );
    place.prepare("other", &"one two five four three\n".repeat(99));
    let told = refused(Settings { dataset: place.text("other"), ..settings.clone() });
    assert!(told.contains("other is not the data that this run began with: its hash is "), "{told}");
    let hint = format!(
        "| resuming goes on with the same data; to go on with others, begin another run with the weights of this one: \
         --init_from={} --out_dir=NEW",
        place.text("run")
    );
    assert!(told.ends_with(&hint), "{told}");

    // Data that have moved are still the same.
    fs::rename(place.path("data"), place.path("moved")).unwrap();
    run(Settings { dataset: place.text("moved"), ..settings }).unwrap();
}

#[test]
fn a_run_is_trained_by_one_process_at_a_time() {
    let place = Place::new();
    let settings = place.settings("run");
    let mut second = None;
    run_until(settings.clone(), |event| {
        if matches!(event, Event::Checkpoint(_)) {
            let stop = Default::default();
            let request = Request {
                settings: resumed(&settings),
                model: None,
                hellaswag: None,
                stop,
                peak_flops: Some(1.0),
            };
            second = Some(train(request, &mut |_: &Event| ()));
        }
        false
    })
    .unwrap();
    let error = second.unwrap().unwrap_err();
    assert!(matches!(error, Error::Busy { .. }), "{error}");
    assert!(error.to_string().ends_with("another process is training this run"));
    assert!(error.hint().unwrap().starts_with("wait for it to end"));
}
