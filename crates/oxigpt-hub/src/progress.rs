//! What a caller is told while something is downloaded, and how it says stop.

use std::ops::ControlFlow;
use std::time::Duration;

use crate::error::{Error, Result};

/// Called at the start and the end of each file, after each piece of it, and many times a second while waiting for
/// something other than the server's bytes. [`ControlFlow::Break`] stops the download; what has arrived of the file
/// stays for the next attempt.
pub type OnProgress<'a> = &'a mut dyn FnMut(&Progress<'_>) -> ControlFlow<()>;

/// How long the longest pause without a call to [`OnProgress`] is while waiting.
const TICK: Duration = Duration::from_millis(50);

/// How far a download has come.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress<'a> {
    /// The name of the file in its repository, or the name that it is saved under.
    pub file: &'a str,
    /// Index of the file among those to download, from 0.
    pub file_index: usize,
    /// Number of files to download; what is in the cache already does not count.
    pub files: usize,
    /// Bytes of the file that are on the disk.
    pub done: u64,
    /// Bytes of the whole file, where the server says so.
    pub total: Option<u64>,
    /// Bytes that an earlier attempt had left on the disk.
    pub resumed_from: u64,
    /// What is being done.
    pub stage: Stage<'a>,
}

/// What a download is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage<'a> {
    /// Bytes are coming in.
    Transfer,
    /// Another process, or another thread, downloads the same file; it is waited for.
    Locked,
    /// Something went wrong that may pass; it is tried again soon.
    Retry {
        /// What went wrong.
        cause: &'a str,
        /// Which attempt in a row has failed, from 1.
        attempt: u32,
        /// The whole pause before the next attempt.
        wait: Duration,
    },
}

/// The callback, and what to tell it.
pub(crate) struct Watch<'a> {
    on_progress: OnProgress<'a>,
    pub(crate) file: String,
    pub(crate) file_index: usize,
    pub(crate) files: usize,
    pub(crate) done: u64,
    pub(crate) total: Option<u64>,
    pub(crate) resumed_from: u64,
    /// Whether the cache would do if the hub does not answer; then there is no point in waiting long.
    pub(crate) has_fallback: bool,
}

impl<'a> Watch<'a> {
    pub(crate) fn new(on_progress: OnProgress<'a>, file: &str, files: usize) -> Watch<'a> {
        let file = file.to_string();
        let (done, total, resumed_from) = (0, None, 0);
        Watch { on_progress, file, file_index: 0, files, done, total, resumed_from, has_fallback: false }
    }

    /// Turns to the file at `index` of those that are downloaded together.
    pub(crate) fn turn_to(&mut self, file: &str, index: usize) {
        self.file = file.to_string();
        self.file_index = index;
        (self.done, self.total, self.resumed_from) = (0, None, 0);
    }

    /// Tells the callback; an error if it wants to stop.
    pub(crate) fn tell(&mut self, stage: Stage<'_>) -> Result<()> {
        let progress = Progress {
            file: &self.file,
            file_index: self.file_index,
            files: self.files,
            done: self.done,
            total: self.total,
            resumed_from: self.resumed_from,
            stage,
        };
        match (self.on_progress)(&progress) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Interrupted { file: self.file.clone() }),
        }
    }

    /// Waits a moment.
    pub(crate) fn tick(&mut self, stage: Stage<'_>) -> Result<()> {
        self.tell(stage)?;
        std::thread::sleep(TICK);
        Ok(())
    }

    /// Waits before the next attempt.
    pub(crate) fn pause(&mut self, cause: &Error, attempt: u32, wait: Duration) -> Result<()> {
        let cause = cause.to_string();
        let stage = Stage::Retry { cause: &cause, attempt, wait };
        let mut left = wait;
        self.tell(stage)?;
        while !left.is_zero() {
            let tick = left.min(TICK);
            std::thread::sleep(tick);
            left -= tick;
            self.tell(stage)?;
        }
        Ok(())
    }
}
