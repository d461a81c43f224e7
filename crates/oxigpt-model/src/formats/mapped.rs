//! Tensors of mapped files: each is a view of some bytes, and is decoded when it is read.
//!
//! A view has its own element type and strides, so that float16 files, torch's strided storages and transposed or
//! stacked weights are all read from where they lie; only what is not plain float32 in row-major order is copied.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::path::{Path, PathBuf};

use fs_err::File;
use half::{bf16, f16};
use memmap2::Mmap;

use crate::tensors::missing;
use crate::{Error, TensorSource};

/// Rows and columns of the tiles in which a matrix is transposed: two of them fit into the nearest cache.
const TILE: usize = 32;

/// Tensors of one mapped file or several: their pages are read as the tensors are.
#[derive(Debug)]
pub struct MappedTensors {
    origin: PathBuf,
    files: Vec<MappedFile>,
    /// Each with the place of its file.
    tensors: BTreeMap<String, (usize, View)>,
}

/// A file in memory.
#[derive(Debug)]
pub(crate) struct MappedFile {
    pub(crate) path: PathBuf,
    map: Mmap,
}

/// Where a tensor lies in a file, and how.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct View {
    /// Byte at which its first element begins.
    pub(crate) begin: usize,
    pub(crate) element: Element,
    pub(crate) shape: Vec<usize>,
    /// Elements from one to the next along each dimension.
    pub(crate) strides: Vec<usize>,
}

/// What a tensor is made of.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Element {
    F32,
    F16,
    Bf16,
    /// Another type, which is not read.
    Other(String),
}

impl MappedFile {
    pub(crate) fn open(path: impl Into<PathBuf>) -> Result<MappedFile, Error> {
        let path = path.into();
        // A pipe would be waited for, and a device cannot be mapped.
        if !fs_err::metadata(&path)?.is_file() {
            return Err(io::Error::other(format!("{} is not a regular file", path.display())).into());
        }
        let file = File::open(&path)?;
        // SAFETY: the map is only read, and any bytes are valid as bytes and as floats. Should another process
        // rewrite the file meanwhile, wrong weights are read; should it shorten it, the system ends this one. No
        // program of ours does either: files are written beside their final names and never changed in place.
        let map = unsafe { Mmap::map(file.file())? };
        Ok(MappedFile { path, map })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// An error that says that this is not `what` it should be.
    pub(crate) fn malformed(&self, what: &'static str, reason: impl Into<String>) -> Error {
        Error::Malformed { path: self.path.clone(), what, reason: reason.into() }
    }

    /// Gives the pages of a range back.
    #[cfg(unix)]
    fn release(&self, begin: usize, len: usize) {
        // SAFETY: the map is a file's and never written, so a page that is given back holds the same bytes when
        // it is touched again.
        let _ = unsafe { self.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, begin, len) };
    }

    #[cfg(not(unix))]
    fn release(&self, _begin: usize, _len: usize) {}
}

impl MappedTensors {
    /// The tensors of a file, which is `what`. That each lies inside it is checked here, once for all formats.
    pub(crate) fn new(
        file: MappedFile,
        what: &'static str,
        views: impl IntoIterator<Item = (String, View)>,
    ) -> Result<MappedTensors, Error> {
        let mut tensors = BTreeMap::new();
        for (name, view) in views {
            if view.end().is_none_or(|end| end > file.map.len()) {
                return Err(file.malformed(what, format!("tensor `{name}` lies outside the file")));
            }
            match tensors.entry(name) {
                Entry::Vacant(place) => place.insert((0, view)),
                Entry::Occupied(place) => {
                    return Err(Error::DuplicateTensor {
                        origin: file.path.display().to_string(),
                        name: place.key().clone(),
                    });
                }
            };
        }
        Ok(MappedTensors { origin: file.path.clone(), files: vec![file], tensors })
    }

    /// The tensors of all parts together.
    pub(crate) fn merge(origin: &Path, parts: Vec<MappedTensors>) -> Result<MappedTensors, Error> {
        let mut whole = MappedTensors { origin: origin.into(), files: Vec::new(), tensors: BTreeMap::new() };
        for part in parts {
            let before = whole.files.len();
            for (name, (file, view)) in part.tensors {
                if whole.tensors.contains_key(&name) {
                    return Err(Error::DuplicateTensor { origin: whole.origin(), name });
                }
                whole.tensors.insert(name, (before + file, view));
            }
            whole.files.extend(part.files);
        }
        Ok(whole)
    }

    /// Gives every tensor the name that `rename` makes of its own; `None` leaves it out.
    pub(crate) fn rename(&mut self, rename: impl Fn(&str) -> Option<String>) -> Result<(), Error> {
        for (name, tensor) in std::mem::take(&mut self.tensors) {
            let Some(name) = rename(&name) else { continue };
            if self.tensors.contains_key(&name) {
                return Err(Error::DuplicateTensor { origin: self.origin(), name });
            }
            self.tensors.insert(name, tensor);
        }
        Ok(())
    }

    /// Exchanges rows and columns of the matrices whose names `which` picks.
    pub(crate) fn transpose(&mut self, which: impl Fn(&str) -> bool) {
        for (_, (_, view)) in self.tensors.iter_mut().filter(|(name, _)| which(name)) {
            view.shape.reverse();
            view.strides.reverse();
        }
    }

    /// Takes a tensor out.
    pub(crate) fn remove(&mut self, name: &str) -> Option<(usize, View)> {
        self.tensors.remove(name)
    }

    pub(crate) fn insert(&mut self, name: &str, tensor: (usize, View)) {
        self.tensors.insert(name.into(), tensor);
    }

    pub(crate) fn get(&self, name: &str) -> Option<&(usize, View)> {
        self.tensors.get(name)
    }

    /// Checks that every tensor can be read.
    pub(crate) fn check_elements(&self) -> Result<(), Error> {
        for (name, (file, view)) in &self.tensors {
            if let Element::Other(found) = &view.element {
                let path = self.files[*file].path.clone();
                return Err(Error::TensorType { path, name: name.clone(), found: found.clone() });
            }
        }
        Ok(())
    }
}

impl TensorSource for MappedTensors {
    fn origin(&self) -> String {
        self.origin.display().to_string()
    }

    fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        self.tensors.iter().map(|(name, (_, view))| (name.clone(), view.shape.clone())).collect()
    }

    fn read(&self, name: &str) -> Result<Cow<'_, [f32]>, Error> {
        let (file, view) = self.tensors.get(name).ok_or_else(|| missing(self, name))?;
        let file = &self.files[*file];
        view.read(&file.map).map_err(|found| Error::TensorType {
            path: file.path.clone(),
            name: name.into(),
            found: found.into(),
        })
    }

    fn release(&self, name: &str) {
        if let Some((file, view)) = self.tensors.get(name)
            && let Some(end) = view.end()
        {
            self.files[*file].release(view.begin, end - view.begin);
        }
    }
}

impl Element {
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Element::F32 => 4,
            Element::F16 | Element::Bf16 => 2,
            Element::Other(_) => 0,
        }
    }
}

impl View {
    /// A tensor in row-major order.
    pub(crate) fn row_major(begin: usize, element: Element, shape: &[usize]) -> View {
        View { begin, element, shape: shape.into(), strides: row_major_strides(shape) }
    }

    /// The number of elements, unless it cannot be counted.
    pub(crate) fn len(&self) -> Option<usize> {
        self.shape.iter().try_fold(1usize, |len, &size| len.checked_mul(size))
    }

    /// The byte behind the last element, unless it cannot be counted.
    pub(crate) fn end(&self) -> Option<usize> {
        let last = self.shape.iter().zip(&self.strides).try_fold(0usize, |last, (&size, &stride)| {
            last.checked_add(size.saturating_sub(1).checked_mul(stride)?)
        })?;
        let elements = if self.len()? == 0 { 0 } else { last.checked_add(1)? };
        elements.checked_mul(self.element.bytes())?.checked_add(self.begin)
    }

    fn is_row_major(&self) -> bool {
        let strides = row_major_strides(&self.shape);
        let sizes = self.shape.iter().zip(self.strides.iter().zip(&strides));
        sizes.into_iter().all(|(&size, (own, row_major))| size <= 1 || own == row_major)
    }

    /// Decodes the tensor from the bytes of its file; the name of its type where that is not read.
    fn read<'a>(&self, file: &'a [u8]) -> Result<Cow<'a, [f32]>, &str> {
        let bytes = &file[self.begin..self.end().expect("a view is checked when it is made")];
        Ok(match &self.element {
            Element::Other(found) => return Err(found),
            Element::F32 if self.is_row_major() => match bytemuck::try_cast_slice(bytes) {
                Ok(data) => data.into(),
                // A foreign writer may have left the tensors unaligned.
                Err(_) => self.gather(bytes, f32::from_le_bytes),
            },
            Element::F32 => self.gather(bytes, f32::from_le_bytes),
            Element::F16 => self.gather(bytes, |b| f16::from_le_bytes(b).to_f32()),
            Element::Bf16 => self.gather(bytes, |b| bf16::from_le_bytes(b).to_f32()),
        })
    }

    /// Elements of any strides in row-major order.
    fn gather<'a, const N: usize>(&self, bytes: &[u8], decode: impl Fn([u8; N]) -> f32) -> Cow<'a, [f32]> {
        let (elements, _) = bytes.as_chunks::<N>();
        if self.is_row_major() {
            return elements.iter().map(|&element| decode(element)).collect();
        }
        let len = self.len().expect("a view is checked when it is made");
        let mut out = vec![0.0; len];
        if let ([rows, columns], [row_stride, column_stride]) = (&self.shape[..], &self.strides[..]) {
            for_tiles(*rows, *columns, |r, c| {
                out[r * columns + c] = decode(elements[r * row_stride + c * column_stride]);
            });
        } else {
            for (i, out) in out.iter_mut().enumerate() {
                *out = decode(elements[self.offset(i)]);
            }
        }
        out.into()
    }

    /// Elements between the first one and the `i`-th in row-major order.
    fn offset(&self, mut i: usize) -> usize {
        let mut offset = 0;
        for (size, stride) in self.shape.iter().zip(&self.strides).rev() {
            offset += i % size * stride;
            i /= size;
        }
        offset
    }
}

/// Visits all places of a matrix tile by tile, which is kind to the cache when it is read or written across.
pub(crate) fn for_tiles(rows: usize, columns: usize, mut visit: impl FnMut(usize, usize)) {
    for r0 in (0..rows).step_by(TILE) {
        for c0 in (0..columns).step_by(TILE) {
            for r in r0..rows.min(r0 + TILE) {
                for c in c0..columns.min(c0 + TILE) {
                    visit(r, c);
                }
            }
        }
    }
}

fn row_major_strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for d in (1..shape.len()).rev() {
        // An overflow is told by `len`, which every view is asked for before it is used.
        strides[d - 1] = strides[d].saturating_mul(shape[d]);
    }
    strides
}
