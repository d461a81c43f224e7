//! Files in the three layouts, made by hand.

use std::path::Path;

use fs_err as fs;
use oxigpt_data::Error;

/// llm.c's header and 2-byte tokens.
pub(crate) fn llmc(tokens: &[u16]) -> Vec<u8> {
    let mut bytes = Vec::new();
    [20_240_520, 1, tokens.len() as i32].iter().for_each(|word: &i32| bytes.extend(word.to_le_bytes()));
    bytes.resize(1024, 0);
    bytes.extend(headerless(tokens));
    bytes
}

/// llm.c's header and 4-byte tokens.
pub(crate) fn llmc_wide(tokens: &[u32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    [20_240_801, 7, tokens.len() as i32].iter().for_each(|word: &i32| bytes.extend(word.to_le_bytes()));
    bytes.resize(1024, 0);
    bytes.extend(tokens.iter().flat_map(|token| token.to_le_bytes()));
    bytes
}

/// nanoGPT's 2-byte tokens.
pub(crate) fn headerless(tokens: &[u16]) -> Vec<u8> {
    tokens.iter().flat_map(|token| token.to_le_bytes()).collect()
}

/// What `np.save` writes for an array of `type_name` and `shape`: version 1, padded to a multiple of 64 bytes.
pub(crate) fn npy(type_name: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let dictionary = format!("{{'descr': '{type_name}', 'fortran_order': False, 'shape': {shape}, }}");
    let padding = (64 - (10 + dictionary.len() + 1) % 64) % 64;
    let header = format!("{dictionary}{}\n", " ".repeat(padding));
    [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// A flat NumPy array of 2-byte tokens.
pub(crate) fn npy16(tokens: &[u16]) -> Vec<u8> {
    npy("<u2", &format!("({},)", tokens.len()), &headerless(tokens))
}

/// Puts files into a directory.
pub(crate) fn put(dir: &Path, files: &[(&str, Vec<u8>)]) {
    for (name, bytes) in files {
        fs::write(dir.join(name), bytes).unwrap();
    }
}

/// That an error says `message` and advises `hint`, both in part.
#[track_caller]
pub(crate) fn assert_error<T: std::fmt::Debug>(result: Result<T, Error>, message: &str, hint: &str) {
    let error = result.unwrap_err();
    assert!(error.to_string().contains(message), "message: {error}");
    let advice = error.hint().unwrap_or_default();
    assert!(advice.contains(hint), "hint: {advice}");
}
