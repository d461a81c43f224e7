//! GPT-2's encoding of any text: the ids that tiktoken-rs, a port of OpenAI's own implementation, gives.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oxigpt_text::Tokenizer;
use tiktoken_rs::r50k_base_singleton;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    let ids = Tokenizer::gpt2().encode(&text).expect("GPT-2 encodes any text");
    assert_eq!(ids, r50k_base_singleton().encode_ordinary(&text));
    let admitted = Tokenizer::gpt2().encode_with_specials(&text).expect("GPT-2 encodes any text");
    assert_eq!(admitted, r50k_base_singleton().encode_with_special_tokens(&text));
});
