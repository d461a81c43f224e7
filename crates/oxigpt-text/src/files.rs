//! Tokenizers as files, in the formats of Hugging Face tools. GPT-2 is written as `vocab.json`, `merges.txt` and
//! `tokenizer.json`; characters and bytes as a `tokenizer.json` whose byte-pair encoding has no merges; one that was read
//! from a `tokenizer.json` as that file. A tokenizer is recognised by what its files say, not by who wrote them.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::bpe::byte_spelling;
use crate::gpt2::{END_OF_TEXT, END_OF_TEXT_ID, merge_pairs};
use crate::json::{cuts_as_gpt2, is_plain_bpe, merge_pair};
use crate::{CharTokenizer, Error, Gpt2, JSON as TOKENIZER, JsonTokenizer, Tokenizer, bytes};

const CONFIG: &str = "tokenizer_config.json";
const VOCAB: &str = "vocab.json";
const MERGES: &str = "merges.txt";
const ADDED: &str = "added_tokens.json";
const MERGES_VERSION: &str = "#version: 0.2";

/// Token to id, as the files hold it.
type Vocab = HashMap<String, u32>;

pub(crate) fn of_gpt2(gpt2: &Gpt2) -> Vec<(String, Vec<u8>)> {
    let vocab = vocab_json(gpt2.token_texts());
    let merges: Vec<String> = merge_lines(*gpt2).collect();
    let added = json!([special(END_OF_TEXT_ID, END_OF_TEXT)]);
    let byte_level = byte_level(true);
    let tokenizer = tokenizer_json(&added, &byte_level, &byte_level, &vocab, &json!(merges));
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
    vec![file(TOKENIZER, tokenizer), file(CONFIG, fast_config(None))]
}

pub(crate) fn of_bytes() -> Vec<(String, Vec<u8>)> {
    let tokens = byte_spelling().into_iter().map(String::from).chain([END_OF_TEXT.to_owned()]);
    let added = json!([special(bytes::END_OF_TEXT_ID, END_OF_TEXT)]);
    let byte_level = byte_level(false);
    let tokenizer = tokenizer_json(&added, &byte_level, &byte_level, &vocab_json(tokens), &json!([]));
    vec![file(TOKENIZER, tokenizer), file(CONFIG, fast_config(Some(END_OF_TEXT)))]
}

pub(crate) fn of_json(json: &JsonTokenizer) -> Vec<(String, Vec<u8>)> {
    let (tokenizer, config) = json.files();
    let file = |name: &str, content: &[u8]| (name.to_owned(), content.to_vec());
    std::iter::once(file(TOKENIZER, tokenizer)).chain(config.map(|config| file(CONFIG, config))).collect()
}

/// `tokenizer.json` and `tokenizer_config.json` of a byte-pair encoding that was trained, `model` as the library gives it.
pub(crate) fn of_trained(model: &Value, special_tokens: &[&str]) -> (Vec<u8>, Vec<u8>) {
    let mut tokens: Vec<(&String, u64)> = model["vocab"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(token, id)| Some((token, id.as_u64()?)))
        .collect();
    tokens.sort_unstable_by_key(|&(_, id)| id);
    let vocab = vocab_json(tokens.into_iter().map(|(token, _)| token.clone()));
    let added: Vec<Value> = special_tokens.iter().zip(0..).map(|(token, id)| special(id, token)).collect();
    let byte_level = byte_level(true);
    let tokenizer = tokenizer_json(&json!(added), &byte_level, &byte_level, &vocab, &model["merges"]);
    (tokenizer.into_bytes(), fast_config(special_tokens.first().copied()).into_bytes())
}

fn special(id: u32, token: &str) -> Value {
    json!({
        "id": id, "content": token, "special": true,
        "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
    })
}

/// Byte-level pre-tokenizer and decoder; the pre-tokenizer cuts the text as GPT-2 does, or not at all.
fn byte_level(cut: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": cut})
}

fn fast_config(end_of_text: Option<&str>) -> String {
    let mut config =
        json!({"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": false});
    if let Some(token) = end_of_text {
        config["bos_token"] = json!(token);
        config["eos_token"] = json!(token);
    }
    config.to_string()
}

fn file(name: &str, content: String) -> (String, Vec<u8>) {
    (name.to_owned(), content.into_bytes())
}

/// A JSON object of the tokens and their ids, in order of id (which a `serde_json` map would not keep).
fn vocab_json(tokens: impl IntoIterator<Item = String>) -> String {
    let entries: Vec<String> =
        tokens.into_iter().zip(0..).map(|(token, id): (_, u32)| format!("{}:{id}", json!(token))).collect();
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
    let texts = gpt2.token_texts();
    merge_pairs()
        .map(move |(left, right)| format!("{} {}", texts[usize::from(left)], texts[usize::from(right)]))
}

pub(crate) fn read_tokenizer(read: impl Fn(&str) -> Option<Vec<u8>>) -> Result<Option<Tokenizer>, Error> {
    if let Some(tokenizer) = read(TOKENIZER) {
        return of_tokenizer_json(tokenizer, read(CONFIG)).map(Some);
    }
    let (vocab, merges) = (read(VOCAB), read(MERGES));
    if vocab.is_none() && merges.is_none() {
        return Ok(None);
    }
    if let Some(vocab) = vocab {
        expect_gpt2_vocab(&parse(VOCAB, &vocab)?)?;
    }
    if let Some(merges) = merges {
        let merges = String::from_utf8_lossy(&merges);
        let lines = merges.lines().enumerate().filter(|(i, line)| *i > 0 || !line.starts_with("#version"));
        if !are_gpt2_merges(lines.map(|(_, line)| line).filter(|line| !line.is_empty())) {
            return Err(foreign(MERGES, "its merges are not GPT-2's"));
        }
    }
    if let Some(added) = read(ADDED) {
        let added: Vocab = parse(ADDED, &added)?;
        if let Some((token, _)) =
            added.iter().find(|&(token, &id)| token != END_OF_TEXT || id != END_OF_TEXT_ID)
        {
            return Err(foreign(ADDED, format!("it adds the token {token:?} to GPT-2's")));
        }
    }
    Ok(Some(Tokenizer::gpt2()))
}

/// Any kind, from a `tokenizer.json` and the `tokenizer_config.json` beside it.
pub(crate) fn of_tokenizer_json(file: Vec<u8>, config: Option<Vec<u8>>) -> Result<Tokenizer, Error> {
    let json: Value = parse(TOKENIZER, &file)?;
    let model = &json["model"];
    if !model.is_object() {
        return Err(foreign(TOKENIZER, "it has no model"));
    }
    // Old files leave the type out.
    match model["type"].as_str() {
        None | Some("BPE" | "WordPiece" | "WordLevel" | "Unigram") => {}
        Some(other) => {
            let known = "none of BPE, WordPiece, WordLevel and Unigram";
            return Err(foreign(TOKENIZER, format!("its model is {other:?}, which is {known}")));
        }
    }
    if let Some(own) = own_kind(&json) {
        return Ok(own);
    }
    JsonTokenizer::new(file, json, config).map(Tokenizer::Json).map_err(|reason| foreign(TOKENIZER, reason))
}

/// GPT-2, characters or bytes, if that is what the file describes.
fn own_kind(json: &Value) -> Option<Tokenizer> {
    let model = &json["model"];
    let merges = model["merges"].as_array().filter(|_| is_plain_bpe(json))?;
    let vocab: Vocab = serde_json::from_value(model["vocab"].clone()).ok()?;
    let added = json["added_tokens"].as_array().map_or(&[][..], Vec::as_slice);
    let pre_tokenizer = &json["pre_tokenizer"];
    if merges.is_empty() && pre_tokenizer.is_null() && added.is_empty() && model["unk_token"].is_null() {
        return chars_of(vocab).map(Tokenizer::Char);
    }
    let adds_end = |end| {
        let is_end = |token: &Value| token["content"] == END_OF_TEXT && token["id"].as_u64() == Some(end);
        added.iter().all(is_end)
    };
    let whole = pre_tokenizer["type"] == "ByteLevel" && pre_tokenizer["use_regex"] == false;
    if merges.is_empty() && whole && pre_tokenizer["add_prefix_space"] == false {
        return Some(Tokenizer::Byte).filter(|_| adds_end(bytes::END_OF_TEXT_ID.into()) && is_bytes(&vocab));
    }
    let is_gpt2 = cuts_as_gpt2(pre_tokenizer)
        && adds_end(END_OF_TEXT_ID.into())
        && expect_gpt2_vocab(&vocab).is_ok()
        && are_gpt2_merges(merges.iter().map(|merge| merge_pair(merge).join(" ")));
    is_gpt2.then(Tokenizer::gpt2)
}

/// The characters, if each token is one and their ids leave no gap.
fn chars_of(vocab: Vocab) -> Option<CharTokenizer> {
    let mut tokens = vec![None; vocab.len()];
    for (token, id) in vocab {
        let mut chars = token.chars();
        let (Some(c), None) = (chars.next(), chars.next()) else { return None };
        *tokens.get_mut(id as usize)? = Some(c);
    }
    CharTokenizer::new(tokens.into_iter().collect::<Option<_>>()?).ok()
}

fn is_bytes(vocab: &Vocab) -> bool {
    let is_byte =
        |(spelled, id): (char, u32)| vocab.get(spelled.encode_utf8(&mut [0; 4]) as &str) == Some(&id);
    vocab.len() == bytes::VOCAB_SIZE
        && vocab.get(END_OF_TEXT) == Some(&bytes::END_OF_TEXT_ID)
        && byte_spelling().into_iter().zip(0..).all(is_byte)
}

fn expect_gpt2_vocab(vocab: &Vocab) -> Result<(), Error> {
    let gpt2 = Gpt2::new();
    if vocab.len() != gpt2.vocab_size() {
        let sizes = format!("it has {} tokens, GPT-2 has {}", vocab.len(), gpt2.vocab_size());
        return Err(foreign(VOCAB, sizes));
    }
    match gpt2.token_texts().iter().zip(0..).find(|&(token, id)| vocab.get(token) != Some(&id)) {
        Some((token, id)) => Err(foreign(VOCAB, format!("token {id} is not GPT-2's, {token:?}"))),
        None => Ok(()),
    }
}

fn are_gpt2_merges(merges: impl Iterator<Item = impl AsRef<str>>) -> bool {
    let mut expected = merge_lines(Gpt2::new());
    let all = merges.into_iter().all(|merge| expected.next().is_some_and(|line| line == merge.as_ref()));
    all && expected.next().is_none()
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
