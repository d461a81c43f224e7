//! The oxigpt binary.
fn main() {}
