//! Weights: whatever the bytes are, a file or a model directory is refused in words, or every tensor can be read.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use oxigpt_model::{TensorSource, load_pretrained, map_tensors};
use tempfile::TempDir;

static DIR: LazyLock<TempDir> = LazyLock::new(|| TempDir::new().expect("a temporary directory"));

fn read_all(tensors: &impl TensorSource) {
    for (name, shape) in tensors.shapes() {
        let values = tensors.read(&name).expect("a tensor of its own list");
        assert_eq!(values.len(), shape.iter().product::<usize>());
    }
}

fuzz_target!(|files: (&[u8], &[u8])| {
    let (config, weights) = files;
    let write = |name, bytes| fs_err::write(DIR.path().join(name), bytes).expect("room for a file");
    write("config.json", config);
    write("model.safetensors", weights);
    if let Ok(tensors) = map_tensors(DIR.path().join("model.safetensors")) {
        read_all(&tensors);
    }
    if let Ok((config, tensors)) = load_pretrained(DIR.path()) {
        config.validate().expect("what was loaded is valid");
        read_all(&tensors);
    }
});
