//! What must be true of the inputs before anything is done, and what becomes of those that can be read only once.

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use fs_err as fs;

use super::source::{Input, Place};
use super::{Progress, Stage, Watch};
use crate::error::{Error, InputError, Result};

/// Bytes that are read from a pipe in one go, how many such pieces may wait, and how long we wait for one.
const PIECE: usize = 1 << 16;
const PIECES: usize = 4;
const PAUSE: Duration = Duration::from_millis(100);

/// That every input is there and is a file or a pipe, and none is named twice.
pub(crate) fn check_inputs(inputs: &[Input]) -> Result<()> {
    if inputs.is_empty() {
        return Err(InputError::NoInput.into());
    }
    let mut seen = HashSet::new();
    for input in inputs {
        let Place::File(path) = &input.place else {
            if matches!(input.place, Place::Stdin) && !seen.insert(PathBuf::from("-")) {
                return Err(InputError::DuplicateInput { path: "-".into() }.into());
            }
            continue;
        };
        match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(InputError::MissingInput { path: path.into() }.into());
            }
            Ok(metadata) if metadata.is_dir() => {
                return Err(InputError::InputIsDirectory { path: path.into() }.into());
            }
            // A device may never end.
            Ok(metadata) if !metadata.is_file() && !is_pipe(metadata.file_type()) => {
                return Err(InputError::InputNotFile { path: path.into() }.into());
            }
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        // What a shell gives for `<(command)` is no place that could be found otherwise.
        if !seen.insert(fs::canonicalize(path).unwrap_or_else(|_| path.clone())) {
            return Err(InputError::DuplicateInput { path: path.into() }.into());
        }
    }
    Ok(())
}

#[cfg(unix)]
fn is_pipe(kind: std::fs::FileType) -> bool {
    use std::os::unix::fs::FileTypeExt;
    kind.is_fifo()
}

/// What pipes there are elsewhere have no path.
#[cfg(not(unix))]
fn is_pipe(_: std::fs::FileType) -> bool {
    false
}

/// Whether an input can be read only once.
pub(crate) fn is_piped(input: &Input) -> bool {
    match &input.place {
        Place::Stdin => true,
        Place::File(path) => fs::metadata(path).is_ok_and(|metadata| is_pipe(metadata.file_type())),
        _ => false,
    }
}

/// The inputs, where what is piped has become files of the staging directory.
pub(crate) fn saved_pipes(inputs: &[Input], staging: &Path, watch: Watch<'_>) -> Result<Vec<Input>> {
    let save = |(index, input): (usize, &Input)| -> Result<Input> {
        if !is_piped(input) {
            return Ok(input.clone());
        }
        let path = staging.join(format!(".input_{index}"));
        let bytes = save_pipe(input, &mut fs::File::create(&path)?, watch)?;
        if bytes == 0 {
            return Err(InputError::EmptyInput { path: PathBuf::from(&input.name) }.into());
        }
        Ok(Input { place: Place::Saved(path), bytes, ..input.clone() })
    };
    inputs.iter().enumerate().map(save).collect()
}

/// Copies what comes through a pipe to a file. Another thread waits for it, so that this one can be stopped.
fn save_pipe(input: &Input, file: &mut fs::File, watch: Watch<'_>) -> Result<u64> {
    let (give, take) = sync_channel(PIECES);
    let place = input.place.clone();
    // It may wait for ever, for somebody who never writes; it ends with the process.
    thread::spawn(move || {
        let pipe: io::Result<Box<dyn Read>> = match &place {
            Place::File(pipe) => fs::File::open(pipe).map(|pipe| Box::new(pipe) as _),
            _ => Ok(Box::new(io::stdin())),
        };
        match pipe {
            Ok(pipe) => read_pieces(pipe, &give),
            // Where nobody waits any more, nobody misses it.
            Err(error) => drop(give.send(Err(error))),
        }
    });
    let mut done = 0;
    loop {
        let piece = take.recv_timeout(PAUSE);
        // Looked at also where the pipe has ended: who writes to it may have been stopped with us.
        if watch(Progress { stage: Stage::Read, done, total: done }).is_break() {
            return Err(Error::Interrupted);
        }
        match piece {
            Ok(Err(error)) if error.kind() == io::ErrorKind::IsADirectory => {
                return Err(InputError::InputIsDirectory { path: PathBuf::from(&input.name) }.into());
            }
            Ok(piece) => {
                let piece: Vec<u8> = piece?;
                file.write_all(&piece)?;
                done += piece.len() as u64;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(done),
        }
    }
}

/// Hands over what is read, until there is no more or nobody wants it.
fn read_pieces(mut reader: impl Read, give: &SyncSender<io::Result<Vec<u8>>>) {
    loop {
        let mut piece = vec![0; PIECE];
        let read = match reader.read(&mut piece) {
            Ok(0) => return,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read,
        };
        let has_failed = read.is_err();
        let read = read.map(|count| {
            piece.truncate(count);
            piece
        });
        if give.send(read).is_err() || has_failed {
            return;
        }
    }
}
