//! The shards of a preparation while they are made. Tokens are appended to files in the staging directory, so that a
//! shard may be of any size; a file begins with the header that it has when it is full, and only the last of a split gets
//! another. What is in the files beyond the last saved mark is cut off when a preparation goes on, and what is before it
//! is compared with its checksums.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use fs_err as fs;
use sha2::{Digest, Sha256};

use super::journal::{Journal, Mark};
use super::{Progress, Stage, Watch};
use crate::dataset::Split;
use crate::error::{Error, PrepareError, Result};
use crate::manifest::{ShardInfo, SplitInfo};
use crate::shard::{HEADER_BYTES, TokenWidth, hex};
use crate::shard_writer::{header, push_tokens};

/// Two rows of shards under way.
pub(crate) struct Staged {
    dir: PathBuf,
    pub(crate) width: TokenWidth,
    shard_tokens: u64,
    pub(crate) mark: Mark,
    /// The full shards.
    pub(crate) shards: [Vec<ShardInfo>; 2],
    /// The last shard of each split, if it is not full.
    open: [Option<Open>; 2],
    bytes: Vec<u8>,
}

/// A shard that is not full.
struct Open {
    file: fs::File,
    /// Has seen what is in the file.
    hasher: Sha256,
}

impl Staged {
    /// No shards, in an empty directory.
    pub(crate) fn new(dir: &Path, width: TokenWidth, shard_tokens: u64) -> Staged {
        Staged {
            dir: dir.into(),
            width,
            shard_tokens,
            mark: Mark::default(),
            shards: [Vec::new(), Vec::new()],
            open: [None, None],
            bytes: Vec::new(),
        }
    }

    /// Goes on from what a journal says, if the shards are still what it says.
    pub(crate) fn resume(
        dir: &Path,
        shard_tokens: u64,
        journal: &Journal,
        watch: Watch<'_>,
    ) -> Result<Staged> {
        let full = journal.shards.iter().flatten().map(|shard| (dir.join(&shard.file), shard));
        verify(&full.collect::<Vec<_>>(), journal.width, watch)?;
        let mut staged = Staged::new(dir, journal.width, shard_tokens);
        staged.shards = journal.shards.clone();
        staged.back_to(journal.mark)?;
        let found = staged.checksums();
        match Split::BOTH.into_iter().find(|&split| found[split as usize] != journal.open[split as usize]) {
            None => Ok(staged),
            Some(split) => Err(PrepareError::Damaged { path: staged.last(split) }.into()),
        }
    }

    /// Goes back to how things were at a mark: what is beyond it is removed.
    pub(crate) fn back_to(&mut self, mark: Mark) -> Result<()> {
        for split in Split::BOTH {
            let (full, left) = (
                mark.tokens[split as usize] / self.shard_tokens,
                mark.tokens[split as usize] % self.shard_tokens,
            );
            self.shards[split as usize].truncate(full as usize);
            let mut extra = full + u64::from(left > 0);
            while fs::remove_file(self.dir.join(name(split, extra))).is_ok() {
                extra += 1;
            }
            self.open[split as usize] = match left {
                0 => None,
                left => Some(self.reopened(&self.dir.join(name(split, full)), left)?),
            };
        }
        self.mark = mark;
        Ok(())
    }

    /// A shard of which only the first tokens are wanted.
    fn reopened(&self, path: &Path, tokens: u64) -> Result<Open> {
        let header = header(self.width, self.shard_tokens)?;
        let file = fs::OpenOptions::new().write(true).read(true).open(path);
        let mut file = file.map_err(|error| damaged(path, error))?;
        file.write_all(&header)?;
        let len = tokens * self.width.bytes() as u64;
        let mut hasher = Sha256::new_with_prefix(header);
        update(&mut hasher, &mut (&mut file).take(len))?;
        file.set_len(HEADER_BYTES as u64 + len)?;
        file.seek(SeekFrom::End(0))?;
        Ok(Open { file, hasher })
    }

    /// Checksums of the shards that are not full; empty where there is none.
    pub(crate) fn checksums(&self) -> [String; 2] {
        let checksum = |open: &Open| hex(&open.hasher.clone().finalize());
        self.open.each_ref().map(|open| open.as_ref().map_or(String::new(), checksum))
    }

    /// Where the last shard of a split is.
    fn last(&self, split: Split) -> PathBuf {
        self.dir.join(name(split, self.mark.tokens[split as usize] / self.shard_tokens))
    }

    /// Tokens that still fit into the last shard of a split.
    pub(crate) fn room(&self, split: Split) -> u64 {
        self.shard_tokens - self.mark.tokens[split as usize] % self.shard_tokens
    }

    /// Appends tokens to a split, across the ends of shards; between two of them, `pause` may stop it.
    pub(crate) fn append(
        &mut self,
        split: Split,
        mut tokens: &[u32],
        pause: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        while !tokens.is_empty() {
            let (now, later) = tokens.split_at(tokens.len().min(self.room(split) as usize));
            self.bytes.clear();
            push_tokens(&mut self.bytes, now, self.width);
            let bytes = std::mem::take(&mut self.bytes);
            let open = self.open(split)?;
            open.hasher.update(&bytes);
            open.file.write_all(&bytes)?;
            self.bytes = bytes;
            self.mark.tokens[split as usize] += now.len() as u64;
            if self.mark.tokens[split as usize].is_multiple_of(self.shard_tokens) {
                self.fill(split)?;
                pause()?;
            }
            tokens = later;
        }
        Ok(())
    }

    /// The last shard of a split, which is begun where the one before is full.
    fn open(&mut self, split: Split) -> Result<&mut Open> {
        let path = self.last(split);
        let slot = &mut self.open[split as usize];
        match slot {
            Some(open) => Ok(open),
            None => {
                let mut file =
                    fs::OpenOptions::new().write(true).read(true).create(true).truncate(true).open(path)?;
                let header = header(self.width, self.shard_tokens)?;
                file.write_all(&header)?;
                Ok(slot.insert(Open { file, hasher: Sha256::new_with_prefix(header) }))
            }
        }
    }

    /// Closes a shard that is full.
    fn fill(&mut self, split: Split) -> Result<()> {
        let Some(Open { file, hasher }) = self.open[split as usize].take() else { return Ok(()) };
        file.sync_all()?;
        self.add(split, self.shard_tokens, hex(&hasher.finalize()));
        Ok(())
    }

    /// Closes the last shard of a split, whose header says how many tokens it has.
    fn finish(&mut self, split: Split) -> Result<()> {
        let Some(Open { mut file, .. }) = self.open[split as usize].take() else { return Ok(()) };
        let tokens = self.mark.tokens[split as usize] % self.shard_tokens;
        file.rewind()?;
        file.write_all(&header(self.width, tokens)?)?;
        file.sync_all()?;
        file.rewind()?;
        let sha256 = sha256_of(&mut file)?;
        self.add(split, tokens, sha256);
        Ok(())
    }

    fn add(&mut self, split: Split, tokens: u64, sha256: String) {
        let shards = &mut self.shards[split as usize];
        shards.push(ShardInfo { file: name(split, shards.len() as u64), tokens, sha256 });
    }

    /// Makes all that has been appended safe on the disk.
    pub(crate) fn sync(&self) -> Result<()> {
        self.open.iter().flatten().try_for_each(|open| Ok(open.file.sync_data()?))
    }

    /// Finishes the last shards, and says what each split holds.
    pub(crate) fn end(mut self) -> Result<[SplitInfo; 2]> {
        for split in Split::BOTH {
            self.finish(split)?;
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

/// Compares shards with their checksums.
pub(crate) fn verify(shards: &[(PathBuf, &ShardInfo)], width: TokenWidth, watch: Watch<'_>) -> Result<()> {
    let bytes = |shard: &ShardInfo| HEADER_BYTES as u64 + shard.tokens * width.bytes() as u64;
    let total = shards.iter().map(|(_, shard)| bytes(shard)).sum();
    let mut done = 0;
    for (path, shard) in shards {
        if watch(Progress { stage: Stage::Check, done, total }).is_break() {
            return Err(Error::Interrupted);
        }
        let mut file = fs::File::open(path).map_err(|error| damaged(path, error))?;
        if sha256_of(&mut file)? != shard.sha256 {
            return Err(PrepareError::Damaged { path: path.clone() }.into());
        }
        done += bytes(shard);
    }
    Ok(())
}

/// What it means that a file cannot be opened which must be there.
fn damaged(path: &Path, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound => PrepareError::Damaged { path: path.into() }.into(),
        _ => error.into(),
    }
}

/// SHA-256 in hexadecimal of what is left to read.
pub(crate) fn sha256_of(reader: &mut impl Read) -> io::Result<String> {
    let mut hasher = Sha256::new();
    update(&mut hasher, reader)?;
    Ok(hex(&hasher.finalize()))
}

fn update(hasher: &mut Sha256, reader: &mut impl Read) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 18];
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(()),
            count => hasher.update(&buffer[..count]),
        }
    }
}
