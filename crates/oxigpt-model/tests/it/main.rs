//! The model on every backend: golden values, decoding, files, variants.

// Allowed in tests, and their helpers are no less so.
#![allow(clippy::unwrap_used)]

mod bad_files;
mod decoding;
mod files;
mod formats;
mod golden;
#[cfg(unix)]
#[path = "../../../oxigpt-compute/tests/simulator/mod.rs"]
mod simulator;
mod support;
mod torch_writer;
mod training;
mod tuning;
mod variants;
