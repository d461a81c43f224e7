//! Named tensors, wherever they are: in a session, in a mapped file, in memory, or not yet made.
//!
//! A [`TensorSource`] gives them one at a time, so that a model is never held twice on its way between a file
//! and a session. A [`TensorTable`] names tensors of a plan and moves them. Outside a plan, tensors have the
//! shapes of their files: the word embedding and whatever is shaped like it have no padding.

use std::borrow::Cow;
use std::collections::BTreeMap;

use oxigpt_compute::{Data, Session, TensorId};

use crate::Error;
use crate::weights::WPE;

/// A shape and its elements in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// Elements.
    pub data: Vec<f32>,
}

/// Tensors in memory, by name.
pub type NamedTensors = BTreeMap<String, NamedTensor>;

/// Somewhere that named float32 tensors come from.
pub trait TensorSource {
    /// Where that is, for messages.
    fn origin(&self) -> String;

    /// Names and shapes.
    fn shapes(&self) -> Vec<(String, Vec<usize>)>;

    /// Elements of one of them.
    fn read(&self, name: &str) -> Result<Cow<'_, [f32]>, Error>;

    /// Says that a tensor will not be read again soon: what holds it in memory for that may let it go.
    fn release(&self, _name: &str) {}

    /// Names of those with elements that are not finite numbers.
    fn not_finite(&self) -> Result<Vec<String>, Error> {
        let mut found = Vec::new();
        for (name, _) in self.shapes() {
            if !self.read(&name)?.iter().all(|x| x.is_finite()) {
                found.push(name);
            }
        }
        Ok(found)
    }

    /// All of them, in memory.
    fn collect(&self) -> Result<NamedTensors, Error> {
        let read = |(name, shape): (String, Vec<usize>)| {
            let data = self.read(&name)?.into_owned();
            Ok((name, NamedTensor { shape, data }))
        };
        self.shapes().into_iter().map(read).collect()
    }
}

impl TensorSource for NamedTensors {
    fn origin(&self) -> String {
        "weights in memory".into()
    }

    fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        self.iter().map(|(name, tensor)| (name.clone(), tensor.shape.clone())).collect()
    }

    fn read(&self, name: &str) -> Result<Cow<'_, [f32]>, Error> {
        self.get(name).map(|tensor| tensor.data.as_slice().into()).ok_or_else(|| missing(self, name))
    }
}

/// Checks that a source has exactly the tensors of `expected`, in any order. Only `wpe.weight` may have
/// more rows than that, which belong to positions that the model has given up.
pub(crate) fn check(
    source: &(impl TensorSource + ?Sized),
    expected: &[(String, Vec<usize>)],
) -> Result<(), Error> {
    let mut found: BTreeMap<_, _> = source.shapes().into_iter().collect();
    for (name, shape) in expected {
        let found = found.remove(name).ok_or_else(|| missing(source, name))?;
        let cropped = name.ends_with(WPE)
            && found.len() == shape.len()
            && found[0] > shape[0]
            && found[1..] == shape[1..];
        if found != *shape && !cropped {
            let (origin, name) = (source.origin(), name.clone());
            return Err(Error::TensorShape { origin, name, expected: shape.clone(), found });
        }
    }
    match found.into_keys().next() {
        Some(name) => Err(Error::SurplusTensor { origin: source.origin(), name }),
        None => Ok(()),
    }
}

pub(crate) fn missing(source: &(impl TensorSource + ?Sized), name: &str) -> Error {
    Error::MissingTensor { origin: source.origin(), name: name.into() }
}

/// One row of a [`TensorTable`].
#[derive(Clone, Debug)]
pub struct TensorTableEntry {
    /// Name in files.
    pub name: String,
    /// Shape in files; the tensor of the plan may have more rows, which are zero.
    pub shape: Vec<usize>,
    /// The tensor of the plan.
    pub id: TensorId,
    /// Whether the plan has rows and columns exchanged.
    transposed: bool,
}

impl TensorTableEntry {
    /// Elements as the plan has them, of `len`, from those in files.
    fn to_plan<'a>(&self, mut data: Cow<'a, [f32]>, len: usize) -> Cow<'a, [f32]> {
        if self.transposed {
            return transpose(&data, self.shape[1]).into();
        }
        if data.len() < len {
            data.to_mut().resize(len, 0.0);
        }
        match data {
            Cow::Borrowed(data) => data[..len].into(),
            Cow::Owned(mut data) => {
                data.truncate(len);
                data.into()
            }
        }
    }

    /// The other way round.
    fn to_file(&self, mut data: Vec<f32>) -> Vec<f32> {
        data.truncate(self.shape.iter().product());
        if self.transposed { transpose(&data, self.shape[0]) } else { data }
    }
}

/// A matrix of so many columns with rows and columns exchanged, in blocks that fit the first-level cache.
fn transpose(from: &[f32], columns: usize) -> Vec<f32> {
    const BLOCK: usize = 32;
    let rows = from.len() / columns;
    let mut to = vec![0.0; from.len()];
    for first_row in (0..rows).step_by(BLOCK) {
        for first_column in (0..columns).step_by(BLOCK) {
            for column in first_column..(first_column + BLOCK).min(columns) {
                for row in first_row..(first_row + BLOCK).min(rows) {
                    to[column * rows + row] = from[row * columns + column];
                }
            }
        }
    }
    to
}

/// Tensors of a plan by the names they have in files: a model's weights, or their gradients or moments.
#[derive(Clone, Debug, Default)]
pub struct TensorTable {
    entries: Vec<TensorTableEntry>,
}

impl TensorTable {
    pub(crate) fn push(&mut self, name: &str, shape: &[usize], id: TensorId) {
        self.entries.push(TensorTableEntry { name: name.into(), shape: shape.into(), id, transposed: false });
    }

    /// Adds a matrix of `shape` in files whose tensor has rows and columns exchanged.
    pub(crate) fn push_transposed(&mut self, name: &str, shape: &[usize], id: TensorId) {
        self.entries.push(TensorTableEntry { name: name.into(), shape: shape.into(), id, transposed: true });
    }

    /// The rows, in the order of their declaration.
    pub fn entries(&self) -> &[TensorTableEntry] {
        &self.entries
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The tensor of a name.
    pub fn id(&self, name: &str) -> Option<TensorId> {
        self.entries.iter().find(|entry| entry.name == name).map(|entry| entry.id)
    }

    /// Writes every tensor of a source into a session. Nothing is written unless the source has exactly the
    /// tensors of this table (`wpe.weight` may have more rows: the surplus is left out).
    pub fn upload(&self, session: &mut Session, source: &(impl TensorSource + ?Sized)) -> Result<(), Error> {
        let expected: Vec<_> = self.entries.iter().map(|e| (e.name.clone(), e.shape.clone())).collect();
        check(source, &expected)?;
        self.upload_from(session, source)
    }

    /// Writes these tensors of a source, which may have others, into a session.
    pub fn upload_from(
        &self,
        session: &mut Session,
        source: &(impl TensorSource + ?Sized),
    ) -> Result<(), Error> {
        for entry in &self.entries {
            let len = session.plan().tensor(entry.id).len();
            let data = entry.to_plan(source.read(&entry.name)?, len);
            session.upload(entry.id, Data::F32(&data))?;
            drop(data);
            source.release(&entry.name);
        }
        Ok(())
    }

    /// These tensors of a session as a source, read when they are asked for.
    pub fn of<'a>(&'a self, session: &'a Session) -> SessionTensors<'a> {
        SessionTensors { table: self, session }
    }
}

/// Tensors of a session.
#[derive(Clone, Copy)]
pub struct SessionTensors<'a> {
    table: &'a TensorTable,
    session: &'a Session,
}

impl TensorSource for SessionTensors<'_> {
    fn origin(&self) -> String {
        "weights of the session".into()
    }

    fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        self.table.entries.iter().map(|entry| (entry.name.clone(), entry.shape.clone())).collect()
    }

    fn read(&self, name: &str) -> Result<Cow<'_, [f32]>, Error> {
        let entry = self.table.entries.iter().find(|entry| entry.name == name);
        let entry = entry.ok_or_else(|| missing(self, name))?;
        let mut data = vec![0.0; self.session.plan().tensor(entry.id).len()];
        self.session.download(entry.id, &mut data)?;
        Ok(entry.to_file(data).into())
    }
}
