//! Tokenizers as files, in the formats of Hugging Face tools. GPT-2 is written as `vocab.json`, `merges.txt` and
//! `tokenizer.json`; characters as a `tokenizer.json` whose byte-pair encoding has no merges. A tokenizer is recognised
//! by what its files say, not by who wrote them.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::gpt2::{END_OF_TEXT, END_OF_TEXT_ID, merge_pairs};
use crate::{CharTokenizer, Error, Gpt2, Tokenizer};

const TOKENIZER: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";
const VOCAB: &str = "vocab.json";
const MERGES: &str = "merges.txt";
const ADDED: &str = "added_tokens.json";
const MERGES_VERSION: &str = "#version: 0.2";

/// Token to id, as the files hold it.
type Vocab = HashMap<String, u32>;

pub(crate) fn of_gpt2(gpt2: &Gpt2) -> Vec<(String, Vec<u8>)> {
    let vocab = vocab_json((0..=END_OF_TEXT_ID).map(|id| gpt2.token_text(id)));
    let merges: Vec<String> = merge_lines(*gpt2).collect();
    let byte_level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true});
    let end_of_text = json!({
        "id": END_OF_TEXT_ID, "content": END_OF_TEXT, "special": true,
        "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
    });
    let tokenizer = tokenizer_json(&json!([end_of_text]), &byte_level, &byte_level, &vocab, &json!(merges));
    let config = json!({
        "tokenizer_class": "GPT2Tokenizer", "add_prefix_space": false, "clean_up_tokenization_spaces": false,
        "bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "unk_token": END_OF_TEXT,
    });
    vec![
        file(VOCAB, vocab),
        file(MERGES, format!("{MERGES_VERSION}\n{}\n", merges.join("\n"))),
        file(TOKENIZER, tokenizer),
        file(CONFIG, config.to_string()),
    ]
}

pub(crate) fn of_chars(chars: &CharTokenizer) -> Vec<(String, Vec<u8>)> {
    let vocab = vocab_json(chars.tokens().iter().map(char::to_string));
    let join_tokens = json!({"type": "Fuse"});
    let tokenizer = tokenizer_json(&json!([]), &Value::Null, &join_tokens, &vocab, &json!([]));
    let config = json!({"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": false});
    vec![file(TOKENIZER, tokenizer), file(CONFIG, config.to_string())]
}

fn file(name: &str, content: String) -> (String, Vec<u8>) {
    (name.to_owned(), content.into_bytes())
}

/// A JSON object of the tokens and their ids, in order of id (which a `serde_json` map would not keep).
fn vocab_json(tokens: impl Iterator<Item = String>) -> String {
    let entries: Vec<String> =
        tokens.zip(0..).map(|(token, id): (_, u32)| format!("{}:{id}", json!(token))).collect();
    format!("{{{}}}", entries.join(","))
}

fn tokenizer_json(
    added: &Value,
    pre_tokenizer: &Value,
    decoder: &Value,
    vocab: &str,
    merges: &Value,
) -> String {
    format!(
        r#"{{"version":"1.0","truncation":null,"padding":null,"added_tokens":{added},"normalizer":null,
"pre_tokenizer":{pre_tokenizer},"post_processor":null,"decoder":{decoder},
"model":{{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":"","end_of_word_suffix":"",
"fuse_unk":false,"byte_fallback":false,"vocab":{vocab},
"merges":{merges}}}}}
"#
    )
}

/// The merges as `merges.txt` spells them: the two halves with a space between.
fn merge_lines(gpt2: Gpt2) -> impl Iterator<Item = String> {
    merge_pairs().map(move |(left, right)| {
        format!("{} {}", gpt2.token_text(left.into()), gpt2.token_text(right.into()))
    })
}

pub(crate) fn read_tokenizer(read: impl Fn(&str) -> Option<Vec<u8>>) -> Result<Option<Tokenizer>, Error> {
    if let Some(tokenizer) = read(TOKENIZER) {
        return of_tokenizer_json(&tokenizer).map(Some);
    }
    let (vocab, merges) = (read(VOCAB), read(MERGES));
    if vocab.is_none() && merges.is_none() {
        return Ok(None);
    }
    if let Some(vocab) = vocab {
        expect_gpt2_vocab(VOCAB, &parse(VOCAB, &vocab)?)?;
    }
    if let Some(merges) = merges {
        let merges = String::from_utf8_lossy(&merges);
        let lines = merges.lines().enumerate().filter(|(i, line)| *i > 0 || !line.starts_with("#version"));
        expect_gpt2_merges(MERGES, lines.map(|(_, line)| line).filter(|line| !line.is_empty()))?;
    }
    if let Some(added) = read(ADDED) {
        let added: Vocab = parse(ADDED, &added)?;
        added.into_iter().try_for_each(|(token, id)| expect_end_of_text(ADDED, &token, Some(id.into())))?;
    }
    Ok(Some(Tokenizer::gpt2()))
}

/// Either kind, from a `tokenizer.json`.
fn of_tokenizer_json(bytes: &[u8]) -> Result<Tokenizer, Error> {
    let json: Value = parse(TOKENIZER, bytes)?;
    let model = &json["model"];
    // Old files leave the type out; only byte-pair encodings have merges.
    let (Some(merges), "BPE") = (model["merges"].as_array(), model["type"].as_str().unwrap_or("BPE")) else {
        return Err(foreign(TOKENIZER, "its model is not a byte-pair encoding"));
    };
    if !json["normalizer"].is_null() {
        return Err(foreign(TOKENIZER, "it normalizes the text"));
    }
    let vocab: Vocab =
        serde_json::from_value(model["vocab"].clone()).map_err(|source| json_error(TOKENIZER, source))?;
    let added = json["added_tokens"].as_array().map_or(&[][..], Vec::as_slice);
    if merges.is_empty() {
        return char_tokenizer(&json, vocab, added).map(Tokenizer::Char);
    }
    let pre_tokenizer = &json["pre_tokenizer"];
    if pre_tokenizer["type"] != "ByteLevel"
        || pre_tokenizer["add_prefix_space"] == true
        || pre_tokenizer["use_regex"] == false
    {
        return Err(foreign(TOKENIZER, "it does not cut the text as GPT-2 does"));
    }
    expect_gpt2_vocab(TOKENIZER, &vocab)?;
    let merges: Vec<String> = merges.iter().map(merge_line).collect();
    expect_gpt2_merges(TOKENIZER, merges.iter().map(String::as_str))?;
    for token in added {
        expect_end_of_text(TOKENIZER, token["content"].as_str().unwrap_or_default(), token["id"].as_u64())?;
    }
    Ok(Tokenizer::gpt2())
}

/// A merge is written "left right" by older versions of the format, and ["left", "right"] by newer ones.
fn merge_line(merge: &Value) -> String {
    let parts = merge.as_array().map_or(std::slice::from_ref(merge), Vec::as_slice);
    parts.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
}

fn char_tokenizer(json: &Value, vocab: Vocab, added: &[Value]) -> Result<CharTokenizer, Error> {
    if !json["pre_tokenizer"].is_null() || !added.is_empty() {
        return Err(foreign(TOKENIZER, "it has no merges, but is not one token per character either"));
    }
    let n = vocab.len();
    let mut tokens = vec![None; n];
    for (token, id) in vocab {
        let mut chars = token.chars();
        let (Some(c), None) = (chars.next(), chars.next()) else {
            return Err(foreign(
                TOKENIZER,
                format!("it has no merges, but the token {token:?} is not one character"),
            ));
        };
        let Some(slot) = tokens.get_mut(id as usize) else {
            return Err(foreign(
                TOKENIZER,
                format!("the token {token:?} has id {id}, but there are {n} tokens"),
            ));
        };
        *slot = Some(c);
    }
    match tokens.into_iter().collect() {
        Some(tokens) => CharTokenizer::new(tokens),
        None => Err(foreign(TOKENIZER, "two of its tokens have the same id")),
    }
}

fn expect_gpt2_vocab(file: &str, vocab: &Vocab) -> Result<(), Error> {
    let gpt2 = Gpt2::new();
    let expected = gpt2.vocab_size();
    if vocab.len() != expected {
        return Err(foreign(file, format!("it has {} tokens, GPT-2 has {expected}", vocab.len())));
    }
    let differs = |&id: &u32| vocab.get(&gpt2.token_text(id)) != Some(&id);
    match (0..=END_OF_TEXT_ID).find(differs) {
        Some(id) => Err(foreign(file, format!("token {id} is not GPT-2's, {:?}", gpt2.token_text(id)))),
        None => Ok(()),
    }
}

fn expect_gpt2_merges<'a>(file: &str, merges: impl Iterator<Item = &'a str>) -> Result<(), Error> {
    if merges.eq(merge_lines(Gpt2::new())) {
        Ok(())
    } else {
        Err(foreign(file, "its merges are not GPT-2's"))
    }
}

/// Any other added token would be cut out of the text before the encoding, which ours would not do.
fn expect_end_of_text(file: &str, token: &str, id: Option<u64>) -> Result<(), Error> {
    if token == END_OF_TEXT && id == Some(END_OF_TEXT_ID.into()) {
        return Ok(());
    }
    Err(foreign(file, format!("it adds the token {token:?} to GPT-2's")))
}

fn parse<T: serde::de::DeserializeOwned>(file: &str, bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|source| json_error(file, source))
}

fn json_error(file: &str, source: serde_json::Error) -> Error {
    Error::Json { file: file.to_owned(), source }
}

fn foreign(file: &str, reason: impl Into<String>) -> Error {
    Error::Foreign { file: file.to_owned(), reason: reason.into() }
}
