//! One file of tokens, memory-mapped, in any of the three layouts in use: llm.c's (ours too), nanoGPT's headerless
//! one, NumPy's. The header is checked when the file is opened, against the file's exact length; the tokens are
//! checked by [`Shard::validate`], since that reads all of them.
//!
//! A limit that comes with memory maps: a shard must not be cut short in place while it is open. Reading a page behind
//! its new end kills the process (SIGBUS on Unix), without a message; so does a disk that fails or goes away. Replacing a
//! shard by a rename, as our own preparation does, is safe: who has the old file open goes on reading the old file.

use std::path::{Path, PathBuf};

use fs_err as fs;
use memmap2::Mmap;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Result, ShardError};
use crate::npy;

/// Bytes of llm.c's header: 256 little-endian int32, of which magic, version and token count are used.
pub(crate) const HEADER_BYTES: usize = 1024;
/// Tokens that are checked in one go.
const SCAN: usize = 1 << 16;

/// How many bytes a token takes on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TokenWidth {
    /// Two bytes, for vocabularies of up to 65,536 tokens.
    U16,
    /// Four bytes.
    U32,
}

impl TokenWidth {
    /// The narrowest width that holds every token of a vocabulary.
    pub fn for_vocab(vocab_size: usize) -> Self {
        if vocab_size <= 1 << 16 { TokenWidth::U16 } else { TokenWidth::U32 }
    }

    /// Bytes per token.
    pub fn bytes(self) -> usize {
        match self {
            TokenWidth::U16 => 2,
            TokenWidth::U32 => 4,
        }
    }

    /// Magic number and version that llm.c gives to shards of this width.
    pub(crate) fn magic(self) -> (i32, i32) {
        match self {
            TokenWidth::U16 => (20_240_520, 1),
            TokenWidth::U32 => (20_240_801, 7),
        }
    }
}

/// A file of tokens that can be read at any position.
#[derive(Debug)]
pub struct Shard {
    path: PathBuf,
    map: Mmap,
    data_offset: usize,
    width: TokenWidth,
    len: u64,
}

impl Shard {
    /// Opens a shard. llm.c's and NumPy's layouts are told by their first bytes; a file without either is taken for
    /// nanoGPT's 2-byte tokens if it is named `train.bin` or `val.bin`.
    ///
    /// # Errors
    /// If the file cannot be read, is none of the three, or is not exactly as long as its header says.
    pub fn open(path: &Path) -> Result<Shard> {
        // Looked at first, because opening a pipe would wait for its writer.
        let metadata = fs::metadata(path)?;
        if !metadata.is_file() {
            let found = if metadata.is_dir() { "a directory" } else { "not a regular file" };
            return Err(ShardError::ShardNotFile { path: path.into(), found }.into());
        }
        let file = fs::File::open(path)?;
        if file.metadata()?.len() == 0 {
            return Err(ShardError::EmptyShard { path: path.into() }.into());
        }
        // SAFETY: the map is only ever read, as plain bytes of which any value is valid. Another process that
        // changes the file while it is mapped could change what we read or, by truncating it, kill this process;
        // shards are written beside their final name and renamed, so ours never change once they can be opened.
        let map = unsafe { Mmap::map(file.file()) }
            .map_err(|error| std::io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
        let (data_offset, width, len) = layout(path, &map)?;
        if len == 0 {
            return Err(ShardError::EmptyShard { path: path.into() }.into());
        }
        Ok(Shard { path: path.into(), map, data_offset, width, len })
    }

    /// Number of tokens; at least 1.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Where the shard is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes per token.
    pub fn width(&self) -> TokenWidth {
        self.width
    }

    /// Copies the tokens from `start` on into `out`.
    ///
    /// # Panics
    /// If the shard ends before `out` is full.
    pub fn read(&self, start: u64, out: &mut [u32]) {
        let bytes = self.token_bytes(start, out.len());
        match self.width {
            TokenWidth::U16 => {
                let tokens = bytes.as_chunks::<2>().0.iter().map(|&b| u32::from(u16::from_le_bytes(b)));
                out.iter_mut().zip(tokens).for_each(|(out, token)| *out = token);
            }
            TokenWidth::U32 => {
                let tokens = bytes.as_chunks::<4>().0.iter().map(|&b| u32::from_le_bytes(b));
                out.iter_mut().zip(tokens).for_each(|(out, token)| *out = token);
            }
        }
    }

    /// Reads every token, at the speed of memory, and checks that it is in the vocabulary.
    ///
    /// # Errors
    /// [`crate::ShardError::TokenOutOfVocab`] with the first token that is not.
    pub fn validate(&self, vocab_size: usize) -> Result<()> {
        if self.width == TokenWidth::U16 && vocab_size > usize::from(u16::MAX) {
            return Ok(());
        }
        self.chunks().try_for_each(|(start, chunk)| self.check_chunk(start, chunk, vocab_size))
    }

    /// [`Shard::validate`] and [`Shard::verify`] in one pass. Damage is what is reported where both fail, since it
    /// explains the token.
    pub(crate) fn validate_and_verify(&self, vocab_size: usize, sha256: &str) -> Result<()> {
        let mut hasher = Sha256::new();
        hasher.update(&self.map[..self.data_offset]);
        let mut tokens = Ok(());
        for (start, chunk) in self.chunks() {
            hasher.update(chunk);
            if tokens.is_ok() {
                tokens = self.check_chunk(start, chunk, vocab_size);
            }
        }
        self.compare(sha256, hex(&hasher.finalize())).and(tokens)
    }

    /// Reads the whole file and checks that it has this SHA-256.
    pub(crate) fn verify(&self, sha256: &str) -> Result<()> {
        self.compare(sha256, self.sha256())
    }

    fn compare(&self, expected: &str, found: String) -> Result<()> {
        if found == expected {
            return Ok(());
        }
        Err(ShardError::Checksum { path: self.path.clone(), expected: expected.into(), found }.into())
    }

    /// The bytes of the tokens in pieces that stay in a core's cache, each with the position of its first token.
    fn chunks(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let chunks = self.map[self.data_offset..].chunks(SCAN * self.width.bytes());
        chunks.enumerate().map(|(index, chunk)| ((index * SCAN) as u64, chunk))
    }

    fn check_chunk(&self, start: u64, chunk: &[u8], vocab_size: usize) -> Result<()> {
        if (max_token(self.width, chunk) as usize) < vocab_size {
            return Ok(());
        }
        let mut tokens = vec![0; chunk.len() / self.width.bytes()];
        self.read(start, &mut tokens);
        let found = tokens.iter().zip(start..).find(|&(&token, _)| token as usize >= vocab_size);
        let (&token, position) = found.expect("the chunk's maximum is one of its tokens");
        Err(ShardError::TokenOutOfVocab { path: self.path.clone(), position, token, vocab_size }.into())
    }

    /// Length of the whole file.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.map.len() as u64
    }

    /// SHA-256 of the whole file, header included, in hexadecimal.
    pub fn sha256(&self) -> String {
        hex(&Sha256::digest(&self.map))
    }

    /// The bytes of `count` tokens from `start` on.
    pub(crate) fn token_bytes(&self, start: u64, count: usize) -> &[u8] {
        assert!(
            start.checked_add(count as u64).is_some_and(|end| end <= self.len),
            "{} holds {} tokens; {count} were read from {start} on",
            self.path.display(),
            self.len
        );
        let first = self.data_offset + start as usize * self.width.bytes();
        &self.map[first..first + count * self.width.bytes()]
    }
}

/// Offset of the tokens, their width and their number, as the first bytes of the file say.
fn layout(path: &Path, bytes: &[u8]) -> Result<(usize, TokenWidth, u64)> {
    if bytes.starts_with(npy::MAGIC) || path.extension().is_some_and(|e| e.eq_ignore_ascii_case("npy")) {
        return npy_layout(path, bytes);
    }
    let magic = bytes.first_chunk().map(|word| i32::from_le_bytes(*word));
    let widths = [TokenWidth::U16, TokenWidth::U32];
    if let Some(width) = widths.into_iter().find(|width| magic == Some(width.magic().0)) {
        return llmc_layout(path, bytes, width);
    }
    if !path.file_name().is_some_and(|name| name == "train.bin" || name == "val.bin") {
        return Err(ShardError::UnknownShard { path: path.into() }.into());
    }
    if bytes.len() % 2 == 1 {
        return Err(ShardError::OddLength { path: path.into(), bytes: bytes.len() as u64 }.into());
    }
    Ok((0, TokenWidth::U16, bytes.len() as u64 / 2))
}

fn llmc_layout(path: &Path, bytes: &[u8], width: TokenWidth) -> Result<(usize, TokenWidth, u64)> {
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
        check_length(path, HEADER_BYTES as u64, bytes)?;
        return Err(ShardError::EmptyShard { path: path.into() }.into());
    };
    let word = |i: usize| i32::from_le_bytes([0, 1, 2, 3].map(|b| header[4 * i + b]));
    let (_, expected) = width.magic();
    if word(1) != expected {
        return Err(ShardError::ShardVersion { path: path.into(), found: word(1), expected }.into());
    }
    // A negative count is read as the large number that it then is, and fails the check of the length.
    let len = u64::from(word(2) as u32);
    check_length(path, HEADER_BYTES as u64 + len * width.bytes() as u64, bytes)?;
    Ok((HEADER_BYTES, width, len))
}

fn npy_layout(path: &Path, bytes: &[u8]) -> Result<(usize, TokenWidth, u64)> {
    let header = npy::parse(bytes).map_err(|problem| ShardError::Npy { path: path.into(), problem })?;
    let end = header.len.saturating_mul(header.width.bytes() as u64).saturating_add(header.data_offset);
    check_length(path, end, bytes)?;
    Ok((header.data_offset as usize, header.width, header.len))
}

fn check_length(path: &Path, expected: u64, bytes: &[u8]) -> Result<()> {
    let found = bytes.len() as u64;
    if found == expected {
        return Ok(());
    }
    Err(ShardError::ShardLength { path: path.into(), expected, found }.into())
}

fn max_token(width: TokenWidth, bytes: &[u8]) -> u32 {
    match width {
        TokenWidth::U16 => {
            u32::from(bytes.as_chunks::<2>().0.iter().fold(0, |max, &b| u16::from_le_bytes(b).max(max)))
        }
        TokenWidth::U32 => bytes.as_chunks::<4>().0.iter().fold(0, |max, &b| u32::from_le_bytes(b).max(max)),
    }
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
