//! The cache that the Python tools share: for each repository a folder with `blobs/` (contents, named by their tags),
//! `snapshots/COMMIT/` (links to them under the files' own names) and `refs/` (which commit a branch was at), and
//! beside them `.locks/`. Whatever appears there under its final name is whole.

use std::fs::TryLockError;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use fs_err as fs;

use crate::error::Result;
use crate::progress::{Stage, Watch};
use crate::repo::{RepoId, is_commit};

/// The folder of one repository.
pub(crate) struct RepoCache {
    locks: PathBuf,
    folder: PathBuf,
}

impl RepoCache {
    pub(crate) fn new(cache: &Path, repo: &RepoId) -> RepoCache {
        RepoCache { locks: cache.join(".locks").join(repo.folder()), folder: cache.join(repo.folder()) }
    }

    /// Where a blob is, or will be.
    pub(crate) fn blob(&self, tag: &str) -> PathBuf {
        self.folder.join("blobs").join(tag)
    }

    /// The file whose lock is the right to write that blob.
    pub(crate) fn blob_lock(&self, tag: &str) -> PathBuf {
        self.locks.join(format!("{tag}.lock"))
    }

    /// The folder of the files of a commit.
    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// A file of a commit, if it is here.
    pub(crate) fn file(&self, commit: &str, file: &str) -> Option<PathBuf> {
        let path = self.snapshot(commit).join(file);
        path.is_file().then_some(path)
    }

    /// The commit that a revision is, or was when it was last asked for.
    pub(crate) fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.into());
        }
        let commit = fs::read_to_string(self.folder.join("refs").join(revision)).ok()?;
        Some(commit.trim().to_string()).filter(|commit| is_commit(commit))
    }

    /// Notes which commit a revision is.
    pub(crate) fn set_commit(&self, revision: &str, commit: &str) -> Result<()> {
        if self.commit(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        put(&self.folder.join("refs").join(revision), |path| Ok(fs::write(path, commit)?))
    }

    /// Gives the blob its name in a commit.
    pub(crate) fn link(&self, commit: &str, file: &str, tag: &str) -> Result<PathBuf> {
        let path = self.snapshot(commit).join(file);
        let depth = file.matches('/').count();
        put(&path, |path| link(&"../".repeat(depth + 2), &self.blob(tag), tag, path))?;
        Ok(path)
    }

    /// The names of the files of a commit that are here, in order.
    pub(crate) fn files(&self, commit: &str) -> Vec<String> {
        let mut files = Vec::new();
        collect(&self.snapshot(commit), "", &mut files);
        files.sort();
        files
    }
}

/// All files below `folder`; what cannot be read is not there.
fn collect(folder: &Path, prefix: &str, files: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let name = format!("{prefix}{name}");
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => collect(&entry.path(), &format!("{name}/"), files),
            _ if entry.path().is_file() => files.push(name),
            _ => {}
        }
    }
}

/// Links relatively, so that the cache can be moved as a whole.
#[cfg(unix)]
fn link(up: &str, _blob: &Path, tag: &str, path: &Path) -> Result<()> {
    Ok(fs::os::unix::fs::symlink(format!("{up}blobs/{tag}"), path)?)
}

/// Where links need rights that users do not have: a second name, or a copy.
#[cfg(not(unix))]
fn link(_up: &str, blob: &Path, _tag: &str, path: &Path) -> Result<()> {
    fs::hard_link(blob, path).or_else(|_| fs::copy(blob, path).map(|_| ()))?;
    Ok(())
}

/// Makes a file under a name of its own and then puts it at `path`, in one step.
fn put(path: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let folder = path.parent().expect("a file in the cache has a folder");
    fs::create_dir_all(folder)?;
    let new = folder.join(format!(".new-{}-{count}", std::process::id()));
    make(&new)?;
    fs::rename(&new, path).inspect_err(|_| {
        let _ = fs::remove_file(&new);
    })?;
    Ok(())
}

/// The right to write one file, until it is dropped or its process ends. The lock is the operating system's, and the
/// one that the Python tools take; its file stays, as theirs does.
pub(crate) struct Lock {
    _file: Option<fs::File>,
}

impl Lock {
    /// Waits for whoever has it.
    pub(crate) fn acquire(path: &Path, watch: &mut Watch<'_>) -> Result<Lock> {
        fs::create_dir_all(path.parent().expect("a lock has a folder"))?;
        let file = fs::OpenOptions::new().create(true).append(true).open(path)?;
        loop {
            match file.file().try_lock() {
                Ok(()) => return Ok(Lock { _file: Some(file) }),
                Err(TryLockError::WouldBlock) => watch.tick(Stage::Locked)?,
                // Where a file system knows no locks, we do without.
                Err(TryLockError::Error(_)) => return Ok(Lock { _file: None }),
            }
        }
    }
}
