//! Runs from end to end, as the binary starts them.

mod runs;
mod support;
