//! One preparation at a time in a directory. The lock is the operating system's, on a hidden file, so that it ends with
//! its process however that ends; the file's holder removes it.

use std::fs::TryLockError;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fs_err as fs;

use crate::error::{PrepareError, Result};

/// The name of the file.
pub(crate) const LOCK: &str = ".prepare.lock";
/// How long one who waits sleeps between two attempts.
const PAUSE: Duration = Duration::from_millis(20);

/// The right to write a dataset into a directory, until it is dropped.
pub(crate) struct DirLock {
    path: PathBuf,
    /// Holds the lock by being open.
    _file: fs::File,
}

impl DirLock {
    /// Locks `dir`, which is made if need be, after waiting for others no longer than `patience`.
    pub(crate) fn acquire(dir: &Path, patience: Duration) -> Result<DirLock> {
        let start = Instant::now();
        let path = dir.join(LOCK);
        loop {
            fs::create_dir_all(dir)?;
            let file = fs::File::create(&path)?;
            match file.file().try_lock() {
                Err(TryLockError::WouldBlock) if start.elapsed() >= patience => {
                    return Err(PrepareError::Busy { dir: dir.into() }.into());
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
                // Whoever held it removed the file between our opening and our locking it.
                Ok(()) if !stands_at(&file, &path) => {}
                // Where a file system knows no locks, we do without, as before there were any.
                Ok(()) | Err(TryLockError::Error(_)) => return Ok(DirLock { path, _file: file }),
            }
        }
    }
}

impl Drop for DirLock {
    fn drop(&mut self) {
        // Elsewhere a file that others have open cannot be removed and made anew; there it stays, and does no harm.
        if cfg!(unix) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whether `file` is what `path` names now.
#[cfg(unix)]
fn stands_at(file: &fs::File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(found)) => identity(ours) == identity(found),
        _ => false,
    }
}

/// Lock files are never removed here.
#[cfg(not(unix))]
fn stands_at(_: &fs::File, _: &Path) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_second_waits_and_then_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let first = DirLock::acquire(dir.path(), Duration::ZERO).unwrap();
        let Err(error) = DirLock::acquire(dir.path(), 2 * PAUSE) else { panic!("two hold one lock") };
        assert!(error.to_string().contains("another process is preparing a dataset in"), "{error}");
        assert!(error.hint().unwrap().contains("let it end"));
        drop(first);
        drop(DirLock::acquire(dir.path(), Duration::ZERO).unwrap());
        assert!(!cfg!(unix) || !dir.path().join(LOCK).exists());
    }

    /// No two at a time, although each removes the file that the others are waiting for.
    #[test]
    fn there_is_one_holder_at_a_time() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let dir = tempfile::tempdir().unwrap();
        let (inside, turns) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..5 {
                        let _lock = DirLock::acquire(dir.path(), Duration::from_secs(60)).unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        turns.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(turns.into_inner(), 20);
    }
}
