//! Models on their way to other programs, and back.

use insta::{assert_snapshot, with_settings};

use crate::support::{Place, place_with_models};

fn loss(place: &Place, from: &str, data: &str, block_size: usize) -> f64 {
    let block_size = format!("--block_size={block_size}");
    let json = place.done(&["eval", "--json", "--from", from, "--data", data, &block_size]);
    serde_json::from_str::<serde_json::Value>(&json).unwrap()["loss"].as_f64().unwrap()
}

#[test]
fn nanogpts_checkpoint_becomes_a_directory_with_its_characters() {
    let place = place_with_models();
    place.done(&["convert", "nano/ckpt.pt", "out/hf", "--to=hf"]);
    let mut names: Vec<_> = fs_err::read_dir(place.path().join("out/hf"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json"
        ]
    );
    assert_eq!(fs_err::read_dir(place.path().join("out")).unwrap().count(), 1, "nothing else is left there");
    assert_eq!(
        loss(&place, "out/hf", "shakespeare_char", 32).to_bits(),
        loss(&place, "nano", "shakespeare_char", 32).to_bits()
    );
    let said = |from| place.done(&["sample", "--from", from, "--start=First", "--max-new-tokens=20"]);
    assert_eq!(said("out/hf"), said("nano"));
}

#[test]
fn there_and_back_is_the_same_to_the_bit() {
    let place = place_with_models();
    place.done(&["convert", "hf", "there.bin", "--to=llmc"]);
    place.done(&["convert", "there.bin", "back", "--to=hf"]);
    let same = |one: &str, other: &str| assert!(place.read(one) == place.read(other), "{one} and {other}");
    place.done(&["convert", "hf", "again", "--to=hf"]);
    same("again/model.safetensors", "back/model.safetensors");
    place.done(&["convert", "back", "twice.bin", "--to=llmc"]);
    same("there.bin", "twice.bin");
    place.done(&["convert", "llmc.bin", "llmc-hf", "--to=hf"]);
    place.done(&["convert", "llmc-hf", "llmc-again.bin", "--to=llmc"]);
    same("llmc.bin", "llmc-again.bin");
}

#[test]
fn bfloat16_halves_the_file_and_hardly_moves_the_loss() {
    let place = place_with_models();
    fs_err::create_dir(place.path().join("folder")).unwrap();
    place.done(&["convert", "hf", "new/", "--to=llmc"]);
    place.done(&["convert", "hf", "wide.bin", "--to=llmc"]);
    assert!(place.read("new/model.bin") == place.read("wide.bin"));
    place.done(&["convert", "hf", "folder", "--to=llmc", "--dtype=bfloat16"]);
    let (wide, narrow) = (place.read("wide.bin").len(), place.read("folder/model.bin").len());
    assert_eq!(2 * (narrow - 1024), wide - 1024);
    let (exact, rounded) =
        (loss(&place, "wide.bin", "stream", 24), loss(&place, "folder/model.bin", "stream", 24));
    assert!(
        exact.to_bits() != rounded.to_bits() && (exact / rounded - 1.0).abs() < 1e-3,
        "{exact} {rounded}"
    );
}

#[test]
fn a_run_becomes_a_directory() {
    let place = Place::for_training();
    place.done(&["train", "tiny.toml", "--max_iters=3"]);
    let json = place.done(&["convert", "run", "mine", "--to=hf", "--json"]);
    let told: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(told["path"], "mine");
    assert!(told["parameters"].as_u64().unwrap() > 10_000 && told["bytes"].as_u64().unwrap() > 40_000);
    assert_eq!(loss(&place, "mine", "cat", 16).to_bits(), loss(&place, "run", "cat", 16).to_bits());
}

#[test]
fn what_was_written_is_told() {
    let place = place_with_models();
    fs_err::create_dir(place.path().join("empty")).unwrap();
    with_settings!({ filters => vec![(r"[0-9.]+ KiB", "[SIZE]")] }, {
        assert_snapshot!(place.run(&["convert", "hf", "empty", "--to=hf"]), @"
        exit 0
        --- stdout
        empty: 31,360 parameters, [SIZE]
        --- stderr
        ");
        assert_snapshot!(place.run(&["convert", "hf", "model.bin", "--to=llmc"]), @"
        exit 0
        --- stdout
        model.bin: 31,360 parameters, [SIZE]
        --- stderr
        ");
    });
}

#[test]
fn what_cannot_be_converted() {
    let place = place_with_models();
    place.write("full/notes", "mine");
    place.write("file", "mine");
    let refused =
        |args: &[&str]| place.run(&[&["convert"], args].concat()).replacen("--- stdout\n--- stderr\n", "", 1);
    assert_snapshot!(refused(&["hf", "full", "--to=hf"]), @"
    exit 1
    error: full already exists
    hint: choose another name, or move it away first: nothing is overwritten
    ");
    assert_snapshot!(refused(&["hf", "file", "--to=hf"]), @"
    exit 1
    error: file already exists
    hint: choose another name, or move it away first: nothing is overwritten
    ");
    assert_snapshot!(refused(&["hf", "file", "--to=llmc"]), @"
    exit 1
    error: file already exists
    hint: choose another name, or move it away first: nothing is overwritten
    ");
    assert_snapshot!(refused(&["hf", "file/inside", "--to=hf"]), @"
    exit 1
    error: failed to create directory `file`: File exists (os error 17)
    hint: a file is in the way of a directory: choose another name
    ");
    assert_snapshot!(refused(&["hf", "new", "--to=hf", "--dtype=bfloat16"]), @"
    exit 2
    error: a Hugging Face directory is written in float32
    hint: leave out --dtype; transformers converts when it loads, by from_pretrained(DIR, dtype=...)
    ");
    assert_snapshot!(refused(&["nano", "new.bin", "--to=llmc"]), @"
    exit 1
    error: llm.c has no such model: its GELU is the exact one (erf), and llm.c's the one by tanh
    hint: write a Hugging Face directory instead, which says how it is computed
    ");
    assert_snapshot!(refused(&["hf", "new", "--to=gguf"]), @"
    exit 2
    error: invalid value 'gguf' for '--to <hf|llmc>'
      [possible values: hf, llmc]
    hint: add --help to see what can be written here
    ");
    assert_snapshot!(refused(&["full", "new", "--to=hf"]), @"
    exit 1
    error: full holds no model: it has neither config.json nor ckpt.pt
    hint: a model is a directory with config.json and model.safetensors, nanoGPT's ckpt.pt, or llm.c's .bin
    ");
    assert_eq!(place.read_text("full/notes"), "mine");
    assert_eq!(place.read_text("file"), "mine");
    assert!(!place.path().join("new").exists() && !place.path().join("new.bin").exists());
    let hidden = |name: &str| name.starts_with(".oxigpt");
    assert!(
        !fs_err::read_dir(place.path())
            .unwrap()
            .any(|entry| hidden(&entry.unwrap().file_name().to_string_lossy())),
        "what was written in part is gone"
    );
}
