//! Safetensors files of float32 tensors: mapped for reading, streamed for writing.
//!
//! The layout is eight bytes of header length, a JSON header with the type, shape and place of every tensor,
//! and the tensors' bytes, little-endian.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use fs_err::File;
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value, json};

use crate::tensors::missing;
use crate::{Error, TensorSource};

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

/// A mapped file: its pages are read as its tensors are.
#[derive(Debug)]
pub struct MappedTensors {
    path: PathBuf,
    map: Mmap,
    tensors: BTreeMap<String, MappedTensor>,
}

#[derive(Clone, Debug)]
struct MappedTensor {
    shape: Vec<usize>,
    bytes: Range<usize>,
}

/// Opens a file of float32 tensors. Its header is checked whole: every tensor lies inside the file.
pub fn map_tensors(path: impl Into<PathBuf>) -> Result<MappedTensors, Error> {
    let path = path.into();
    let file = File::open(&path)?;
    // SAFETY: the map is only read, and any bytes are valid as bytes and as floats. Should another process
    // rewrite the file meanwhile, wrong weights are read; should it shorten it, the system ends this one. No
    // program of ours does either: files are written beside their final names and never changed in place.
    let map = unsafe { Mmap::map(file.file())? };
    let not_safetensors = |reason: String| Error::NotSafetensors { path: path.clone(), reason };
    let (header_len, header) =
        SafeTensors::read_metadata(&map).map_err(|error| not_safetensors(error.to_string()))?;
    let data_begin = header_len + size_of::<u64>();
    let mut tensors = BTreeMap::new();
    for (name, info) in header.tensors() {
        if info.dtype != Dtype::F32 {
            return Err(Error::TensorType { path, name, found: format!("{:?}", info.dtype) });
        }
        let (begin, end) = info.data_offsets;
        let bytes = data_begin + begin..data_begin + end;
        if map.get(bytes.clone()).is_none() {
            return Err(not_safetensors(format!("tensor `{name}` lies outside the file")));
        }
        tensors.insert(name, MappedTensor { shape: info.shape.clone(), bytes });
    }
    Ok(MappedTensors { path, map, tensors })
}

impl MappedTensors {
    /// Takes a prefix off the names of all tensors that have it.
    pub(crate) fn strip_prefix(&mut self, prefix: &str) {
        let strip = |name: String| name.strip_prefix(prefix).map(str::to_owned).unwrap_or(name);
        self.tensors =
            std::mem::take(&mut self.tensors).into_iter().map(|(name, t)| (strip(name), t)).collect();
    }

    /// Leaves a tensor out.
    pub(crate) fn remove(&mut self, name: &str) {
        self.tensors.remove(name);
    }

    /// Whether there is such a tensor.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }
}

impl TensorSource for MappedTensors {
    fn origin(&self) -> String {
        self.path.display().to_string()
    }

    fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        self.tensors.iter().map(|(name, tensor)| (name.clone(), tensor.shape.clone())).collect()
    }

    fn read(&self, name: &str) -> Result<Cow<'_, [f32]>, Error> {
        let tensor = self.tensors.get(name).ok_or_else(|| missing(self, name))?;
        let bytes = &self.map[tensor.bytes.clone()];
        // A foreign writer may have left the tensors unaligned.
        Ok(match bytemuck::try_cast_slice(bytes) {
            Ok(data) => data.into(),
            Err(_) => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        })
    }
}
