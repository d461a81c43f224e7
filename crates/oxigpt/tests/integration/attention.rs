//! Attention as a choice, as a user makes it: by keys, over pretrained models, and what is told of it.

use serde_json::Value;

use crate::support::{Place, place_with_models};

/// Losses of `tiny/hf-gpt2` with another attention on 12 windows of 24 tokens, by PyTorch in float64; pointwise ones are
/// divided by the length, which is the whole context.
const LOSSES: [(&str, f64); 9] = [
    ("softmax", 5.087_684_002_306_194),
    ("gaussian", 5.079_979_940_904_175),
    ("gaussian-poly-8", 5.079_982_419_772_756),
    ("GKpoly-3", 5.080_061_284_649_767_5),
    ("pointwise-gelu", 5.090_740_128_125_317),
    ("PA_relu", 5.091_240_668_394_69),
    ("pointwise-sigmoid", 5.094_407_375_570_991_5),
    ("pointwise-square", 5.091_689_380_339_653),
    ("pointwise-relu-square", 5.091_480_749_250_76),
];

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn a_pretrained_model_is_evaluated_with_every_attention() {
    let place = place_with_models();
    for (kind, expected) in LOSSES {
        for scale in ["block", "length"] {
            let (kind, scale) = (format!("--attn_type={kind}"), format!("--attn_scale={scale}"));
            let found = json(&place.done(&["eval", "--json", "--from=hf", "--data=stream", &kind, &scale]));
            let loss = found["loss"].as_f64().unwrap();
            assert!((loss / expected - 1.0).abs() < 1e-6, "{kind} {scale}: {loss} is not {expected}");
            assert_eq!(found["attn_scores"].is_u64(), kind.contains("poly"), "{found}");
        }
    }
}

/// Scores leave the narrow range of a polynomial of one squaring soon: it is counted, and said once.
#[test]
fn scores_out_of_range_are_counted_and_told() {
    let place = Place::for_training();
    let flags = ["--attn_type=gaussian-poly-1", "--learning_rate=0.03", "--max_iters=20", "--log_interval=5"];
    let output = place.output(&[&["train", "tiny.toml"], &flags[..]].concat());
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{told}");
    let warning =
        "of the attention scores are below -2, where gaussian-poly-1 grows again instead of vanishing";
    assert_eq!(told.matches(warning).count(), 1, "{told}");
    assert!(told.contains("has room for it, and --attn_clamp=true makes such weights zero"), "{told}");
    assert!(told.contains("% of scores out of range, down to -"), "{told}");

    let metrics = place.read_text("run/metrics.jsonl");
    let events = |kind: &str| -> Vec<Value> {
        metrics.lines().map(json).filter(|event| event["event"] == kind).collect()
    };
    for event in events("train").iter().chain(&events("eval")) {
        assert!(event["attn_scores"].as_u64().unwrap() > 0, "{event}");
    }
    let last = events("train").pop().unwrap();
    assert!(
        last["attn_below"].as_u64().unwrap() > 0 && last["attn_lowest"].as_f64().unwrap() < -2.0,
        "{last}"
    );
    assert!(events("eval")[0].get("attn_below").is_some());
    assert_eq!(events("warning").len(), 1);
}

/// A softmax model becomes another, which goes on as such, and writes the same with its cache as without.
#[test]
fn a_model_is_tuned_into_another_attention() {
    let place = Place::for_training();
    place.done(&["train", "tiny.toml", "--max_iters=5"]);
    let args = [
        "train",
        "tiny.toml",
        "--from=run",
        "--attn_type=PA_sigmoid",
        "--attn_scale=length",
        "--out_dir=other",
    ];
    place.done(&[&args[..], &["--max_iters=5"]].concat());
    let saved = place.read_text("other/latest");
    let config = json(&place.read_text(&format!("other/checkpoints/{}/config.json", saved.trim())));
    assert_eq!(
        (&config["attn_type"], &config["attn_scale"]),
        (&"pointwise-sigmoid".into(), &"length".into())
    );
    assert_eq!(config["model_type"], "oxigpt");
    place.done(&["train", "--init_from=resume", "--out_dir=other", "--max_iters=8"]);
    assert!(place.read_text("other/config.toml").contains("attn_type = \"PA_sigmoid\""));
    let said =
        place.done(&["sample", "--from=other", "--start=the", "--max-new-tokens=20", "--temperature=0"]);
    assert!(said.starts_with("the") && said.len() == 24, "{said}");
    // The same weights with a softmax.
    place.done(&["sample", "--from=other", "--start=the", "--max-new-tokens=5", "--attn_type=softmax"]);
    let refused = place.failed(&["convert", "other", "model.bin", "--to=llmc"]);
    assert!(refused.contains("llm.c has no such model: its "), "{refused}");
}
