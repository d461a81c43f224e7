//! Checkpoints that are not what was saved: what a disk, a copy or a person has made of them.

use std::path::Path;

use fs_err as fs;
use oxigpt_train::settings::Settings;
use oxigpt_train::{Event, Model};
use serde_json::Value;

use crate::resuming::{assert_same_end, stopped, warnings};
use crate::support::*;

fn edit(path: &Path, from: &str, to: &str) {
    let text = read(path);
    assert!(text.contains(from), "{text}");
    fs::write(path, text.replace(from, to)).unwrap();
}

fn last_is_nan(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let last = bytes.len() - 4;
    bytes[last..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(path, bytes).unwrap();
}

/// A bit in the middle of a number, which stays one.
fn a_bit_is_flipped(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_damaged_checkpoint_is_passed_over_with_a_word() {
    let place = Place::new();
    run(place.settings("whole")).unwrap();
    type Damage = fn(&Path);
    let cut: fn(&Path) = |path| {
        let bytes = fs::read(path).unwrap();
        fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
    };
    let damages: [(&str, Damage, &str); 11] = [
        ("state.json", cut, "EOF while parsing"),
        ("model.safetensors", cut, "no safetensors file"),
        ("optimizer.safetensors", cut, "no safetensors file"),
        ("config.json", |path| fs::write(path, "{}").unwrap(), "missing field"),
        ("state.json", |path| fs::remove_file(path).unwrap(), "state.json"),
        (
            "state.json",
            |path| edit(path, "\"cursor\": 48", "\"cursor\": 47"),
            "row 47 and token 384 are not where 6",
        ),
        (
            "state.json",
            |path| edit(path, "\"tokens\": 384", "\"tokens\": 0"),
            "row 48 and token 0 are not where 6",
        ),
        ("optimizer.safetensors", last_is_nan, "are finite"),
        ("model.safetensors", last_is_nan, "`ln_f.bias`"),
        ("optimizer.safetensors", a_bit_is_flipped, "optimizer.safetensors: its checksum is "),
        ("model.safetensors", a_bit_is_flipped, "model.safetensors: its checksum is "),
    ];
    for (i, (file, damage, reason)) in damages.into_iter().enumerate() {
        let name = format!("damaged-{i}");
        let settings = stopped(&place, &name);
        damage(&place.checkpoint(&name, 6).join(file));
        let (_, events) = run(resumed(&settings)).unwrap();
        let Event::Started(started) = &events[0] else { panic!("{events:?}") };
        assert_eq!(started.step, 3);
        let warnings = warnings(&events);
        assert!(warnings[0].starts_with("checkpoint step-00000006 is damaged, going back: "), "{warnings:?}");
        assert!(warnings[0].contains(reason), "{warnings:?}");
        assert_same_end(&place, "whole", &name);
    }
}

/// Also where the run ends before it saves again.
#[test]
fn nothing_names_a_damaged_checkpoint_once_the_run_has_gone_back() {
    let place = Place::new();
    let settings = stopped(&place, "damaged");
    a_bit_is_flipped(&place.checkpoint("damaged", 6).join("model.safetensors"));
    let refusal = Model::open(&place.checkpoint("damaged", 6)).err().unwrap().to_string();
    assert!(refusal.contains("model.safetensors: its checksum is "), "{refusal}");
    run(Settings { max_iters: 3, ..resumed(&settings) }).unwrap();
    for pointer in ["latest", "best"] {
        let path = place.path("damaged").join(pointer);
        assert!(!path.exists() || read(&path) == "step-00000003\n", "{pointer}");
    }
    Model::open(&place.path("damaged")).unwrap();
}

/// Checkpoints were saved without checksums before there were any.
#[test]
fn a_checkpoint_without_checksums_is_resumed() {
    let place = Place::new();
    run(place.settings("whole")).unwrap();
    let settings = stopped(&place, "old");
    let state = place.checkpoint("old", 6).join("state.json");
    let mut content: Value = serde_json::from_str(&read(&state)).unwrap();
    let checksums = content.as_object_mut().unwrap().remove("checksums").unwrap();
    assert_eq!(checksums.as_object().unwrap().len(), 2);
    fs::write(&state, content.to_string()).unwrap();
    let (_, events) = run(resumed(&settings)).unwrap();
    assert!(warnings(&events).is_empty());
    assert_same_end(&place, "whole", "old");
}

#[test]
fn where_all_checkpoints_are_damaged_there_is_an_error() {
    let place = Place::new();
    let settings = stopped(&place, "run");
    for step in [3, 6] {
        fs::write(place.checkpoint("run", step).join("state.json"), "[]").unwrap();
    }
    let told = told(run(resumed(&settings)));
    assert!(told.contains("checkpoints is whole: step-00000006: "), "{told}");
    assert!(told.contains("; step-00000003: "), "{told}");
    assert!(
        told.ends_with("| put one of them back from a copy, or start again with another --out_dir"),
        "{told}"
    );

    let state = place.checkpoint("run", 6).join("state.json");
    fs::remove_dir_all(place.checkpoint("run", 3)).unwrap();
    let other = r#"{"format":"oxigpt-state","version":2,"step":6,"cursor":0,"tokens":0,"settled":true,"best":null,
        "random":{"generator":"","seed":1},"data_hash":"","settings":{}}"#;
    fs::write(state, other).unwrap();
    let told = self::told(run(resumed(&settings)));
    assert!(told.contains("`oxigpt-state` version 2 is not known"), "{told}");
}
