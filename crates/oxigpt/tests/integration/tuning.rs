//! Adapters and layer-wise distillation, from a run to what is made of it.

use insta::assert_snapshot;
use serde_json::Value;

use crate::support::Place;

/// A place where `base` is a trained run.
fn place() -> Place {
    let place = Place::for_training();
    place.done(&["train", "tiny.toml", "--out_dir=base"]);
    place
}

const ADAPTED: [&str; 7] = [
    "train",
    "tiny.toml",
    "--from=base",
    "--out_dir=lora",
    "--lora_rank=4",
    "--lora_targets=c_attn,mlp.c_proj",
    "--learning_rate=2e-2",
];

fn with<'a>(args: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [args, more].concat()
}

/// What there is to know of a model, on all validation tokens.
fn loss(place: &Place, model: &str) -> f64 {
    let told: Value =
        serde_json::from_str(&place.done(&["eval", "--from", model, "--data=cat", "--json"])).unwrap();
    told["loss"].as_f64().unwrap()
}

fn events(place: &Place, run: &str, kind: &str) -> Vec<Value> {
    let text = place.read_text(&format!("{run}/metrics.jsonl"));
    let events = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    events.filter(|event| event["event"] == kind).collect()
}

#[test]
fn adapters_are_trained_saved_used_and_merged() {
    let place = place();
    let base = place.read("base/checkpoints/step-00000040/model.safetensors");
    place.done(&ADAPTED);
    let started = &events(&place, "lora", "started")[0];
    // A is [in, 4] and B [4, out]: of c_attn 32 x 4 + 4 x 96, of mlp.c_proj 128 x 4 + 4 x 32.
    assert_eq!(started["trained_parameters"], 32 * 4 + 4 * 96 + 128 * 4 + 4 * 32);
    assert_eq!(started["memory"]["gradients"], 4 * (32 * 4 + 4 * 96 + 128 * 4 + 4 * 32));

    // The checkpoint has the adapters and what names the base, and not the base.
    let checkpoint = "lora/checkpoints/step-00000040";
    let mut files: Vec<_> = fs_err::read_dir(place.path().join(checkpoint))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    assert_eq!(
        files,
        [
            "adapter_config.json",
            "adapter_model.safetensors",
            "base.json",
            "config.json",
            "optimizer.safetensors",
            "state.json",
            "tokenizer.json",
            "tokenizer_config.json",
        ]
    );
    let config: Value =
        serde_json::from_str(&place.read_text(&format!("{checkpoint}/adapter_config.json"))).unwrap();
    assert_eq!((&config["peft_type"], &config["r"]), (&"LORA".into(), &4.into()));
    assert_eq!(place.read("base/checkpoints/step-00000040/model.safetensors"), base, "the base is only read");

    // It is a model like any other.
    let (before, after) = (loss(&place, "base"), loss(&place, "lora"));
    assert!(after != before, "{after}");
    let last = events(&place, "lora", "eval").pop().unwrap();
    assert!(after < before + 0.2 && last["val_loss"].as_f64().unwrap().is_finite());
    assert_eq!(place.done(&["sample", "--from=lora", "--max-new-tokens=8", "--start=the"]).len(), 12);
    place.done(&["convert", "lora", "merged", "--to=hf"]);
    assert_eq!(loss(&place, "merged"), after, "merging when it is read, or beforehand");
    place.done(&["train", "tiny.toml", "--from=lora", "--out_dir=whole", "--max_iters=5"]);
    assert!(place.path().join("whole/checkpoints/step-00000005/model.safetensors").exists());
}

#[test]
fn a_resumed_run_of_adapters_ends_as_if_it_had_not_stopped() {
    let place = place();
    place.done(&ADAPTED);
    let stopped = with(&ADAPTED, &["--out_dir=stopped", "--max_iters=20", "--lr_decay_iters=40"]);
    place.done(&stopped);
    place.done(&["train", "--init_from=resume", "--out_dir=stopped", "--max_iters=40"]);
    for file in ["adapter_model.safetensors", "optimizer.safetensors", "base.json"] {
        let [whole, resumed] =
            ["lora", "stopped"].map(|run| place.read(&format!("{run}/checkpoints/step-00000040/{file}")));
        assert_eq!(whole, resumed, "{file}");
    }
}

#[test]
fn a_base_that_is_gone_or_another_one() {
    let place = place();
    place.done(&ADAPTED);
    let base = place.path().join("base/checkpoints/step-00000040");
    place.done(&["train", "tiny.toml", "--out_dir=other", "--seed=7"]);
    let (other, kept) = (place.path().join("other/checkpoints/step-00000040"), place.path().join("kept"));
    fs_err::rename(&base, &kept).unwrap();
    fs_err::rename(&other, &base).unwrap();
    let filters = vec![(r"[0-9a-f]{12}", "[HASH]")];
    insta::with_settings!({ filters => filters }, {
        assert_snapshot!(place.run(&["sample", "--from=lora"]), @"
        exit 1
        --- stdout
        --- stderr
        error: lora/checkpoints/step-00000040 belongs to the model base (weights [HASH]), but at [PLACE]/base/checkpoints/step-00000040 there is another one now: weights [HASH]
        hint: put the model back that it was, or begin another run with --init_from=MODEL --out_dir=NEW
        ");
        let resumed = place.failed(&["train", "--init_from=resume", "--out_dir=lora", "--max_iters=50"]);
        assert!(resumed.contains("error: lora/checkpoints/step-00000040 belongs to the model base"), "{resumed}");
    });
    // The right one again, and then none.
    fs_err::rename(&base, &other).unwrap();
    fs_err::rename(&kept, &base).unwrap();
    place.done(&["sample", "--from=lora", "--max-new-tokens=1"]);
    fs_err::rename(&base, place.path().join("elsewhere")).unwrap();
    assert_snapshot!(place.run(&["eval", "--from=lora", "--data=cat"]), @"
    exit 1
    --- stdout
    --- stderr
    error: lora/checkpoints/step-00000040 needs the model base, which is not at [PLACE]/base/checkpoints/step-00000040 any more
    hint: put it back there; a model of the hub is fetched again by `oxigpt sample --from base`
    ");
}

#[test]
fn adapters_that_cannot_be() {
    let place = place();
    let refused = |more: &[&str]| place.run(&with(&ADAPTED[..4], more));
    assert_snapshot!(refused(&["--lora_rank=4", "--lora_targets=c_attn,lm_head"]), @"
    exit 2
    --- stdout
    --- stderr
    error: no linear layer of a block is called `lm_head`
    hint: the linear layers are attn.c_attn, attn.c_proj, mlp.c_fc, mlp.c_proj: name some, separated by commas
    ");
    assert_snapshot!(refused(&["--lora_rank=33"]), @"
    exit 2
    --- stdout
    --- stderr
    error: lora_rank is 33, but must be between 1 and n_embd = 32
    hint: 4 to 64 are usual: --lora_rank=16
    ");
    assert_snapshot!(refused(&["--lora_rank=4", "--lora_alpha=-1"]), @"
    exit 2
    --- stdout
    --- stderr
    error: lora_alpha is -1, but must be a number above 0
    hint: what adapters change is scaled by lora_alpha / lora_rank: --lora_alpha=16
    ");
    assert_snapshot!(place.run(&["train", "tiny.toml", "--lora_rank=4"]), @"
    exit 2
    --- stdout
    --- stderr
    error: lora_rank = 4, but the run begins with random weights
    hint: adapters need a model that they adapt: add --from=MODEL, or leave out lora_rank
    ");
    // A directory may take the name of the model that its adapters are of.
    place.done(&with(&ADAPTED[..4], &["--lora_rank=2"]));
    fs_err::rename(place.path().join("base"), place.path().join("away")).unwrap();
    fs_err::rename(place.path().join("lora"), place.path().join("base")).unwrap();
    let told = place.run(&["sample", "--from=base"]);
    assert!(
        told.contains("belongs to the model base, but at ") && told.contains("adapters of itself"),
        "{told}"
    );
    fs_err::rename(place.path().join("base"), place.path().join("lora")).unwrap();
    fs_err::rename(place.path().join("away"), place.path().join("base")).unwrap();
    let plan = place.output(&["plan", "tiny.toml", "--from=base", "--lora_rank=0", "--lora_targets=c_fc"]);
    assert_snapshot!(String::from_utf8(plan.stderr).unwrap(), @"
    warning: lora_rank = 0: there are no adapters, whatever lora_alpha and lora_targets say
    ");
}

/// A student with the attention of its teacher has nothing to learn.
#[test]
fn a_layer_wise_distillation() {
    let place = place();
    let args = ["train", "tiny.toml", "--init_from=layerwise:base", "--out_dir=student", "--dropout=0"];
    place.done(&with(
        &args,
        &["--max_iters=20", "--lr_decay_iters=40", "--log_interval=1", "--weight_decay=0"],
    ));
    assert!(
        events(&place, "student", "train").iter().all(|event| event["loss"] == 0.0),
        "zero, and zero it stays"
    );
    assert_eq!(loss(&place, "student"), loss(&place, "base"));

    // A disturbance that it has to learn: resumed with another weight decay it would be another run, so it begins anew.
    place.done(&with(
        &args,
        &["--out_dir=mixed", "--distill_mix=0.5", "--max_iters=10", "--lr_decay_iters=20"],
    ));
    place.done(&["train", "--init_from=resume", "--out_dir=mixed", "--max_iters=20"]);
    place.done(&with(
        &args,
        &["--out_dir=at_once", "--distill_mix=0.5", "--max_iters=20", "--lr_decay_iters=20"],
    ));
    for file in ["model.safetensors", "optimizer.safetensors"] {
        let [resumed, whole] =
            ["mixed", "at_once"].map(|run| place.read(&format!("{run}/checkpoints/step-00000020/{file}")));
        assert_eq!(resumed, whole, "{file}");
    }
    // With adapters, student and teacher share all that is not an adapter.
    place.done(&with(&args, &["--out_dir=adapted", "--lora_rank=2", "--distill_mix=0.1", "--max_iters=5"]));
    assert!(place.path().join("adapted/checkpoints/step-00000005/adapter_model.safetensors").exists());

    let refused = |more: &[&str]| place.run(&with(&["train", "tiny.toml", "--out_dir=none"], more));
    assert_snapshot!(refused(&["--from=base", "--distill_mix=0.5"]), @"
    exit 2
    --- stdout
    --- stderr
    error: distill_mix = 0.5, but nothing is distilled
    hint: a layer-wise distillation begins with --init_from=layerwise:MODEL
    ");
    assert_snapshot!(refused(&["--init_from=layerwise:base", "--distill_mix=1.5"]), @"
    exit 2
    --- stdout
    --- stderr
    error: `distill_mix` is 1.5
    hint: it must be between 0, the squared error alone, and 1, the loss on the text alone
    ");
    assert_snapshot!(refused(&["--init_from=layerwise:base", "--lora_rank=2", "--lora_targets=c_fc"]), @r#"
    exit 2
    --- stdout
    --- stderr
    error: lora_targets = "c_fc", but attention is what is distilled
    hint: name attn.c_attn or attn.c_proj too, or add the loss on the text with distill_mix
    "#);
    assert_snapshot!(refused(&["--init_from=layerwise:nowhere"]), @"
    exit 1
    --- stdout
    --- stderr
    error: there is no model nowhere: no such file or directory
    hint: check the path; models of the Hugging Face hub are gpt2, gpt2-medium, gpt2-large, gpt2-xl and OWNER/NAME
    ");
}

/// A shorter context than the base has.
#[test]
fn adapters_of_a_base_that_is_cropped() {
    let place = place();
    place.done(&with(&ADAPTED, &["--block_size=8", "--max_iters=5"]));
    place.done(&["convert", "lora", "merged", "--to=hf"]);
    assert_eq!(loss(&place, "merged"), loss(&place, "lora"));
    place.done(&["train", "--init_from=resume", "--out_dir=lora", "--max_iters=10"]);
}

/// Frozen weights have neither gradients nor moments.
#[test]
fn the_plan_of_adapters() {
    let place = Place::new();
    let plan = |more: &[&str]| -> Value {
        serde_json::from_str(&place.done(&with(
            &["plan", "finetune", "--from=gpt2", "--json", "--dataset=none", "--vocab_size=50257"],
            more,
        )))
        .unwrap()
    };
    let (whole, adapted) = (plan(&[]), plan(&["--lora_rank=16"]));
    assert_eq!(
        (&whole["trained_parameters"], &adapted["trained_parameters"]),
        (&124_439_808.into(), &884_736.into())
    );
    assert_eq!(adapted["parameters"], 124_439_808);
    assert_eq!(adapted["memory"]["moments"], 2 * 4 * 884_736);
    let memory = |plan: &Value| plan["memory_bytes"].as_u64().unwrap();
    assert!(memory(&adapted) * 2 < memory(&whole));
    let table = place.done(&["plan", "finetune", "--from=gpt2", "--lora_rank=16", "--vocab_size=50257"]);
    assert!(table.contains("parameters       124,439,808, and 884,736 trained\n"), "{table}");
}
