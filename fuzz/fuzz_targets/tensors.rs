//! Weights: whatever the bytes are, a file or a model directory is refused in words, or every tensor can be read.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use oxigpt_model::{Pretrained, TensorSource, map_tensors, open_pretrained};
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
    if let Ok(Pretrained { config, weights, .. }) = open_pretrained(DIR.path()) {
        config.validate().expect("what was opened is valid");
        read_all(&weights);
    }
});
