//! Weights on disk: exact round trips, Hugging Face's layout, and every way a directory can be wrong.

use std::path::Path;

use fs_err as fs;
use oxigpt_model::{
    AttentionKind, AttentionScale, Error, Gelu, Initial, ModelConfig, NamedTensor, NamedTensors, Precision,
    Pretrained, TensorSource, eval_plan, map_tensors, open_pretrained, save_llmc, save_pretrained,
    write_tensors,
};
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::*;

fn saved(config: &ModelConfig) -> (TempDir, NamedTensors) {
    let weights = Initial { config, seed: 6 }.collect().unwrap();
    let dir = TempDir::new().unwrap();
    save_pretrained(dir.path(), config, &weights).unwrap();
    (dir, weights)
}

fn edit_config(dir: &Path, edit: impl FnOnce(&mut Value)) {
    let path = dir.join("config.json");
    let mut json: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    edit(&mut json);
    fs::write(path, json.to_string()).unwrap();
}

#[test]
fn what_is_saved_is_loaded_bit_for_bit() {
    for bias in [true, false] {
        for gelu in [Gelu::Tanh, Gelu::Erf] {
            let config = ModelConfig { bias, gelu, dropout: 0.2, ..small() };
            let (dir, weights) = saved(&config);
            let Pretrained { config: loaded_config, weights: loaded, .. } =
                open_pretrained(dir.path()).unwrap();
            assert_eq!(loaded_config, config);
            assert_eq!(loaded.collect().unwrap(), weights);
        }
    }
}

#[test]
fn a_session_is_saved_without_its_padding() {
    let config = small();
    let (plan, table, _) = eval_plan(&config, 1, 7, None).unwrap();
    let mut session = oxigpt_compute::Session::new(plan, reference()).unwrap();
    let weights = Initial { config: &config, seed: 2 };
    table.upload(&mut session, &weights).unwrap();
    let dir = TempDir::new().unwrap();
    save_pretrained(dir.path(), &config, &table.of(&session)).unwrap();
    let Pretrained { weights: loaded, .. } = open_pretrained(dir.path()).unwrap();
    assert_eq!(loaded.collect().unwrap(), weights.collect().unwrap());
    assert_eq!(loaded.collect().unwrap()["wte.weight"].shape, [37, 12]);
}

#[test]
fn the_directory_is_one_that_transformers_reads() {
    let (dir, _) = saved(&ModelConfig { bias: false, ..small() });
    let read = |path: &Path| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let config = read(&dir.path().join("config.json"));
    let theirs = read(&fixture("hf-gpt2").join("config.json"));
    for key in
        ["architectures", "model_type", "activation_function", "layer_norm_epsilon", "n_inner", "dtype"]
    {
        assert_eq!(config[key], theirs[key], "{key}");
    }
    let ours = [("n_positions", 7), ("n_embd", 12), ("n_head", 3), ("n_layer", 2), ("vocab_size", 37)];
    assert!(ours.iter().all(|(key, value)| config[key] == *value));
    assert_eq!((&config["bias"], &config["attn_type"]), (&json!(false), &json!("softmax")));
    assert_eq!(config["eos_token_id"], Value::Null);
    assert!(read(&dir.path().join("generation_config.json")).is_object());

    let file = fs::read(dir.path().join("model.safetensors")).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&file).unwrap();
    assert_eq!(header.metadata().as_ref().unwrap()["format"], "pt");
    let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
    let bias = tensors.tensor("h.1.mlp.c_fc.bias").unwrap();
    assert!(bias.shape() == [48] && bias.data().iter().all(|x| *x == 0));
    assert_eq!(tensors.names().len(), 2 + 2 * 12 + 2);
}

/// A model that other programs would compute as something else has a type that they do not know.
#[test]
fn attention_is_kept_and_misleads_nobody() {
    let block = |block_size| AttentionScale::Block(block_size);
    for (name, scale, clamp, kept) in [
        ("gaussian", block(7), false, [Value::Null, Value::Null]),
        ("gaussian-poly-3", block(7), false, [Value::Null, Value::Null]),
        ("gaussian-poly-3", block(7), true, [Value::Null, json!(true)]),
        ("pointwise-gelu", AttentionScale::Length, false, [json!("length"), Value::Null]),
        ("pointwise-relu", AttentionScale::Position, false, [json!("position"), Value::Null]),
        ("pointwise-square", block(7), false, [json!("block"), Value::Null]),
        ("pointwise-square", block(1024), false, [json!("block-1024"), Value::Null]),
    ] {
        let attention = AttentionKind::parse(name, scale, clamp).unwrap();
        let config = ModelConfig { attention, ..small() };
        let (dir, weights) = saved(&config);
        let text = fs::read_to_string(dir.path().join("config.json")).unwrap();
        let json: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["attn_type"], name);
        assert_eq!([&json["attn_scale"], &json["attn_clamp"]], [&kept[0], &kept[1]]);
        assert_eq!(
            (&json["model_type"], &json["architectures"]),
            (&json!("oxigpt"), &json!(["OxiGPTLMHeadModel"]))
        );
        assert_eq!(open_pretrained(dir.path()).unwrap().config, config);
        let error =
            save_llmc(dir.path().join("model.bin"), &config, &weights, Precision::Float32).unwrap_err();
        assert_eq!(
            error.to_string(),
            "llm.c has no such model: its attention is no softmax, and llm.c knows no other"
        );
    }
    // Older checkpoints say nothing, and have a softmax.
    let (dir, _) = saved(&small());
    edit_config(dir.path(), |json| json["attn_type"] = Value::Null);
    assert_eq!(open_pretrained(dir.path()).unwrap().config, small());
}

#[test]
fn what_transformers_saved_is_read() {
    let Pretrained { config, weights, .. } = open_pretrained(fixture("hf-gpt2")).unwrap();
    let [case, ..] = cases();
    assert_eq!(config, case.config);
    assert_eq!(weights.collect().unwrap(), case.weights());
}

#[test]
fn surplus_positions_are_left_out() {
    let (dir, weights) = saved(&small());
    let Pretrained { mut config, weights: source, .. } = open_pretrained(dir.path()).unwrap();
    config.crop_block_size(3).unwrap();
    let (plan, table, _) = eval_plan(&config, 1, 3, None).unwrap();
    let mut session = oxigpt_compute::Session::new(plan, reference()).unwrap();
    table.upload(&mut session, &source).unwrap();
    let cropped = table.of(&session).collect().unwrap();
    assert_eq!(cropped["wpe.weight"].data, weights["wpe.weight"].data[..36]);
    assert_eq!(cropped["wte.weight"], weights["wte.weight"]);
}

fn refused(dir: &Path, message: &str, hint: &str) {
    let error = open_pretrained(dir).unwrap_err();
    assert!(error.to_string().contains(message), "{error}");
    let found = error.hint().unwrap_or_default();
    assert!(found.contains(hint), "{found}");
}

#[test]
fn every_tensor_is_accounted_for() {
    let other = "different models";
    let tamper = |message: &str, edit: fn(&mut NamedTensors)| {
        let (dir, mut weights) = saved(&small());
        edit(&mut weights);
        write_tensors(dir.path().join("model.safetensors"), &weights, &[]).unwrap();
        refused(dir.path(), message, other);
        let error = save_pretrained(dir.path(), &small(), &weights).unwrap_err();
        assert!(error.to_string().starts_with("weights in memory: tensor `"), "{error}");
    };
    tamper("model.safetensors: tensor `h.1.attn.c_proj.bias` is missing", |weights| {
        weights.remove("h.1.attn.c_proj.bias");
    });
    tamper("model.safetensors: tensor `lora` does not belong to this model", |weights| {
        weights.insert("lora".into(), NamedTensor { shape: vec![1], data: vec![0.0] });
    });
    tamper("`ln_f.bias` has shape [3, 4], but the model needs [12]", |weights| {
        weights.get_mut("ln_f.bias").unwrap().shape = vec![3, 4];
    });
    tamper("`wpe.weight` has shape [6, 14], but the model needs [7, 12]", |weights| {
        weights.get_mut("wpe.weight").unwrap().shape = vec![6, 14];
    });

    let (dir, mut weights) = saved(&ModelConfig { bias: false, ..small() });
    weights.insert("ln_f.bias".into(), NamedTensor { shape: vec![12], data: vec![0.5; 12] });
    write_tensors(dir.path().join("model.safetensors"), &weights, &[]).unwrap();
    refused(dir.path(), "`ln_f.bias` is not zero, but config.json says \"bias\": false", "config.json");
}

#[test]
fn other_types_are_named() {
    let (dir, _) = saved(&small());
    let doubles = [0u8; 16];
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F64, vec![2], &doubles).unwrap();
    let bytes = safetensors::serialize([("wte.weight", view)], None).unwrap();
    fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
    refused(dir.path(), "tensor `wte.weight` holds F64, but only F32, F16 and BF16 are read", "float32");
    let error = map_tensors(dir.path().join("model.safetensors")).unwrap_err();
    assert!(error.to_string().contains("holds F64"), "{error}");
}

#[test]
fn foreign_configurations_are_refused() {
    let theirs = "transformers";
    let cases: [(&str, Value, &str, &str); 10] = [
        (
            "model_type",
            json!("llama"),
            "`model_type` is \"llama\", but only \"gpt2\" or \"oxigpt\" is",
            theirs,
        ),
        ("activation_function", json!("relu"), "only \"gelu_new\" or \"gelu_pytorch_tanh\" or", theirs),
        ("n_inner", json!(100), "`n_inner` is 100, but only 48 is supported", theirs),
        ("layer_norm_epsilon", json!(1e-6), "`layer_norm_epsilon` is", theirs),
        ("scale_attn_weights", json!(false), "`scale_attn_weights` is false", theirs),
        (
            "attn_type",
            json!("gauss"),
            "`attn_type` is \"gauss\", but only one of softmax, gaussian, ",
            theirs,
        ),
        ("n_layer", json!(-1), "config.json: invalid value", theirs),
        ("vocab_size", Value::Null, "config.json: invalid type: null", theirs),
        ("n_head", json!(5), "n_embd 12 is not divisible by n_head 5", "--n_embd=10"),
        ("n_embd", json!(u64::MAX), "would be", "smaller"),
    ];
    for (key, value, message, hint) in cases {
        let (dir, _) = saved(&ModelConfig { n_head: 1, ..small() });
        edit_config(dir.path(), |json| json[key] = value);
        refused(dir.path(), message, hint);
    }
}

#[test]
fn missing_and_broken_files_are_named() {
    let (dir, _) = saved(&small());
    let weights = dir.path().join("model.safetensors");
    let whole = fs::read(&weights).unwrap();
    for len in [0, 4, 8, 100, whole.len() - 1] {
        fs::write(&weights, &whole[..len]).unwrap();
        refused(dir.path(), "model.safetensors is no safetensors file", "cut short");
    }
    fs::remove_file(&weights).unwrap();
    refused(dir.path(), "has a config.json, but no model.safetensors beside it", "pytorch_model.bin");
    for text in ["", "{", "[1]", "\u{fffd}"] {
        fs::write(dir.path().join("config.json"), text).unwrap();
        refused(dir.path(), "config.json: ", "transformers");
    }
    fs::remove_file(dir.path().join("config.json")).unwrap();
    refused(dir.path(), "holds no model: it has neither config.json nor ckpt.pt", "model.safetensors");
    refused(Path::new("no/such/model"), "no/such/model", "check the path");
    let error =
        save_pretrained("no/such/model", &small(), &Initial { config: &small(), seed: 1 }).unwrap_err();
    assert!(matches!(&error, Error::Io(_)) && error.to_string().contains("no/such/model"), "{error}");
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_named() {
    let error = write_tensors("/dev/full", &Initial { config: &small(), seed: 1 }, &[]).unwrap_err();
    assert!(error.to_string().contains("/dev/full"), "{error}");
    assert!(error.hint().unwrap().contains("make room"));
}

/// A writer that does not align its header still is read.
#[test]
fn unaligned_tensors_are_read() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("odd.safetensors");
    let header = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}} "#;
    assert_eq!(header.len() % 4, 3);
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend([1.5f32, -2.0].map(f32::to_le_bytes).concat());
    fs::write(&path, bytes).unwrap();
    assert_eq!(*map_tensors(&path).unwrap().read("a").unwrap(), [1.5, -2.0]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Changing or cutting bytes of a good file gives a good file or an error, never a panic.
    #[test]
    fn garbage_is_survived(at in 0usize..3000, byte: u8, kept in 0.0..2.0f64) {
        let config = ModelConfig { n_layer: 1, n_head: 1, n_embd: 2, ..small() };
        let (dir, _) = saved(&config);
        for name in ["model.safetensors", "config.json"] {
            let path = dir.path().join(name);
            let mut bytes = fs::read(&path).unwrap();
            let at = at % bytes.len();
            bytes[at] = byte;
            bytes.truncate((bytes.len() as f64 * kept) as usize);
            fs::write(&path, bytes).unwrap();
            if let Ok(Pretrained { config, weights, .. }) = open_pretrained(dir.path()) {
                prop_assert!(config.validate().is_ok() && weights.collect().is_ok());
            }
        }
    }

    #[test]
    fn any_bytes_are_survived(bytes: Vec<u8>) {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("model.safetensors");
        fs::write(&path, bytes).unwrap();
        prop_assert!(map_tensors(&path).is_err());
    }
}

#[test]
fn tensors_of_every_shape_are_counted() {
    let config = ModelConfig { attention: AttentionKind::Softmax, ..small() };
    let total: usize =
        Initial { config: &config, seed: 0 }.collect().unwrap().values().map(|t| t.data.len()).sum();
    assert_eq!(total, config.parameter_count().total);
}
