//! Runs side by side.

use insta::assert_snapshot;
use serde_json::Value;

use crate::support::{Place, run};

/// Writes a run that evaluated after each of `steps`, its loss falling from `loss`.
fn write_run(place: &Place, dir: &str, settings: &str, steps: &[u64], loss: f64) {
    place.write(&format!("{dir}/config.toml"), format!("out_dir = \"{dir}\"\n{settings}"));
    let end = steps.last().copied().unwrap_or(0);
    let train = (0..end).map(|step| {
        let loss = loss / (1.0 + step as f64);
        format!("{{\"event\":\"train\",\"step\":{step},\"loss\":{loss},\"tokens_per_s\":{}}}\n", 1000 + step)
    });
    let evals = steps.iter().map(|&step| {
        let (train, val) = (loss / (1.5 + step as f64), loss / (1.25 + step as f64));
        format!("{{\"event\":\"eval\",\"step\":{step},\"train_loss\":{train},\"val_loss\":{val}}}\n")
    });
    place.write(&format!("{dir}/metrics.jsonl"), train.chain(evals).collect::<String>());
}

const SMALL: &str = "batch_size = 2\nblock_size = 8\ngradient_accumulation_steps = 1\n";

/// Two runs of different lengths that differ in three settings.
fn place() -> Place {
    let place = Place::new();
    write_run(&place, "out/wide", &format!("{SMALL}n_embd = 1536\nlearning_rate = 1e-3\n"), &[0, 5, 10], 4.0);
    write_run(&place, "out/plain", &format!("{SMALL}seed = 7\n"), &[0, 5, 10, 15, 20], 5.0);
    place
}

#[test]
fn table() {
    let place = place();
    assert_snapshot!(place.run(&["compare", "out/wide", "out/plain"]), @"
    exit 0
    --- stdout
                             wide   plain
    steps                      10      20
    tokens                    160     320
    best validation loss   0.3556  0.2353
      after step               10      20
    final validation loss  0.3556  0.2353
    final training loss    0.3478  0.2326
    tokens/s                1,005   1,010

    what differs    wide   plain
    seed            1337       7
    n_embd          1536     768
    learning_rate  0.001  0.0006

    validation loss by steps    wide   plain
    0                         3.2000  4.0000
    5                         0.6400  0.8000
    10                        0.3556  0.4444
    15                             -  0.3077
    20                             -  0.2353
    --- stderr
    ");
}

#[test]
fn one_run_alone_and_two_that_are_alike() {
    let place = Place::new();
    for dir in ["a/run", "b/run"] {
        write_run(&place, dir, SMALL, &[0, 2], 3.0);
    }
    assert_snapshot!(place.run(&["compare", "a/run", "b/run"]), @"
    exit 0
    --- stdout
                            a/run   b/run
    steps                       2       2
    tokens                     32      32
    best validation loss   0.9231  0.9231
      after step                2       2
    final validation loss  0.9231  0.9231
    final training loss    0.8571  0.8571
    tokens/s                1,001   1,001

    no setting differs

    validation loss by steps   a/run   b/run
    0                         2.4000  2.4000
    2                         0.9231  0.9231
    --- stderr
    ");
    assert!(place.done(&["compare", "a/run"]).contains("final validation loss  0.9231"));
}

/// Steps of different sizes are lined up by tokens, unless steps are asked for.
#[test]
fn steps_of_different_sizes() {
    let place = Place::new();
    write_run(&place, "small", SMALL, &[0, 10, 20], 4.0);
    write_run(&place, "large", &format!("{SMALL}total_batch_size = 32\n"), &[0, 5, 10], 4.0);
    let table = place.done(&["compare", "small", "large"]);
    let losses = |table: &str| table.split("\n\n").last().unwrap().to_owned();
    assert_snapshot!(losses(&table), @"
    validation loss by tokens   small   large
    0                          3.2000  3.2000
    160                        0.3556  0.6400
    320                        0.1882  0.3556
    ");
    assert_snapshot!(losses(&place.done(&["compare", "small", "large", "--by=steps"])), @"
    validation loss by steps   small   large
    0                         3.2000  3.2000
    5                              -  0.6400
    10                        0.3556  0.3556
    20                        0.1882       -
    ");
}

#[test]
fn json() {
    let place = place();
    let told: Value =
        serde_json::from_str(&place.done(&["compare", "out/wide", "out/plain", "--json"])).unwrap();
    assert_eq!(told["differences"]["seed"], serde_json::json!(["1337", "7"]));
    assert!(told["differences"].get("out_dir").is_none());
    let run = &told["runs"][1];
    assert_eq!((&run["name"], &run["steps"], &run["tokens"]), (&"plain".into(), &20.into(), &320.into()));
    assert_eq!(run["best"], run["evals"][4]);
    assert_eq!(run["evals"][1]["tokens"], 80);
    assert_eq!(run["train"].as_array().unwrap().len(), 20);
}

#[test]
fn pictures() {
    let place = place();
    let args = |out: &'static str| ["compare", "out/wide", "out/plain", "--out", out];
    assert!(place.done(&args("losses.svg")).contains("what differs"), "the tables are printed, too");
    let svg = place.read_text("losses.svg");
    assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"), "{svg}");
    for word in ["wide", "plain", "steps", "loss (nats per token)"] {
        assert!(svg.contains(word), "{word}");
    }
    // A faint line and a bold one for each run, and a point for each evaluation.
    let count = |what: &str| svg.matches(what).count();
    assert_eq!(count("<circle"), 8);
    assert_eq!(count("stroke-width=\"2\" points"), 4, "two curves, and two lines in the legend");

    // The same picture in pixels: of the right size, and not empty.
    place.done(&args("losses.png"));
    let png = place.read("losses.png");
    assert_eq!(&png[..8], b"\x89PNG\r\n\x1a\n");
    assert_eq!(&png[16..24], [0, 0, 3, 32, 0, 0, 1, 184], "800 x 440");
    assert!(png.len() > 8_000, "{}", png.len());
    place.done(&args("out/other.svg"));
    assert!(place.read_text("out/other.svg") == svg);
}

/// A picture that cannot be written is as it was.
#[cfg(unix)]
#[test]
fn a_picture_on_a_full_disk() {
    let place = place();
    let compare = ["compare", "out/wide", "out/plain", "--out=losses.svg"];
    place.write("losses.svg", "the old one");
    assert_snapshot!(place.failed_on_full_disk(2, &compare), @"
    error: failed to write to file `losses.svg.tmp`: File too large (os error 27)
    hint: make room on the disk
    ");
    assert_eq!(place.read_text("losses.svg"), "the old one");
    assert!(!place.path().join("losses.svg.tmp").exists());
}

#[test]
fn damaged_and_empty_records() {
    let place = place();
    let metrics = place.read_text("out/wide/metrics.jsonl");
    place.write("out/wide/metrics.jsonl", format!("{metrics}garbage\n{{\"event\":\"eval\",\"st"));
    place.write("young/config.toml", SMALL);
    assert_snapshot!(place.run(&["compare", "out/wide", "young"]), @"
    exit 0
    --- stdout
                             wide  young
    steps                      10      0
    tokens                    160      0
    best validation loss   0.3556      -
      after step               10      -
    final validation loss  0.3556      -
    final training loss    0.3478      -
    tokens/s                1,005      -

    what differs    wide   young
    n_embd          1536     768
    learning_rate  0.001  0.0006

    validation loss by steps    wide  young
    0                         3.2000      -
    5                         0.6400      -
    10                        0.3556      -
    --- stderr
    warning: out/wide/metrics.jsonl: damaged lines are left out (1)
    warning: young has no evaluation yet
    ");
    assert_snapshot!(place.run(&["compare", "young"]), @"
    exit 1
    --- stdout
    --- stderr
    warning: young has no evaluation yet
    error: there is nothing to compare: no loss is recorded
    hint: wait for the first evaluation; a run records its losses in metrics.jsonl
    ");
}

#[test]
fn what_is_no_run() {
    let place = place();
    place.write("empty/readme.txt", "");
    assert_snapshot!(place.run(&["compare", "out/wide", "empty"]), @"
    exit 1
    --- stdout
    --- stderr
    error: empty is no run: it has no config.toml
    hint: name the directories of runs, such as out/demo; `oxigpt train` writes there what it is told with --out_dir
    ");
    assert_snapshot!(place.run(&["compare", "out/wide", "nowhere"]), @"
    exit 1
    --- stdout
    --- stderr
    error: nowhere is no run: it has no config.toml
    hint: name the directories of runs, such as out/demo; `oxigpt train` writes there what it is told with --out_dir
    ");
    place.write("broken/config.toml", "n_layers = 3\n");
    assert_snapshot!(place.run(&["compare", "broken"]), @"
    exit 1
    --- stdout
    --- stderr
    error: broken/config.toml:1: unknown key `n_layers`
    hint: did you mean `n_layer`?
    ");
    assert_snapshot!(place.run(&["compare", "out/wide", "./out/../out/wide"]), @"
    exit 2
    --- stdout
    --- stderr
    error: ./out/../out/wide is named twice
    hint: name each run once
    ");
    assert_snapshot!(place.run(&["compare", "out/wide", "--out=losses.jpg"]), @"
    exit 2
    --- stdout
    --- stderr
    error: losses.jpg is no name of a picture that can be drawn
    hint: end it in .svg or .png
    ");
    assert_snapshot!(run(&["compare"]), @"
    exit 2
    --- stdout
    --- stderr
    error: the following required arguments were not provided:
      <RUN>...

    Usage: oxigpt compare <RUN>...
    hint: add --help to see what can be written here
    ");
}

/// The record that a real run leaves, resumed once, is read whole.
#[test]
fn a_real_run() {
    let place = Place::for_training();
    place.done(&["train", "tiny.toml", "--max_iters=20"]);
    place.done(&["train", "--init_from=resume", "--out_dir=run", "--max_iters=40"]);
    let told: Value = serde_json::from_str(&place.done(&["compare", "run", "--json"])).unwrap();
    let run = &told["runs"][0];
    let steps: Vec<_> = run["evals"].as_array().unwrap().iter().map(|point| &point["step"]).collect();
    assert_eq!(steps, [0, 20, 40]);
    assert_eq!((&run["steps"], &run["tokens"], &run["damaged_lines"]), (&40.into(), &5120.into(), &0.into()));
    assert!(run["tokens_per_s"].as_f64().unwrap() > 0.0);
}
