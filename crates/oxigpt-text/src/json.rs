//! A tokenizer of any `tokenizer.json`. The file is the tokenizer: its bytes are kept and written back as they came, its
//! content is what is hashed. The library encodes by it, or, where it is a byte-level encoding of GPT-2's kind, our own
//! encoder does.

use std::fmt;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use serde_json::{Value, json};

use crate::bpe::{ByteBpe, byte_spelling};
use crate::library::Library;
use crate::merge::{MAX_MERGES, Merges};
use crate::{Error, hex_sha256};

/// Ids must be below this, so that a damaged file cannot ask for a vocabulary that fills the memory.
pub(crate) const MAX_VOCAB_SIZE: usize = 1 << 20;

/// What the token that ends a document is called where a directory does not say.
const ENDS: [&str; 6] = ["<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "[EOS]", "[SEP]"];

/// A tokenizer that was read from a `tokenizer.json` or trained. A handle to tables that all its clones share.
#[derive(Clone)]
pub struct JsonTokenizer {
    tables: Arc<Tables>,
}

struct Tables {
    library: Library,
    /// Our own encoder, where it does the same.
    bpe: Option<ByteBpe>,
    /// Tokens that are bytes, whole characters or not: all of them where the encoding is byte-level.
    bytes: FxHashMap<u32, Box<[u8]>>,
    vocab_size: usize,
    end_of_text: Option<u32>,
    hash: String,
    file: Vec<u8>,
    config: Option<Vec<u8>>,
}

impl JsonTokenizer {
    /// The tokenizer of a `tokenizer.json` and, where there is one, the `tokenizer_config.json` beside it, which says
    /// what ends a document.
    pub(crate) fn new(file: Vec<u8>, json: Value, config: Option<Vec<u8>>) -> Result<JsonTokenizer, Reason> {
        let json = encoding_only(json);
        let hash = hex_sha256([crate::JSON.as_bytes(), canonical(&json).as_bytes()]);
        check_prefix(&json["model"])?;
        let library = Library::new(json.clone()).map_err(|failure| failure.to_string())?;
        let vocab: FxHashMap<String, u32> = library.tokens().collect();
        let vocab_size = vocab.values().max().map_or(0, |&id| id as usize + 1);
        if vocab_size == 0 {
            return Err("it has no tokens".to_owned());
        }
        if vocab_size > MAX_VOCAB_SIZE {
            return Err(format!("its highest id is {}; the limit is {}", vocab_size - 1, MAX_VOCAB_SIZE - 1));
        }
        let end_of_text = end_of_text(config.as_deref(), &json, &vocab);
        let bpe = byte_bpe(&json, &vocab);
        let bytes = token_bytes(&json, &vocab);
        let tables = Tables { library, bpe, bytes, vocab_size, end_of_text, hash, file, config };
        Ok(JsonTokenizer { tables: Arc::new(tables) })
    }

    pub(crate) fn vocab_size(&self) -> usize {
        self.tables.vocab_size
    }

    pub(crate) fn end_of_text(&self) -> Option<u32> {
        self.tables.end_of_text
    }

    pub(crate) fn hash(&self) -> &str {
        &self.tables.hash
    }

    /// `tokenizer.json` as it came, and `tokenizer_config.json` if there was one.
    pub(crate) fn files(&self) -> (&[u8], Option<&[u8]>) {
        (&self.tables.file, self.tables.config.as_deref())
    }

    pub(crate) fn encode_into(&self, text: &str, out: &mut Vec<u32>) -> Result<(), Error> {
        match &self.tables.bpe {
            Some(bpe) => bpe.encode_into(text, out),
            None => out.extend(self.tables.library.encode(text).map_err(Error::Encode)?),
        }
        Ok(())
    }

    pub(crate) fn encode_with_specials(&self, text: &str) -> Result<Vec<u32>, Error> {
        self.tables.library.encode_with_specials(text).map_err(Error::Encode)
    }

    /// Appends the bytes of the token `id` that follows `previous`; false where there is no such token.
    pub(crate) fn push_bytes(&self, previous: Option<u32>, id: u32, out: &mut Vec<u8>) -> bool {
        if let Some(bytes) = self.tables.bytes.get(&id) {
            out.extend_from_slice(bytes);
            return true;
        }
        let text = self.tables.library.text(previous, id);
        out.extend_from_slice(text.as_deref().unwrap_or_default().as_bytes());
        text.is_some()
    }
}

/// Why a file is not taken.
pub(crate) type Reason = String;

impl fmt::Debug for JsonTokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JsonTokenizer").field("vocab_size", &self.tables.vocab_size).finish_non_exhaustive()
    }
}

/// A `tokenizer.json` without what does not concern the encoding of one text: cutting and filling to a length, tokens
/// put around it, and the dropping of merges in training.
fn encoding_only(mut json: Value) -> Value {
    for key in ["truncation", "padding", "post_processor"] {
        json[key] = Value::Null;
    }
    if let Some(model) = json["model"].as_object_mut() {
        model.insert("dropout".to_owned(), Value::Null);
        if let Some(merges) = model.get_mut("merges").and_then(Value::as_array_mut) {
            merges.iter_mut().for_each(|merge| *merge = json!(merge_pair(merge)));
        }
    }
    json
}

/// The halves of a merge: written "left right" by older versions of the format, and ["left", "right"] by newer ones.
/// Fewer or more than two where it is neither.
pub(crate) fn merge_pair(merge: &Value) -> Vec<&str> {
    match merge {
        Value::String(merge) => merge.split(' ').collect(),
        merge => merge.as_array().into_iter().flatten().filter_map(Value::as_str).collect(),
    }
}

/// The library takes for granted that the right half of each merge begins with the prefix of what goes on a word.
fn check_prefix(model: &Value) -> Result<(), Reason> {
    let prefix = model["continuing_subword_prefix"].as_str().unwrap_or_default();
    let merges = model["merges"].as_array().map_or(&[][..], Vec::as_slice);
    match merges.iter().find(|merge| merge[1].as_str().is_some_and(|right| !right.starts_with(prefix))) {
        Some(merge) => Err(format!("the right half of the merge {merge} does not begin with {prefix:?}")),
        None => Ok(()),
    }
}

/// JSON with the keys of every object in order and no white space.
fn canonical(json: &Value) -> String {
    match json {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_unstable_by_key(|&(key, _)| key);
            let entries: Vec<String> =
                entries.iter().map(|(key, value)| format!("{}:{}", json!(key), canonical(value))).collect();
            format!("{{{}}}", entries.join(","))
        }
        Value::Array(list) => format!("[{}]", list.iter().map(canonical).collect::<Vec<_>>().join(",")),
        other => other.to_string(),
    }
}

/// The token that ends a document: the one that `tokenizer_config.json` names, or else an added one of a usual name.
fn end_of_text(config: Option<&[u8]>, json: &Value, vocab: &FxHashMap<String, u32>) -> Option<u32> {
    let config: Value = config.and_then(|bytes| serde_json::from_slice(bytes).ok()).unwrap_or_default();
    let named = &config["eos_token"];
    let named = named.as_str().or_else(|| named["content"].as_str());
    let is_added = |name: &&str| added_tokens(json).any(|token| token["content"] == **name);
    let name = named.or_else(|| ENDS.into_iter().find(is_added))?;
    vocab.get(name).copied()
}

fn added_tokens(json: &Value) -> impl Iterator<Item = &Value> {
    json["added_tokens"].as_array().into_iter().flatten()
}

/// Our own encoder for this file, if it describes what ours does: no normalizing, GPT-2's cutting, byte-level merges, and
/// no added tokens but special ones, which ordinary text does not have.
fn byte_bpe(json: &Value, vocab: &FxHashMap<String, u32>) -> Option<ByteBpe> {
    let model = &json["model"];
    let of_our_kind = is_plain_bpe(json)
        && cuts_as_gpt2(&json["pre_tokenizer"])
        && model["ignore_merges"] != true
        && added_tokens(json).all(|token| token["special"] == true);
    let merges = model["merges"].as_array().filter(|merges| of_our_kind && merges.len() <= MAX_MERGES)?;
    let id = |token: &str| u16::try_from(*vocab.get(token)?).ok();
    let merges: Option<Vec<_>> = merges
        .iter()
        .map(|merge| match merge_pair(merge)[..] {
            [left, right] => Some(((id(left)?, id(right)?), id(&format!("{left}{right}"))?)),
            _ => None,
        })
        .collect();
    let mut byte_ids = [0; 256];
    for (byte_id, spelled) in byte_ids.iter_mut().zip(byte_spelling()) {
        *byte_id = id(spelled.encode_utf8(&mut [0; 4]))?;
    }
    let bpe = ByteBpe::new(byte_ids, Merges::new(merges?.into_iter()));
    Some(look_up_whole(bpe, vocab))
}

/// A byte-pair encoding of the text as it is, of tokens that are spelled alike wherever they stand in a word.
pub(crate) fn is_plain_bpe(json: &Value) -> bool {
    let model = &json["model"];
    let empty = |value: &Value| value.is_null() || value == "";
    // Old files leave the type out; of the models, only this has merges.
    (model["type"].is_null() || model["type"] == "BPE")
        && json["normalizer"].is_null()
        && empty(&model["continuing_subword_prefix"])
        && empty(&model["end_of_word_suffix"])
}

/// GPT-2's pre-tokenizer.
pub(crate) fn cuts_as_gpt2(pre_tokenizer: &Value) -> bool {
    pre_tokenizer["type"] == "ByteLevel"
        && pre_tokenizer["add_prefix_space"] == false
        && pre_tokenizer["use_regex"] != false
}

/// The encoder that looks up those tokens whole that are what their bytes merge to.
fn look_up_whole(bpe: ByteBpe, vocab: &FxHashMap<String, u32>) -> ByteBpe {
    let byte_of = byte_of_spelling();
    let (mut scratch, mut merged) = (Vec::new(), Vec::new());
    let tokens: Vec<(Vec<u8>, u16)> = vocab
        .iter()
        .filter_map(|(token, &id)| {
            let bytes = unspell(token, &byte_of).filter(|bytes| !bytes.is_empty())?;
            merged.clear();
            bpe.merge_into(&bytes, &mut scratch, &mut merged);
            Some((bytes, u16::try_from(id).ok()?)).filter(|_| merged == [id])
        })
        .collect();
    let tokens: Vec<(&[u8], u16)> = tokens.iter().map(|(bytes, id)| (bytes.as_slice(), *id)).collect();
    bpe.looking_up(&tokens)
}

/// The tokens that stand for bytes: in a byte-level encoding all, a token that is not spelled so being its own text; with
/// a fallback to bytes those named `<0x00>` to `<0xFF>`.
fn token_bytes(json: &Value, vocab: &FxHashMap<String, u32>) -> FxHashMap<u32, Box<[u8]>> {
    let decoder = &json["decoder"];
    if decoder["type"] == "ByteLevel" {
        let byte_of = byte_of_spelling();
        let bytes = |token: &str| unspell(token, &byte_of).unwrap_or_else(|| token.as_bytes().to_vec());
        return vocab.iter().map(|(token, &id)| (id, bytes(token).into())).collect();
    }
    let steps = decoder["decoders"].as_array().map_or(std::slice::from_ref(decoder), Vec::as_slice);
    if !steps.iter().any(|step| step["type"] == "ByteFallback") {
        return FxHashMap::default();
    }
    let of_byte = |byte: u8| Some((*vocab.get(&format!("<0x{byte:02X}>"))?, [byte].into()));
    (0..=255).filter_map(of_byte).collect()
}

fn byte_of_spelling() -> FxHashMap<char, u8> {
    byte_spelling().into_iter().zip(0..=255).collect()
}

/// The bytes that a token of a byte-level encoding spells, if each of its characters is one.
fn unspell(token: &str, byte_of: &FxHashMap<char, u8>) -> Option<Vec<u8>> {
    token.chars().map(|c| byte_of.get(&c).copied()).collect()
}
