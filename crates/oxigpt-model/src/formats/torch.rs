//! What `torch.save` writes: a zip archive with a pickle, and beside it the bytes of every storage.
//!
//! The archive's entries are stored as they are, so tensors are views into the mapped file. The pickle is read as
//! data; of torch it may name what a tensor is made of, and of everybody else nothing but a `GPTConfig`.

use std::collections::HashMap;
use std::ops::Range;

use oxigpt_pickle::{Pickle, Value};
use rawzip::{CompressionMethod, ZipArchive};

use super::mapped::{Element, MappedFile, View};
use crate::{Error, MappedTensors};

/// What such a file is, for messages.
pub(crate) const WHAT: &str = "torch checkpoint";

/// Name of the pickle in the archive, after the archive's own folder.
const PICKLE: &str = "data.pkl";

/// The class of build-nanogpt's configuration, wherever it was defined.
pub(crate) const GPT_CONFIG: &str = "GPTConfig";

/// The archive's entries by name, without their common folder.
pub(crate) struct Archive<'a> {
    file: &'a MappedFile,
    entries: HashMap<String, Range<usize>>,
}

/// Whether a file begins as a zip archive does.
pub(crate) fn is_zip(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK\x03\x04")
}

/// Whether a file begins as those of torch before 1.6 do: with a pickled magic number.
pub(crate) fn is_legacy(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19")
}

/// Opens a file whose pickle is a dict of tensors, as `pytorch_model.bin` is.
pub(crate) fn map_state_dict(file: MappedFile) -> Result<MappedTensors, Error> {
    if is_legacy(file.bytes()) {
        return Err(Error::OldTorch { path: file.path });
    }
    let archive = Archive::read(&file)?;
    let views = archive.state_dict(archive.pickle()?.root())?;
    MappedTensors::new(file, WHAT, views)
}

impl<'a> Archive<'a> {
    /// Reads the list of entries.
    pub(crate) fn read(file: &'a MappedFile) -> Result<Archive<'a>, Error> {
        let bad_zip = |error: rawzip::Error| file.malformed(WHAT, error.to_string());
        let zip = ZipArchive::from_slice(file.bytes()).map_err(bad_zip)?;
        let mut entries = HashMap::new();
        for header in zip.entries() {
            let header = header.map_err(bad_zip)?;
            let path = header.file_path();
            let Ok(path) = std::str::from_utf8(path.as_bytes()) else { continue };
            let Some((_, name)) = path.split_once('/') else { continue };
            if header.compression_method() != CompressionMethod::STORE {
                return Err(file.malformed(WHAT, format!("its entry `{name}` is compressed")));
            }
            let (begin, end) = zip.get_entry(header.wayfinder()).map_err(bad_zip)?.compressed_data_range();
            entries.insert(name.to_owned(), begin as usize..end as usize);
        }
        let archive = Archive { file, entries };
        match archive.entry("byteorder") {
            Ok(order) if order != b"little" => Err(archive.malformed("its numbers are big-endian")),
            _ => Ok(archive),
        }
    }

    fn range(&self, name: &str) -> Result<Range<usize>, Error> {
        let range = self.entries.get(name).cloned();
        range.ok_or_else(|| self.malformed(format!("the archive has no `{name}`")))
    }

    fn entry(&self, name: &str) -> Result<&'a [u8], Error> {
        self.file
            .bytes()
            .get(self.range(name)?)
            .ok_or_else(|| self.malformed(format!("`{name}` is cut short")))
    }

    /// The pickle of what was saved.
    pub(crate) fn pickle(&self) -> Result<Pickle<'a>, Error> {
        oxigpt_pickle::read(self.entry(PICKLE)?, is_admitted)
            .map_err(|source| Error::Pickle { path: self.file.path.clone(), source })
    }

    /// The tensors of a dict from names to tensors.
    pub(crate) fn state_dict(&self, dict: Value) -> Result<Vec<(String, View)>, Error> {
        if dict.kind() != "dict" {
            return Err(self.malformed(format!("a {} stands where a dict of tensors should", dict.kind())));
        }
        let view = |(name, value): (Value, Value)| {
            let name = name.as_str().ok_or_else(|| self.malformed("a tensor's name is no string"))?;
            let view = self.tensor(value);
            Ok((name.to_owned(), view.map_err(|reason| self.malformed(format!("`{name}` {reason}")))?))
        };
        dict.entries().map(view).collect()
    }

    /// What `_rebuild_tensor_v2(storage, offset, shape, strides, ...)` would build.
    fn tensor(&self, value: Value) -> Result<View, String> {
        let call = value.as_object().ok_or_else(|| format!("is no tensor, but a {}", value.kind()))?;
        let mut args = call.args.items();
        if call.name == "_rebuild_parameter" {
            let data = args.next().filter(|data| data.as_object().is_some_and(|o| o.name != call.name));
            return self.tensor(data.ok_or("is a parameter without data")?);
        }
        let [Some(storage), Some(offset), Some(shape), Some(strides)] = [(); 4].map(|()| args.next()) else {
            return Err(format!("is no tensor, but a {}", call.name));
        };
        let (element, bytes) = self.storage(storage)?;
        let sizes = |value: Value| value.items().map(as_size).collect::<Option<Vec<usize>>>();
        let (Some(offset), Some(shape), Some(strides)) = (as_size(offset), sizes(shape), sizes(strides))
        else {
            return Err("has a size that is no number".into());
        };
        let begin = offset.checked_mul(element.bytes()).and_then(|skipped| bytes.start.checked_add(skipped));
        let begin = begin.ok_or("lies outside its storage")?;
        let view = View { begin, element, shape, strides };
        if view.shape.len() != view.strides.len() {
            return Err("has not as many strides as sizes".into());
        }
        // A tensor that repeats elements could be larger than any file; no program saves weights so.
        let len = view.len().and_then(|len| len.checked_mul(view.element.bytes()));
        if view.end().is_none_or(|end| end > bytes.end) || len.is_none_or(|len| len > bytes.len()) {
            return Err("is larger than its storage".into());
        }
        Ok(view)
    }

    /// The type and place of `('storage', class, key, device, elements)`.
    fn storage(&self, value: Value) -> Result<(Element, Range<usize>), String> {
        let mut parts = value.as_persistent_id().ok_or("has no storage")?.items();
        let [Some(_), Some(class), Some(key)] = [(); 3].map(|()| parts.next()) else {
            return Err("has no storage".into());
        };
        let (Some((_, class)), Some(key)) = (class.as_global(), key.as_str()) else {
            return Err("has no storage".into());
        };
        let element = match class {
            "FloatStorage" => Element::F32,
            "HalfStorage" => Element::F16,
            "BFloat16Storage" => Element::Bf16,
            other => Element::Other(other.trim_end_matches("Storage").into()),
        };
        let entry = format!("data/{key}");
        let bytes =
            self.entries.get(&entry).ok_or_else(|| format!("is kept in `{entry}`, which is missing"))?;
        Ok((element, bytes.clone()))
    }

    /// An error that says that a choice of its model is not among ours.
    pub(crate) fn unsupported(&self, key: &'static str, found: &str, supported: &str) -> Error {
        let path = self.file.path.clone();
        Error::Unsupported { path, key, found: found.into(), supported: supported.into() }
    }

    /// An error that says that this is no checkpoint.
    pub(crate) fn malformed(&self, reason: impl Into<String>) -> Error {
        self.file.malformed(WHAT, reason)
    }
}

fn is_admitted(module: &str, name: &str) -> bool {
    match module {
        "torch._utils" => matches!(name, "_rebuild_tensor_v2" | "_rebuild_parameter"),
        "torch" => name.ends_with("Storage"),
        _ => name == GPT_CONFIG,
    }
}

fn as_size(value: Value) -> Option<usize> {
    value.as_int().and_then(|size| usize::try_from(size).ok())
}
