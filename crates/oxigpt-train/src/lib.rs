//! Placeholder while the crates are being laid out.

pub mod settings;
