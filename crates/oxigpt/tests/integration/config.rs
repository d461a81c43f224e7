//! Recipes, files and keys: what wins, and what is refused with which words.

use insta::assert_snapshot;
use serde_json::Value;

use crate::support::{Place, refused};

/// What `oxigpt plan` makes of a configuration.
fn planned(place: &Place, args: &[&str]) -> Value {
    let output = place.output(&[&["plan", "--json", "--vocab_size=65"], args].concat());
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn later_recipes_and_files_override_earlier_ones_and_keys_override_both() {
    let place = Place::new();
    place.write("mine.toml", "batch_size = 2\nmax_iters = 7\n");
    let run = planned(&place, &["demo", "mine.toml", "--block-size", "32", "--max_iters=9", "--bias"]);
    assert_eq!(run["tokens_per_step"], 2 * 32);
    assert_eq!(run["steps"], 9);
    let turned = planned(&place, &["mine.toml", "demo", "--bias=False", "--block_size=32"]);
    assert_eq!(turned["tokens_per_step"], 8 * 32);
    assert!(run["parameters"].as_u64() > turned["parameters"].as_u64());
}

#[test]
fn nothing_named_means_demo() {
    let place = Place::new();
    let same = ["parameters", "tokens_per_step", "steps", "memory", "flops_per_step"];
    let (default, demo) = (planned(&place, &[]), planned(&place, &["demo"]));
    for key in same {
        assert_eq!(default[key], demo[key], "{key}");
    }
}

#[test]
fn a_run_is_resumed_with_its_own_configuration() {
    let place = Place::new();
    place.write("out/a/config.toml", "batch_size = 3\nblock_size = 8\nmax_iters = 5\n");
    let run = planned(&place, &["demo", "--out_dir=out/a", "--init_from=resume", "--max_iters=6"]);
    assert_eq!((&run["tokens_per_step"], &run["steps"]), (&(40 * 24).into(), &6.into()));
}

#[test]
fn a_recipe_named_on_resuming_is_not_ignored_silently() {
    let place = Place::new();
    place.write("mine.toml", "batch_size = 4\nmax_iters = 9\n");
    place.write("same.toml", "block_size = 8\n");
    place.write(
        "out/a/config.toml",
        "batch_size = 3\nblock_size = 8\nmax_iters = 5\nvocab_size = 65\nwarmup_iters = 1\n",
    );
    let told = |args: &[&str]| {
        let output = place.output(&[&["plan", "--out_dir=out/a", "--init_from=resume"], args].concat());
        assert_eq!(output.status.code(), Some(0));
        String::from_utf8(output.stderr).unwrap()
    };
    assert_eq!(told(&[]), "");
    assert_eq!(told(&["same.toml"]), "");
    assert_snapshot!(told(&["mine.toml", "--learning_rate=1e-3"]), @"warning: the run goes on with its own configuration, and without what mine.toml sets otherwise; to change it, give the keys themselves: --batch_size=4 --max_iters=9");
}

#[test]
fn keys_that_are_none() {
    assert_snapshot!(refused(&["plan", "--weight-decya=0.1"]), @"
    exit 2
    error: command line: unknown key `weight_decya`
    hint: did you mean `weight_decay`?
    ");
    assert_snapshot!(refused(&["plan", "demo", "--compile=False"]), @"
    exit 2
    error: command line: unknown key `compile`
    hint: leave it out: there is nothing to compile
    ");
    assert_snapshot!(refused(&["plan", "--zzzzzzzz", "1"]), @"
    exit 2
    error: command line: unknown key `zzzzzzzz`
    hint: `oxigpt train --help` lists every key
    ");
    assert_snapshot!(refused(&["plan", "n_layer=2"]), @"
    exit 2
    error: unknown recipe `n_layer=2`; there are demo, overfit, shakespeare-char-cpu, shakespeare-char, train-11, gpt2-124m, finetune, finetune-shakespeare, gaussian-from-gpt2, pointwise-from-gpt2, gaussian-lora-from-gpt2, gaussian-layerwise-from-gpt2, eval-gpt2, eval-gpt2-medium, eval-gpt2-large, eval-gpt2-xl
    hint: a key is written with two dashes: --n_layer=2
    ");
    assert_snapshot!(refused(&["plan", "----n_layer=2"]), @"
    exit 2
    error: unexpected argument `----n_layer`
    hint: a key is written with two dashes: --n_layer=VALUE
    ");
    assert_snapshot!(refused(&["plan", "-n", "2"]), @"
    exit 2
    error: unexpected argument '-n' found

      tip: to pass '-n' as a value, use '-- -n'

    Usage: oxigpt plan [OPTIONS] [RECIPE | FILE.toml]...
    hint: add --help to see what can be written here
    ");
}

#[test]
fn values_of_another_kind() {
    assert_snapshot!(refused(&["plan", "--n_layer=four"]), @"
    exit 2
    error: command line: `n_layer` must be a whole number, 0 or more, not four
    hint: for example `n_layer = 12`, the default
    ");
    assert_snapshot!(refused(&["plan", "--n_layer", "-4"]), @"
    exit 2
    error: command line: `n_layer` must be a whole number, 0 or more, not -4
    hint: for example `n_layer = 12`, the default
    ");
    assert_snapshot!(refused(&["plan", "--batch_size=many"]), @"
    exit 2
    error: command line: `batch_size` must be a whole number, or auto, not many
    hint: for example `batch_size = 12`, the default
    ");
    assert_snapshot!(refused(&["plan", "--learning_rate=fast"]), @"
    exit 2
    error: command line: `learning_rate` must be a number, not fast
    hint: for example `learning_rate = 0.0006`, the default
    ");
    assert_snapshot!(refused(&["plan", "--bias=maybe"]), @"
    exit 2
    error: command line: `bias` must be true or false, not maybe
    hint: for example `bias = false`, the default
    ");
    assert_snapshot!(refused(&["plan", "--gelu=relu"]), @r#"
    exit 2
    error: command line: `gelu` must be one of tanh, erf, not "relu"
    hint: for example `gelu = "erf"`, the default
    "#);
    assert_snapshot!(refused(&["plan", "--n_layer"]), @"
    exit 2
    error: a value is required for '--n_layer <N>' but none was supplied
    hint: add --help to see what can be written here
    ");
}

#[test]
fn combinations_that_no_run_can_have() {
    assert_snapshot!(refused(&["plan", "--n_embd=100", "--n_head=7"]), @"
    exit 2
    error: n_embd = 100 cannot be cut into n_head = 7 equal heads
    hint: the nearest width that can is --n_embd=98
    ");
    assert_snapshot!(refused(&["plan", "--block_size=0"]), @"
    exit 2
    error: `block_size` is 0
    hint: it must be at least 1
    ");
    assert_snapshot!(refused(&["plan", "--dropout=1.5"]), @"
    exit 2
    error: `dropout` is 1.5
    hint: it must be at least 0 and below 1
    ");
    assert_snapshot!(refused(&["plan", "--total_batch_size=5000"]), @"
    exit 2
    error: total_batch_size = 5000 is not a whole number of micro-batches of batch_size x block_size = 8 x 128 = 1024 tokens
    hint: the nearest size that is: --total_batch_size=5120
    ");
    assert_snapshot!(refused(&["plan", "--batch_size=auto"]), @r#"
    exit 2
    error: batch_size = "auto" cuts a step into micro-batches, and nothing says how large the step is
    hint: say it in tokens: --total_batch_size=N, a multiple of block_size = 128
    "#);
    assert_snapshot!(refused(&["plan", "--learning_rate=inf"]), @"
    exit 2
    error: `learning_rate` is inf
    hint: it must be a finite number, 0 or more
    ");
}

#[test]
fn what_this_version_cannot_do_yet() {
    assert_snapshot!(refused(&["plan", "--device=gpu"]), @r#"
    exit 2
    error: `device` must be one of cpu, cuda, cuda:N, auto, not "gpu"
    hint: use `device = "cpu"`, or "auto"; `oxigpt devices` lists the GPUs
    "#);
    assert_snapshot!(refused(&["plan", "--dtype=float16"]), @r#"
    exit 2
    error: `dtype` = "float16" is not available yet in this version
    hint: use `dtype = "float32"`
    "#);
}

#[test]
fn attention_that_does_not_exist() {
    assert_snapshot!(refused(&["plan", "--attn_type=gauss"]), @r#"
    exit 2
    error: `attn_type` must be one of softmax, gaussian, gaussian-poly-N (N = 1 to 16), pointwise-gelu, pointwise-relu, pointwise-sigmoid, pointwise-square, pointwise-relu-square, not "gauss"
    hint: `softmax` is what GPT-2 and most others have
    "#);
    assert_snapshot!(refused(&["bench", "train", "--attn_type=GKpoly-99"]), @r#"
    exit 2
    error: `attn_type` must be gaussian-poly-N with a whole number N from 1 to 16, which is how often it squares, not "GKpoly-99"
    hint: `softmax` is what GPT-2 and most others have
    "#);
    assert_snapshot!(refused(&["train", "--attn_type=PA_relu", "--attn_scale=sqrt"]), @r#"
    exit 2
    error: `attn_scale` must be length, position, block, or block-N with a whole number N from 1, not "sqrt"
    hint: `block`, the default, is what a model was trained with at its whole context
    "#);
}

#[test]
fn files_that_are_no_recipes() {
    let place = Place::new();
    place.write("key.toml", "# a comment\nn_layer = 2\nn_heads = 2\n");
    place.write("type.toml", "\nbatch_size = \"big\"\n");
    place.write("syntax.toml", "n_layer = 2\nbias = yes\n");
    place.write("section.toml", "[model]\nn_layer = 2\n");
    place.write("binary.toml", b"\xff\xfe");
    let refused = |file: &str| place.run(&["plan", file]);
    assert_snapshot!(refused("key.toml"), @"
    exit 2
    --- stdout
    --- stderr
    error: key.toml:3: unknown key `n_heads`
    hint: did you mean `n_head`?
    ");
    assert_snapshot!(refused("type.toml"), @r#"
    exit 2
    --- stdout
    --- stderr
    error: type.toml:2: `batch_size` must be a whole number, or auto, not "big"
    hint: for example `batch_size = 12`, the default
    "#);
    assert_snapshot!(refused("syntax.toml"), @r#"
    exit 2
    --- stdout
    --- stderr
    error: syntax.toml:2: not a recipe: string values must be quoted, expected literal string
    hint: a recipe has lines such as `n_layer = 12`, `bias = true` and `dataset = "stories"`
    "#);
    assert_snapshot!(refused("section.toml"), @r#"
    exit 2
    --- stdout
    --- stderr
    error: section.toml:1: not a recipe: `model` is a section, and settings have none
    hint: a recipe has lines such as `n_layer = 12`, `bias = true` and `dataset = "stories"`
    "#);
    assert_snapshot!(refused("binary.toml"), @"
    exit 2
    --- stdout
    --- stderr
    error: failed to read from file `binary.toml`: stream did not contain valid UTF-8
    hint: a recipe is TOML, which is text in UTF-8
    ");
    assert_snapshot!(refused("missing.toml"), @"
    exit 2
    --- stdout
    --- stderr
    error: failed to open file `missing.toml`: No such file or directory (os error 2)
    hint: check the path; `oxigpt recipes` lists what is built in
    ");
    place.write("folder.toml/mine.toml", "n_layer = 2");
    assert!(refused("folder.toml").ends_with("hint: name the file of settings in it\n"));
    assert_snapshot!(refused("."), @"
    exit 2
    --- stdout
    --- stderr
    error: . is a directory, not a recipe
    hint: a model or a run is named by --from=.; training goes on with a run by --init_from=resume --out_dir=.
    ");
}

#[test]
fn names_that_are_no_recipes() {
    assert_snapshot!(refused(&["plan", "shakespear"]), @"
    exit 2
    error: unknown recipe `shakespear`; there are demo, overfit, shakespeare-char-cpu, shakespeare-char, train-11, gpt2-124m, finetune, finetune-shakespeare, gaussian-from-gpt2, pointwise-from-gpt2, gaussian-lora-from-gpt2, gaussian-layerwise-from-gpt2, eval-gpt2, eval-gpt2-medium, eval-gpt2-large, eval-gpt2-xl
    hint: did you mean `shakespeare-char-cpu`?
    ");
    assert_snapshot!(refused(&["plan", "my-own"]), @"
    exit 2
    error: unknown recipe `my-own`; there are demo, overfit, shakespeare-char-cpu, shakespeare-char, train-11, gpt2-124m, finetune, finetune-shakespeare, gaussian-from-gpt2, pointwise-from-gpt2, gaussian-lora-from-gpt2, gaussian-layerwise-from-gpt2, eval-gpt2, eval-gpt2-medium, eval-gpt2-large, eval-gpt2-xl
    hint: a file of your own is named by its path, such as ./mine.toml
    ");
}

#[test]
fn a_run_that_is_not_there_cannot_be_resumed() {
    assert_snapshot!(refused(&["plan", "--init_from=resume"]), @"
    exit 2
    error: there is no run to resume in out/demo: it has no config.toml
    hint: leave out --init_from=resume to start one, or name the run directory with --out_dir=DIR
    ");
}

#[test]
fn doubts_are_told_and_do_not_stop() {
    let output = Place::new().output(&["plan", "--vocab_size=65", "--warmup_iters=5000", "--min_lr=1"]);
    assert_eq!(output.status.code(), Some(0));
    assert_snapshot!(String::from_utf8(output.stderr).unwrap(), @"
    warning: warmup_iters = 5000 is more than max_iters = 3500: the learning rate never reaches its highest value
    warning: min_lr = 1 is more than learning_rate = 0.003: the learning rate will rise
    ");
}
