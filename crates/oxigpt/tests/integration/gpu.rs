//! Runs on a GPU, which is a simulated one: where `OXIGPT_TEST_DEVICE` is `simulated`, because it takes a C++ compiler.

use crate::simulator;
use crate::support::Place;

const STEPS: [&str; 4] = ["--max_iters=6", "--lr_decay_iters=6", "--eval_interval=3", "--log_interval=1"];

fn is_simulated() -> bool {
    std::env::var("OXIGPT_TEST_DEVICE").as_deref() == Ok("simulated")
}

/// What the program prints to both streams where there is a simulated GPU.
fn run(place: &Place, args: &[&str]) -> String {
    let mut command = place.command(args);
    command.env("OXIGPT_CUDA_PATH", simulator::directory()).env("XDG_CACHE_HOME", place.path().join("cache"));
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].map(|stream| String::from_utf8(stream).unwrap()).concat();
    assert_eq!(output.status.code(), Some(0), "{said}");
    said
}

/// Trains for six steps, with two evaluations and samples.
fn train(place: &Place, out: &str, more: &[&str]) -> String {
    let out = format!("--out_dir={out}");
    run(place, &[&["train", "tiny.toml"], &STEPS[..], &[&out], more].concat())
}

/// The last validation loss of a run.
fn val_loss(place: &Place, out: &str) -> f64 {
    let events = place.read_text(&format!("{out}/metrics.jsonl"));
    let events = events.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    events.filter_map(|event| event["val_loss"].as_f64()).next_back().unwrap()
}

/// The same bits every time, interrupted or not, and nearly the numbers of the CPU.
#[test]
fn training_repeats_itself_and_agrees_with_the_cpu() {
    if !is_simulated() {
        return;
    }
    let place = Place::for_training();
    train(&place, "cpu", &["--device=cpu"]);
    for (dtype, off) in [("float32", 1e-5), ("bfloat16", 1e-2)] {
        let dtype_key = format!("--dtype={dtype}");
        let on_gpu =
            |out: &str, more: &[&str]| train(&place, out, &[&["--device=cuda", &dtype_key], more].concat());
        let said = on_gpu("once", &[]);
        assert!(said.contains("cuda:0, simulated GPU"), "{said}");
        // With dropout, cuDNN is for evaluations.
        let by =
            if dtype == "bfloat16" { "cuDNN 9.19.0 and kernels of our own" } else { "by kernels of our own" };
        assert!(said.contains(by), "{dtype}: {said}");
        on_gpu("again", &[]);
        on_gpu("halved", &["--max_iters=3"]);
        on_gpu("halved", &["--init_from=resume"]);
        let weights = |out: &str| place.read(&format!("{out}/checkpoints/step-00000006/model.safetensors"));
        assert!(weights("once") == weights("again"), "{dtype}: two runs differ");
        assert!(weights("once") == weights("halved"), "{dtype}: an interruption shows");
        let (found, expected) = (val_loss(&place, "once"), val_loss(&place, "cpu"));
        assert!((found / expected - 1.0).abs() < off, "{dtype}: {found} instead of {expected}");
        for out in ["once", "again", "halved"] {
            fs_err::remove_dir_all(place.path().join(out)).unwrap();
        }
    }
}

/// What is found is told, who does attention with it, and why where it is not cuDNN.
#[test]
fn devices_say_who_does_attention() {
    if !is_simulated() {
        return;
    }
    let place = Place::new();
    let said = run(&place, &["devices"]);
    assert!(said.contains("attention       softmax in bfloat16: cuDNN 9.19.0\n"), "{said}");
    let mut command = place.command(&["devices"]);
    command.env("OXIGPT_CUDA_PATH", simulator::directory()).env("OXIGPT_CUDNN", "off");
    let said = String::from_utf8(command.output().unwrap().stdout).unwrap();
    let own = "attention       softmax in bfloat16: kernels of our own (OXIGPT_CUDNN=off)\n";
    assert!(said.contains(own) && said.contains("--device=cuda computes on the first GPU"), "{said}");
}

/// Steps are timed as they run, and operators apart from them.
#[test]
fn steps_and_operators_are_timed() {
    if !is_simulated() {
        return;
    }
    let shape =
        ["--n_layer=1", "--n_head=2", "--n_embd=16", "--block_size=8", "--batch_size=2", "--vocab_size=65"];
    let arguments = [&["bench", "ops", "--device=cuda", "--steps=2", "--warmup=1"], &shape[..]].concat();
    let table = run(&Place::new(), &arguments);
    for word in ["cuda:0, simulated GPU", "attention_backward", "adamw"] {
        assert!(table.contains(word), "{word}: {table}");
    }
}
