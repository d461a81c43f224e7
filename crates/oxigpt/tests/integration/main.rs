//! The program as a user runs it: every test starts the real binary and looks at its exit code and its two streams.

// The helpers of tests may fail as loudly as the tests.
#![allow(clippy::unwrap_used)]

mod attention;
mod bench;
mod compare;
mod config;
mod convert;
mod data;
mod devices;
mod eval;
mod eval_tasks;
#[cfg(unix)]
mod gpu;
mod help;
mod hub;
mod layouts;
mod plan;
mod prepare;
mod recipes;
mod resume;
mod sample;
#[cfg(unix)]
#[path = "../../../oxigpt-compute/tests/simulator/mod.rs"]
mod simulator;
mod start;
mod support;
mod tokenizer;
mod train;
mod tuning;
