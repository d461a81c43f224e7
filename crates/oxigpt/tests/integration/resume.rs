//! A run that is stopped, killed, or runs out of disk goes on as if nothing had happened: to the same bytes.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command};
use std::time::Duration;

use insta::assert_snapshot;
use serde_json::Value;

use crate::support::Place;

const RESUME: &[&str] = &["train", "--init_from=resume", "--out_dir=run"];

/// Lines of a process until one has all the words; those before it are passed over.
fn wait_for(child: &mut Child, words: &str) {
    let mut lines = BufReader::new(child.stderr.as_mut().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains(words)), "the program ended without `{words}`");
}

/// The losses of all updates, in order.
fn losses(place: &Place, run: &str) -> Vec<(u64, f64)> {
    let text = place.read_text(&format!("{run}/metrics.jsonl"));
    let events = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    events
        .filter(|event| event["event"] == "train")
        .map(|event| (event["step"].as_u64().unwrap(), event["loss"].as_f64().unwrap()))
        .collect()
}

fn assert_same_end(place: &Place, one: &str, other: &str) {
    let last = place.read_text(&format!("{one}/latest"));
    assert_eq!(last, place.read_text(&format!("{other}/latest")));
    for file in ["model.safetensors", "optimizer.safetensors"] {
        let bytes = |run: &str| place.read(&format!("{run}/checkpoints/{}/{file}", last.trim()));
        assert!(bytes(one) == bytes(other), "{file} of {one} and of {other}");
    }
    assert_eq!(losses(place, one), losses(place, other));
}

/// The program is killed again and again: after so many lines and a moment more, so that every stage of a run is hit.
#[test]
fn killed_at_any_moment() {
    let place = Place::for_training();
    let settings = ["--max_iters=120", "--save_interval=1", "--eval_interval=7", "--log_interval=1"];
    let start = |out_dir| [&["train", "tiny.toml", out_dir], &settings[..]].concat();
    place.done(&start("--out_dir=whole"));
    let mut reached = BTreeSet::new();
    for kill in 0u64..20 {
        let begun = place.path().join("run/config.toml").exists();
        let args = if begun { RESUME.to_vec() } else { start("--out_dir=run") };
        let mut child = place.start(&args);
        // At once, when all is read, or after some updates, each of which takes two lines with its checkpoint.
        let (sign, more) =
            [("", 0), ("parameters", 0), (" | loss", 1), (" | loss", 5), (" | loss", 9)][kill as usize % 5];
        let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
        stderr.by_ref().find(|line| line.as_ref().unwrap().contains(sign));
        stderr.by_ref().take(more + kill as usize % 3).for_each(drop);
        std::thread::sleep(Duration::from_micros(kill * 7919 % 6000));
        child.kill().unwrap();
        child.wait().unwrap();
        reached.extend(fs_err::read_to_string(place.path().join("run/latest")));
    }
    assert!(reached.len() > 3, "it was killed in the middle of things: {reached:?}");
    place.done(RESUME);
    assert_same_end(&place, "whole", "run");
}

#[test]
#[cfg(unix)]
fn interrupted() {
    let place = Place::for_training();
    let args = ["train", "tiny.toml", "--log_interval=1", "--max_iters=1000000"];
    let mut child = place.start(&args);
    wait_for(&mut child, "step     3 |");
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let mut told = String::new();
    child.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{told}");
    let (_, ending) =
        told.split_once("warning: finishing this step, then saving; once more to stop at once\n").unwrap();
    assert!(ending.ends_with("\nto go on:  oxigpt train --init_from=resume --out_dir=run\n"), "{ending}");
    let latest = place.read_text("run/latest");
    let step: u64 = latest.trim().trim_start_matches("step-").parse().unwrap();
    assert!(ending.contains(&format!("interrupted after {step} steps and saved")), "{ending}");

    let end = format!("--max_iters={}", step + 5);
    place.done(&[RESUME, &[&end]].concat());
    place.done(&["train", "tiny.toml", "--log_interval=1", "--out_dir=whole", &end]);
    assert_same_end(&place, "whole", "run");
}

#[test]
fn threads_change_nothing() {
    let place = Place::for_training();
    place.done(&["train", "tiny.toml", "--out_dir=whole"]);
    place.done(&["train", "tiny.toml", "--threads=2"]);
    assert_same_end(&place, "whole", "run");
}

#[test]
fn by_two_at_once() {
    let place = Place::for_training();
    let mut child = place.start(&["train", "tiny.toml", "--max_iters=1000000"]);
    wait_for(&mut child, "step     0 |");
    let told = place.failed(RESUME);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_snapshot!(&told[told.find("error: ").unwrap()..], @"
    error: run: another process is training this run
    hint: wait for it to end, or stop it, or choose another --out_dir
    ");
}

#[test]
fn with_another_model() {
    let place = Place::for_training();
    place.done(&["train", "tiny.toml", "--max_iters=20"]);
    let told = place.failed(&[RESUME, &["--n_layer=2"]].concat());
    assert_snapshot!(&told[told.find("error: ").unwrap()..], @"
    error: `n_layer` was 1 when this run began, and cannot become 2
    hint: leave --n_layer at 1, or start another run with another --out_dir
    ");
    let told = place.failed(&[RESUME, &["--max_iters=10"]].concat());
    assert_snapshot!(&told[told.find("error: ").unwrap()..], @"
    error: this run has already made 20 updates, more than max_iters = 10
    hint: raise --max_iters to train on
    ");
}

#[test]
#[cfg(unix)]
fn after_the_disk_was_full() {
    let place = Place::for_training();
    place.done(&["train", "tiny.toml", "--log_interval=1", "--out_dir=whole"]);
    place.done(&["train", "tiny.toml", "--log_interval=1", "--max_iters=20"]);
    let told = place.failed_on_full_disk(32, &[RESUME, &["--max_iters=40"]].concat());
    assert_snapshot!(&told[told.find("error: ").unwrap()..], @"
    error: checkpoint step-00000040 could not be saved: failed to write to file `run/checkpoints/step-00000040.tmp/model.safetensors`: File too large (os error 27)
    hint: free some disk space; step-00000020 is whole, --init_from=resume goes on from there
    ");
    place.done(&["sample", "--from=run", "--max-new-tokens=1"]);
    place.done(&[RESUME, &["--max_iters=40"]].concat());
    assert_same_end(&place, "whole", "run");
}

/// The size that was chosen is the run's from then on: it goes on with it, and the whole run is that of the number.
#[test]
fn a_micro_batch_that_was_fitted() {
    let place = Place::for_training();
    let args = |more: &[&'static str]| {
        [&["train", "tiny.toml", "--total_batch_size=192", "--log_interval=1"], more].concat()
    };
    place.done(&args(&["--out_dir=whole", "--batch_size=12"]));
    let output = place.output(&args(&["--batch_size=auto", "--max_iters=20"]));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("batch_size = 12: as much of a step at once as the free memory holds"), "{told}");
    for line in ["batch_size = 12 ", "gradient_accumulation_steps = 1 ", "eval_tokens = 384 "] {
        assert!(place.read_text("run/config.toml").contains(line), "{line}");
    }
    place.done(&[RESUME, &["--max_iters=40"]].concat());
    assert_same_end(&place, "whole", "run");
}
