//! How the backend uses the machine, and how many threads make sense on it.

use std::io;
use std::thread::available_parallelism;

use crate::Error;

/// Threads beyond so many on each core are refused, unless there are fewer than [`MANY_THREADS`] of them.
const THREADS_PER_CORE: usize = 4;
const MANY_THREADS: usize = 16;

/// How the backend uses the machine. Neither changes a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuOptions {
    /// Threads that compute, the caller's included.
    pub threads: usize,
    /// Whether workers are pinned to cores: right for one training run on its own machine, wrong for many
    /// sessions side by side.
    pub pin: bool,
}

impl CpuOptions {
    /// One thread for each core that this process may use.
    pub fn all_cores() -> Self {
        CpuOptions { threads: available_parallelism().map_or(1, usize::from), pin: true }
    }
}

/// As many threads as are `wanted`; 0 is one for each core that this process may use.
///
/// # Errors
/// If they are so many that they would only wait for each other.
pub fn threads(wanted: usize) -> Result<usize, Error> {
    let cores = CpuOptions::all_cores().threads;
    let limit = cores.saturating_mul(THREADS_PER_CORE).max(MANY_THREADS);
    match wanted {
        0 => Ok(cores),
        wanted if wanted <= limit => Ok(wanted),
        threads => {
            let cores = if cores == 1 { "1 core".to_owned() } else { format!("{cores} cores") };
            let reason = format!("with {cores} that is more than the {limit} that make sense");
            Err(Error::Threads { threads, source: io::Error::other(reason) })
        }
    }
}
