//! Models of other programs: golden values, exact round trips through every pair of formats, variants of each.

use std::path::Path;

use fs_err as fs;
use half::{bf16, f16};
use oxigpt_compute::{Data, Session};
use oxigpt_model::{
    Evaluate, Format, Gelu, Initial, ModelConfig, NamedTensor, NamedTensors, Precision, Pretrained,
    TensorSource, eval_plan, open_pretrained, save_llmc, save_pretrained, write_tensors,
};
use proptest::prelude::*;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::*;
use crate::torch_writer::{
    Py, Tensor, as_torch, nano_gpt, save, save_nano_gpt, sizes, state_dict, text, transpose,
};

/// Relative, of losses and logits on `cpu`.
const TOLERANCE: f64 = 1e-5;

fn weights_of(config: &ModelConfig) -> NamedTensors {
    let mut weights = Initial { config, seed: 8 }.collect().unwrap();
    // Biases and norms that differ from each other, or an exchange of two would not be seen.
    for (i, tensor) in weights.values_mut().enumerate() {
        for (j, x) in tensor.data.iter_mut().enumerate() {
            *x += 1e-3 * (i as f32 + 0.01 * j as f32);
        }
    }
    weights
}

fn open(path: &Path) -> (ModelConfig, NamedTensors, Format) {
    let Pretrained { config, weights, format, .. } = open_pretrained(path).unwrap();
    (config, weights.collect().unwrap(), format)
}

/// Mean loss of rows of `T + 1` tokens.
fn loss(model: &Pretrained, rows: &[&[u32]]) -> f64 {
    let t = rows[0].len() - 1;
    let (plan, table, Evaluate { tokens, targets, losses, phase, .. }) =
        eval_plan(&model.config, rows.len(), t, None).unwrap();
    let mut session = Session::new(plan, (CPU.backend)()).unwrap();
    table.upload(&mut session, &model.weights).unwrap();
    session
        .upload(tokens, Data::U32(&rows.iter().flat_map(|row| &row[..t]).copied().collect::<Vec<_>>()))
        .unwrap();
    session
        .upload(targets, Data::U32(&rows.iter().flat_map(|row| &row[1..]).copied().collect::<Vec<_>>()))
        .unwrap();
    session.run(phase);
    mean(&download(&session, losses))
}

/// Logits after each token of one text.
fn logits(model: &Pretrained, tokens: &[u32]) -> Vec<Vec<f64>> {
    let (plan, all) = AllLogits::build(&model.config, 1);
    let mut session = Session::new(plan, (CPU.backend)()).unwrap();
    all.weights.upload(&mut session, &model.weights).unwrap();
    all.run(&mut session, tokens)
}

/// Compares logits relative to the largest.
fn assert_logits(found: &[f64], expected: &[f64]) {
    let scale = expected.iter().fold(0f64, |max, x| max.max(x.abs()));
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= TOLERANCE * scale, "{found} instead of {expected}");
    }
}

#[test]
fn a_model_of_transformers_gives_its_loss_and_logits() {
    let model = open_pretrained(fixture("hf-gpt2")).unwrap();
    assert_eq!((model.format, &model.dataset), (Format::HuggingFace, &None));
    let [case, ..] = cases();
    let rows: Vec<Vec<u32>> = serde_json::from_value(expected()["tokens"].clone()).unwrap();
    let rows: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
    assert_close("loss", loss(&model, &rows), case.expected["loss"].as_f64().unwrap(), TOLERANCE);
    let expected = case.tensors.read("expected.logits").unwrap();
    let expected: Vec<f64> = expected.iter().map(|&x| x.into()).collect();
    for (row, expected) in rows.iter().zip(expected.chunks(24 * 160)) {
        assert_logits(&logits(&model, &row[..24]).concat(), expected);
    }
}

#[test]
fn a_model_of_llmc_gives_its_loss_and_logits() {
    let path = fixture("llmc_model.bin");
    let model = open_pretrained(&path).unwrap();
    assert_eq!(model.format, Format::LlmC);
    let expected: Value = serde_json::from_slice(&fs::read(fixture("llmc_model.json")).unwrap()).unwrap();
    let rows: Vec<Vec<u32>> = serde_json::from_value(expected["tokens"].clone()).unwrap();
    let rows: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
    assert_close("loss", loss(&model, &rows), expected["loss"].as_f64().unwrap(), TOLERANCE);
    let last: Vec<Vec<f64>> = serde_json::from_value(expected["last_logits"].clone()).unwrap();
    for (row, last) in rows.iter().zip(last) {
        assert_logits(logits(&model, row).last().unwrap(), &last);
    }

    // Written again, it is the same file.
    let dir = TempDir::new().unwrap();
    let again = dir.path().join("again.bin");
    save_llmc(&again, &model.config, &model.weights, Precision::Float32).unwrap();
    assert!(fs::read(again).unwrap() == fs::read(path).unwrap());
}

/// The first 200 windows of the validation part of Tiny Shakespeare, in the numbers of the checkpoint's `meta.pkl`.
#[test]
fn a_checkpoint_of_nano_gpt_gives_its_loss() {
    let model = open_pretrained(fixture("ckpt.pt")).unwrap();
    assert_eq!((model.format, model.dataset.as_deref()), (Format::NanoGpt, Some("shakespeare_char")));
    assert_eq!((model.config.gelu, model.config.bias, model.config.vocab_size), (Gelu::Erf, false, 65));
    let tokens: Vec<u32> = fs::read(fixture("nanogpt_val.bin")).unwrap().into_iter().map(u32::from).collect();
    let rows: Vec<&[u32]> = (0..200).map(|i| &tokens[32 * i..][..33]).collect();
    assert_close("loss", loss(&model, &rows), 3.248626941507493, TOLERANCE);
}

/// Writes a model in one of the formats that are written in float32.
fn write_as(format: Format, dir: &Path, config: &ModelConfig, weights: &NamedTensors) -> std::path::PathBuf {
    let path = dir.join(format!("{format:?}"));
    match format {
        Format::HuggingFace => {
            fs::create_dir(&path).unwrap();
            save_pretrained(&path, config, weights).unwrap();
        }
        Format::NanoGpt => save_nano_gpt(&path, config, weights),
        Format::BuildNanoGpt => {
            let (model, storages) = state_dict(&as_torch(weights), "transformer.");
            let value = Py::Dict(vec![
                (text("model"), Py::StateDict(model)),
                (text("config"), Py::Instance("GPTConfig", sizes(config))),
                (text("step"), Py::Int(5000)),
                (text("val_loss"), Py::Float(3.1)),
            ]);
            save(&path, &value, &storages);
        }
        Format::LlmC => save_llmc(&path, config, weights, Precision::Float32).unwrap(),
    }
    path
}

fn with_zero_biases(config: &ModelConfig, weights: &NamedTensors) -> NamedTensors {
    let all = Initial { config: &ModelConfig { bias: true, ..config.clone() }, seed: 0 };
    let read = |(name, shape): (String, Vec<usize>)| {
        let zeros = || NamedTensor { data: vec![0.0; shape.iter().product()], shape: shape.clone() };
        (name.clone(), weights.get(&name).cloned().unwrap_or_else(zeros))
    };
    all.shapes().into_iter().map(read).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// From every format to every other and to itself, bit for bit.
    #[test]
    fn every_pair_of_formats_is_exact(
        n_layer in 1usize..3, n_head in 1usize..4, per_head in 1usize..6, block_size in 1usize..9,
        vocab_size in 1usize..200, bias: bool, erf: bool,
    ) {
        let n_embd = n_head * per_head;
        let gelu = if erf { Gelu::Erf } else { Gelu::Tanh };
        let config = ModelConfig { n_layer, n_head, n_embd, block_size, vocab_size, bias, gelu, ..small() };
        let weights = weights_of(&config);
        let all = [Format::HuggingFace, Format::NanoGpt, Format::BuildNanoGpt, Format::LlmC];
        let can_hold = |format: &Format, config: &ModelConfig| match format {
            Format::HuggingFace => true,
            Format::NanoGpt => config.gelu == Gelu::Erf,
            Format::BuildNanoGpt => config.gelu == Gelu::Tanh && config.bias,
            Format::LlmC => config.gelu == Gelu::Tanh,
        };
        for first in all.into_iter().filter(|format| can_hold(format, &config)) {
            let dir = TempDir::new().unwrap();
            let (config, weights) = if first == Format::LlmC {
                (ModelConfig { bias: true, ..config.clone() }, with_zero_biases(&config, &weights))
            } else {
                (config.clone(), weights.clone())
            };
            let opened = open(&write_as(first, dir.path(), &config, &weights));
            prop_assert_eq!(&opened, &(config.clone(), weights.clone(), first));
            for second in all.into_iter().filter(|format| *format != first && can_hold(format, &config)) {
                let expected = if second == Format::LlmC { with_zero_biases(&config, &weights) } else { weights.clone() };
                let (_, found, format) = open(&write_as(second, dir.path(), &opened.0, &opened.1));
                prop_assert_eq!((found, format), (expected, second));
            }
        }
    }
}

/// The tensors of a directory, each with a name and type and bytes.
type RawTensors = Vec<(String, Dtype, Vec<usize>, Vec<u8>)>;

fn write_raw(path: &Path, tensors: &RawTensors) {
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

fn raw(weights: &NamedTensors, encode: impl Fn(f32) -> Vec<u8>, dtype: Dtype, prefix: &str) -> RawTensors {
    let encode = |(name, tensor): (&String, &NamedTensor)| {
        let bytes = tensor.data.iter().flat_map(|&x| encode(x)).collect();
        (format!("{prefix}{name}"), dtype, tensor.shape.clone(), bytes)
    };
    weights.iter().map(encode).collect()
}

fn saved() -> (TempDir, ModelConfig, NamedTensors) {
    let (dir, config) = (TempDir::new().unwrap(), small());
    let weights = weights_of(&config);
    save_pretrained(dir.path(), &config, &weights).unwrap();
    (dir, config, weights)
}

fn map_all(weights: &NamedTensors, change: impl Fn(f32) -> f32) -> NamedTensors {
    let mut weights = weights.clone();
    weights.values_mut().flat_map(|tensor| &mut tensor.data).for_each(|x| *x = change(*x));
    weights
}

#[test]
fn half_precision_is_converted_when_it_is_read() {
    let (dir, _, weights) = saved();
    let file = dir.path().join("model.safetensors");
    write_raw(&file, &raw(&weights, |x| f16::from_f32(x).to_le_bytes().into(), Dtype::F16, "transformer."));
    assert_eq!(open(dir.path()).1, map_all(&weights, |x| f16::from_f32(x).to_f32()));
    write_raw(&file, &raw(&weights, |x| bf16::from_f32(x).to_le_bytes().into(), Dtype::BF16, ""));
    assert_eq!(open(dir.path()).1, map_all(&weights, |x| bf16::from_f32(x).to_f32()));
}

#[test]
fn the_output_layer_and_old_masks_are_left_out() {
    let (dir, _, weights) = saved();
    let file = dir.path().join("model.safetensors");
    let encode = |x: f32| x.to_le_bytes().into();
    let mut tensors = raw(&weights, encode, Dtype::F32, "transformer.");
    let wte = &weights["wte.weight"];
    let head = wte.data.iter().flat_map(|x| x.to_le_bytes()).collect();
    tensors.push(("lm_head.weight".into(), Dtype::F32, wte.shape.clone(), head));
    for l in 0..2 {
        tensors.push((format!("transformer.h.{l}.attn.bias"), Dtype::U8, vec![1, 1, 7, 7], vec![1; 49]));
        tensors.push((format!("transformer.h.{l}.attn.masked_bias"), Dtype::F32, vec![], vec![0; 4]));
    }
    write_raw(&file, &tensors);
    assert_eq!(open(dir.path()).1, weights);
    // The file itself is opened as well as its directory.
    assert_eq!(open(&file).1, weights);

    // Tied weights may be kept under the other of their names only.
    tensors.retain(|(name, ..)| name != "transformer.wte.weight");
    write_raw(&file, &tensors);
    assert_eq!(open(dir.path()).1, weights);
}

#[test]
fn a_model_in_several_files_is_one_model() {
    let (dir, config, weights) = saved();
    fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    let mut map = serde_json::Map::new();
    for shard in 0..3 {
        let file = format!("model-{shard:05}-of-00003.safetensors");
        let of_shard = weights.iter().enumerate().filter(|(i, _)| i % 3 == shard).map(|(_, tensor)| tensor);
        let part: NamedTensors =
            of_shard.map(|(name, tensor)| (format!("transformer.{name}"), tensor.clone())).collect();
        write_tensors(dir.path().join(&file), &part, &[]).unwrap();
        part.keys().for_each(|name| drop(map.insert(name.clone(), json!(file))));
    }
    let index = dir.path().join("model.safetensors.index.json");
    fs::write(&index, json!({ "metadata": { "total_size": 1 }, "weight_map": map }).to_string()).unwrap();
    assert_eq!(open(dir.path()), (config, weights, Format::HuggingFace));
}

#[test]
fn the_weights_of_torch_in_a_hugging_face_directory_are_read() {
    let (dir, config, weights) = saved();
    fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    let (model, storages) = state_dict(&weights, "transformer.");
    let file = dir.path().join("pytorch_model.bin");
    save(&file, &Py::StateDict(model), &storages);
    assert_eq!(open(dir.path()), (config.clone(), weights.clone(), Format::HuggingFace));
    assert_eq!(open(&file), (config, weights, Format::HuggingFace));
}

#[test]
fn configurations_of_the_first_gpt2s_are_read() {
    let (dir, config, weights) = saved();
    let old = json!({
        "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1,
        "bos_token_id": 50256, "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_ctx": 7, "n_embd": 12, "n_head": 3, "n_layer": 2,
        "n_positions": 7, "resid_pdrop": 0.1, "summary_activation": null, "summary_type": "cls_index",
        "task_specific_params": { "text-generation": { "do_sample": true, "max_length": 50 } }, "vocab_size": 37,
    });
    let path = dir.path().join("config.json");
    fs::write(&path, old.to_string()).unwrap();
    let expected = ModelConfig { dropout: 0.1, ..config };
    assert_eq!(open(dir.path()), (expected.clone(), weights, Format::HuggingFace));
    let mut older = old;
    for key in ["n_positions", "activation_function", "model_type", "layer_norm_epsilon"] {
        older.as_object_mut().unwrap().remove(key);
    }
    fs::write(&path, older.to_string()).unwrap();
    assert_eq!(open(dir.path()).0, expected);
}

/// Storages that are shared, strided or transposed, a compiled model's prefix, masks, and a whole directory.
#[test]
fn tensors_of_torch_are_read_from_where_they_lie() {
    let config = ModelConfig { gelu: Gelu::Erf, bias: false, dropout: 0.25, ..small() };
    let weights = weights_of(&config);
    let mut storage: Vec<f32> = vec![f32::NAN; 3];
    let mut model = Vec::new();
    for (i, (name, tensor)) in as_torch(&weights).iter().enumerate() {
        let offset = storage.len() as i64;
        let shape: Vec<i64> = tensor.shape.iter().map(|&size| size as i64).collect();
        let strides = match (&shape[..], i % 2) {
            // Stored the other way round.
            (&[rows, _], 0) => {
                storage.extend(transpose(tensor).data);
                vec![1, rows]
            }
            (&[_, columns], _) => {
                storage.extend(&tensor.data);
                vec![columns, 1]
            }
            // Every third element.
            _ => {
                storage.extend(tensor.data.iter().flat_map(|&x| [x, f32::NAN, f32::NAN]));
                vec![3]
            }
        };
        let view = Tensor { class: "FloatStorage", storage: "7".into(), offset, shape, strides };
        model.push((format!("_orig_mod.transformer.{name}"), Py::Tensor(view)));
    }
    let mask = Tensor {
        class: "BoolStorage",
        storage: "8".into(),
        offset: 0,
        shape: vec![1, 1, 7, 7],
        strides: vec![49, 49, 7, 1],
    };
    model.push(("_orig_mod.transformer.h.0.attn.bias".into(), Py::Tensor(mask)));
    let dir = TempDir::new().unwrap();
    let storages =
        [("data/7".to_owned(), bytemuck::cast_slice(&storage).to_vec()), ("data/8".to_owned(), vec![1; 49])];
    save(&dir.path().join("ckpt.pt"), &nano_gpt(&config, model), &storages);
    assert_eq!(open(dir.path()), (config, weights, Format::NanoGpt));
}

#[test]
fn half_precision_of_torch_is_read() {
    let config = ModelConfig { gelu: Gelu::Erf, ..small() };
    let weights = weights_of(&config);
    let (mut model, mut storages) = state_dict(&as_torch(&weights), "transformer.");
    for (i, (_, tensor)) in model.iter_mut().enumerate() {
        let Py::Tensor(tensor) = tensor else { panic!("a tensor") };
        let floats = storages[i].1.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b));
        (tensor.class, storages[i].1) = if i % 2 == 0 {
            ("HalfStorage", floats.flat_map(|x| f16::from_f32(x).to_le_bytes()).collect())
        } else {
            ("BFloat16Storage", floats.flat_map(|x| bf16::from_f32(x).to_le_bytes()).collect())
        };
    }
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("ckpt.pt");
    save(&path, &nano_gpt(&config, model), &storages);
    for (i, (name, tensor)) in open(&path).1.iter().enumerate() {
        let round = |x: f32| if i % 2 == 0 { f16::from_f32(x).to_f32() } else { bf16::from_f32(x).to_f32() };
        let rounded: Vec<f32> = weights[name].data.iter().map(|&x| round(x)).collect();
        assert_eq!(tensor.data, rounded, "{name}");
    }
}

#[test]
fn bfloat16_of_llmc_is_rounded_to_nearest_even() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("model.bin");
    let config = small();
    let mut weights = weights_of(&config);
    // Halfway between two: down to even, up to even; and just above halfway.
    let halfway = [0x3f80_8000, 0x3f81_8000, 0x3f80_8001].map(f32::from_bits);
    weights.get_mut("ln_f.weight").unwrap().data[..3].copy_from_slice(&halfway);
    save_llmc(&path, &config, &weights, Precision::Bfloat16).unwrap();
    let (found_config, found, _) = open(&path);
    assert_eq!((found_config, &found), (config, &map_all(&weights, |x| bf16::from_f32(x).to_f32())));
    assert_eq!(
        found["ln_f.weight"].data[..3].iter().map(|x| x.to_bits() >> 16).collect::<Vec<_>>(),
        [0x3f80, 0x3f82, 0x3f81]
    );
    // 256 numbers, and two bytes a weight, with 128 words for 37.
    let expected = 1024 + 2 * (small().parameter_count().total + (128 - 37) * 12);
    assert_eq!(fs::read(&path).unwrap().len(), expected);
}

/// A real vocabulary: 50,257 words, which llm.c pads.
#[test]
fn the_vocabulary_of_gpt2_survives_every_format() {
    let config = ModelConfig { vocab_size: 50257, n_layer: 1, n_embd: 3, ..small() };
    let weights = weights_of(&config);
    let dir = TempDir::new().unwrap();
    for format in [Format::HuggingFace, Format::BuildNanoGpt, Format::LlmC] {
        let path = write_as(format, dir.path(), &config, &weights);
        assert!(open(&path) == (config.clone(), weights.clone(), format), "{format}");
    }
    let padded = fs::read(dir.path().join("LlmC")).unwrap();
    assert_eq!(padded[28..32], 50304i32.to_le_bytes());
}

/// Positions that a model has given up are not written.
#[test]
fn a_cropped_model_is_saved_without_its_surplus() {
    let config = small();
    let weights = weights_of(&config);
    let mut cropped = config.clone();
    cropped.crop_block_size(3).unwrap();
    let mut expected = weights.clone();
    let wpe = expected.get_mut("wpe.weight").unwrap();
    wpe.shape[0] = 3;
    wpe.data.truncate(3 * 12);
    let dir = TempDir::new().unwrap();
    for format in [Format::HuggingFace, Format::LlmC] {
        let path = write_as(format, dir.path(), &cropped, &weights);
        assert_eq!(open(&path), (cropped.clone(), expected.clone(), format));
    }
    // The same from a file, which is mapped.
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    save_pretrained(&source, &config, &weights).unwrap();
    let again = dir.path().join("again");
    fs::create_dir(&again).unwrap();
    save_pretrained(&again, &cropped, &open_pretrained(&source).unwrap().weights).unwrap();
    assert_eq!(open(&again).1, expected);
}

/// What has been let go is there again when it is asked for.
#[test]
fn released_tensors_can_be_read_again() {
    let (dir, _, weights) = saved();
    let model = open_pretrained(dir.path()).unwrap();
    for (name, tensor) in &weights {
        let before = model.weights.read(name).unwrap();
        model.weights.release(name);
        assert_eq!(
            (&before[..], &model.weights.read(name).unwrap()[..]),
            (&tensor.data[..], &tensor.data[..])
        );
    }
    model.weights.release("no such tensor");
}
