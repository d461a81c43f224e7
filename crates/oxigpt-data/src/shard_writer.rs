//! Writes a shard in llm.c's layout, so that a crash or a full disk at any instant leaves either no file or all of it.

use std::io::{self, Write};
use std::path::Path;

use fs_err as fs;
use sha2::{Digest, Sha256};

use crate::error::Result;
use crate::manifest::ShardInfo;
use crate::shard::{HEADER_BYTES, TokenWidth, hex};

/// Tokens that are turned into bytes in one go.
const CHUNK: usize = 1 << 16;

/// Writes `tokens` to `path` in llm.c's layout: into a temporary file in the same directory, synced, then renamed.
///
/// # Errors
/// If a token does not fit into `width`, or the file cannot be written; then `path` is as it was before.
pub fn write_shard(path: &Path, tokens: &[u32], width: TokenWidth) -> Result<ShardInfo> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let sha256 = write_atomically(path, |file| write_tokens(file, tokens, width))?;
    Ok(ShardInfo { file: name, tokens: tokens.len() as u64, sha256 })
}

/// Creates or replaces `path` with what `write` writes, all of it or nothing.
pub(crate) fn write_atomically<T>(
    path: &Path,
    write: impl FnOnce(&mut fs::File) -> io::Result<T>,
) -> io::Result<T> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".tmp");
    let temporary = path.with_file_name(name);
    let result = write_synced(&temporary, write).and_then(|value| {
        fs::rename(&temporary, path)?;
        sync_dir(path.parent().unwrap_or(Path::new(".")))?;
        Ok(value)
    });
    if result.is_err() {
        // The error that matters is the one we have; a leftover under the temporary name is never read.
        let _ = fs::remove_file(&temporary);
    }
    result
}

fn write_synced<T>(path: &Path, write: impl FnOnce(&mut fs::File) -> io::Result<T>) -> io::Result<T> {
    let mut file = fs::File::create(path)?;
    let value = write(&mut file)?;
    file.sync_all()?;
    Ok(value)
}

/// Makes renames within a directory survive a power cut, where directories can be synced at all.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    if cfg!(unix) { fs::File::open(dir)?.sync_all() } else { Ok(()) }
}

/// llm.c's header of a shard of so many tokens.
pub(crate) fn header(width: TokenWidth, tokens: u64) -> io::Result<Vec<u8>> {
    let count = i32::try_from(tokens).map_err(|_| invalid("a shard holds at most 2^31 - 1 tokens"))?;
    let (magic, version) = width.magic();
    let mut bytes: Vec<u8> = [magic, version, count].iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.resize(HEADER_BYTES, 0);
    Ok(bytes)
}

/// Appends tokens as they stand in a shard.
pub(crate) fn push_tokens(bytes: &mut Vec<u8>, tokens: &[u32], width: TokenWidth) {
    match width {
        TokenWidth::U16 => bytes.extend(tokens.iter().flat_map(|&token| (token as u16).to_le_bytes())),
        TokenWidth::U32 => bytes.extend(tokens.iter().flat_map(|&token| token.to_le_bytes())),
    }
}

fn invalid(problem: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, problem)
}

/// Writes header and tokens; returns the SHA-256 of both.
fn write_tokens(out: &mut impl Write, tokens: &[u32], width: TokenWidth) -> io::Result<String> {
    if width == TokenWidth::U16 && tokens.iter().max() > Some(&u32::from(u16::MAX)) {
        return Err(invalid("a token does not fit into two bytes"));
    }
    let mut bytes = header(width, tokens.len() as u64)?;
    let mut hasher = Sha256::new();
    for chunk in tokens.chunks(CHUNK) {
        push_tokens(&mut bytes, chunk, width);
        hasher.update(&bytes);
        out.write_all(&bytes)?;
        bytes.clear();
    }
    Ok(hex(&hasher.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct FullDisk(usize);

    impl Write for FullDisk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.0 < bytes.len() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.0 -= bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_leaves_the_old_file_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("train_000000.bin");
        write_shard(&path, &[1, 2, 3], TokenWidth::U16).unwrap();
        let before = fs::read(&path).unwrap();
        let tokens = vec![7; 3 * CHUNK];
        let result = write_atomically(&path, |file| {
            file.write_all(b"half")?;
            write_tokens(&mut FullDisk(2 * CHUNK * 2), &tokens, TokenWidth::U16)
        });
        let error = crate::Error::from(result.unwrap_err());
        assert!(error.hint().unwrap().contains("free some disk space"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), before);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
