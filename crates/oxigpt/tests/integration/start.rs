//! The ways to start a run: from nothing, from where it stopped, and from a model of any kind.

use insta::assert_snapshot;
use serde_json::Value;

use crate::support::{Place, place_with_models};

/// The loss of the nanoGPT checkpoint on the validation text, by PyTorch in float64.
const SHAKESPEARE: f64 = 3.248_626_941_507_493;

/// A few steps on that text, which is also what is validated on.
const SHORT: [&str; 7] = [
    "--dataset=shakespeare_char",
    "--batch_size=8",
    "--gradient_accumulation_steps=1",
    "--eval_tokens=6400",
    "--eval_interval=10",
    "--max_iters=20",
    "--learning_rate=1e-3",
];

/// `oxigpt train` with these steps.
fn trained(place: &Place, args: &[&str]) {
    place.done(&[&["train"], &SHORT[..], args].concat());
}

fn val_losses(place: &Place, run: &str) -> Vec<f64> {
    let events = place.read_text(&format!("{run}/metrics.jsonl"));
    let events = events.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    events.filter(|event| event["event"] == "eval").map(|event| event["val_loss"].as_f64().unwrap()).collect()
}

fn key(place: &Place, run: &str, key: &str) -> String {
    let config = place.read_text(&format!("{run}/config.toml"));
    let line = config.lines().find(|line| line.starts_with(&format!("{key} = "))).unwrap().to_owned();
    line.split(['=', '#']).nth(1).unwrap().trim().to_owned()
}

/// A broken mapping of names or layouts would begin at the loss of a model that has learned nothing, ln 65 = 4.17.
#[test]
fn a_model_learns_on_from_what_it_knows() {
    let place = place_with_models();
    trained(&place, &["--from=nano/ckpt.pt", "--out_dir=run"]);
    let losses = val_losses(&place, "run");
    assert_eq!(losses.len(), 3);
    assert!((losses[0] / SHAKESPEARE - 1.0).abs() < 1e-6, "{losses:?}");
    assert!(losses.is_sorted_by(|before, after| after < before), "{losses:?}");

    let shape = ["n_layer", "n_head", "n_embd", "block_size", "vocab_size", "bias", "gelu", "init_from"];
    let found = shape.map(|name| key(&place, "run", name));
    assert_eq!(found, ["2", "2", "32", "32", "65", "false", "\"erf\"", "\"nano/ckpt.pt\""]);
    // The characters came along.
    let said = place.done(&["sample", "--from=run", "--start=First", "--max-new-tokens=5"]);
    assert!(said.starts_with("First"));
}

#[test]
fn every_kind_of_model_begins_a_run() {
    let place = place_with_models();
    trained(&place, &["--from=nano", "--out_dir=a/run", "--max_iters=1"]);
    for (from, data) in [
        ("a/run", "shakespeare_char"),
        ("a/run/checkpoints/step-00000001", "shakespeare_char"),
        ("hf", "stream"),
        ("llmc.bin", "stream"),
    ] {
        let args =
            [format!("--dataset={data}"), format!("--init_from={from}"), format!("--out_dir=from/{from}")];
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        trained(
            &place,
            &[&args[..], &["--max_iters=1", "--batch_size=1", "--eval_tokens=48", "--block_size=16"]]
                .concat(),
        );
        assert_eq!(key(&place, &format!("from/{from}"), "init_from"), format!("\"{from}\""));
    }
    // That of the run is where the run ended.
    let (end, begin) = (val_losses(&place, "a/run"), val_losses(&place, "from/a/run"));
    assert!((begin[0] - end[1]).abs() < 0.5 && begin[0] < 4.0, "{begin:?} after {end:?}");
}

#[test]
fn finetune_and_from_are_words_for_the_same() {
    let place = place_with_models();
    let short = ["--max_iters=2", "--eval_interval=2"];
    trained(&place, &[&["--init_from=nano", "--out_dir=one"], &short[..]].concat());
    trained(&place, &[&["--init_from=finetune", "--from=nano", "--out_dir=two"], &short[..]].concat());
    trained(
        &place,
        &[&["finetune", "--from=nano", "--init_from=nano", "--out_dir=three"], &short[..]].concat(),
    );
    let weights = |run| place.read(&format!("{run}/checkpoints/step-00000002/model.safetensors"));
    assert!(weights("one") == weights("two") && weights("one") == weights("three"));
    let config = |run: &str| {
        let text = place.read_text(&format!("{run}/config.toml"));
        text.lines().filter(|line| !line.starts_with("out_dir")).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(config("one"), config("two"));
}

#[test]
fn dropout_is_free_and_the_context_can_be_shortened() {
    let place = place_with_models();
    trained(
        &place,
        &[
            "--from=nano",
            "--out_dir=run",
            "--dropout=0.1",
            "--block_size=8",
            "--eval_tokens=640",
            "--max_iters=1",
        ],
    );
    assert_eq!([key(&place, "run", "dropout"), key(&place, "run", "block_size")], ["0.1", "8"]);
    let config = place.read_text("run/checkpoints/step-00000001/config.json");
    let config: Value = serde_json::from_str(&config).unwrap();
    assert_eq!(config["n_positions"], 8);
}

#[test]
fn a_run_that_began_with_a_model_is_resumed_as_any_other() {
    let place = place_with_models();
    let dropout = "--dropout=0.1";
    trained(&place, &["--from=nano", "--out_dir=whole", dropout]);
    trained(&place, &["--from=nano", "--out_dir=parts", dropout, "--max_iters=10"]);
    // What it began with is not needed any more.
    fs_err::remove_dir_all(place.path().join("nano")).unwrap();
    place.done(&["train", "--init_from=resume", "--out_dir=parts", "--max_iters=20"]);
    for file in ["model.safetensors", "optimizer.safetensors", "tokenizer.json"] {
        let read = |run| place.read(&format!("{run}/checkpoints/step-00000020/{file}"));
        assert!(read("whole") == read("parts"), "{file}");
    }
    assert_eq!(val_losses(&place, "whole"), val_losses(&place, "parts"));
    assert_eq!(key(&place, "parts", "init_from"), "\"nano\"");
}

#[test]
fn one_that_was_killed_before_its_first_checkpoint_begins_again_with_its_model() {
    let place = place_with_models();
    trained(&place, &["--from=nano", "--out_dir=run", "--max_iters=1"]);
    for name in ["checkpoints", "latest", "best", "metrics.jsonl", "log.txt"] {
        let path = place.path().join("run").join(name);
        if path.is_dir() { fs_err::remove_dir_all(path) } else { fs_err::remove_file(path) }.unwrap();
    }
    place.done(&["train", "--init_from=resume", "--out_dir=run"]);
    let losses = val_losses(&place, "run");
    assert!((losses[0] / SHAKESPEARE - 1.0).abs() < 1e-6 && losses.len() == 2, "{losses:?}");
}

#[test]
fn resuming_is_not_going_on_with_other_data() {
    let place = Place::for_training();
    place.done(&["train", "tiny.toml", "--max_iters=10", "--eval_interval=10"]);
    // The same characters, another text.
    place.write("tac.txt", "the mat sat on the cat\n".repeat(150));
    place.done(&["prepare", "text", "--input=tac.txt", "--tokenizer=char", "--out=data/tac"]);
    let told =
        place.failed(&["train", "--init_from=resume", "--out_dir=run", "--dataset=tac", "--max_iters=20"]);
    let hint = told.lines().last().unwrap();
    assert_snapshot!(hint, @"hint: resuming goes on with the same data; to go on with others, begin another run with the weights of this one: --init_from=run --out_dir=NEW");

    place.done(&[
        "train",
        "tiny.toml",
        "--init_from=run",
        "--out_dir=next",
        "--dataset=tac",
        "--max_iters=10",
    ]);
    let (before, after) = (val_losses(&place, "run"), val_losses(&place, "next"));
    assert!(after[0] < before[0], "what was learned is kept: {before:?}, {after:?}");
    assert!(place.read_text("next/log.txt").starts_with("0 val"), "a run of its own, from step 0");
}

#[test]
fn an_evaluation_alone() {
    let place = place_with_models();
    let evaluate = ["--from=nano", "--out_dir=eval", "--eval_only", "--json"];
    let first = place.done(&[&["train"], &SHORT[..], &evaluate].concat());
    let found: Value = serde_json::from_str(&first).unwrap();
    for split in ["train_loss", "val_loss"] {
        assert!((found[split].as_f64().unwrap() / SHAKESPEARE - 1.0).abs() < 1e-6, "{found}");
    }
    assert_eq!((&found["step"], &found["tokens"]), (&0.into(), &6400.into()));
    assert!(!place.path().join("eval/latest").exists(), "nothing was trained");
    // Once more is no other run, and takes the place of the first.
    trained(&place, &evaluate);
    assert_eq!(val_losses(&place, "eval"), [found["val_loss"].as_f64().unwrap()]);
    assert!(
        place
            .failed(&[&["train"], &SHORT[..], &["--from=nano", "--out_dir=eval"]].concat())
            .contains("already holds a run")
    );
}

#[test]
fn an_evaluation_of_a_run_leaves_it_as_it_was() {
    let place = Place::for_training();
    place.done(&["train", "tiny.toml", "--max_iters=20", "--eval_interval=10"]);
    let state = || (place.read("run/config.toml"), place.read("run/latest"), place.read("run/best"));
    let (before, losses) = (state(), val_losses(&place, "run"));
    let told = place.done(&["train", "--init_from=resume", "--out_dir=run", "--eval_only", "--json"]);
    let found: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(found["step"], 20);
    assert_eq!(found["val_loss"].as_f64(), losses.last().copied());
    assert!(state() == before);
    assert_eq!(val_losses(&place, "run").len(), losses.len() + 1);
    place.done(&["train", "--init_from=resume", "--out_dir=run", "--max_iters=21"]);
    assert_eq!(place.read_text("run/latest"), "step-00000021\n", "and it can go on");
}

#[test]
fn a_plan_knows_the_published_shapes_without_their_weights() {
    let place = Place::new();
    let json = place.done(&["plan", "finetune-shakespeare", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["parameters"], 1_557_611_200);
    let json = place.done(&["plan", "--from=gpt2", "--block_size=256", "--json"]);
    let plan: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(plan["parameters"], 124_439_808 - 768 * 768);
    assert_eq!(plan["tokens_per_step"], 32 * 256);
}

#[test]
fn what_cannot_be_started() {
    let place = place_with_models();
    place.write("words.txt", "a few words ".repeat(9000));
    place.done(&["prepare", "text", "--input=words.txt", "--tokenizer=gpt2", "--out=data/words"]);
    place.write("out/readme", "");
    let refused = |args: &[&str]| {
        let text = place.run(&[&["train"], &SHORT[..], args].concat());
        let error = text.find("error: ").expect("an error");
        assert!(!place.path().join("out/finetune").exists(), "{args:?}");
        format!("{}{}", &text[..text.find("--- stdout").unwrap()], &text[error..])
    };
    assert_snapshot!(refused(&["--from=nano", "--n_layer=12"]), @"
    exit 2
    error: n_layer = 12, but the model nano has n_layer = 2
    hint: leave n_layer out, in recipes too: a run that begins with a model has its shape
    ");
    assert_snapshot!(refused(&["shakespeare-char", "--from=nano"]), @"
    exit 2
    error: n_layer = 6, but the model nano has n_layer = 2
    hint: leave n_layer out, in recipes too: a run that begins with a model has its shape
    ");
    assert_snapshot!(refused(&["--from=nano", "--bias"]), @"
    exit 2
    error: bias = true, but the model nano has bias = false
    hint: leave bias out, in recipes too: a run that begins with a model has its shape
    ");
    assert_snapshot!(refused(&["--from=nano", "--vocab_size=100"]), @"
    exit 2
    error: vocab_size = 100, but the model nano has vocab_size = 65
    hint: leave vocab_size out, in recipes too: a run that begins with a model has its shape
    ");
    assert_snapshot!(refused(&["--from=nano", "--block_size=64"]), @"
    exit 2
    error: block_size = 64, but the model nano knows 32 positions
    hint: set --block_size=32 or less, or leave it out: further positions were never learned
    ");
    assert_snapshot!(refused(&["--init_from=finetune"]), @"
    exit 2
    error: init_from = finetune does not say which model to begin with
    hint: add --from=MODEL, for example --from=out/demo; to go on with a run itself, --init_from=resume
    ");
    assert_snapshot!(refused(&["--init_from=resume", "--from=nano"]), @"
    exit 2
    error: --init_from=resume and --from=nano contradict each other
    hint: --from=MODEL begins a new run with the weights of a model, --init_from=resume goes on with the run in out_dir; give one of them
    ");
    assert_snapshot!(refused(&["--init_from=scratch", "--from=nano"]), @"
    exit 2
    error: --init_from=scratch and --from=nano contradict each other
    hint: --from=MODEL begins a new run with the weights of a model, --init_from=resume goes on with the run in out_dir; give one of them
    ");
    assert_snapshot!(refused(&["--from=nano", "--dataset=stories"]), @"
    exit 1
    error: the tokens of data/stories are not those of the model: nano was trained with char (65 tokens, 0802f69d), and the data were made with char (54 tokens, 073ee249)
    hint: prepare the text with the model's tokenizer, or begin with a model that was trained with the data's
    ");
    assert_snapshot!(refused(&["--from=hf", "--dataset=words"]), @"
    exit 1
    error: the tokens of data/words are not those of the model: hf has 160 words, and the data 50257
    hint: prepare the text with the model's tokenizer, or begin with a model that was trained with the data's
    ");
    assert_snapshot!(refused(&["--from=out/nano"]), @"
    exit 1
    error: there is no model out/nano: no such file or directory
    hint: check the path; models of the Hugging Face hub are gpt2, gpt2-medium, gpt2-large, gpt2-xl and OWNER/NAME
    ");
    assert_snapshot!(refused(&["--from=nano.pt"]), @"
    exit 1
    error: there is no model nano.pt: no such file or directory
    hint: check the path; models of the Hugging Face hub are gpt2, gpt2-medium, gpt2-large, gpt2-xl and OWNER/NAME
    ");
    assert_snapshot!(refused(&["--from=../nano"]), @"
    exit 1
    error: there is no model ../nano: no such file or directory
    hint: check the path; models of the Hugging Face hub are gpt2, gpt2-medium, gpt2-large, gpt2-xl and OWNER/NAME
    ");
    assert_snapshot!(refused(&["--from=distilgpt2"]), @"
    exit 1
    error: there is no model distilgpt2: no such file or directory
    hint: check the path; models of the Hugging Face hub are gpt2, gpt2-medium, gpt2-large, gpt2-xl and OWNER/NAME
    ");
    assert_snapshot!(refused(&["--from="]), @"
    exit 2
    error: the name of the model is empty
    hint: name a path, such as out/demo, or a model of the Hugging Face hub, such as gpt2
    ");
    assert_snapshot!(refused(&["--from=gpt2-midium"]), @"
    exit 1
    error: there is no model gpt2-midium: no such file or directory
    hint: did you mean `gpt2-medium`?
    ");
    assert_snapshot!(refused(&["--from=gpt2"]), @"
    exit 1
    error: gpt2 is no path here; from the hub: model `gpt2` is not in the cache [PLACE]/hub/hub, and HF_HUB_OFFLINE forbids to download it
    hint: unset HF_HUB_OFFLINE to download it, or point HF_HOME at the cache that has it
    ");
    assert_snapshot!(refused(&["--from=data/shakespeare_char"]), @"
    exit 1
    error: data/shakespeare_char holds no model: it has neither config.json nor ckpt.pt
    hint: a model is a directory with config.json and model.safetensors, nanoGPT's ckpt.pt, or llm.c's .bin
    ");
}
