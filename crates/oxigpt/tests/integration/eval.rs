//! What a model is worth on a data set, for every kind of model, beside PyTorch's numbers.

use insta::{assert_snapshot, with_settings};
use oxigpt_model::{Initial, ModelConfig, save_pretrained};
use oxigpt_text::Tokenizer;
use serde_json::Value;

use crate::support::{Place, fixture, place_with_models};

/// The loss of `tiny/hf-gpt2` on 12 windows of 24 tokens, by PyTorch in float64.
const STREAM: f64 = 5.087_684_002_306_194;
/// That of the nanoGPT checkpoint on 200 windows of 32 characters.
const SHAKESPEARE: f64 = 3.248_626_941_507_493;

fn measured(place: &Place, args: &[&str]) -> Value {
    serde_json::from_str(&place.done(&[&["eval", "--json"], args].concat())).unwrap()
}

#[track_caller]
fn assert_near(found: &Value, expected: f64) {
    let found = found.as_f64().unwrap();
    assert!((found / expected - 1.0).abs() < 1e-6, "{found} is not {expected}");
}

#[test]
fn a_hugging_face_directory() {
    let place = place_with_models();
    let found = measured(&place, &["--from=hf", "--data=stream", "--block_size=24", "--batch_size=5"]);
    assert_near(&found["loss"], STREAM);
    assert_near(&found["perplexity"], STREAM.exp());
    assert_eq!((&found["tokens"], &found["windows"]), (&288.into(), &12.into()));
    assert!(found["bits_per_byte"].is_null(), "nobody knows what text the tokens stand for");
    // The file of weights alone, found by what it holds.
    let file = measured(&place, &["--from=hf/model.safetensors", "--data=data/stream", "--block_size=24"]);
    assert_near(&file["loss"], STREAM);
}

/// Weights in 16 and in 8 bits change a loss, and little.
#[test]
fn weights_in_fewer_bits() {
    let place = place_with_models();
    let of = |dtype: &str| {
        let args = ["--from=nano", "--data=shakespeare_char", dtype];
        measured(&place, &args)["loss"].as_f64().unwrap()
    };
    for dtype in ["--dtype=bfloat16", "--dtype=int8"] {
        let off = (of(dtype) / SHAKESPEARE - 1.0).abs();
        assert!(off > 1e-7 && off < 1e-2, "{dtype}: off by {off}");
    }
}

#[test]
fn a_checkpoint_of_nanogpts() {
    let place = place_with_models();
    for from in ["--from=nano", "--from=nano/ckpt.pt"] {
        let found = measured(&place, &[from, "--data=shakespeare_char"]);
        assert_near(&found["loss"], SHAKESPEARE);
        assert_eq!((&found["tokens"], &found["windows"]), (&6400.into(), &200.into()));
        // All of this text is in ASCII.
        assert_near(&found["bits_per_byte"], SHAKESPEARE / std::f64::consts::LN_2);
    }
}

#[test]
fn a_model_of_llmcs() {
    let place = place_with_models();
    let text = fs_err::read_to_string(fixture("oxigpt-model", "llmc_model.json")).unwrap();
    let expected: Value = serde_json::from_str(&text).unwrap();
    let losses = expected["tokens"].as_array().unwrap().iter().map(|row| {
        let tokens = row.as_array().unwrap();
        let bytes: Vec<u8> =
            tokens.iter().flat_map(|token| (token.as_u64().unwrap() as u16).to_le_bytes()).collect();
        place.write("row/val.bin", &bytes);
        let block_size = format!("--block_size={}", tokens.len() - 1);
        measured(&place, &["--from=llmc.bin", "--data=row", &block_size])["loss"].as_f64().unwrap()
    });
    let mean = losses.sum::<f64>() / 2.0;
    assert_near(&mean.into(), expected["loss"].as_f64().unwrap());
}

#[test]
fn a_run_and_its_checkpoint_on_the_data_it_was_trained_on() {
    let place = Place::for_training();
    place.done(&["train", "tiny.toml", "--max_iters=20", "--eval_tokens=448"]);
    let found = measured(&place, &["--from=run", "--limit-windows=28"]);
    assert_eq!(found["tokens"], 448);
    // What the run itself measured last.
    let events = place.read_text("run/metrics.jsonl");
    let last = events.lines().rev().find(|line| line.contains("\"eval\"")).unwrap();
    let last: Value = serde_json::from_str(last).unwrap();
    assert_near(&found["loss"], last["val_loss"].as_f64().unwrap());
    let checkpoint =
        measured(&place, &["--from=run/checkpoints/step-00000020", "--data=data/cat", "--limit_windows=28"]);
    assert_eq!(checkpoint["loss"], found["loss"]);
}

/// The last token of one window is the first of the next: all but one are targets, as far as windows are whole.
#[test]
fn either_split_and_as_many_windows_as_wanted() {
    let place = Place::for_training();
    place.done(&["train", "tiny.toml", "--max_iters=1"]);
    let windows = |args: &[&str]| {
        measured(&place, &[&["--from=run", "--data=cat"], args].concat())["windows"].as_u64().unwrap()
    };
    assert_eq!(windows(&[]), (460 - 1) / 16);
    assert_eq!(windows(&["--split=train"]), (4140 - 1) / 16);
    assert_eq!(windows(&["--split=train", "--limit-windows=3"]), 3);
    assert_eq!(windows(&["--block_size=4", "--batch_size=1"]), (460 - 1) / 4);
}

/// Bits per byte are about the text of the targets: the first token is none, and an end of text stands for nothing.
#[test]
fn bits_per_byte_of_gpt2_tokens() {
    let place = Place::new();
    let config = ModelConfig {
        n_layer: 1,
        n_head: 1,
        n_embd: 4,
        block_size: 256,
        ..ModelConfig::preset("gpt2").unwrap()
    };
    fs_err::create_dir(place.path().join("model")).unwrap();
    save_pretrained(place.path().join("model"), &config, &Initial { config: &config, seed: 1 }).unwrap();
    for name in ["one.txt", "two.txt"] {
        place.write(name, "Once upon a time, é🎉 and so on. ".repeat(6));
    }
    place.done(&[
        "prepare",
        "text",
        "--input",
        "one.txt",
        "two.txt",
        "--tokenizer=gpt2",
        "--val-fraction=0.6",
        "--out=data",
    ]);
    let shard = place.read("data/val_000000.bin");
    let tokens: Vec<u32> =
        shard[1024..].chunks(2).map(|pair| u32::from(u16::from_le_bytes([pair[0], pair[1]]))).collect();
    assert!(tokens[1..].contains(&50256), "{tokens:?}");
    let words: Vec<u32> = tokens[1..].iter().copied().filter(|&token| token != 50256).collect();
    let bytes = Tokenizer::gpt2().decode_bytes(&words).len();

    let targets = tokens.len() - 1;
    let found = measured(&place, &["--from=model", "--data=data", &format!("--block_size={targets}")]);
    let nats = found["loss"].as_f64().unwrap() * targets as f64;
    assert_near(&found["bits_per_byte"], nats / std::f64::consts::LN_2 / bytes as f64);
}

#[test]
fn a_recipe_says_what_options_do_not() {
    let place = place_with_models();
    place.write(
        "mine.toml",
        "init_from = \"hf\"\ndataset = \"stream\"\nblock_size = 24\nlearning_rate = 1e-3\n",
    );
    assert_near(&measured(&place, &["./mine.toml"])["loss"], STREAM);
    let other =
        measured(&place, &["./mine.toml", "--from=nano", "--data=shakespeare_char", "--block_size=32"]);
    assert_near(&other["loss"], SHAKESPEARE);
}

#[test]
fn weights_that_are_no_numbers_have_no_loss() {
    let place = place_with_models();
    let mut model = place.read("hf/model.safetensors");
    let len = model.len();
    model[len - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    place.write("hf/model.safetensors", &model);
    let told = place.failed(&["eval", "--from=hf", "--data=stream", "--json"]);
    assert_snapshot!(told, @"
    hf on data/stream (val): 12 windows of 24 tokens
    error: hf gives NaN: not all numbers of its tensor `wte.weight` are finite
    hint: its weights are damaged, or its training has diverged: use an earlier checkpoint
    ");
}

#[test]
fn table() {
    let place = place_with_models();
    with_settings!({ filters => vec![(r"(time +).*", "${1}[TIME]")] }, {
        assert_snapshot!(place.run(&["eval", "--from=nano", "--data=shakespeare_char"]), @"
        exit 0
        --- stdout
        loss           3.2486 nats per token
        perplexity     25.75
        bits per byte  4.6868
        over           6,400 tokens in 200 windows of 32
        time           [TIME]
        --- stderr
        nano on data/shakespeare_char (val): 200 windows of 32 tokens
        ");
    });
}

#[test]
fn what_cannot_be_evaluated() {
    let place = place_with_models();
    place.write("data/nothing/train.bin", [0; 8]);
    place.write("model.pt", "no model");
    place.done(&["prepare", "stories", "--out=data/other"]);
    let refused = |args: &[&str]| {
        let text = place.run(&[&["eval"], args].concat());
        text.replacen("--- stdout\n--- stderr\n", "", 1)
    };
    assert_snapshot!(refused(&[]), @"
    exit 2
    error: nothing says which model to evaluate
    hint: add --from=MODEL, for example --from=out/demo or --from=gpt2
    ");
    assert_snapshot!(refused(&["hf"]), @"
    exit 2
    error: hf is a directory, not a recipe
    hint: a model or a run is named by --from=hf; training goes on with a run by --init_from=resume --out_dir=hf
    ");
    assert_snapshot!(refused(&["--from=hf"]), @"
    exit 2
    error: nothing says what to evaluate on
    hint: add --data=DIR: a data directory, or its name under data/; `oxigpt prepare` makes one; or a task, such as --task=hellaswag
    ");
    assert_snapshot!(refused(&["--init_from=resume", "--data=stream"]), @"
    exit 2
    error: nothing says which model to evaluate
    hint: add --from=MODEL, for example --from=out/demo or --from=gpt2
    ");
    assert_snapshot!(refused(&["--from=hf", "--data=none"]), @"
    exit 1
    error: there is no dataset at data/none
    hint: give the path of a data directory, or its name under data/; `oxigpt prepare` makes one
    ");
    assert_snapshot!(refused(&["--from=hf", "--data=nothing"]), @"
    exit 1
    error: data/nothing has no val tokens
    hint: prepare the data with a part for training and a part for validation
    ");
    assert_snapshot!(refused(&["--from=hf", "--data=stream", "--block_size=4096"]), @"
    exit 2
    error: block_size = 4096, but the model hf knows 24 positions
    hint: set --block_size=24 or less, or leave it out: further positions were never learned
    ");
    assert_snapshot!(refused(&["--from=hf", "--data=stream", "--n_layer=3"]), @"
    exit 2
    error: n_layer = 3, but the model hf has n_layer = 2
    hint: leave n_layer out, in recipes too: a run that begins with a model has its shape
    ");
    assert_snapshot!(refused(&["--from=nano", "--data=other"]), @"
    exit 1
    error: the tokens of data/other are not those of the model: nano was trained with char (65 tokens, 0802f69d), and the data were made with char (54 tokens, 073ee249)
    hint: prepare the text with the model's tokenizer, or begin with a model that was trained with the data's
    ");
    assert_snapshot!(refused(&["--from=nano", "--data=stream"]), @"
    exit 1
    error: data/stream/val.bin: token 71 at position 0 is not in the vocabulary of 65
    hint: the shards were made with another tokenizer; set vocab_size to match it, or prepare the text again
    ");
    assert_snapshot!(refused(&["--from=hf", "--data=stream", "--split=test"]), @"
    exit 2
    error: invalid value 'test' for '--split <val|train>'
      [possible values: val, train]
    hint: add --help to see what can be written here
    ");
    assert_snapshot!(refused(&["--from=model.pt", "--data=stream"]), @"
    exit 1
    error: model.pt is no model in a known format
    hint: a model is a directory with config.json and model.safetensors, nanoGPT's ckpt.pt, or llm.c's .bin
    ");
}

/// Nothing tells whether the words of a model without a tokenizer are the tokens of the data.
#[test]
fn a_model_that_does_not_say_what_its_words_are() {
    let place = place_with_models();
    place.write("cat.txt", "the cat sat on the mat\n".repeat(40));
    place.done(&["prepare", "text", "--input=cat.txt", "--tokenizer=char", "--out=data/cat"]);
    let doubt = "warning: hf has no tokenizer, so nothing shows that its 160 words are the 11 tokens of data/cat (char): if \
                 they are not, what follows means nothing";
    let output = place.output(&["eval", "--from=hf", "--data=cat"]);
    assert_eq!(output.status.code(), Some(0));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains(doubt), "{told}");
    let output = place.output(&["train", "--from=hf", "--dataset=cat", "--max_iters=1", "--out_dir=run"]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains(doubt), "{told}");
}
