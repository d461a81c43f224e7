//! What must be true of the inputs before anything is done, and what becomes of those that can be read only once.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use fs_err as fs;

use super::source::{Input, Place};
use crate::error::{InputError, Result};

/// That every input is there and is a file or a pipe, and none is named twice.
pub(crate) fn check_inputs(inputs: &[Input]) -> Result<()> {
    if inputs.is_empty() {
        return Err(InputError::NoInput.into());
    }
    let mut seen = HashSet::new();
    for input in inputs {
        let Place::File(path) = &input.place else { continue };
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
        if !seen.insert(fs::canonicalize(path)?) {
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
pub(crate) fn saved_pipes(inputs: &[Input], staging: &Path) -> Result<Vec<Input>> {
    let save = |(index, input): (usize, &Input)| -> Result<Input> {
        if !is_piped(input) {
            return Ok(input.clone());
        }
        let path = staging.join(format!(".input_{index}"));
        let mut file = fs::File::create(&path)?;
        let bytes = match &input.place {
            Place::File(pipe) => io::copy(&mut fs::File::open(pipe)?, &mut file)?,
            _ => io::copy(&mut io::stdin().lock(), &mut file)?,
        };
        if bytes == 0 {
            return Err(InputError::EmptyInput { path: PathBuf::from(&input.name) }.into());
        }
        Ok(Input { place: Place::File(path), bytes, ..input.clone() })
    };
    inputs.iter().enumerate().map(save).collect()
}
