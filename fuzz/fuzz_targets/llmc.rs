//! llm.c models: whatever the header says and however long the file is, it is refused in words, or is written again
//! as it was.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use oxigpt_model::{Precision, Pretrained, TensorSource, open_pretrained, save_llmc};
use tempfile::TempDir;

static DIR: LazyLock<TempDir> = LazyLock::new(|| TempDir::new().expect("a temporary directory"));

/// More bytes than this are left out.
const MAX_BYTES: usize = 1 << 16;

/// Bytes of the weights of a model with these positions, words, blocks, heads, width and padded words.
fn weights_len(version: i32, sizes: [i32; 6]) -> Option<usize> {
    let [t, _, l, _, c, vp] = sizes.map(|size| usize::try_from(size).ok());
    let (t, l, c, vp) = (t?, l?, c?, vp?);
    let block = c.checked_mul(12)?.checked_add(13)?.checked_mul(c)?;
    let embeddings = vp.checked_add(t)?.checked_add(2)?.checked_mul(c)?;
    let elements = l.checked_mul(block)?.checked_add(embeddings)?;
    elements.checked_mul(if version == 5 { 2 } else { 4 })
}

/// Version and sizes, which are small where `small` says so; bytes more than there should be; weights to repeat.
fuzz_target!(|file: (bool, i32, [i32; 6], bool, u8, &[u8])| {
    let (known, version, sizes, small, surplus, weights) = file;
    let version = if known { 3 + 2 * (version & 1) } else { version };
    let sizes = if small { sizes.map(|size| size & 15) } else { sizes };
    let numbers = [20240326, version].into_iter().chain(sizes);
    let mut bytes: Vec<u8> = numbers.flat_map(i32::to_le_bytes).collect();
    bytes.resize(1024, 0);
    let len = weights_len(version, sizes).unwrap_or(0).min(MAX_BYTES) + usize::from(surplus >> 6);
    bytes.extend(weights.iter().copied().chain([0]).cycle().take(len));
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
