//! Files that survive a crash: written beside their final name, synced, and renamed into place.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use fs_err as fs;

/// Ends the name of whatever is not yet, or no longer, what its name says.
pub(crate) const PARTIAL: &str = ".tmp";

/// `path` with [`PARTIAL`] behind its name.
pub(crate) fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(PARTIAL);
    name.into()
}

/// The directory that a name stands in, or would stand in.
pub(crate) fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Writes a file and syncs it.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Writes a file so that at every instant its name stands for either the old content or the new, whole.
///
/// # Errors
/// If it cannot be written; what was there is as it was.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let partial = beside(path);
    let written = write(&partial, bytes).and_then(|()| fs::rename(&partial, path));
    if let Err(error) = written {
        // The error that matters is the one we have.
        let _ = fs::remove_file(&partial);
        return Err(error);
    }
    sync_dir(parent(path))
}

/// Makes the names in a directory durable. Only Unix has a call for that.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    if cfg!(unix) { fs::File::open(dir)?.sync_all() } else { Ok(()) }
}
