//! Runs from end to end, as the binary starts them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod damage;
mod failures;
mod hellaswag;
mod resuming;
mod runs;
mod support;
