//! Pickles: whatever the bytes are, they are refused in words, or every value can be visited.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oxigpt_pickle::{Value, read};

/// Asks a value everything, and those inside it; one may hold itself.
fn visit(value: Value, depth: usize) {
    assert!(!value.kind().is_empty());
    let _ = (value.as_int(), value.as_float(), value.as_bytes(), value.get("model"));
    if depth == 0 {
        return;
    }
    value.items().take(3).for_each(|item| visit(item, depth - 1));
    value.entries().take(3).for_each(|(_, item)| visit(item, depth - 1));
    let object = value.as_object();
    object
        .into_iter()
        .flat_map(|o| [Some(o.args), o.state])
        .flatten()
        .for_each(|part| visit(part, depth - 1));
    value.as_persistent_id().into_iter().for_each(|id| visit(id, depth - 1));
}

fuzz_target!(|bytes: &[u8]| {
    for admit in [false, true] {
        match read(bytes, |_, _| admit) {
            Ok(pickle) => visit(pickle.root(), 3),
            Err(error) => assert!(!error.to_string().is_empty() && error.hint().is_some()),
        }
    }
});
