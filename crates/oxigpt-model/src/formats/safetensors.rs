//! Safetensors files: mapped for reading, streamed for writing (float32).
//!
//! The layout is eight bytes of header length, a JSON header with the type, shape and place of every tensor,
//! and the tensors' bytes, little-endian.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use fs_err::File;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value, json};

use super::mapped::{Element, MappedFile, View};
use crate::{Error, MappedTensors, TensorSource};

/// What such a file is, for messages.
const WHAT: &str = "safetensors file";

/// Writes all tensors of a source to a new file, one at a time, and syncs it.
pub fn write_tensors(
    path: impl AsRef<Path>,
    source: &(impl TensorSource + ?Sized),
    metadata: &[(&str, &str)],
) -> Result<(), Error> {
    let shapes = source.shapes();
    let mut file = BufWriter::new(File::create(path.as_ref())?);
    let mut header = header(&shapes, metadata).to_string();
    // The tensors begin at a multiple of eight.
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    for (name, _) in &shapes {
        file.write_all(bytemuck::cast_slice(&source.read(name)?))?;
        source.release(name);
    }
    file.flush()?;
    Ok(file.get_ref().sync_all()?)
}

fn header(shapes: &[(String, Vec<usize>)], metadata: &[(&str, &str)]) -> Value {
    let mut header = Map::new();
    if !metadata.is_empty() {
        let metadata = metadata.iter().map(|(key, value)| ((*key).to_owned(), json!(value)));
        header.insert("__metadata__".into(), metadata.collect());
    }
    let mut begin = 0;
    for (name, shape) in shapes {
        let end = begin + shape.iter().product::<usize>() * size_of::<f32>();
        header.insert(name.clone(), json!({ "dtype": "F32", "shape": shape, "data_offsets": [begin, end] }));
        begin = end;
    }
    header.into()
}

/// Opens a file of float32, float16 or bfloat16 tensors. Its header is checked whole: every tensor lies inside
/// the file.
pub fn map_tensors(path: impl Into<PathBuf>) -> Result<MappedTensors, Error> {
    let tensors = map_all(MappedFile::open(path)?)?;
    tensors.check_elements()?;
    Ok(tensors)
}

/// Whether a file begins as a safetensors file does.
pub(crate) fn is_safetensors(bytes: &[u8]) -> bool {
    bytes.get(8) == Some(&b'{')
}

/// Like [`map_tensors`], but tensors of other types may be there.
pub(crate) fn map_all(file: MappedFile) -> Result<MappedTensors, Error> {
    let (header_len, header) =
        SafeTensors::read_metadata(file.bytes()).map_err(|error| file.malformed(WHAT, error.to_string()))?;
    let data_begin = header_len + size_of::<u64>();
    let views = header.tensors().into_iter().map(|(name, info)| {
        let element = match info.dtype {
            Dtype::F32 => Element::F32,
            Dtype::F16 => Element::F16,
            Dtype::BF16 => Element::Bf16,
            other => Element::Other(format!("{other:?}")),
        };
        (name, View::row_major(data_begin + info.data_offsets.0, element, &info.shape))
    });
    MappedTensors::new(file, WHAT, views)
}
