//! What a run will take.

use insta::{assert_snapshot, with_settings};

use crate::support::{Place, refused, run};

#[test]
fn table() {
    let filters = [(r"(machine  +).*", "${1}[SPEED]"), (r"(time  +).*", "${1}[TIME]")];
    with_settings!({ filters => filters.to_vec() }, {
        assert_snapshot!(run(&["plan", "shakespeare-char-cpu", "--vocab_size=65", "--dtype=float32"]), @"
        exit 0
        --- stdout
        model            4 layers, 4 heads, width 128, context 64, vocabulary 65
        parameters       804,096
        step             768 tokens = 1 x 12 x 64 (micro-batches x sequences x tokens)
        run              2,000 steps, 1,536,000 tokens

        memory               38.6 MiB
          parameters         3.10 MiB
          gradients          3.10 MiB
          moments            6.20 MiB
          inputs             12.1 KiB
          outputs            6.06 KiB
          activations        26.0 MiB
            recompute = none (none 26.0 MiB, gelu 18.5 MiB, block 9.03 MiB)
          to save from        256 KiB

        work             3.88 GFLOP and 155 MiB moved in a step
        machine          [SPEED]
        time             [TIME]
        --- stderr
        ");
    });
}

/// What one wants to know before one rents it.
#[test]
fn a_gpu_that_is_not_here() {
    let output = Place::new().done(&["plan", "gpt2-124m", "--gpu=h200", "--batch_size=auto"]);
    let is_told = |line: &&str| ["step ", "machine", "time"].iter().any(|word| line.starts_with(word));
    assert_snapshot!(output.lines().filter(is_told).collect::<Vec<_>>().join("\n"), @"
    step             524,288 tokens = 2 x 256 x 1024 (micro-batches x sequences x tokens)
    machine          989 TFLOP/s, 4.37 TiB/s at best, by the data sheet of h200: no device was asked
    time             at least 483 ms a step, 2 h 33 min for the run, without evaluations: 1,084,786 tokens/s at most
    ");
    let plan = |more: &[&str]| -> serde_json::Value {
        serde_json::from_str(&Place::new().done(&[&["plan", "gpt2-124m", "--json"], more].concat())).unwrap()
    };
    let (h100, small) = (plan(&["--gpu=h100"]), plan(&["--gpu=rtx-4090", "--dtype=float32"]));
    assert_eq!((&h100["data_sheet"], &h100["peak_flops_per_s"]), (&"h100".into(), &989e12.into()));
    assert_eq!((&small["data_sheet"], &small["peak_flops_per_s"]), (&"rtx-4090".into(), &82.6e12.into()));
    // Without a name: what is here, or else the first.
    let devices: serde_json::Value =
        serde_json::from_str(&Place::new().done(&["devices", "--json"])).unwrap();
    if devices["cuda"] == false {
        assert_eq!(plan(&["--device=cuda"]), h100);
    }
    let too_large = Place::new().done(&["plan", "gpt2-124m", "--gpu=l4", "--batch_size=512"]);
    assert!(too_large.contains("GiB, more than the 22.4 GiB of l4\n"), "{too_large}");
    assert!(refused(&["plan", "--gpu=h1000"]).contains("[possible values: h100, h200,"));
}

/// 48 rows of 64 tokens; of more, a CPU would take no more than 128 at once.
#[test]
fn a_micro_batch_that_is_fitted() {
    let args = ["plan", "shakespeare-char-cpu", "--vocab_size=65", "--batch_size=auto"];
    for (total, micro_batches) in [(3072, "1 x 48 x 64"), (64 * 1000, "8 x 125 x 64")] {
        let output = Place::new().done(&[&args[..], &[&format!("--total_batch_size={total}")]].concat());
        assert!(output.contains(&format!("= {micro_batches} (micro-batches")), "{output}");
    }
}

#[test]
fn a_model_of_which_no_sequence_fits() {
    let filters = [(r"and [\d.]+ GiB can", "and [FREE] GiB can")];
    with_settings!({ filters => filters.to_vec() }, {
        let large = ["--n_layer=96", "--n_embd=12288", "--n_head=96", "--dtype=bfloat16"];
        assert_snapshot!(refused(&[&["plan", "gpt2-124m", "--batch_size=auto"], &large[..]].concat()), @"
        exit 1
        error: no micro-batch fits into memory: one sequence of 1024 tokens needs 2640.20 GiB, and [FREE] GiB can be used
        hint: --recompute=block takes less, and so do a smaller block_size or model; `oxigpt plan --batch_size=1` shows where the memory goes
        ");
    });
}

#[test]
fn gpt2_124m_is_counted_as_published() {
    let output = Place::new().output(&["plan", "gpt2-124m", "--json"]);
    let plan: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(plan["parameters"], 124_439_808);
    assert_eq!(plan["tokens_per_step"], 524_288);
    assert_eq!(plan["steps"], 19_073);
    // Kaplan et al. 2020: about six operations a parameter and token, and attention on top.
    let flops_per_token = plan["flops_per_step"].as_f64().unwrap() / 524_288.0;
    assert!((7.4e8..8.6e8).contains(&flops_per_token), "{flops_per_token}");
    let gradients = plan["memory"]["gradients"].as_u64().unwrap();
    assert!((497_000_000..499_000_000).contains(&gradients), "{gradients}");
    assert!(plan["step_ms"].as_f64().unwrap() > 0.0 && plan["peak_flops_per_s"].as_f64().unwrap() > 1e9);
}

#[test]
fn the_vocabulary_is_the_data_sets() {
    let place = Place::new();
    place.write("a.txt", "abcd\n".repeat(100));
    place.output(&["prepare", "text", "--input=a.txt", "--tokenizer=char", "--out=data/letters"]);
    let output = place.output(&["plan", "--dataset=letters", "--json"]);
    let plan: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(plan["vocab_size"], 5);
}

#[test]
fn a_data_set_that_is_not_there() {
    assert_snapshot!(refused(&["plan", "shakespeare-char"]), @"
    exit 1
    error: the vocabulary is not known: there is no data set data/shakespeare-char
    hint: prepare it first, or say how many tokens it has, with --vocab_size=N
    ");
}

/// Every recipe whose data are built in, or whose tokens are GPT-2's, can be planned before there are any data.
#[test]
fn recipes_on_a_fresh_machine() {
    let place = Place::new();
    for (recipe, vocab_size) in [("demo", 54), ("overfit", 36), ("train-11", 50257), ("gpt2-124m", 50257)] {
        let plan: serde_json::Value = serde_json::from_str(&place.done(&["plan", recipe, "--json"])).unwrap();
        assert_eq!(plan["vocab_size"], vocab_size, "{recipe}");
    }
    assert!(!place.path().join("data").exists());
}

#[test]
fn a_data_set_that_does_not_say_its_vocabulary() {
    let place = Place::new();
    let tokens: Vec<u8> = (0..100u16).flat_map(u16::to_le_bytes).collect();
    place.write("data/numbers/train.bin", &tokens);
    place.write("data/numbers/val.bin", &tokens);
    assert_snapshot!(place.run(&["plan", "--dataset=numbers"]), @"
    exit 1
    --- stdout
    --- stderr
    error: data/numbers does not say how large its vocabulary is
    hint: set --vocab_size=N to the number of tokens; GPT-2's tokenizer has 50257
    ");
}

#[test]
fn more_threads_than_make_sense() {
    let filters =
        [(r"with \d+ cores? that is more than the \d+", "with [N] cores that is more than the [N]")];
    with_settings!({ filters => filters.to_vec() }, {
        assert_snapshot!(refused(&["plan", "--vocab_size=9", "--threads=50000"]), @"
        exit 1
        error: cannot start 50000 worker threads: with [N] cores that is more than the [N] that make sense
        hint: ask for fewer with --threads=N
        ");
    });
}

/// Keys and values of 8 rows of 1024 positions, at most, in 12 layers of 768.
#[test]
fn hellaswag_takes_memory() {
    let memory = |more: &[&str]| {
        let output = Place::new().done(&[&["plan", "gpt2-124m", "--dtype=float32", "--json"], more].concat());
        serde_json::from_str::<serde_json::Value>(&output).unwrap()["memory_bytes"].as_u64().unwrap()
    };
    let more = memory(&["--hellaswag"]) - memory(&[]);
    assert!((604_000_000..800_000_000).contains(&more), "{more}");
}

#[test]
fn an_evaluation() {
    let filters = [(r"(machine  +).*", "${1}[SPEED]"), (r"(time  +).*", "${1}[TIME]")];
    with_settings!({ filters => filters.to_vec() }, {
        assert_snapshot!(run(&["plan", "eval-gpt2"]), @"
        exit 0
        --- stdout
        model            12 layers, 12 heads, width 768, context 1024, vocabulary 50,257
        parameters       124,439,808
        pass             8,192 tokens = 8 x 1024 (sequences x tokens)
        run              1,000 passes, 8,192,000 tokens at most, of both splits

        memory                715 MiB
          parameters          475 MiB
          inputs               64 KiB
          outputs              32 KiB
          activations         240 MiB

        work             2.18 TFLOP and 9.77 GiB moved in a pass
        machine          [SPEED]
        time             [TIME]
        --- stderr
        ");
    });
}
