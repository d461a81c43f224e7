//! What the crate promises, tested through its public functions alone.

// Helpers of tests may unwrap as the tests do; clippy sees only the latter.
#![allow(clippy::unwrap_used)]

mod batches;
mod common;
mod datasets;
mod learn;
mod meta;
mod prepare;
mod resuming;
mod shards;
mod streams;
