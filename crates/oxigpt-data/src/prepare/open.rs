//! An input as a stream of bytes. Whether it is compressed is seen from its first bytes, never from its name: neither
//! gzip nor zstd can begin a text in UTF-8.

use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fs_err as fs;

use super::source::{Input, Place};
use crate::error::input::GARBAGE;
use crate::error::{Error, InputError, Result};

const GZIP: &[u8] = b"\x1f\x8b";
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";

/// The text of an input, decompressed.
pub(crate) struct Stream {
    /// What errors call it.
    pub(crate) path: Arc<Path>,
    inner: Box<dyn Read>,
    compression: Option<&'static str>,
    /// Whether some of the text has been read.
    has_text: bool,
    /// Bytes of the file that have been read.
    read: Arc<AtomicU64>,
}

/// The path of an input on this machine; `None` if it is in memory.
pub(crate) fn locate(input: &Input) -> Result<Option<PathBuf>> {
    match &input.place {
        Place::File(path) | Place::Saved(path) => Ok(Some(path.clone())),
        Place::Fetched(file) => file.fetch().map(Some).map_err(Error::Fetch),
        Place::Memory(_) | Place::Stdin => Ok(None),
    }
}

impl Stream {
    /// Opens what is at `path`, or else the text in memory, and passes over the first `offset` bytes of the text.
    pub(crate) fn open(input: &Input, path: Option<&Path>, offset: u64) -> Result<Stream> {
        let read = Arc::new(AtomicU64::new(0));
        let name: Arc<Path> = input.called(path).into();
        let (inner, compression): (Box<dyn Read>, _) = match (path, &input.place) {
            (Some(path), _) => from_offset(fs::File::open(path)?, offset, &read)?,
            (None, Place::Memory(text)) => {
                let rest = text.get(offset as usize..).unwrap_or_default().to_owned();
                (Box::new(Counted { inner: io::Cursor::new(rest), read: read.clone() }), None)
            }
            (None, _) => decompress(io::stdin(), &read)?,
        };
        let mut stream = Stream { path: name, inner, compression, has_text: offset > 0, read };
        if stream.compression.is_some() {
            let skipped = io::copy(&mut stream.inner.by_ref().take(offset), &mut io::sink());
            skipped.map_err(|error| stream.explain(error))?;
        }
        Ok(stream)
    }

    /// Bytes of the file that have been read.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Reads until `buffer` holds `len` bytes; fewer where the text ends, which is then said.
    pub(crate) fn fill(&mut self, buffer: &mut Vec<u8>, len: usize) -> Result<bool> {
        let before = buffer.len();
        let missing = len.saturating_sub(before);
        let read = self.inner.by_ref().take(missing as u64).read_to_end(buffer);
        self.has_text |= buffer.len() > before;
        read.map(|read| read < missing).map_err(|error| self.explain(error))
    }

    fn explain(&self, error: io::Error) -> Error {
        match self.compression {
            Some(kind) => {
                let problem = match error.kind() {
                    io::ErrorKind::UnexpectedEof => "it ends too early".into(),
                    // gzip allows another header behind its text, and nothing else.
                    _ if self.has_text && error.to_string().contains("gzip header") => GARBAGE.into(),
                    _ => error.to_string(),
                };
                Error::from(InputError::Compressed { path: self.path.to_path_buf(), kind, problem })
            }
            None if error.kind() == io::ErrorKind::IsADirectory => {
                Error::from(InputError::InputIsDirectory { path: self.path.to_path_buf() })
            }
            None => Error::Io(error),
        }
    }
}

/// A file's text. Compressed text is passed over by decompressing it, plain text by seeking: that has been done here.
fn from_offset(
    mut file: fs::File,
    offset: u64,
    read: &Arc<AtomicU64>,
) -> Result<(Box<dyn Read>, Option<&'static str>)> {
    // What is read from its beginning may be a pipe, in which there is no seeking.
    if offset == 0 {
        return decompress(file, read);
    }
    let is_plain = compression(&first_bytes(&mut file)?).is_none();
    file.seek(SeekFrom::Start(if is_plain { offset } else { 0 }))?;
    if !is_plain {
        return decompress(file, read);
    }
    read.store(offset, Ordering::Relaxed);
    Ok((Box::new(Counted { inner: file, read: read.clone() }), None))
}

fn decompress(
    mut source: impl Read + 'static,
    read: &Arc<AtomicU64>,
) -> Result<(Box<dyn Read>, Option<&'static str>)> {
    let first = first_bytes(&mut source)?;
    let kind = compression(&first);
    let whole = Counted { inner: io::Cursor::new(first).chain(source), read: read.clone() };
    let whole = io::BufReader::with_capacity(1 << 17, whole);
    let inner: Box<dyn Read> = match kind {
        Some("gzip") => Box::new(flate2::bufread::MultiGzDecoder::new(whole)),
        Some(_) => Box::new(zstd::Decoder::with_buffer(whole)?),
        None => Box::new(whole),
    };
    Ok((inner, kind))
}

fn first_bytes(source: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(4).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn compression(first_bytes: &[u8]) -> Option<&'static str> {
    if first_bytes.starts_with(GZIP) {
        Some("gzip")
    } else if first_bytes.starts_with(ZSTD) {
        Some("zstd")
    } else {
        None
    }
}

/// Counts what is read.
struct Counted<R> {
    inner: R,
    read: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}
