//! nanoGPT's `meta.pkl`: the characters of a data set, as a pickled dict of `vocab_size`, `itos` (id to character) and
//! `stoi` (character to id). nanoGPT unpickles it, which can run anything; here it is read as plain data.

use std::io::ErrorKind;
use std::path::Path;

use fs_err as fs;
use oxigpt_pickle::Value;
use oxigpt_text::{CharTokenizer, Tokenizer};

use crate::error::{DatasetError, Error, Result};

/// The name of the file.
pub(crate) const FILE_NAME: &str = "meta.pkl";

/// The tokenizer that `meta.pkl` in `dir` describes; `None` if there is no such file.
pub(crate) fn read(dir: &Path) -> Result<Option<Tokenizer>> {
    match read_file(&dir.join(FILE_NAME)) {
        Err(Error::Io(error)) if error.kind() == ErrorKind::NotFound => Ok(None),
        tokenizer => tokenizer.map(Some),
    }
}

/// The tokenizer that a file like `meta.pkl` describes.
pub(crate) fn read_file(path: &Path) -> Result<Tokenizer> {
    let bytes = fs::read(path)?;
    let pickle = oxigpt_pickle::read(&bytes, |_, _| false)
        .map_err(|source| DatasetError::Pickle { path: path.into(), source })?;
    let unfit = |problem| Error::from(DatasetError::Meta { path: path.into(), problem });
    let chars = characters(pickle.root()).map_err(unfit)?;
    let tokenizer = CharTokenizer::new(chars).map_err(|error| unfit(error.to_string()))?;
    Ok(Tokenizer::Char(tokenizer))
}

/// The characters in the order of their ids, if the three entries of the dict agree on them.
fn characters(meta: Value<'_>) -> Result<Vec<char>, String> {
    let entry = |key: &str| meta.get(key).ok_or_else(|| format!("it has no `{key}`"));
    let (size, itos, stoi) = (entry("vocab_size")?, entry("itos")?, entry("stoi")?);
    let n = itos.entries().len();
    if size.as_int() != i64::try_from(n).ok() {
        let size = size.as_int().map_or_else(|| size.kind().to_owned(), |size| size.to_string());
        return Err(format!("its vocab_size is {size}, but `itos` has {n} tokens"));
    }
    let mut chars = vec![None; n];
    for (id, token) in itos.entries() {
        let c = one_character(token)?;
        let slot = id.as_int().and_then(|id| chars.get_mut(usize::try_from(id).ok()?));
        *slot.ok_or_else(|| format!("an id of `itos` is none of 0 to {}", n.saturating_sub(1)))? = Some(c);
    }
    let chars: Vec<char> =
        chars.into_iter().collect::<Option<_>>().ok_or("two tokens of `itos` have the same id")?;
    if stoi.entries().len() != n {
        return Err(format!("`stoi` has {} tokens, but `itos` has {n}", stoi.entries().len()));
    }
    for (token, id) in stoi.entries() {
        let c = one_character(token)?;
        let at = id.as_int().and_then(|id| usize::try_from(id).ok());
        if at.and_then(|at| chars.get(at)) != Some(&c) {
            return Err(format!("`stoi` and `itos` disagree on the id of {c:?}"));
        }
    }
    Ok(chars)
}

fn one_character(token: Value<'_>) -> Result<char, String> {
    let text =
        token.as_str().ok_or_else(|| format!("a token is of kind {}, not a character", token.kind()))?;
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (Some(c), None) => Ok(c),
        _ => Err(format!("the token {text:?} is not one character")),
    }
}
