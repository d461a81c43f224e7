//! What is expensive to find out and stays true, kept on disk: compiled kernels, and the fastest algorithm of a product.
//!
//! An entry is named by the hash of all that it depends on, and begins with the hash of its content: one that is
//! damaged counts as absent. A cache that cannot be written is no error; it only costs time again.

use std::io::Write;
use std::path::PathBuf;

use fs_err as fs;
use sha2::{Digest, Sha256};

/// Bytes of a hash.
const HASH_BYTES: usize = 32;

/// A directory of entries, or none.
pub(super) struct Cache {
    dir: Option<PathBuf>,
}

impl Cache {
    /// A cache in a directory, made when it is first written to; without one, nothing is kept.
    pub(super) fn new(dir: Option<PathBuf>) -> Cache {
        Cache { dir }
    }

    /// The entry of `key`, or what `make` gives, which is then kept.
    pub(super) fn get_or_make<E>(
        &self,
        key: &[&str],
        make: impl FnOnce() -> Result<Vec<u8>, E>,
    ) -> Result<Vec<u8>, E> {
        let Some(path) = self.dir.as_ref().map(|dir| dir.join(name_of(key))) else { return make() };
        let stored = fs::read(&path).ok();
        if let Some(content) = stored.as_deref().and_then(checked) {
            return Ok(content.to_vec());
        }
        let content = make()?;
        // Who cannot keep it makes it again.
        let _ = store(&path, &content);
        Ok(content)
    }
}

/// Writes an entry beside its name and then renames it, so that no other process sees half of one.
fn store(path: &std::path::Path, content: &[u8]) -> std::io::Result<()> {
    let dir = path.parent().unwrap_or(path);
    fs::create_dir_all(dir)?;
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(&Sha256::digest(content))?;
    file.write_all(content)?;
    file.persist(path)?;
    Ok(())
}

/// The content of an entry, if it is whole.
fn checked(entry: &[u8]) -> Option<&[u8]> {
    let (hash, content) = entry.split_at_checked(HASH_BYTES)?;
    (Sha256::digest(content)[..] == *hash).then_some(content)
}

fn name_of(key: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in key {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(content: &[u8]) -> Result<Vec<u8>, ()> {
        Ok(content.to_vec())
    }

    fn not_made() -> Result<Vec<u8>, ()> {
        Err(())
    }

    #[test]
    fn an_entry_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(Some(dir.path().join("kernels")));
        assert_eq!(cache.get_or_make(&["a", "b"], || made(b"cubin")), made(b"cubin"));
        assert_eq!(cache.get_or_make(&["a", "b"], not_made), made(b"cubin"));
        assert_eq!(cache.get_or_make(&["ab"], not_made), Err(()), "another key");
    }

    #[test]
    fn a_damaged_entry_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(Some(dir.path().into()));
        cache.get_or_make(&["a"], || made(b"cubin")).unwrap();
        let path = dir.path().join(name_of(&["a"]));
        for damaged in [&b""[..], b"short", &[0; 40]] {
            fs::write(&path, damaged).unwrap();
            assert_eq!(cache.get_or_make(&["a"], || made(b"again")), made(b"again"));
            assert_eq!(cache.get_or_make(&["a"], not_made), made(b"again"));
        }
    }

    #[test]
    fn a_cache_that_cannot_be_written_keeps_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "in the way").unwrap();
        for cache in [Cache::new(None), Cache::new(Some(file))] {
            assert_eq!(cache.get_or_make(&["a"], || made(b"cubin")), made(b"cubin"));
            assert_eq!(cache.get_or_make(&["a"], not_made), Err(()));
        }
    }
}
