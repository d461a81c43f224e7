//! llm.c models: whatever the header says and however long the file is, it is refused in words, or is written again
//! as it was.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use oxigpt_model::{Pretrained, Precision, TensorSource, open_pretrained, save_llmc};
use tempfile::TempDir;

static DIR: LazyLock<TempDir> = LazyLock::new(|| TempDir::new().expect("a temporary directory"));

/// Version, the six sizes and the padded words; then the length to take, and weights to repeat.
fuzz_target!(|file: ([i32; 7], u16, &[u8])| {
    let (numbers, len, weights) = file;
    let mut bytes: Vec<u8> = [20240326].into_iter().chain(numbers).flat_map(i32::to_le_bytes).collect();
    bytes.resize(1024, 0);
    let rest = weights.iter().copied().chain([0]).cycle();
    bytes.extend(rest.take(usize::from(len)));
    let path = DIR.path().join("model.bin");
    fs_err::write(&path, bytes).expect("room for a file");
    if let Ok(Pretrained { config, weights, .. }) = open_pretrained(&path) {
        let again = DIR.path().join("again.bin");
        save_llmc(&again, &config, &weights, Precision::Float32).expect("what was read can be written");
        let again = open_pretrained(&again).expect("what was written can be read");
        assert_eq!(config, again.config);
        for (name, shape) in weights.shapes() {
            let bits = |source: &dyn TensorSource| -> Vec<u32> {
                source.read(&name).expect("a tensor of its own list").iter().map(|x| x.to_bits()).collect()
            };
            assert_eq!(bits(&weights).len(), shape.iter().product::<usize>());
            assert_eq!(bits(&weights), bits(&again.weights));
        }
    }
});
