//! Checkpoints as `torch.save` writes them, for tests: a pickle of plain data and tensors, and the zip around it.

use std::io::Write;
use std::path::Path;

use oxigpt_model::{ModelConfig, NamedTensor, NamedTensors};
use rawzip::{CompressionMethod, ZipArchiveWriter};

/// What is pickled.
#[derive(Clone)]
pub(crate) enum Py {
    Int(i64),
    Float(f64),
    Bool(bool),
    Str(String),
    Dict(Vec<(Py, Py)>),
    /// `collections.OrderedDict` with torch's attribute of versions.
    StateDict(Vec<(String, Py)>),
    /// An instance of a class of `__main__` with these attributes.
    Instance(&'static str, Vec<(Py, Py)>),
    Tensor(Tensor),
    /// Bytes of a pickle.
    Raw(Vec<u8>),
}

/// A tensor: a view of a storage.
#[derive(Clone)]
pub(crate) struct Tensor {
    pub(crate) class: &'static str,
    pub(crate) storage: String,
    pub(crate) offset: i64,
    pub(crate) shape: Vec<i64>,
    pub(crate) strides: Vec<i64>,
}

pub(crate) fn text(text: &str) -> Py {
    Py::Str(text.into())
}

pub(crate) fn pickle(value: &Py) -> Vec<u8> {
    let mut out = b"\x80\x02".to_vec();
    put(&mut out, value);
    out.push(b'.');
    out
}

fn put(out: &mut Vec<u8>, value: &Py) {
    match value {
        Py::Int(n) => {
            out.extend(b"\x8a\x08");
            out.extend(n.to_le_bytes());
        }
        Py::Float(x) => {
            out.push(b'G');
            out.extend(x.to_be_bytes());
        }
        Py::Bool(flag) => out.push(if *flag { 0x88 } else { 0x89 }),
        Py::Str(text) => {
            out.push(b'X');
            out.extend((text.len() as u32).to_le_bytes());
            out.extend(text.as_bytes());
        }
        Py::Dict(entries) => {
            out.push(b'}');
            put_items(out, entries);
        }
        Py::StateDict(entries) => {
            out.extend(b"ccollections\nOrderedDict\n)R");
            let entries: Vec<_> = entries.iter().map(|(name, value)| (text(name), value.clone())).collect();
            put_items(out, &entries);
            out.extend(b"}");
            put_items(out, &[(text("_metadata"), Py::Dict(vec![]))]);
            out.push(b'b');
        }
        Py::Instance(class, attributes) => {
            out.extend(format!("c__main__\n{class}\n)\u{1}").into_bytes());
            *out.last_mut().unwrap() = 0x81;
            put(out, &Py::Dict(attributes.clone()));
            out.push(b'b');
        }
        Py::Tensor(tensor) => put_tensor(out, tensor),
        Py::Raw(bytes) => out.extend(bytes),
    }
}

fn put_items(out: &mut Vec<u8>, entries: &[(Py, Py)]) {
    out.push(b'(');
    for (key, value) in entries {
        put(out, key);
        put(out, value);
    }
    out.push(b'u');
}

fn put_tensor(out: &mut Vec<u8>, tensor: &Tensor) {
    let put_sizes = |out: &mut Vec<u8>, sizes: &[i64]| {
        out.push(b'(');
        sizes.iter().for_each(|&size| put(out, &Py::Int(size)));
        out.push(b't');
    };
    out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
    put(out, &text("storage"));
    out.extend(format!("ctorch\n{}\n", tensor.class).into_bytes());
    put(out, &text(&tensor.storage));
    put(out, &text("cuda:0"));
    put(out, &Py::Int(1));
    out.extend(b"tQ");
    put(out, &Py::Int(tensor.offset));
    put_sizes(out, &tensor.shape);
    put_sizes(out, &tensor.strides);
    out.extend(b"\x89ccollections\nOrderedDict\n)RtR");
}

/// The archive: `entries` in a folder of their own.
pub(crate) fn zip(entries: &[(&str, &[u8])], method: CompressionMethod) -> Vec<u8> {
    let mut archive = ZipArchiveWriter::new(Vec::new());
    for (name, bytes) in entries {
        let (mut entry, config) =
            archive.new_file(format!("ckpt/{name}").as_str()).compression_method(method).start().unwrap();
        let mut writer = config.wrap(&mut entry);
        writer.write_all(bytes).unwrap();
        let (_, output) = writer.finish().unwrap();
        entry.finish(output).unwrap();
    }
    archive.finish().unwrap()
}

pub(crate) fn save(path: &Path, value: &Py, storages: &[(String, Vec<u8>)]) {
    let pickle = pickle(value);
    let mut entries: Vec<(&str, &[u8])> = vec![("data.pkl", &pickle), ("byteorder", b"little")];
    entries.extend(storages.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())));
    fs_err::write(path, zip(&entries, CompressionMethod::STORE)).unwrap();
}

/// Tensors by name, in their order.
pub(crate) type Entries = Vec<(String, Py)>;

/// Bytes by the names of their entries in the archive.
pub(crate) type Storages = Vec<(String, Vec<u8>)>;

/// A state dict, each tensor with a storage of its own, and these storages.
pub(crate) fn state_dict(weights: &NamedTensors, prefix: &str) -> (Entries, Storages) {
    let (mut entries, mut storages) = (Vec::new(), Vec::new());
    for (i, (name, NamedTensor { shape, data })) in weights.iter().enumerate() {
        let tensor = Tensor {
            class: "FloatStorage",
            storage: i.to_string(),
            offset: 0,
            shape: shape.iter().map(|&size| size as i64).collect(),
            strides: row_major(shape),
        };
        entries.push((format!("{prefix}{name}"), Py::Tensor(tensor)));
        storages.push((format!("data/{i}"), bytemuck::cast_slice(data).to_vec()));
    }
    (entries, storages)
}

fn row_major(shape: &[usize]) -> Vec<i64> {
    (1..=shape.len()).map(|d| shape[d..].iter().product::<usize>() as i64).collect()
}

/// The same weights with linear layers as torch keeps them, `[out, in]`.
pub(crate) fn as_torch(weights: &NamedTensors) -> NamedTensors {
    let transposed = |(name, tensor): (&String, &NamedTensor)| {
        let tensor = if name.contains(".c_") && name.ends_with(".weight") {
            transpose(tensor)
        } else {
            tensor.clone()
        };
        (name.clone(), tensor)
    };
    weights.iter().map(transposed).collect()
}

pub(crate) fn transpose(tensor: &NamedTensor) -> NamedTensor {
    let [rows, columns] = tensor.shape[..] else { panic!("a matrix") };
    let data = (0..rows * columns).map(|i| tensor.data[i % rows * columns + i / rows]).collect();
    NamedTensor { shape: vec![columns, rows], data }
}

pub(crate) fn sizes(config: &ModelConfig) -> Vec<(Py, Py)> {
    [
        ("n_layer", config.n_layer),
        ("n_head", config.n_head),
        ("n_embd", config.n_embd),
        ("block_size", config.block_size),
        ("vocab_size", config.vocab_size),
    ]
    .map(|(key, size)| (text(key), Py::Int(size as i64)))
    .to_vec()
}

/// nanoGPT's dict around a state dict.
pub(crate) fn nano_gpt(config: &ModelConfig, model: Vec<(String, Py)>) -> Py {
    let mut model_args = sizes(config);
    model_args.push((text("bias"), Py::Bool(config.bias)));
    model_args.push((text("dropout"), Py::Float(config.dropout)));
    Py::Dict(vec![
        (text("model"), Py::StateDict(model)),
        (text("model_args"), Py::Dict(model_args)),
        (text("iter_num"), Py::Int(7)),
        (text("config"), Py::Dict(vec![(text("dataset"), text("shakespeare_char"))])),
    ])
}

/// Writes what nanoGPT writes.
pub(crate) fn save_nano_gpt(path: &Path, config: &ModelConfig, weights: &NamedTensors) {
    let (mut model, storages) = state_dict(&as_torch(weights), "transformer.");
    let wte = model.iter().find(|(name, _)| name == "transformer.wte.weight").unwrap().1.clone();
    model.push(("lm_head.weight".into(), wte));
    save(path, &nano_gpt(config, model), &storages);
}
