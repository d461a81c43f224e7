//! Measurements: their tables, their keys, and what they refuse. How fast anything is, no test says.

use insta::{assert_snapshot, with_settings};
use serde_json::Value;

use crate::support::{Place, refused, run};

const SHAPE: [&str; 6] =
    ["--n_layer=1", "--n_head=2", "--n_embd=16", "--block_size=8", "--batch_size=2", "--vocab_size=65"];

fn bench<'a>(kind: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["bench", kind, "--threads=1"], &SHAPE[..], more].concat()
}

/// Numbers and their units, whatever they are.
const NUMBERS: [(&str, &str); 1] = [(r"[ (]+[0-9][0-9.,]*( ([KMG]i)?B| [MGT]FLOP/s)?", " N")];

#[test]
fn table_of_steps() {
    with_settings!({ filters => NUMBERS.to_vec() }, {
        assert_snapshot!(run(&bench("train", &["--steps=3", "--dtype=bfloat16"])), @"
        exit N
        --- stdout
        1 layers, N heads, width N N x N tokens, vocabulary N bfloat16, cpu, N thread

        step N ms N to N N steps)
        speed N tokens/s
        products N, N % of N measured just now
        memory N
        peak memory N

        forward N ms
        classifier N ms
        backward N ms
        update N ms
        --- stderr
        ");
    });
}

#[test]
fn table_of_operators() {
    with_settings!({ filters => NUMBERS.to_vec() }, {
        assert_snapshot!(run(&bench("ops", &["--steps=1", "--warmup=0"])), @"
        exit N
        --- stdout
        1 layers, N heads, width N N x N tokens, vocabulary N float32, cpu, N thread

        operator                    part                ms     GFLOP/s   of peak      GB/s
        embed                       forward N N
        layer_norm                  forward N N
        linear                      forward N N N % N
        attention                   forward N N N % N
        add_layer_norm              forward N N
        linear_gelu                 forward N N N % N
        classifier                  classifier N N N % N
        layer_norm_backward         backward N N
        linear_backward_input_gelu  backward N N N % N
        linear_backward_weight      backward N N N % N
        linear_backward_input       backward N N N % N
        attention_backward          backward N N N % N
        embed_backward              backward N N
        grad_norm                   update N N
        adamw                       update N N
        --- stderr
        ");
    });
}

#[test]
fn keys_of_training_and_sampling() {
    let measured = |kind| -> Value {
        let output = Place::new().output(&bench(kind, &["--steps=2", "--json"]));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    for kind in ["train", "sample"] {
        let numbers = measured(kind);
        for key in ["tokens_per_s", "step_ms", "gflops", "peak_memory_bytes"] {
            assert!(numbers[key].as_f64().unwrap() > 0.0, "{kind}: {key}");
        }
    }
    let numbers = measured("train");
    assert!(numbers["memory_bytes"].as_u64().unwrap() > 0);
    let parts: f64 = numbers["parts"].as_object().unwrap().values().map(|ms| ms.as_f64().unwrap()).sum();
    let ops: f64 = numbers["ops"].as_array().unwrap().iter().map(|op| op["ms"].as_f64().unwrap()).sum();
    assert!((parts - ops).abs() < 1e-6 * ops, "{parts} {ops}");
}

/// Fewer bits, less memory; more texts, more.
#[test]
fn decoding_in_every_storage() {
    let memory = |args: &[&str]| -> u64 {
        let output = Place::new().output(&bench("sample", &[&["--steps=2", "--json"], args].concat()));
        let numbers: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(numbers["tokens_per_s"].as_f64().unwrap() > 0.0);
        numbers["memory_bytes"].as_u64().unwrap()
    };
    let of = ["--dtype=float32", "--dtype=bfloat16", "--dtype=int8"].map(|dtype| memory(&[dtype]));
    assert!(of[0] > of[1] && of[1] > of[2], "{of:?}");
    assert!(memory(&["--texts=5"]) > of[0]);
    with_settings!({ filters => NUMBERS.to_vec() }, {
        assert_snapshot!(run(&bench("sample", &["--steps=2", "--texts=3", "--dtype=int8"])), @"
        exit N
        --- stdout
        token N ms N to N N tokens, N texts side by side, int8)
        speed N tokens/s
        memory traffic N GB/s
        prompt N ms for N tokens
        memory N
        --- stderr
        ");
    });
}

#[test]
fn what_is_refused() {
    assert_snapshot!(refused(&["bench", "train", "--steps=0"]), @"
    exit 2
    error: invalid value '0' for '--steps <N>': it must be a whole number, 1 or more
    hint: add --help to see what can be written here
    ");
    assert_snapshot!(refused(&["bench", "train", "--n_layers=3"]), @"
    exit 2
    error: command line: unknown key `n_layers`
    hint: did you mean `n_layer`?
    ");
    assert_snapshot!(refused(&["bench", "sample", "--n_head=5", "--n_embd=16"]), @"
    exit 2
    error: n_embd = 16 cannot be cut into n_head = 5 equal heads
    hint: the nearest width that can is --n_embd=15
    ");
    assert_snapshot!(refused(&bench("train", &["--dtype=int8"])), @"
    exit 1
    error: weights in int8 cannot be trained, only evaluated and sampled
    hint: train with --dtype=bfloat16 or --dtype=float32, then `oxigpt sample --dtype=int8`
    ");
    assert_snapshot!(refused(&["bench", "sample", "--texts=0"]), @"
    exit 2
    error: invalid value '0' for '--texts <N>': it must be a whole number, 1 or more
    hint: add --help to see what can be written here
    ");
    assert_snapshot!(refused(&["bench", "sample", "--texts=1e9"]), @"
    exit 2
    error: invalid value '1e9' for '--texts <N>': it must be a whole number, 1 or more
    hint: add --help to see what can be written here
    ");
    assert_snapshot!(refused(&bench("sample", &["--texts=1_000_000_000"])), @"
    exit 1
    error: the rows of attention weights would be 16000000000, more than the 4294967296 that can be handled
    hint: lower --texts
    ");
}

#[test]
fn encoding() {
    let place = Place::new();
    place.write("a.txt", "the cat sat on the mat\n".repeat(1000));
    let of = |more: &[&str]| place.done(&[&["bench", "tokenize", "--input=a.txt"], more].concat());
    let found: Value = serde_json::from_str(&of(&["--threads=2", "--json"])).unwrap();
    assert_eq!(found["bytes"], 23_000);
    assert_eq!(found["tokens"], 7_000);
    assert_eq!(found["threads"], 2);
    let rates = ["bytes_per_s_min", "bytes_per_s", "bytes_per_s_max"].map(|key| found[key].as_f64().unwrap());
    assert!(0.0 < rates[0] && rates.is_sorted(), "{rates:?}");
    for (tokenizer, tokens) in [("char", "23,000"), ("byte", "23,000")] {
        let table = of(&[&format!("--tokenizer={tokenizer}")]);
        assert!(
            table.starts_with(&format!("text             23,000 bytes, {tokens} tokens by {tokenizer}\n")),
            "{table}"
        );
    }
    place.write("latin.txt", b"caf\xe9");
    assert_snapshot!(place.run(&["bench", "tokenize", "--input=latin.txt"]), @"
    exit 1
    --- stdout
    --- stderr
    error: latin.txt is not UTF-8 text: byte 3 (0xe9), in line 1, does not belong there
    hint: convert it first, e.g. `iconv -f LATIN1 -t UTF-8 FILE > FILE.utf8`, or check that it is text at all
    ");
    place.write("empty.txt", "");
    assert_snapshot!(place.failed(&["bench", "tokenize", "--input=empty.txt"]), @"
    error: empty.txt is empty
    hint: leave it out, or check that it was saved
    ");
    let refused = place.failed(&["bench", "tokenize", "--input=a.txt", "--threads=9999999"]);
    assert!(refused.starts_with("error: cannot start 9999999 worker threads: with "), "{refused}");
    // What preparing reads, and as many threads as there is work for.
    place.write("folder/b.md", "the cat\n");
    let mut command =
        place.command(&["bench", "tokenize", "--input", "-", "folder", "--threads=5", "--json"]);
    let output = command.write_stdin("sat\n").output().unwrap();
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&found["bytes"], &found["threads"]), (&12.into(), &1.into()));
}
