//! Checkpoints of torch: whatever the bytes are, or whatever the pickle in an archive with two storages is, they are
//! refused in words, or every tensor can be read.
#![no_main]

use std::io::Write;
use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use oxigpt_model::{Pretrained, TensorSource, open_pretrained};
use rawzip::ZipArchiveWriter;
use tempfile::TempDir;

static DIR: LazyLock<TempDir> = LazyLock::new(|| {
    let dir = TempDir::new().expect("a temporary directory");
    let config = r#"{"n_layer": 1, "n_head": 1, "n_embd": 2, "n_positions": 3, "vocab_size": 4}"#;
    fs_err::write(dir.path().join("config.json"), config).expect("room for a file");
    dir
});

fn open(bytes: &[u8]) {
    let path: PathBuf = DIR.path().join("ckpt.pt");
    fs_err::write(&path, bytes).expect("room for a file");
    match open_pretrained(path) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(Pretrained { config, weights, .. }) => {
            config.validate().expect("what was opened is valid");
            for (name, shape) in weights.shapes() {
                let values = weights.read(&name).expect("a tensor of its own list");
                assert_eq!(values.len(), shape.iter().product::<usize>());
            }
        }
    }
}

fn archive(pickle: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut archive = ZipArchiveWriter::new(Vec::new());
    for (name, bytes) in [("a/data.pkl", pickle), ("a/data/0", &[1; 64]), ("a/data/1", &[2; 7])] {
        let (mut entry, config) = archive.new_file(name).start().map_err(std::io::Error::other)?;
        let mut writer = config.wrap(&mut entry);
        writer.write_all(bytes)?;
        let (_, output) = writer.finish().map_err(std::io::Error::other)?;
        entry.finish(output).map_err(std::io::Error::other)?;
    }
    archive.finish().map_err(std::io::Error::other)
}

fuzz_target!(|bytes: &[u8]| {
    open(bytes);
    open(&archive(bytes).expect("an archive in memory"));
});
