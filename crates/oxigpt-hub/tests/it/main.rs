//! What the crate promises, tested through its public functions against a small server of our own.

// Helpers of tests may unwrap as the tests do; clippy sees only the latter.
#![allow(clippy::unwrap_used)]

mod breaks;
mod downloads;
mod origins;
mod refusals;
mod server;
mod snapshots;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use oxigpt_hub::{Hub, Progress, RepoId, Result, Settings};

use crate::server::Server;

/// Settings for a server of ours and a cache in `dir`, with short pauses.
fn settings(server: &Server, dir: &Path) -> Settings {
    Settings {
        endpoint: server.url(),
        retries: 3,
        backoff: Duration::from_millis(1),
        stall: Duration::from_millis(1500),
        ..Settings::new(dir.join("hub"))
    }
}

fn hub(server: &Server, dir: &Path) -> Hub {
    Hub::new(settings(server, dir)).unwrap()
}

fn quiet(_: &Progress<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn gpt2() -> RepoId {
    RepoId::model("gpt2").unwrap()
}

/// All files of `gpt2` at `main`.
fn snapshot(hub: &Hub) -> Result<PathBuf> {
    hub.snapshot(&gpt2(), "main", &|_| true, &mut quiet)
}

/// The names of the files in a folder, those that begin with a dot too.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs_err::read_dir(folder).into_iter().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The folder of `gpt2`'s blobs in the cache in `dir`.
fn blobs(dir: &Path) -> PathBuf {
    dir.join("hub/models--gpt2/blobs")
}

/// Bytes that repeat nowhere near.
fn bytes(len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}
