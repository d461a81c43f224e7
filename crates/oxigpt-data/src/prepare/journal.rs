//! What a preparation needs to go on where it stopped: how far it is, and what its inputs were. It stands in the staging
//! directory and is replaced after all that it speaks of is safe on the disk.

use std::io::{ErrorKind, Write};
use std::path::Path;
use std::time::UNIX_EPOCH;

use fs_err as fs;
use serde::{Deserialize, Serialize};

use super::block::Position;
use super::source::{Input, Place};
use super::staged::sha256_of;
use crate::error::{PrepareError, Result};
use crate::manifest::ShardInfo;
use crate::shard::TokenWidth;
use crate::shard_writer::write_atomically;

/// The name of the file.
pub(crate) const JOURNAL: &str = ".journal.json";

/// What has been done. Everything about the split `s` stands at `[s as usize]`.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// Where the next block begins.
    pub(crate) at: Position,
    pub(crate) documents: u64,
    pub(crate) empty_documents: u64,
    /// Tokens in all shards, of which only the last is not full.
    pub(crate) tokens: [u64; 2],
    /// Bytes of text that they stand for.
    pub(crate) bytes: [u64; 2],
}

/// The file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Journal {
    /// What was asked for, so that nothing else goes on from here.
    pub(crate) request: String,
    pub(crate) width: TokenWidth,
    pub(crate) mark: Mark,
    /// The last mark between two inputs.
    pub(crate) whole: Mark,
    /// The full shards.
    pub(crate) shards: [Vec<ShardInfo>; 2],
    /// SHA-256 of the shards that are not, up to the mark.
    pub(crate) open: [String; 2],
    /// The inputs that have been used.
    pub(crate) inputs: Vec<Option<InputState>>,
}

/// How an input was when it was used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InputState {
    pub(crate) bytes: u64,
    /// When it was changed last, in nanoseconds since 1970.
    pub(crate) modified: Option<u64>,
    pub(crate) sha256: Option<String>,
}

impl InputState {
    /// How a file is now.
    pub(crate) fn of(path: &Path) -> Result<InputState> {
        let metadata = fs::metadata(path)?;
        let since = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let modified = since.and_then(|since| u64::try_from(since.as_nanos()).ok());
        Ok(InputState { bytes: metadata.len(), modified, sha256: None })
    }

    /// How a file is now, with its checksum where nothing else tells whether it is the same.
    fn compared(&self, path: &Path) -> Result<InputState> {
        let now = InputState::of(path)?;
        if self.sha256.is_none() || self.bytes != now.bytes || !self.differs(&now) {
            return Ok(now);
        }
        Ok(InputState { sha256: Some(sha256_of(&mut fs::File::open(path)?)?), ..now })
    }

    /// Whether `now` is another state of the file: one with another checksum where both are known, or else one with
    /// another length or time, as far as that is known.
    pub(crate) fn differs(&self, now: &InputState) -> bool {
        match (&self.sha256, &now.sha256) {
            (Some(before), Some(now)) => before != now,
            _ => self.bytes != now.bytes || self.modified.zip(now.modified).is_some_and(|(a, b)| a != b),
        }
    }
}

impl Journal {
    /// The journal in a staging directory, if there is one that can be read.
    pub(crate) fn read(staging: &Path) -> Option<Journal> {
        serde_json::from_slice(&fs::read(staging.join(JOURNAL)).ok()?).ok()
    }

    /// Replaces the journal in a staging directory.
    pub(crate) fn write(&self, staging: &Path) -> Result<()> {
        let bytes = serde_json::to_vec(self).expect("plain data has no way to fail");
        Ok(write_atomically(&staging.join(JOURNAL), |file| file.write_all(&bytes))?)
    }

    /// Removes the journal in a staging directory, if there is one: there is nothing to go on from.
    pub(crate) fn remove(staging: &Path) -> Result<()> {
        match fs::remove_file(staging.join(JOURNAL)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// That no input that has been used is another one now. One with another time alone is the same where its checksum,
    /// if that is known, says so.
    pub(crate) fn check(&mut self, inputs: &[Input]) -> Result<()> {
        for (input, before) in inputs.iter().zip(&mut self.inputs) {
            let Some(before) = before else { continue };
            let now = match (&input.place, &input.sha256) {
                (_, Some(_)) => {
                    InputState { bytes: input.bytes, modified: None, sha256: input.sha256.clone() }
                }
                (Place::File(path), None) => before.compared(path)?,
                _ => continue,
            };
            if before.differs(&now) {
                return Err(PrepareError::InputChanged { name: input.name.clone() }.into());
            }
            before.modified = now.modified;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    /// Another time alone, another content of the same length, and the same where no checksum was known.
    #[test]
    fn what_an_input_says_counts_more_than_its_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        let set = |text: &str, seconds| {
            fs::write(&path, text).unwrap();
            let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        };
        set("the cat", 1);
        let sha256 = Some(sha256_of(&mut "the cat".as_bytes()).unwrap());
        let known = InputState { sha256, ..InputState::of(&path).unwrap() };
        let is_same = |before: &InputState| {
            let mut journal = Journal { inputs: vec![Some(before.clone())], ..Journal::nothing() };
            let checked = journal.check(&[Input::file(&path)]);
            let now = InputState::of(&path).unwrap();
            // Who reads it from now on sees no change.
            assert!(checked.is_err() || !journal.inputs[0].as_ref().unwrap().differs(&now));
            checked.is_ok()
        };
        let unknown = InputState { sha256: None, ..known.clone() };
        assert!(is_same(&known) && is_same(&unknown));
        set("the cat", 2);
        assert!(is_same(&known) && !is_same(&unknown));
        set("the mat", 3);
        assert!(!is_same(&known) && !is_same(&unknown));
    }

    impl Journal {
        fn nothing() -> Journal {
            Journal {
                request: String::new(),
                width: TokenWidth::for_vocab(2),
                mark: Mark::default(),
                whole: Mark::default(),
                shards: Default::default(),
                open: Default::default(),
                inputs: Vec::new(),
            }
        }
    }
}
