//! A training run: what it tells, what it leaves behind, and what it refuses.

use insta::{assert_snapshot, with_settings};
use serde_json::Value;

use crate::support::Place;

/// What differs from one machine to another, or from one day to the next.
const MEASURED: &[(&str, &str)] = &[
    (r"(machine  +).*", "${1}[MACHINE]"),
    (r"(memory  +).*", "${1}[BYTES]"),
    (r"\| [\d.]+ ms \| [\d,]+ tokens/s \| mfu [\d.]+ % \| .* left", "| [TIME]"),
    (r"loss \d+\.\d+", "loss [LOSS]"),
    (r"norm \d+\.\d+", "norm [NORM]"),
];

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Names in a directory, sorted.
fn names(place: &Place, dir: &str) -> Vec<String> {
    let entries = fs_err::read_dir(place.path().join(dir)).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Every file below a directory and its content.
fn contents(place: &Place, dir: &str) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for name in names(place, dir) {
        let path = format!("{dir}/{name}");
        if place.path().join(&path).is_dir() {
            found.extend(contents(place, &path));
        } else {
            found.push((path.clone(), place.read(&path)));
        }
    }
    found
}

#[test]
fn what_a_run_tells() {
    let place = Place::for_training();
    let output = place.output(&["train", "tiny.toml", "--max_iters=20", "--sample_interval=20", "--seed=7"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stdout.is_empty());
    let told = String::from_utf8(output.stderr).unwrap();
    let config = place.read_text("run/config.toml");
    let told = told.strip_prefix(config.as_str()).expect("first comes the configuration, as it is saved");
    // What a model of twenty steps says is nothing to compare.
    let ruled: Vec<_> = told.split("---------------\n").collect();
    assert_eq!(ruled.len(), 3, "{told}");
    with_settings!({ filters => MEASURED.to_vec() }, {
        assert_snapshot!([ruled[0], ruled[2]].join("[SAMPLE]\n"), @"
        parameters   13,248
        data         data/cat: 4,140 tokens to train on, 460 to validate on; the run sees 0.6 epochs
        step         128 tokens in 2 micro-batches, 11.5 MFLOP
        machine      [MACHINE]
        memory       [BYTES]
                     activations     178 KiB
                     cache             4 KiB
                     gradients      58.4 KiB
                     inputs         1.81 KiB
                     moments         117 KiB
                     outputs        1.31 KiB
                     parameters     58.4 KiB
        first loss   about 2.3979, which is ln 11: a model that has learned nothing
        step     0 | train loss [LOSS] | val loss [LOSS]
        step     0 | loss [LOSS] | lr 1.6667e-3 | norm [NORM] | [TIME]
        step    10 | loss [LOSS] | lr 9.5544e-3 | norm [NORM] | [TIME]
        step    19 | loss [LOSS] | lr 6.8906e-3 | norm [NORM] | [TIME]
        step    20 | train loss [LOSS] | val loss [LOSS]
        [SAMPLE]
        step    20 | saved step-00000020, the best so far
        20 steps done; best validation loss [LOSS], at step 20
        to hear it: oxigpt sample --from run
        ");
    });
    assert!(ruled[1].starts_with('\n') && ruled[1].len() == 22, "{:?}", ruled[1]);
}

#[test]
fn what_a_run_leaves_behind() {
    let place = Place::for_training();
    let summary: Value =
        serde_json::from_str(&place.done(&["train", "tiny.toml", "--sample_interval=20", "--json"])).unwrap();
    assert_eq!(summary["step"], 40);
    assert_eq!(summary["run_dir"], "run");
    assert_eq!(summary["interrupted"], false);

    assert_eq!(
        names(&place, "run"),
        ["best", "checkpoints", "config.toml", "latest", "log.txt", "metrics.jsonl", "run.json"]
    );
    assert_eq!(names(&place, "run/checkpoints"), ["step-00000020", "step-00000040"]);
    assert_eq!(place.read_text("run/latest"), "step-00000040\n");
    assert_eq!(place.read_text("run/best"), format!("step-{:08}\n", summary["best_step"].as_u64().unwrap()));
    assert_eq!(
        names(&place, "run/checkpoints/step-00000040"),
        [
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "optimizer.safetensors",
            "state.json",
            "tokenizer.json",
            "tokenizer_config.json"
        ]
    );
    let facts: Value = serde_json::from_str(&place.read_text("run/run.json")).unwrap();
    assert_eq!(facts["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(facts["data"]["train_tokens"], 4140);
    assert_eq!(facts["data"]["tokenizer"], "char");

    // The resolved configuration is a recipe, and the same run again.
    place.write("again.toml", place.read("run/config.toml"));
    place.done(&["train", "again.toml", "--out_dir=again"]);
    let weights = |run| place.read(&format!("{run}/checkpoints/step-00000040/model.safetensors"));
    assert!(weights("run") == weights("again"));
}

#[test]
fn metrics_are_json_lines_and_the_log_is_short() {
    let place = Place::for_training();
    place.done(&["train", "tiny.toml", "--sample_interval=20"]);
    let events = json_lines(&place.read_text("run/metrics.jsonl"));
    let kinds: Vec<_> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    let update = ["train", "train"];
    let due = ["eval", "sample", "checkpoint"];
    let expected =
        [&["started", "eval"][..], &update, &due, &update, &["train"], &due, &["finished"]].concat();
    assert_eq!(kinds, expected);

    let of = |kind: &str| events.iter().filter(|event| event["event"] == kind).collect::<Vec<_>>();
    let steps: Vec<_> = of("train").iter().map(|event| event["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [0, 10, 20, 30, 39]);
    for key in ["loss", "lr", "grad_norm", "step_ms", "tokens_per_s", "mfu"] {
        assert!(of("train").iter().all(|event| event[key].as_f64().unwrap() > 0.0), "{key}");
    }
    let losses: Vec<_> = of("eval").iter().map(|event| event["val_loss"].as_f64().unwrap()).collect();
    assert!((losses[0] - 11f64.ln()).abs() < 0.1, "a fresh model knows nothing: {losses:?}");
    assert!(losses[2] < losses[0] - 0.5, "and learns: {losses:?}");

    let log = place.read_text("run/log.txt");
    let words: Vec<_> = log.lines().map(|line| line.split(' ').collect::<Vec<_>>()).collect();
    let kinds: Vec<_> = words.iter().map(|words| (words[0], words[1])).collect();
    assert_eq!(
        kinds,
        [
            ("0", "val"),
            ("0", "train"),
            ("10", "train"),
            ("20", "val"),
            ("20", "train"),
            ("30", "train"),
            ("39", "train"),
            ("40", "val")
        ]
    );
    assert!(words.iter().all(|words| words.len() == 3 && words[2].parse::<f64>().is_ok()));
}

#[test]
fn a_run_can_be_sampled_from() {
    let place = Place::for_training();
    place.done(&["train", "tiny.toml"]);
    let sample = |args: &[&str]| {
        place.done(&[&["sample", "--from=run", "--start=the ", "--max-new-tokens=60"], args].concat())
    };
    let text = sample(&["--seed=3"]);
    // Far beyond the sixteen characters of the context.
    assert!(text.starts_with("the ") && text.chars().count() == 65, "{text:?}");
    assert_eq!(text, sample(&["--seed=3"]));
    let likeliest = sample(&["--temperature=0"]);
    assert_eq!(likeliest, sample(&["--temperature=0", "--seed=9", "--threads=2"]));
    let checkpoint = format!("--from=run/checkpoints/{}", place.read_text("run/best").trim());
    let named =
        place.done(&["sample", &checkpoint, "--start=the ", "--max_new_tokens=60", "--temperature=0"]);
    assert_eq!(named, likeliest);
}

#[test]
fn a_directory_with_a_run_is_left_alone() {
    let place = Place::for_training();
    place.done(&["train", "tiny.toml"]);
    let before = contents(&place, "run");
    let told = place.failed(&["train", "tiny.toml"]);
    assert_snapshot!(without_configuration(&told), @"
    error: run already holds a run (config.toml)
    hint: go on with it by --init_from=resume --out_dir=run, or choose another --out_dir
    ");
    assert!(contents(&place, "run") == before);
}

/// What follows the configuration, which comes first.
fn without_configuration(told: &str) -> &str {
    let last = told.rfind("\nsample_tokens = ").expect("the configuration ends so");
    told[last + 1..].split_once('\n').unwrap().1
}

#[test]
fn a_run_that_diverges_says_where_and_what_is_left() {
    let place = Place::for_training();
    let args = ["train", "tiny.toml", "--learning_rate=1e6", "--grad_clip=0", "--save_interval=1"];
    let output = place.output(&args);
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8(output.stderr).unwrap();
    let error = &told[told.find("error: ").expect("an error")..];
    let filters = [
        (r"after \d+", "after [N]"),
        (r"rows \d+ to \d+ of", "rows [A] to [B] of"),
        (r"tokens \d+(, \d+)*", "tokens [WINDOWS]"),
        (r"norms: [^;]*", "norms: [NORMS]"),
        (r"step-\d{8}", "[CHECKPOINT]"),
    ];
    with_settings!({ filters => filters.to_vec() }, { assert_snapshot!(error, @"
    error: training has diverged: a moment of the optimizer is not finite after [N] updates; all weights are finite; the last good checkpoint is [CHECKPOINT]
    hint: lower learning_rate, lengthen warmup_iters or lower grad_clip, and go on from [CHECKPOINT] with --init_from=resume
    "); });

    let latest = place.read_text("run/latest");
    assert!(
        error.contains(&format!("the last good checkpoint is {latest}").trim_end().to_owned()),
        "{error}"
    );
    let events = json_lines(&place.read_text("run/metrics.jsonl"));
    assert_eq!(events.last().unwrap()["event"], "failure");
    // What is left can speak, and learn.
    place.done(&["sample", "--from=run", "--max-new-tokens=1"]);
    let tame = ["--learning_rate=1e-3", "--grad_clip=1", "--warmup_iters=10"];
    place.done(&[&["train", "--init_from=resume", "--out_dir=run"], &tame[..]].concat());
}

/// Refused before anything is written.
#[test]
fn what_cannot_be_trained() {
    let place = Place::for_training();
    let tokens: Vec<u8> = (0..200u16).flat_map(u16::to_le_bytes).collect();
    place.write("data/numbers/train.bin", &tokens);
    place.write("data/numbers/val.bin", [0; 400]);
    let refused = |args: &[&str]| {
        let text = place.run(&[&["train", "tiny.toml"], args].concat());
        let error = text.find("error: ").expect("an error");
        assert!(!place.path().join("run").exists(), "{args:?}");
        format!("{}{}", &text[..text.find("--- stdout").unwrap()], &text[error..])
    };
    assert_snapshot!(refused(&["--total_batch_size=100"]), @"
    exit 2
    error: total_batch_size = 100 is not a whole number of micro-batches of batch_size x block_size = 4 x 16 = 64 tokens
    hint: the nearest size that is: --total_batch_size=128
    ");
    assert_snapshot!(refused(&["--dtype=int8"]), @"
    exit 1
    error: weights in int8 cannot be trained, only evaluated and sampled
    hint: train with --dtype=bfloat16 or --dtype=float32, then `oxigpt sample --dtype=int8`
    ");
    assert_snapshot!(refused(&["--block_size=512"]), @"
    exit 1
    error: data/cat (val) is too short: it holds 460 tokens, and one window of block_size 512 needs 513
    hint: use more text, or a smaller block_size
    ");
    assert_snapshot!(refused(&["--dataset=numbers", "--vocab_size=90"]), @"
    exit 1
    error: data/numbers/train.bin: token 90 at position 90 is not in the vocabulary of 90
    hint: the shards were made with another tokenizer; set vocab_size to match it, or prepare the text again
    ");
    assert_snapshot!(refused(&["--dataset=numbers"]), @"
    exit 1
    error: data/numbers does not say how large its vocabulary is
    hint: set --vocab_size=N to the number of tokens; GPT-2's tokenizer has 50257
    ");
    assert_snapshot!(refused(&["--vocab_size=5"]), @"
    exit 1
    error: vocab_size = 5, but the tokenizer of data/cat has 11 tokens
    hint: leave vocab_size out, or set --vocab_size=11 or more
    ");
    assert_snapshot!(refused(&["--dataset=dog"]), @"
    exit 1
    error: there is no dataset at data/dog
    hint: give the path of a data directory, or its name under data/; `oxigpt prepare` makes one
    ");
    assert_snapshot!(refused(&["--init_from=gpt2"]), @"
    exit 1
    error: gpt2 is no path here; from the hub: model `gpt2` is not in the cache [PLACE]/hub/hub, and HF_HUB_OFFLINE forbids to download it
    hint: unset HF_HUB_OFFLINE to download it, or point HF_HOME at the cache that has it
    ");
    assert_snapshot!(refused(&["--out_dir=cat.txt"]), @"
    exit 1
    error: cat.txt is a file; a run needs a directory
    hint: choose another --out_dir
    ");
    assert_snapshot!(refused(&["--sample_interval=5", "--sample_start=dog"]), @"
    exit 1
    error: sample_start: the character vocabulary (of 11) lacks 2 characters of the text: 'd', 'g'
    hint: use only characters of the text that the vocabulary was made of, or prepare the data with the gpt2 tokenizer, which encodes any text
    ");
}

/// What only happens to be called like a built-in data set is passed over, and left as it is.
#[test]
fn names_of_built_in_data_are_not_taken_by_chance() {
    let place = Place::new();
    place.write("overfit/notes.txt", "mine");
    place.write("data/overfit.txt", "mine, too");
    place.write("stories", "a file");
    let short = ["--max_iters=1", "--eval_interval=9", "--threads=1"];
    place.done(&[&["train", "overfit"], &short[..]].concat());
    assert_eq!(names(&place, "overfit"), ["notes.txt"]);
    assert_eq!(place.read_text("data/overfit.txt"), "mine, too");
    place.done(&["plan", "demo"]);

    place.write("data/stories/notes.txt", "mine");
    let told = place.failed(&["train", "--max_iters=1"]);
    assert_snapshot!(without_configuration(&told), @"
    error: data/stories is no data set, and the built-in data of that name belong there
    hint: move it away, or name another data directory with --dataset=DIR
    ");
}

#[test]
fn hellaswag_on_the_way() {
    let place = Place::for_training();
    let item = |label: usize| {
        serde_json::json!({ "ctx": "the cat", "endings": ["sat", "mat", "on", "the"], "label": label })
            .to_string()
    };
    place.write("items.jsonl", (0..4).map(|label| item(label) + "\n").collect::<String>());
    let args = ["train", "tiny.toml", "--max_iters=2", "--hellaswag=items.jsonl"];
    let output = place.output(&args);
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{told}");
    // One and the same question with each answer once.
    let line = "step     2 | HellaSwag acc_norm 0.2500 (0.0456 to 0.6994) | acc 0.2500 | 4 items in ";
    assert!(told.contains(line), "{told}");
    assert!(place.read_text("run/log.txt").contains("\n2 hella 0.2500\n"));
    let events = place.read_text("run/metrics.jsonl");
    assert!(
        events.contains(r#"{"event":"hellaswag","step":2,"acc":0.25,"acc_norm":0.25,"interval":[0.04"#),
        "{events}"
    );
    // A path is kept, and so is the wish for the published file.
    assert!(place.read_text("run/config.toml").contains("\nhellaswag = \"items.jsonl\""));
    let offline = place.run(&["train", "tiny.toml", "--out_dir=other", "--hellaswag"]);
    assert!(offline.contains("HellaSwag is needed"), "{offline}");
    assert!(!place.path().join("other").exists());
    let told = place.failed(&["train", "tiny.toml", "--out_dir=other", "--hellaswag=cat.txt"]);
    assert_snapshot!(without_configuration(&told), @"
    error: cat.txt: line 1 is not a JSON object: expected ident at column 2
    hint: every line of the file must be one JSON object; download the file again
    ");
}
