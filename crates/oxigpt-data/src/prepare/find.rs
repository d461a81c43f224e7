//! From what a user names (files, folders, patterns, `-`) to the inputs of a preparation.

use std::path::{Path, PathBuf};

use fs_err as fs;

use super::inputs::is_piped;
use super::source::{Format, Input, Place, Source};
use crate::error::{InputError, Result};

/// Endings that a compressed file has behind its own.
const COMPRESSED: [&str; 2] = [".gz", ".zst"];

impl Format {
    /// Endings of the files that are taken from a folder.
    fn endings(&self) -> &'static [&'static str] {
        match self {
            Format::Text => &[".txt", ".md"],
            Format::Jsonl { .. } => &[".jsonl", ".ndjson", ".json"],
            Format::Parquet { .. } => &[".parquet"],
        }
    }
}

impl Source {
    /// The inputs that names stand for, in this order: a file as it is; a folder for the files in it, and in its
    /// folders, that are named as the format's are (`.gz` and `.zst` may follow), sorted by path; a pattern for what it
    /// matches, sorted; `-` for standard input.
    ///
    /// # Errors
    /// If a folder holds no such file, or nothing matches a pattern, or a folder cannot be read. Whether files are there
    /// is seen when they are prepared.
    pub fn find(format: Format, names: &[PathBuf]) -> Result<Source> {
        let mut inputs = Vec::new();
        for name in names {
            let text = name.to_string_lossy();
            if text == "-" {
                inputs.push(Input {
                    name: "standard input".into(),
                    place: Place::Stdin,
                    bytes: 0,
                    sha256: None,
                    val: false,
                });
            } else if name.is_dir() {
                inputs.extend(in_folder(&format, name)?);
            } else if !name.exists() && text.contains(['*', '?', '[']) {
                inputs.extend(matching(&format, &text)?);
            } else {
                let input = Input::file(name);
                // A pipe that a shell has made has a name that only says where it is.
                let name = if is_piped(&input) { text.into_owned() } else { input.name.clone() };
                inputs.push(Input { name, ..input });
            }
        }
        Ok(Source { format, inputs })
    }
}

fn in_folder(format: &Format, folder: &Path) -> Result<Vec<Input>> {
    let mut paths = Vec::new();
    collect(format, folder, &mut paths)?;
    if paths.is_empty() {
        let wanted = format.endings().join(", ");
        return Err(InputError::EmptyFolder { path: folder.into(), wanted }.into());
    }
    paths.sort();
    let name = |path: &Path| path.strip_prefix(folder).unwrap_or(path).to_string_lossy().replace('\\', "/");
    Ok(paths.iter().map(|path| Input { name: name(path), ..Input::file(path) }).collect())
}

/// All files below a folder that are named as the format's are, but for hidden ones.
fn collect(format: &Format, folder: &Path, paths: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().to_lowercase();
        let path = entry.path();
        if name.starts_with('.') {
            continue;
        }
        // A link to a folder is not followed: it may lead back.
        if entry.file_type()?.is_dir() {
            collect(format, &path, paths)?;
        } else if is_named_so(format, &name) && path.is_file() {
            paths.push(path);
        }
    }
    Ok(())
}

fn is_named_so(format: &Format, name: &str) -> bool {
    let name = COMPRESSED.iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name);
    format.endings().iter().any(|ending| name.ends_with(ending))
}

fn matching(format: &Format, pattern: &str) -> Result<Vec<Input>> {
    let paths = glob::glob(pattern)
        .map_err(|error| InputError::Pattern { pattern: pattern.into(), problem: error.msg.into() })?;
    let mut inputs = Vec::new();
    for path in paths {
        let path = path.map_err(std::io::Error::from)?;
        if path.is_dir() {
            inputs.extend(in_folder(format, &path)?);
        } else {
            inputs.push(Input::file(path));
        }
    }
    if inputs.is_empty() {
        return Err(InputError::NoMatch { pattern: pattern.into() }.into());
    }
    Ok(inputs)
}
