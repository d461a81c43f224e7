//! GPT-2's tokenizer against recorded ids and against tiktoken-rs, OpenAI's own implementation.
#![allow(clippy::unwrap_used, reason = "a test's helpers fail as the test does")]

use oxigpt_text::Tokenizer;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::Value;
use tiktoken_rs::{CoreBPE, r50k_base_singleton};

const GOLDEN: &str = include_str!("fixtures/gpt2_tokenizer.json");
const SHAKESPEARE: &str = include_str!("fixtures/shakespeare.txt");

fn oracle() -> &'static CoreBPE {
    r50k_base_singleton()
}

fn ordinary(text: &str) -> Vec<u32> {
    Tokenizer::gpt2().encode(text).unwrap()
}

#[track_caller]
fn assert_as_oracle(text: &str) {
    let ids = ordinary(text);
    assert_eq!(ids, oracle().encode_ordinary(text), "{text:?}");
    assert_eq!(Tokenizer::gpt2().decode(&ids), text);
}

fn golden(list: &str) -> Vec<(String, Vec<u32>)> {
    let golden: Value = serde_json::from_str(GOLDEN).unwrap();
    let case = |case: &Value| {
        (case["text"].as_str().unwrap().to_owned(), serde_json::from_value(case["ids"].clone()).unwrap())
    };
    golden[list].as_array().unwrap().iter().map(case).collect()
}

#[test]
fn golden_ordinary() {
    let cases = golden("ordinary");
    assert_eq!(cases.len(), 25);
    for (text, ids) in cases {
        assert_eq!(ordinary(&text), ids, "{text:?}");
        assert_eq!(Tokenizer::gpt2().decode(&ids), text);
    }
}

#[test]
fn golden_with_special() {
    let cases = golden("with_special");
    assert_eq!(cases.len(), 1);
    for (text, ids) in cases {
        assert_eq!(Tokenizer::gpt2().encode_with_specials(&text).unwrap(), ids, "{text:?}");
        assert_eq!(Tokenizer::gpt2().decode(&ids), text);
    }
}

#[test]
fn vocabulary_is_openais_token_for_token() {
    let gpt2 = Tokenizer::gpt2();
    assert_eq!(gpt2.name(), "gpt2");
    assert_eq!(gpt2.vocab_size(), 50_257);
    assert_eq!(gpt2.end_of_text(), Some(50_256));
    for id in 0..50_257 {
        assert_eq!(gpt2.decode_bytes(&[id]), oracle().decode_bytes(&[id]).unwrap(), "token {id}");
    }
    assert_eq!(gpt2.hash(), "5504c7628b4ecb201b7eeeb088efbda479de2ccc9a34620d24b40595efcbf184");
}

#[test]
fn every_token_that_is_text_is_encoded_as_openai_does() {
    for id in 0..50_256 {
        if let Ok(text) = String::from_utf8(oracle().decode_bytes(&[id]).unwrap()) {
            assert_as_oracle(&text);
        }
    }
}

#[test]
fn shakespeare_whole_and_in_windows() {
    assert_as_oracle(SHAKESPEARE);
    for start in (0..SHAKESPEARE.len() - 90).step_by(7) {
        assert_as_oracle(&SHAKESPEARE[start..start + 90]);
    }
}

#[test]
fn end_of_text_is_plain_text_unless_admitted() {
    let gpt2 = Tokenizer::gpt2();
    let text = "<|endoftext|>one <|endoftext|><|endoftext|> two<|endoftext";
    assert_as_oracle(text);
    assert_eq!(gpt2.encode_with_specials(text).unwrap(), oracle().encode_with_special_tokens(text));
    assert_eq!(gpt2.encode_with_specials("<|endoftext|>").unwrap(), [50_256]);
    assert_eq!(gpt2.encode_with_specials("").unwrap(), [0; 0]);
}

#[test]
fn encode_into_appends() {
    let mut ids = vec![7];
    Tokenizer::gpt2().encode_into("Hello", &mut ids).unwrap();
    assert_eq!(ids, [7, 15496]);
}

#[test]
fn ids_outside_the_vocabulary_decode_to_the_replacement_character() {
    assert_eq!(Tokenizer::gpt2().decode(&[15496, 50_257, u32::MAX, 11]), "Hello\u{FFFD}\u{FFFD},");
    assert_eq!(Tokenizer::gpt2().decode_bytes(&[50_257]), "\u{FFFD}".as_bytes());
}

#[test]
fn long_pieces() {
    for unit in ["a", "ab", "!", "0", " ", "\n", "é", "字", "👍", "the"] {
        assert_as_oracle(&unit.repeat(700));
    }
}

#[test]
fn a_megabyte_of_one_letter_takes_no_square_time() {
    let text = "a".repeat(1 << 20);
    let ids = ordinary(&text);
    assert_eq!(Tokenizer::gpt2().decode(&ids), text);
    // The longest run of this letter that is a token has four; every run of it is merged to such tokens.
    assert_eq!(ids, oracle().encode_ordinary("aaaa").repeat(1 << 18));
}

/// Text of what the pattern tells apart, and of what resembles it.
fn tricky_text() -> impl Strategy<Value = String> {
    let parts = vec![
        " ",
        "  ",
        "\n",
        "\r\n",
        "\t",
        "\u{A0}",
        "\u{3000}",
        "\u{85}",
        "\u{1C}",
        "\u{200B}",
        "\u{2028}",
        "'",
        "’",
        "'s",
        "'ll",
        "'re",
        "'LL",
        "don't",
        "I've",
        "the",
        "The",
        "a",
        "Z",
        "ß",
        "é",
        "e\u{301}",
        "ªº",
        "ǅ",
        "ʰ",
        "日本語",
        "한국어",
        "العربية",
        "हिन्दी",
        "ไทย",
        "7",
        "2024",
        "½",
        "Ⅷ",
        "٣",
        "①",
        "😀",
        "👩\u{200D}👩\u{200D}👧",
        "🇫🇷",
        "❤\u{FE0F}",
        "!",
        "?!",
        "...",
        "_",
        "-",
        "€",
        "∑",
        "<|endoftext|>",
        "\0",
        "\u{7F}",
        "\u{FEFF}",
        "\u{FFFD}",
        "\u{E000}",
        "\u{10FFFF}",
    ];
    vec(select(parts), 0..24).prop_map(|parts| parts.concat())
}

/// Letters, marks or whatever else stands together in Unicode: characters of one stretch of 128, as of one script.
fn script() -> impl Strategy<Value = String> {
    // All that is assigned lies below U+32400 but for tags and private use.
    (0..0x32400u32 / 128, vec(0..128u32, 1..16)).prop_map(|(block, offsets)| {
        offsets.into_iter().filter_map(|offset| char::from_u32(128 * block + offset)).collect()
    })
}

fn run() -> impl Strategy<Value = String> {
    let units = vec![
        " ",
        "\n",
        "\r\n",
        "\u{3000}",
        "a",
        "Z",
        "é",
        "7",
        "½",
        "字",
        "é\u{301}",
        "!",
        "'s",
        "'",
        "👍",
        "\u{200D}",
        "\0",
    ];
    (select(units), 1..200usize).prop_map(|(unit, n)| unit.repeat(n))
}

/// Words of many scripts with what may stand between them, and long runs of one thing.
fn scripts_text() -> impl Strategy<Value = String> {
    let between =
        select(vec!["", " ", "  ", "\n\n", "'ll", "'", ", ", "\u{A0}", "3"]).prop_map(str::to_owned);
    vec(prop_oneof![4 => script(), 3 => between, 1 => run()], 0..12).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_script_as_oracle(text in scripts_text()) {
        assert_as_oracle(&text);
    }

    #[test]
    fn special_tokens_as_oracle(parts in vec(prop_oneof![Just("<|endoftext|>".to_owned()), scripts_text()], 0..5)) {
        let text = parts.concat();
        let ids = Tokenizer::gpt2().encode_with_specials(&text).unwrap();
        prop_assert_eq!(ids, oracle().encode_with_special_tokens(&text));
    }

    #[test]
    fn tricky_text_as_oracle(text in tricky_text()) {
        assert_as_oracle(&text);
    }

    #[test]
    fn any_unicode_as_oracle(text in vec(any::<char>(), 0..60)) {
        assert_as_oracle(&text.into_iter().collect::<String>());
    }

    #[test]
    fn low_unicode_as_oracle(text in vec(proptest::char::range('\0', '\u{2FFF}'), 0..60)) {
        assert_as_oracle(&text.into_iter().collect::<String>());
    }

    #[test]
    fn long_words_as_oracle(text in "[a-z]{0,90}|[etaoin]{60,300}|[ab]{60,200}") {
        assert_as_oracle(&text);
    }

    #[test]
    fn any_ids_decode_to_the_bytes_of_their_tokens(ids in vec(0..50_257u32, 0..50)) {
        prop_assert_eq!(Tokenizer::gpt2().decode_bytes(&ids), oracle().decode_bytes(&ids).unwrap());
    }
}
