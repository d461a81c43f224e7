//! What a model is worth on tasks: both definitions of HellaSwag, last words, a text.

use insta::{assert_snapshot, with_settings};
use serde_json::Value;

use crate::support::{Place, fixture, place_with_models};

/// HellaSwag in the characters of `nano`; one label is a text, as in some copies of the set.
const ITEMS: &str = r#"
{"activity_label": "Kings", "ctx_a": "The king is here.", "ctx_b": "he", "ctx": "The king is here. he", "endings": ["is dead.", "zq xjj.", "wwwww w.", "pgk."], "label": 0}
{"activity_label": "Love", "ctx_a": "I love thee.", "ctx_b": "thou", "ctx": "I love thee. thou", "endings": ["jxk.", "art a man.", "vv v.", "kk k zz."], "label": "1"}
{"activity_label": "War", "ctx_a": "To arms", "ctx_b": "", "ctx": "To arms", "endings": ["and fight.", "so long.", "bzz.", "xx x."], "label": 2}
"#;
const PASSAGES: &str = "{\"text\": \"the king and the\"}\n{\"text\": \"be not a man of the world\"}\n";
const TEXT: &str = "\n The king is dead , and the queen --- is here .\n\n Long live the king .\n";

fn place() -> Place {
    let place = place_with_models();
    place.write("items.jsonl", ITEMS);
    place.write("passages.jsonl", PASSAGES);
    place.write("text.txt", TEXT);
    place
}

fn measured(place: &Place, args: &[&str]) -> Value {
    serde_json::from_str(&place.done(&[&["eval", "--json", "--from=nano"], args].concat())).unwrap()
}

#[test]
fn tables_of_all_tasks() {
    let tasks = ["hellaswag", "items.jsonl", "lambada", "passages.jsonl", "wikitext", "text.txt"];
    let args = tasks.chunks(2).flat_map(|pair| ["--task", pair[0], "--file", pair[1]]);
    let args: Vec<_> = ["eval", "--from=nano"].into_iter().chain(args).collect();
    // The perplexity of a word is a loss of many tokens in an exponent, and shows every rounding.
    let filters =
        vec![(r"(jsonl|txt), .*s\n", "${1}, [TIME]\n"), (r"\d+\.\d\d per (last )?word", "[X] per ${1}word")];
    with_settings!({ filters => filters }, {
        assert_snapshot!(place().run(&args), @"
        exit 0
        --- stdout
        hellaswag      items.jsonl, [TIME]
        definition             measure                       value   95 % interval     right
        build-nanogpt          acc (sum of losses)           0.3333  0.0615 - 0.7923   1 of 3
        build-nanogpt          acc_norm (loss per token)     0.6667  0.2077 - 0.9385   2 of 3
        lm-evaluation-harness  acc (sum of losses)           0.3333  0.0615 - 0.7923   1 of 3
        lm-evaluation-harness  acc_norm (loss per character) 0.6667  0.2077 - 0.9385   2 of 3
        lm-evaluation-harness  contexts cut to fit: 2

        published              model        acc     acc_norm  source, of all 10,042 items
        build-nanogpt          gpt2         0.2859  0.2955    build-nanogpt
        build-nanogpt          gpt2-xl      0.3842  0.4893    build-nanogpt
        build-nanogpt          gpt2         -       0.2945    llm.c
        build-nanogpt          gpt2-medium  -       0.3752    llm.c
        build-nanogpt          gpt2-large   -       0.4320    llm.c
        build-nanogpt          gpt2-xl      -       0.4889    llm.c
        lm-evaluation-harness  gpt2         0.2892  0.3114    lm-evaluation-harness
        lm-evaluation-harness  gpt2-xl      0.4004  0.5089    lm-evaluation-harness
        its own                GPT-3 125M   -       0.3370    Brown et al. 2020
        its own                GPT-3 350M   -       0.4360    Brown et al. 2020
        its own                GPT-3 760M   -       0.5100    Brown et al. 2020
        its own                GPT-3 1.3B   -       0.5470    Brown et al. 2020

        lambada        passages.jsonl, [TIME]
        accuracy       0.0000, 0 of 2
        95 % interval  0.0000 - 0.6576
        perplexity     [X] per last word, 19.80 per token
        over           10 tokens of last words
        cut to fit     0 contexts

        wikitext       text.txt, [TIME]
        loss           3.3276 nats per token
        perplexity     27.87 per token, [X] per word
        bits per byte  4.8007
        over           71 tokens, 17 words, 71 bytes, as they stand
        --- stderr
        nano on items.jsonl (hellaswag)
        nano on passages.jsonl (lambada)
        nano on text.txt (wikitext)
        ");
    });
}

#[test]
fn one_object_a_task_beside_the_loss() {
    let place = place();
    let found = measured(
        &place,
        &[
            "--data=shakespeare_char",
            "--limit-windows=3",
            "--task=wikitext",
            "--task=hellaswag",
            "--file=text.txt",
            "--file=items.jsonl",
        ],
    );
    assert_eq!((&found["windows"], found["loss"].is_f64()), (&3.into(), true));
    let hellaswag = &found["hellaswag"];
    assert_eq!((&hellaswag["items"], hellaswag["seconds"].is_f64()), (&3.into(), true));
    for (name, definition) in
        [("acc", "build_nanogpt"), ("acc_norm", "build_nanogpt"), ("acc_norm", "lm_eval")]
    {
        let named = if definition == "lm_eval" { "acc_chars" } else { name };
        assert_eq!(hellaswag[named], hellaswag[definition][name]["value"], "{named}");
    }
    assert_eq!(found["wikitext"]["words"], 17);
    assert!(found.get("lambada").is_none());
}

/// A text is a data set of its own: the same windows, the same loss.
#[test]
fn the_loss_of_a_text_is_that_of_its_tokens() {
    let place = place();
    let text = "the king is dead\n".repeat(32);
    place.write("text.txt", &text);
    let characters = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let token = |c: char| characters.find(c).unwrap() as u16;
    let tokens: Vec<u8> = text.chars().flat_map(|c| token(c).to_le_bytes()).collect();
    // One token more than 16 whole windows; the last of the text is left over for it.
    place.write("data/text/val.bin", &tokens[..2 * 513]);
    place.write("short.txt", &text[..513]);
    let found = measured(&place, &["--data=text", "--task=wikitext", "--file=short.txt", "--batch_size=5"]);
    assert_eq!((&found["tokens"], &found["wikitext"]["tokens"]), (&512.into(), &512.into()));
    let [whole, task] = [&found["loss"], &found["wikitext"]["loss"]].map(|loss| loss.as_f64().unwrap());
    assert!((whole / task - 1.0).abs() < 1e-6, "{whole} is not {task}");
}

#[test]
fn neither_threads_nor_batches_nor_types_change_the_answers() {
    let place = place();
    let accuracies = |args: &[&str]| {
        let tasks = ["--task=hellaswag", "--file=items.jsonl", "--task=lambada", "--file=passages.jsonl"];
        let found = measured(&place, &[&tasks[..], args].concat());
        [&found["hellaswag"]["build_nanogpt"], &found["hellaswag"]["lm_eval"], &found["lambada"]["acc"]]
            .map(Clone::clone)
    };
    let expected = accuracies(&[]);
    for args in [["--threads=1", "--batch_size=1"], ["--threads=2", "--dtype=bfloat16"]] {
        assert_eq!(accuracies(&args), expected, "{args:?}");
    }
}

#[test]
fn the_first_items_only() {
    let place = place();
    let items = |limit: &str| {
        let tasks = ["--task=hellaswag", "--file=items.jsonl", "--task=lambada", "--file=passages.jsonl"];
        let found = measured(&place, &[&tasks[..], &["--task=wikitext", "--file=text.txt", limit]].concat());
        [&found["hellaswag"]["items"], &found["lambada"]["items"], &found["wikitext"]["words"]]
            .map(|count| count.as_u64().unwrap())
    };
    assert_eq!(items("--limit=1"), [1, 1, 12]);
    assert_eq!(items("--limit=2"), [2, 2, 17]);
    assert_eq!(items("--limit=100"), [3, 2, 17]);
}

/// A run is measured on its own data where nothing else is asked for.
#[test]
fn a_task_of_a_run_without_its_data() {
    let place = Place::for_training();
    place.done(&["train", "tiny.toml", "--max_iters=1"]);
    place.write("text.txt", "the cat sat on the mat\n");
    let eval = |args: &[&str]| -> Value {
        serde_json::from_str(&place.done(&[&["eval", "--json", "--from=run"], args].concat())).unwrap()
    };
    let task = ["--task=wikitext", "--file=text.txt"];
    assert!(eval(&task).get("loss").is_none());
    assert!(eval(&[&task[..], &["--data=cat"]].concat()).get("loss").is_some());
}

#[test]
fn a_definition_whose_key_items_lack() {
    let place = place();
    place.write("old.jsonl", ITEMS.replace("\"activity_label\": \"Love\", ", ""));
    let args = ["eval", "--from=nano", "--task=hellaswag", "--file=old.jsonl"];
    let table = place.done(&args);
    let rows: Vec<_> = table.lines().take_while(|line| !line.is_empty()).skip(2).collect();
    assert_snapshot!(rows.join("\n"), @r#"
    build-nanogpt          acc (sum of losses)           0.3333  0.0615 - 0.7923   1 of 3
    build-nanogpt          acc_norm (loss per token)     0.6667  0.2077 - 0.9385   2 of 3
    lm-evaluation-harness  not possible: 1 of 3 items have no "activity_label"
    "#);
    let found = measured(&place, &args[2..]);
    assert!(found["hellaswag"]["acc_chars"].is_null() && found["hellaswag"]["lm_eval"].is_null());
    assert_eq!(found["hellaswag"]["lm_eval_missing"]["key"], "activity_label");
}

/// One definition alone gives the numbers that it has beside the other.
#[test]
fn one_definition_alone() {
    let place = place();
    let of = |more: &[&str]| {
        measured(&place, &[&["--task=hellaswag", "--file=items.jsonl"], more].concat())["hellaswag"].clone()
    };
    let both = of(&[]);
    for (name, own, other) in
        [("build-nanogpt", "build_nanogpt", "lm_eval"), ("lm-eval", "lm_eval", "build_nanogpt")]
    {
        let found = of(&[&format!("--definition={name}")]);
        assert_eq!(found[own], both[own]);
        assert!(found[other].is_null() && found["lm_eval_missing"].is_null());
    }
    place.write("old.jsonl", ITEMS.replace("\"activity_label\": \"Love\", ", ""));
    let eval = ["eval", "--from=nano", "--definition=lm-eval"];
    let failed = |more: &[&str]| place.failed(&[&eval[..], more].concat());
    assert_snapshot!(failed(&["--task=hellaswag", "--file=old.jsonl"]), @r#"
    error: old.jsonl (hellaswag): lm-eval is not possible: 1 of 3 items have no "activity_label"
    hint: use the file as it is published, or --definition=build-nanogpt
    "#);
    assert_snapshot!(failed(&["--task=wikitext", "--file=text.txt"]), @"
    error: --definition is of HellaSwag, which is not asked for
    hint: add --task=hellaswag, or leave --definition out
    ");
}

/// What cleaning takes away is missed by the definition that cleans, and by no other.
#[test]
fn an_ending_that_one_definition_cleans_away() {
    let place = Place::for_training();
    place.write("cat.txt", "[step] A cat: it sat.\n".repeat(200));
    place.done(&["prepare", "text", "--input=cat.txt", "--tokenizer=char", "--out=data/cat", "--force"]);
    place.done(&["train", "tiny.toml", "--max_iters=1"]);
    place.write(
        "items.jsonl",
        r#"{"activity_label": "cat", "ctx_a": "A cat", "ctx_b": "", "ctx": "A cat", "endings": ["[step]", "sat.", "it", "at"], "label": 0}"#,
    );
    let args = ["eval", "--from=run", "--task=hellaswag", "--file=items.jsonl"];
    let table = place.done(&args);
    let rows: Vec<_> = table.lines().take_while(|line| !line.is_empty()).skip(2).collect();
    assert_snapshot!(rows.join("\n"), @r#"
    build-nanogpt          acc (sum of losses)           0.0000  0.0000 - 0.7935   0 of 1
    build-nanogpt          acc_norm (loss per token)     0.0000  0.0000 - 0.7935   0 of 1
    lm-evaluation-harness  not possible: 1 of 1 items have nothing but markers in one of their "endings"
    "#);
    assert_snapshot!(place.failed(&[&args[..], &["--definition=lm-eval"]].concat()), @r#"
    error: items.jsonl (hellaswag): lm-eval is not possible: 1 of 1 items have nothing but markers in one of their "endings"
    hint: use the file as it is published, or --definition=build-nanogpt
    "#);
}

/// No item is to blame for weights that are no numbers.
#[test]
fn weights_that_are_no_numbers_have_no_score() {
    let place = Place::for_training();
    place.done(&["train", "tiny.toml", "--max_iters=1"]);
    place.write("passages.jsonl", "{\"text\": \"the cat sat on the mat\"}\n");
    let file = "run/checkpoints/step-00000001/model.safetensors";
    let mut model = place.read(file);
    let header = 8 + u64::from_le_bytes(*model.first_chunk().unwrap()) as usize;
    model[header..header + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    place.write(file, &model);
    // Which has the checksum that the weights had.
    fs_err::remove_file(place.path().join("run/checkpoints/step-00000001/state.json")).unwrap();
    let told = place.failed(&["eval", "--from=run", "--task=lambada", "--file=passages.jsonl"]);
    assert_snapshot!(told, @"
    run on passages.jsonl (lambada)
    error: passages.jsonl (lambada): run gives NaN: not all numbers of its tensor `wte.weight` are finite
    hint: its weights are damaged, or its training has diverged: use an earlier checkpoint
    ");
}

#[test]
fn tasks_that_are_not_complete() {
    let place = place();
    let refused = |args: &[&str]| {
        let text = place.run(&[&["eval", "--from=nano"], args].concat());
        text.replacen("--- stdout\n--- stderr\n", "", 1)
    };
    // It would be fetched.
    assert_snapshot!(refused(&["--task=hellaswag"]), @"
    exit 1
    error: HellaSwag is needed: HF_HUB_OFFLINE forbids to download https://raw.githubusercontent.com/rowanz/hellaswag/master/data/hellaswag_val.jsonl
    hint: unset HF_HUB_OFFLINE to download it, or point HF_HOME at the cache that has it
    ");
    assert_snapshot!(refused(&["--task=hellaswag", "--task=lambada", "--file=items.jsonl"]), @"
    exit 2
    error: nothing says which file --task=lambada is about
    hint: add --file=FILE, in the order of the tasks; lambada_test.jsonl is published at https://openaipublic.blob.core.windows.net/gpt-2/data/lambada_test.jsonl
    ");
    assert_snapshot!(refused(&["--task=wikitext"]), @"
    exit 2
    error: nothing says which file --task=wikitext is about
    hint: add --file=FILE, in the order of the tasks; wiki.test.raw is published at https://wikitext.smerity.com/wikitext-2-raw-v1.zip
    ");
    assert_snapshot!(refused(&["--task=lambada", "--file=passages.jsonl", "--file=items.jsonl"]), @"
    exit 2
    error: nothing says which task --file=items.jsonl is for
    hint: give each --file a --task of its own, in the same order
    ");
    assert_snapshot!(refused(&["--file=items.jsonl"]), @"
    exit 2
    error: the following required arguments were not provided:
      --task <TASK>

    Usage: oxigpt eval --task <TASK> --from <MODEL> --file <FILE> [RECIPE | FILE.toml]...
    hint: add --help to see what can be written here
    ");
    assert_snapshot!(refused(&["--task=helaswag", "--file=items.jsonl"]), @"
    exit 2
    error: invalid value 'helaswag' for '--task <TASK>'
      [possible values: hellaswag, lambada, wikitext]

      tip: a similar value exists: 'hellaswag'
    hint: add --help to see what can be written here
    ");
    assert_snapshot!(refused(&["--task=lambada", "--task=lambada", "--file=a", "--file=b"]), @"
    exit 2
    error: --task=lambada is given twice
    hint: evaluate one file of a task at a time
    ");
    assert_snapshot!(refused(&["--task=hellaswag", "--file=items.jsonl", "--limit=0"]), @"
    exit 2
    error: invalid value '0' for '--limit <N>': it must be a whole number, 1 or more
    hint: add --help to see what can be written here
    ");
    assert_snapshot!(refused(&["--task=hellaswag", "--file=items.jsonl", "--split=train"]), @"
    exit 2
    error: --split is of a data set, and none is named
    hint: add --data=DIR to measure the loss on one too, or leave --split out; --limit is of tasks
    ");
    assert_snapshot!(refused(&["--task=hellaswag", "--file=items.jsonl", "--limit_windows=3"]), @"
    exit 2
    error: --limit-windows is of a data set, and none is named
    hint: add --data=DIR to measure the loss on one too, or leave --limit-windows out; --limit is of tasks
    ");
}

#[test]
fn files_that_do_not_suit_the_task_or_the_model() {
    let place = place();
    place.write("other.jsonl", ITEMS.replace("dead", "#dead"));
    place.write("published.jsonl", fs_err::read(fixture("oxigpt-eval", "hellaswag_val.jsonl")).unwrap());
    let refused =
        |from: &str, task: &str, file: &str| place.failed(&["eval", from, "--task", task, "--file", file]);
    assert_snapshot!(refused("--from=nano", "hellaswag", "none.jsonl"), @"
    error: failed to open file `none.jsonl`: No such file or directory (os error 2)
    hint: check the path
    ");
    place.write("empty.jsonl", ITEMS.replace("\"zq xjj.\"", "\" \""));
    assert_snapshot!(refused("--from=nano", "hellaswag", "empty.jsonl"), @r#"
    error: empty.jsonl: line 2: "endings" is a list with an empty text, expected a list of 4 texts
    hint: use the file as it is published, and the task that it is for
    "#);
    assert_snapshot!(refused("--from=nano", "lambada", "items.jsonl"), @r#"
    error: items.jsonl: line 2 has no key "text"
    hint: use the file as it is published, and the task that it is for
    "#);
    assert_snapshot!(refused("--from=nano", "hellaswag", "text.txt"), @"
    error: text.txt: line 2 is not a JSON object: expected value at column 2
    hint: every line of the file must be one JSON object; download the file again
    ");
    assert_snapshot!(refused("--from=nano", "hellaswag", "other.jsonl"), @"
    error: other.jsonl (hellaswag): item 1 cannot be put into tokens: the character vocabulary (of 65) lacks 1 character of the text: '#'
    hint: use only characters of the text that the vocabulary was made of, or prepare the data with the gpt2 tokenizer, which encodes any text
    ");
    assert_snapshot!(refused("--from=nano", "hellaswag", "published.jsonl"), @"
    error: published.jsonl (hellaswag): an answer of item 1 has 38 tokens, and block_size is 32
    hint: raise block_size; where the model has no more positions, choose one that has
    ");
    assert_snapshot!(refused("--from=nano", "hellaswag", "data"), @"
    error: failed to read from file `data`: Is a directory (os error 21)
    hint: name the file in it
    ");
    assert_snapshot!(refused("--from=hf", "hellaswag", "items.jsonl"), @"
    error: hf has no tokenizer: nothing says which words its 160 tokens are
    hint: put the files of its tokenizer beside its weights: tokenizer.json, or nanoGPT's meta.pkl
    ");
}
