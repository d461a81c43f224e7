//! Token files: whatever the bytes are, a shard is refused in words or can be read to its end.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use oxigpt_data::Shard;
use tempfile::TempDir;

/// Names, because a file without a header is told by its name.
const NAMES: [&str; 4] = ["train.bin", "val.bin", "train_000000.bin", "train_000000.npy"];

static DIR: LazyLock<TempDir> = LazyLock::new(|| TempDir::new().expect("a temporary directory"));

fuzz_target!(|bytes: &[u8]| {
    for name in NAMES {
        let path: PathBuf = DIR.path().join(name);
        fs_err::write(&path, bytes).expect("room in the temporary directory");
        let Ok(shard) = Shard::open(&path) else { continue };
        let mut tokens = vec![0; shard.len() as usize];
        shard.read(0, &mut tokens);
        let vocab_size = 1 + tokens.iter().max().copied().unwrap_or(0) as usize;
        assert!(shard.validate(vocab_size).is_ok());
        assert!(shard.validate(vocab_size - 1).is_err());
        let mut last = [0];
        shard.read(shard.len() - 1, &mut last);
        assert_eq!(tokens.last(), last.first());
    }
});
