//! The shards of a preparation while they are made. Tokens are appended to files in the staging directory, so that a
//! shard may be of any size; a file gets its header when it is full. What is in the files beyond the last saved mark is
//! cut off when a preparation goes on.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use fs_err as fs;
use sha2::{Digest, Sha256};

use super::journal::Mark;
use crate::dataset::Split;
use crate::error::Result;
use crate::manifest::{ShardInfo, SplitInfo};
use crate::shard::{HEADER_BYTES, TokenWidth, hex};
use crate::shard_writer::{header, push_tokens};

/// Two rows of shards under way.
pub(crate) struct Staged {
    dir: PathBuf,
    width: TokenWidth,
    shard_tokens: u64,
    pub(crate) mark: Mark,
    pub(crate) shards: [Vec<ShardInfo>; 2],
    /// The last shard of each split, if it is not full.
    open: [Option<fs::File>; 2],
    bytes: Vec<u8>,
}

impl Staged {
    /// Goes on from a mark in a directory; the first `tokens / shard_tokens` of the shards are full.
    pub(crate) fn resume(
        dir: &Path,
        width: TokenWidth,
        shard_tokens: u64,
        mark: Mark,
        mut shards: [Vec<ShardInfo>; 2],
    ) -> Result<Staged> {
        let mut open = [None, None];
        for split in Split::BOTH {
            let tokens = mark.tokens[split as usize];
            let full = tokens / shard_tokens;
            shards[split as usize].truncate(full as usize);
            let left = tokens % shard_tokens;
            let mut extra = full + u64::from(left > 0);
            while fs::remove_file(dir.join(name(split, extra))).is_ok() {
                extra += 1;
            }
            if left > 0 {
                let mut file =
                    fs::OpenOptions::new().write(true).read(true).open(dir.join(name(split, full)))?;
                let len = HEADER_BYTES as u64 + left * width.bytes() as u64;
                file.set_len(len)?;
                file.seek(SeekFrom::Start(len))?;
                open[split as usize] = Some(file);
            }
        }
        Ok(Staged { dir: dir.into(), width, shard_tokens, mark, shards, open, bytes: Vec::new() })
    }

    /// Tokens that still fit into the last shard of a split.
    pub(crate) fn room(&self, split: Split) -> u64 {
        self.shard_tokens - self.mark.tokens[split as usize] % self.shard_tokens
    }

    /// Appends tokens to a split, across the ends of shards.
    pub(crate) fn append(&mut self, split: Split, mut tokens: &[u32]) -> Result<()> {
        while !tokens.is_empty() {
            let (now, later) = tokens.split_at(tokens.len().min(self.room(split) as usize));
            self.bytes.clear();
            push_tokens(&mut self.bytes, now, self.width);
            let bytes = std::mem::take(&mut self.bytes);
            self.file(split)?.write_all(&bytes)?;
            self.bytes = bytes;
            self.mark.tokens[split as usize] += now.len() as u64;
            if self.mark.tokens[split as usize].is_multiple_of(self.shard_tokens) {
                self.finish(split, self.shard_tokens)?;
            }
            tokens = later;
        }
        Ok(())
    }

    /// The last shard of a split, which is begun where the one before is full.
    fn file(&mut self, split: Split) -> Result<&mut fs::File> {
        let slot = &mut self.open[split as usize];
        match slot {
            Some(file) => Ok(file),
            None => {
                let index = self.mark.tokens[split as usize] / self.shard_tokens;
                let path = self.dir.join(name(split, index));
                let mut options = fs::OpenOptions::new();
                let mut file = options.write(true).read(true).create(true).truncate(true).open(path)?;
                file.write_all(&[0; HEADER_BYTES])?;
                Ok(slot.insert(file))
            }
        }
    }

    /// Writes the header of the last shard of a split, and takes its checksum.
    fn finish(&mut self, split: Split, tokens: u64) -> Result<()> {
        let Some(mut file) = self.open[split as usize].take() else { return Ok(()) };
        file.rewind()?;
        file.write_all(&header(self.width, tokens)?)?;
        file.sync_all()?;
        file.rewind()?;
        let index = self.shards[split as usize].len() as u64;
        let sha256 = sha256_of(&mut file)?;
        self.shards[split as usize].push(ShardInfo { file: name(split, index), tokens, sha256 });
        Ok(())
    }

    /// Cuts the shards under way off at a mark. What is lost would not have counted; on a full disk, its room is needed to
    /// say so.
    pub(crate) fn cut_off(&self, mark: Mark) -> Result<()> {
        for split in Split::BOTH {
            let begins = self.shards[split as usize].len() as u64 * self.shard_tokens;
            let tokens = mark.tokens[split as usize].checked_sub(begins);
            if let (Some(file), Some(tokens)) = (&self.open[split as usize], tokens) {
                file.set_len(HEADER_BYTES as u64 + tokens * self.width.bytes() as u64)?;
            }
        }
        Ok(())
    }

    /// Makes all that has been appended safe on the disk.
    pub(crate) fn sync(&self) -> Result<()> {
        self.open.iter().flatten().try_for_each(|file| Ok(file.sync_data()?))
    }

    /// Finishes the last shards, and says what each split holds.
    pub(crate) fn end(mut self) -> Result<[SplitInfo; 2]> {
        for split in Split::BOTH {
            self.finish(split, self.mark.tokens[split as usize] % self.shard_tokens)?;
        }
        let Mark { tokens, bytes, .. } = self.mark;
        let mut shards = self.shards.into_iter();
        Ok([0, 1].map(|s| SplitInfo {
            tokens: tokens[s],
            bytes: bytes[s],
            shards: shards.next().unwrap_or_default(),
        }))
    }
}

/// The name of a shard.
fn name(split: Split, index: u64) -> String {
    format!("{}_{index:06}.bin", split.name())
}

/// SHA-256 in hexadecimal of what is left to read.
pub(crate) fn sha256_of(reader: &mut impl Read) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(hex(&hasher.finalize())),
            count => hasher.update(&buffer[..count]),
        }
    }
}
