//! Files that are not what they should be: every one is refused by name, with what to do about it.

use std::path::Path;

use fs_err as fs;
use oxigpt_model::{
    Gelu, Initial, ModelConfig, NamedTensor, NamedTensors, Precision, TensorSource, open_pretrained,
    save_llmc, save_pretrained, write_tensors,
};
use proptest::prelude::*;
use rawzip::CompressionMethod;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::*;
use crate::torch_writer::{Py, as_torch, nano_gpt, pickle, save, save_nano_gpt, state_dict, text, zip};

fn refused(path: &Path, message: &str, hint: &str) {
    let error = open_pretrained(path).unwrap_err();
    assert!(error.to_string().contains(message), "{error}\ninstead of\n{message}");
    let found = error.hint().unwrap_or_default();
    assert!(found.contains(hint), "{found}\ninstead of\n{hint}");
}

fn weights() -> NamedTensors {
    Initial { config: &small(), seed: 6 }.collect().unwrap()
}

#[test]
fn files_of_no_format_are_refused() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("model.bin");
    let tokens_of_llmc = 20240520i32.to_le_bytes().repeat(300);
    for bytes in [&b""[..], b"\x00", b"GGUF\x03\x00\x00\x00", &tokens_of_llmc] {
        fs::write(&path, bytes).unwrap();
        refused(&path, "model.bin is no model in a known format", "nanoGPT's ckpt.pt, or llm.c's .bin");
    }
    fs::write(&path, b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.").unwrap();
    refused(&path, "was saved by a PyTorch before 1.6", "torch.save it again");
}

#[cfg(unix)]
#[test]
fn devices_are_not_waited_for() {
    let error = open_pretrained("/dev/null").unwrap_err();
    assert_eq!(error.to_string(), "/dev/null is not a regular file");
}

fn llmc_file(edit: impl FnOnce(&mut Vec<u8>)) -> TempDir {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("model.bin");
    save_llmc(&path, &small(), &weights(), Precision::Float32).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    edit(&mut bytes);
    fs::write(path, bytes).unwrap();
    dir
}

#[test]
fn bad_headers_of_llmc_are_refused() {
    let damaged = "damaged, cut short";
    let cases: [(usize, i32, &str, &str); 10] = [
        (
            1,
            4,
            "model.bin is no llm.c model: its version is 4, but only 3 (float32) and 5 (bfloat16)",
            damaged,
        ),
        (2, -1, "its number of positions is -1", damaged),
        (3, 0, "vocab_size is 0", "--vocab_size"),
        (3, 129, "it pads 129 words to 128", damaged),
        (4, i32::MAX, "n_layer would be 2147483647, more than", "smaller"),
        (5, 5, "n_embd 12 is not divisible by n_head 5", "--n_embd=10"),
        (5, 0, "n_head is 0", "--n_head"),
        (6, i32::MAX / 3 * 3, "would be", "smaller"),
        (6, 15, "its header announces", damaged),
        (7, i32::MAX, "it pads 37 words to 2147483647", damaged),
    ];
    for (at, value, message, hint) in cases {
        let dir = llmc_file(|bytes| bytes[4 * at..][..4].copy_from_slice(&value.to_le_bytes()));
        refused(&dir.path().join("model.bin"), message, hint);
    }
    for (len, message) in
        [(4, "its header is cut short"), (1023, "its header is cut short"), (1024, "announces")]
    {
        let dir = llmc_file(|bytes| bytes.truncate(len));
        refused(&dir.path().join("model.bin"), message, damaged);
    }
    let dir = llmc_file(|bytes| bytes.truncate(bytes.len() - 1));
    refused(&dir.path().join("model.bin"), "bytes, but it has", damaged);
    let dir = llmc_file(|bytes| bytes.push(0));
    refused(&dir.path().join("model.bin"), "bytes, but it has", damaged);
}

#[test]
fn what_llmc_would_compute_otherwise_is_not_written() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("model.bin");
    let config = ModelConfig { gelu: Gelu::Erf, ..small() };
    let error = save_llmc(&path, &config, &weights(), Precision::Float32).unwrap_err();
    assert!(error.to_string().contains("llm.c has no such model: its GELU is the exact one"), "{error}");
    assert!(error.hint().unwrap().contains("Hugging Face directory instead"));
    let mut incomplete = weights();
    incomplete.remove("ln_f.bias");
    let error = save_llmc(&path, &small(), &incomplete, Precision::Float32).unwrap_err();
    assert!(error.to_string().contains("`ln_f.bias` is missing"), "{error}");
    assert!(!path.exists());
    let error = save_llmc(dir.path(), &small(), &weights(), Precision::Float32).unwrap_err();
    assert!(error.to_string().contains(&dir.path().display().to_string()), "{error}");
}

fn nano_gpt_config() -> ModelConfig {
    ModelConfig { gelu: Gelu::Erf, ..small() }
}

/// A checkpoint whose state dict and whole are changed before they are saved.
fn checkpoint(
    edit_model: impl FnOnce(&mut Vec<(String, Py)>),
    edit: impl FnOnce(&mut Vec<(Py, Py)>),
) -> TempDir {
    let dir = TempDir::new().unwrap();
    let (mut model, storages) = state_dict(&as_torch(&weights()), "transformer.");
    edit_model(&mut model);
    let Py::Dict(mut whole) = nano_gpt(&nano_gpt_config(), model) else { panic!("a dict") };
    edit(&mut whole);
    save(&dir.path().join("ckpt.pt"), &Py::Dict(whole), &storages);
    dir
}

fn bad_model(edit: impl FnOnce(&mut Vec<(String, Py)>), message: &str, hint: &str) {
    refused(checkpoint(edit, |_| ()).path(), message, hint);
}

fn bad_whole(edit: impl FnOnce(&mut Vec<(Py, Py)>), message: &str, hint: &str) {
    refused(checkpoint(|_| (), edit).path(), message, hint);
}

fn set(dict: &mut [(Py, Py)], key: &str, new: &Py) {
    for (found, value) in dict {
        if matches!(found, Py::Str(found) if found == key) {
            *value = new.clone();
        }
    }
}

fn set_arg(whole: &mut [(Py, Py)], key: &str, new: &Py) {
    for (found, value) in whole {
        if let (Py::Str(found), Py::Dict(args)) = (found, value)
            && found == "model_args"
        {
            set(args, key, new);
        }
    }
}

#[test]
fn code_in_a_checkpoint_is_refused_by_name() {
    let system = Py::Raw(b"cos\nsystem\nX\x08\x00\x00\x00rm -rf ~\x85R".to_vec());
    let cautious = "take care with this file";
    bad_whole(|whole| whole.push((text("x"), system)), "ckpt.pt: the pickle asks for `os.system`", cautious);
    let array = Py::Raw(b"cnumpy.core.multiarray\nscalar\n)R".to_vec());
    bad_whole(|whole| whole.push((text("x"), array)), "`numpy.core.multiarray.scalar`", cautious);
    let class = Py::Instance("Trainer", vec![]);
    bad_whole(|whole| whole.push((text("x"), class)), "`__main__.Trainer`", cautious);
    let load = Py::Raw(b"ctorch\nload\n)R".to_vec());
    bad_whole(|whole| whole.push((text("x"), load)), "`torch.load`", cautious);
}

#[test]
fn checkpoints_that_do_not_say_what_they_are_are_refused() {
    let damaged = "another format";
    let remove = |key: &'static str| {
        move |whole: &mut Vec<(Py, Py)>| whole.retain(|(found, _)| !matches!(found, Py::Str(s) if s == key))
    };
    bad_whole(
        remove("model_args"),
        "it has `model`, but neither nanoGPT's `model_args` nor a `GPTConfig`",
        damaged,
    );
    bad_whole(remove("model"), "`model_args` is no tensor, but a dict", damaged);
    bad_whole(|w| set_arg(w, "n_layer", &text("2")), "`n_layer` of its model is missing or no size", damaged);
    bad_whole(|w| set_arg(w, "vocab_size", &Py::Int(-1)), "`vocab_size` of its model is missing", damaged);
    bad_whole(|w| set_arg(w, "bias", &Py::Int(1)), "`bias` in its model_args is missing or no bool", damaged);
    bad_whole(|w| set_arg(w, "dropout", &Py::Float(1.5)), "dropout is 1.5", "0 switches it off");
    bad_whole(|w| set_arg(w, "n_head", &Py::Int(0)), "n_head is 0", "--n_head");
    bad_whole(|w| set_arg(w, "n_layer", &Py::Int(i64::MAX)), "n_layer would be", "smaller");
    bad_whole(|w| set(w, "model", &Py::Int(3)), "a int stands where a dict of tensors should", damaged);
    let gaussian = |whole: &mut Vec<(Py, Py)>| {
        let mut args = vec![(text("attn_type"), text("GKxyz")), (text("bias"), Py::Bool(true))];
        args.push((text("n_layer"), Py::Int(2)));
        set(whole, "model_args", &Py::Dict(args));
    };
    bad_whole(
        gaussian,
        "`attn_type` is \"GKxyz\", but only one of softmax, gaussian, ",
        "only GPT-2s are read",
    );
}

fn edit_tensor(model: &mut [(String, Py)], name: &str, edit: impl FnOnce(&mut crate::torch_writer::Tensor)) {
    let (_, value) = model.iter_mut().find(|(found, _)| found == name).unwrap();
    let Py::Tensor(tensor) = value else { panic!("a tensor") };
    edit(tensor);
}

#[test]
fn every_tensor_of_a_checkpoint_is_accounted_for() {
    let other = "different models";
    bad_model(|m| m.retain(|(n, _)| n != "transformer.h.1.ln_2.bias"), "`h.1.ln_2.bias` is missing", other);
    let wpe = |m: &[(String, Py)]| m.iter().find(|(name, _)| name.ends_with("wpe.weight")).unwrap().1.clone();
    bad_model(|m| m.push(("rope".into(), wpe(m))), "`rope` does not belong to this model", other);
    let mask = "transformer.h.0.mlp.bias";
    bad_model(|m| m.push((mask.into(), wpe(m))), "`h.0.mlp.bias` does not belong to this model", other);
    bad_model(|m| m.push(("wpe.weight".into(), wpe(m))), "tensor `wpe.weight` is there twice", "keep one");
    bad_model(
        |m| m.push(("lm_head.weight".into(), wpe(m))),
        "`lm_head.weight` is not the word embedding",
        "tie_word",
    );
    let swap = |m: &mut Vec<(String, Py)>| {
        edit_tensor(m, "transformer.h.0.attn.c_attn.weight", |t| {
            t.shape.reverse();
            t.strides.reverse();
        });
    };
    bad_model(swap, "`h.0.attn.c_attn.weight` has shape [36, 12], but the model needs [12, 36]", other);
    let double =
        |m: &mut Vec<(String, Py)>| edit_tensor(m, "transformer.ln_f.bias", |t| t.class = "DoubleStorage");
    bad_model(double, "tensor `ln_f.bias` holds Double, but only F32", "float32");
}

#[test]
fn tensors_outside_their_storages_are_refused() {
    let bad = |message: &str, edit: fn(&mut crate::torch_writer::Tensor)| {
        bad_model(|m| edit_tensor(m, "transformer.wpe.weight", edit), message, "cut short");
    };
    bad("`transformer.wpe.weight` is larger than its storage", |t| t.offset = 1);
    bad("is larger than its storage", |t| t.shape = vec![8, 12]);
    bad("is larger than its storage", |t| t.strides = vec![13, 1]);
    bad("is larger than its storage", |t| t.shape = vec![i64::MAX, i64::MAX]);
    bad("is larger than its storage", |t| (t.shape, t.strides) = (vec![1 << 40, 12], vec![0, 1]));
    bad("lies outside its storage", |t| t.offset = i64::MAX);
    bad("has a size that is no number", |t| t.strides = vec![-12, 1]);
    bad("has not as many strides as sizes", |t| t.strides = vec![1]);
    bad("is kept in `data/99`, which is missing", |t| t.storage = "99".into());
    let no_tensor = |m: &mut Vec<(String, Py)>| m.push(("x".into(), Py::Float(1.0)));
    bad_model(no_tensor, "`x` is no tensor, but a float", "cut short");
    let config = |m: &mut Vec<(String, Py)>| m.push(("x".into(), Py::Instance("GPTConfig", vec![])));
    bad_model(config, "`x` is no tensor, but a GPTConfig", "cut short");
    let no_storage = b"ctorch._utils\n_rebuild_tensor_v2\n(K\x00K\x00))tR".to_vec();
    bad_model(|m| m.push(("x".into(), Py::Raw(no_storage))), "`x` has no storage", "cut short");
    let nested = b"ctorch._utils\n_rebuild_parameter\nq\x01h\x01h\x01)R\x85R\x85R".to_vec();
    bad_model(|m| m.push(("x".into(), Py::Raw(nested))), "`x` is a parameter without data", "cut short");
}

#[test]
fn bad_archives_are_refused() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("ckpt.pt");
    let bad = |bytes: &[u8], message: &str| {
        fs::write(&path, bytes).unwrap();
        refused(&path, message, "cut short");
    };
    let empty = pickle(&Py::Dict(vec![]));
    let stored = |entries: &[(&str, &[u8])]| zip(entries, CompressionMethod::STORE);
    bad(&stored(&[("version", b"3")]), "ckpt.pt is no torch checkpoint: the archive has no `data.pkl`");
    bad(&stored(&[("data.pkl", &empty), ("byteorder", b"big")]), "its numbers are big-endian");
    bad(&zip(&[("data.pkl", &empty)], CompressionMethod::DEFLATE), "its entry `data.pkl` is compressed");
    bad(&stored(&[("data.pkl", &empty[..2])]), "ckpt.pt: the pickle is damaged at byte 2: it ends early");

    save_nano_gpt(&path, &nano_gpt_config(), &weights());
    let whole = fs::read(&path).unwrap();
    for len in [4, 100, whole.len() / 2, whole.len() - 1] {
        bad(&whole[..len], "ckpt.pt is no torch checkpoint: ");
    }
}

fn saved() -> TempDir {
    let dir = TempDir::new().unwrap();
    save_pretrained(dir.path(), &small(), &weights()).unwrap();
    dir
}

#[test]
fn another_architecture_is_named() {
    let dir = saved();
    let llama = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": 4096,
        "num_hidden_layers": 32, "vocab_size": 32000,
    });
    fs::write(dir.path().join("config.json"), llama.to_string()).unwrap();
    refused(dir.path(), "`model_type` is \"llama\", but only \"gpt2\" or \"oxigpt\" is supported", "GPT-2");
    fs::write(dir.path().join("config.json"), "{\"model_type\": \"gpt2\", \"n_layer\": 2}").unwrap();
    refused(dir.path(), "config.json: missing field `n_head`", "transformers");
}

#[test]
fn an_output_layer_of_its_own_is_refused() {
    let dir = saved();
    let mut weights = weights();
    let mut head = weights["wte.weight"].clone();
    head.data[5] += 1.0;
    weights.insert("lm_head.weight".into(), head);
    write_tensors(dir.path().join("model.safetensors"), &weights, &[]).unwrap();
    refused(
        dir.path(),
        "`lm_head.weight` is not the word embedding `wte.weight`",
        "\"tie_word_embeddings\": true",
    );
}

fn sharded(index: &Value) -> TempDir {
    let dir = saved();
    fs::rename(dir.path().join("model.safetensors"), dir.path().join("a.safetensors")).unwrap();
    let surplus = NamedTensors::from([("x".into(), NamedTensor { shape: vec![1], data: vec![0.0] })]);
    write_tensors(dir.path().join("b.safetensors"), &surplus, &[]).unwrap();
    fs::write(dir.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    dir
}

#[test]
fn bad_indices_are_refused() {
    let whole: serde_json::Map<_, _> =
        weights().into_keys().map(|name| (name, json!("a.safetensors"))).collect();
    let with = |name: &str, file: &str| {
        let mut map = whole.clone();
        map.insert(name.into(), json!(file));
        json!({ "weight_map": map })
    };
    for file in ["../a.safetensors", "/etc/passwd", "sub/a.safetensors", "..", "", "./a.safetensors/../../x"]
    {
        let dir = sharded(&with("ln_f.bias", file));
        refused(
            dir.path(),
            &format!("index.json names the file `{file}`, which is not in its"),
            "one directory",
        );
    }
    refused(sharded(&with("ln_f.bias", "c.safetensors")).path(), "c.safetensors", "check the path");
    refused(
        sharded(&with("ln_f.bias", "b.safetensors")).path(),
        "b.safetensors: tensor `ln_f.bias` is missing",
        "",
    );
    refused(sharded(&with("x", "b.safetensors")).path(), "tensor `x` does not belong to this model", "");
    refused(sharded(&json!({})).path(), "index.json: missing field `weight_map`", "transformers");
    let dir = sharded(&with("x", "b.safetensors"));
    let twice = NamedTensors::from([("wpe.weight".into(), NamedTensor { shape: vec![1], data: vec![0.0] })]);
    write_tensors(dir.path().join("b.safetensors"), &twice, &[]).unwrap();
    fs::write(
        dir.path().join("model.safetensors.index.json"),
        with("wpe.weight", "a.safetensors").to_string(),
    )
    .unwrap();
    assert!(open_pretrained(dir.path()).is_ok(), "a file that the index does not name is none of the model");
    fs::write(
        dir.path().join("model.safetensors.index.json"),
        with("wpe.weight", "b.safetensors").to_string(),
    )
    .unwrap();
    refused(dir.path(), "tensor `wpe.weight` is there twice", "keep one");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Changing or cutting bytes of a good file gives a good model or an error, never a panic.
    #[test]
    fn garbage_is_survived(at: prop::sample::Index, byte: u8, kept in 0.0..2.0f64, torch: bool) {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("model");
        let config = ModelConfig { n_layer: 1, n_head: 1, n_embd: 2, vocab_size: 3, ..nano_gpt_config() };
        let weights = Initial { config: &config, seed: 6 }.collect().unwrap();
        if torch {
            save_nano_gpt(&path, &config, &weights);
        } else {
            save_llmc(&path, &ModelConfig { gelu: Gelu::Tanh, ..config }, &weights, Precision::Bfloat16).unwrap();
        }
        let mut bytes = fs::read(&path).unwrap();
        let len = bytes.len();
        bytes[at.index(len)] = byte;
        bytes.truncate((len as f64 * kept) as usize);
        fs::write(&path, bytes).unwrap();
        if let Ok(model) = open_pretrained(&path) {
            prop_assert!(model.config.validate().is_ok() && model.weights.collect().is_ok());
        }
    }
}
