//! One file from the network to its place: bytes are appended to an `.incomplete` file, from where the last attempt
//! stopped, and the file gets its name when its length and its checksum are right.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use fs_err as fs;
use sha2::{Digest, Sha256};
use ureq::http::{Method, Uri};

use crate::client::{Answer, Client, What};
use crate::error::{Error, Result};
use crate::progress::{Stage, Watch};
use crate::url;

/// Bytes that are taken from the connection at once, at most.
const CHUNK: usize = 1 << 17;

/// What is to be transferred, as far as it is known beforehand.
pub(crate) struct Source<'a> {
    pub(crate) uri: Uri,
    pub(crate) what: What<'a>,
    /// Bytes of the whole file.
    pub(crate) size: Option<u64>,
    /// The checksum in small hexadecimal digits.
    pub(crate) sha256: Option<String>,
    /// The tag of the content as `If-Range` takes it: by it the server sees whether the file is still the same.
    pub(crate) validator: Option<String>,
}

/// Downloads `source` into `partial`, going on with what is there, and then moves it `to` its place.
///
/// # Errors
/// After an error that is not about the content, `partial` stays for the next attempt.
pub(crate) fn transfer(
    client: &Client,
    source: &Source<'_>,
    partial: &Path,
    to: &Path,
    watch: &mut Watch<'_>,
) -> Result<()> {
    // Without a way to see that the file is the same, what is left of one cannot be continued.
    let can_resume = source.sha256.is_some() || source.validator.is_some();
    let mut partial = Partial::open(partial, can_resume, source.sha256.is_some())?;
    if source.size.is_some_and(|size| partial.len > size) {
        partial.restart()?;
    }
    (watch.done, watch.total, watch.resumed_from) = (partial.len, source.size, partial.len);
    watch.tell(Stage::Transfer)?;
    if source.size.is_none_or(|size| partial.len < size) {
        client.persist(watch, |watch| pull(client, source, can_resume, &mut partial, watch))?;
    }
    partial.finish(source, to)?;
    watch.tell(Stage::Transfer)
}

/// One request for what is missing.
fn pull(
    client: &Client,
    source: &Source<'_>,
    can_resume: bool,
    partial: &mut Partial,
    watch: &mut Watch<'_>,
) -> Result<()> {
    if !can_resume {
        partial.restart()?;
    }
    let answer = client.send(&Method::GET, &source.uri, &range(source, partial.len), &mut |_, _| false)?;
    let total = match answer.response.status().as_u16() {
        200 => {
            partial.restart()?;
            answer.number("content-length")
        }
        206 => match content_range(&answer) {
            Some((start, total)) if start == partial.len => total,
            _ => {
                return mismatch(
                    source,
                    partial,
                    "the server sends another part of the file than it was asked for",
                );
            }
        },
        416 if is_whole(&answer, partial.len) => return Ok(()),
        416 => return mismatch(source, partial, "the server does not have the rest of the file"),
        _ => return Err(client.refusal(&answer, source.what)),
    };
    if let (Some(expected), Some(found)) = (source.size, total)
        && expected != found
    {
        partial.discard();
        return Err(Error::WrongLength { url: url::shown(&source.uri), expected, found });
    }
    (watch.done, watch.total) = (partial.len, source.size.or(total));
    watch.resumed_from = watch.resumed_from.min(partial.len);
    drain(source, answer, partial, watch)
}

/// The headers of a request for the bytes from `start` on.
fn range(source: &Source<'_>, start: u64) -> Vec<(&'static str, String)> {
    let mut headers = vec![("accept-encoding", "identity".to_string())];
    if start > 0 {
        headers.push(("range", format!("bytes={start}-")));
        // Where a checksum proves the whole, the tag is not needed: those to whom the hub sends us have tags of
        // their own for the same content.
        if let (None, Some(validator)) = (&source.sha256, &source.validator) {
            headers.push(("if-range", validator.clone()));
        }
    }
    headers
}

/// The bytes of an answer, to its end.
fn drain(source: &Source<'_>, answer: Answer, partial: &mut Partial, watch: &mut Watch<'_>) -> Result<()> {
    let mut body = answer.response.into_body().into_reader();
    let mut chunk = vec![0; CHUNK];
    loop {
        let count = body.read(&mut chunk).map_err(|error| broken(source, watch, &error.into()))?;
        if count == 0 {
            break;
        }
        partial.append(&chunk[..count])?;
        watch.done = partial.len;
        if let Some(expected) = source.size.filter(|size| partial.len > *size) {
            let found = partial.len;
            partial.discard();
            return Err(Error::WrongLength { url: url::shown(&source.uri), expected, found });
        }
        watch.tell(Stage::Transfer)?;
    }
    match watch.total {
        Some(total) if partial.len < total => {
            let end = ureq::Error::Io(std::io::ErrorKind::UnexpectedEof.into());
            Err(broken(source, watch, &end))
        }
        _ => Ok(()),
    }
}

fn broken(source: &Source<'_>, watch: &Watch<'_>, error: &ureq::Error) -> Error {
    let of = watch.total.map_or(String::new(), |total| format!(" of {total}"));
    let problem = match error {
        ureq::Error::Timeout(_) => "the server stopped sending",
        _ => "the connection broke",
    };
    let problem = format!("{problem} after {}{of} bytes", watch.done);
    Error::Network { url: url::shown(&source.uri), problem }
}

/// Forgets what is there, since it does not go together with what the server has, and tries again.
fn mismatch(source: &Source<'_>, partial: &mut Partial, problem: &str) -> Result<()> {
    partial.restart()?;
    Err(Error::Network { url: url::shown(&source.uri), problem: problem.into() })
}

/// Start and whole length in `Content-Range: bytes 10-99/100`.
fn content_range(answer: &Answer) -> Option<(u64, Option<u64>)> {
    let (range, total) = answer.header("content-range")?.trim().strip_prefix("bytes ")?.split_once('/')?;
    let start = range.split_once('-')?.0.trim().parse().ok()?;
    Some((start, total.trim().parse().ok()))
}

/// Whether the server says that there is nothing after the first `len` bytes: `Content-Range: bytes */100`.
fn is_whole(answer: &Answer, len: u64) -> bool {
    let range = answer.header("content-range").unwrap_or_default();
    range.trim().strip_prefix("bytes */").and_then(|total| total.parse().ok()) == Some(len)
}

/// A file that is not whole yet.
struct Partial {
    file: fs::File,
    path: PathBuf,
    len: u64,
    /// Of what is there, where a checksum is needed.
    hasher: Option<Sha256>,
}

impl Partial {
    /// Opens what is there, or nothing.
    fn open(path: &Path, keep: bool, hash: bool) -> Result<Partial> {
        fs::create_dir_all(path.parent().expect("a file has a folder"))?;
        let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(!keep).open(path)?;
        let mut partial = Partial { file, path: path.into(), len: 0, hasher: hash.then(Sha256::new) };
        match &mut partial.hasher {
            Some(hasher) => partial.len = feed(hasher, &mut partial.file)?,
            None => partial.len = partial.file.seek(SeekFrom::End(0))?,
        }
        Ok(partial)
    }

    fn restart(&mut self) -> Result<()> {
        if self.len == 0 {
            return Ok(());
        }
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.len = 0;
        self.hasher = self.hasher.take().map(|_| Sha256::new());
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes)?;
        self.len += bytes.len() as u64;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
        Ok(())
    }

    /// Deletes what is worth nothing.
    fn discard(&self) {
        let _ = fs::remove_file(&self.path);
    }

    fn finish(mut self, source: &Source<'_>, to: &Path) -> Result<()> {
        if let (Some(expected), Some(hasher)) = (&source.sha256, self.hasher.take()) {
            let found = hex(hasher);
            if !found.eq_ignore_ascii_case(expected) {
                self.discard();
                let url = url::shown(&source.uri);
                return Err(Error::WrongChecksum { url, expected: expected.clone(), found });
            }
        }
        self.file.sync_all()?;
        fs::rename(&self.path, to)?;
        Ok(())
    }
}

/// Hashes the rest of a file; its length.
fn feed(hasher: &mut Sha256, file: &mut fs::File) -> Result<u64> {
    let mut chunk = vec![0; CHUNK];
    let mut len = 0;
    loop {
        let count = file.read(&mut chunk)?;
        if count == 0 {
            return Ok(len);
        }
        hasher.update(&chunk[..count]);
        len += count as u64;
    }
}

fn hex(hasher: Sha256) -> String {
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The SHA-256 of a file, in hexadecimal.
pub(crate) fn sha256_of_file(path: &Path) -> Result<String> {
    let mut hasher = Sha256::new();
    feed(&mut hasher, &mut fs::File::open(path)?)?;
    Ok(hex(hasher))
}

/// The SHA-256 of a text, in hexadecimal.
pub(crate) fn sha256_of_text(text: &str) -> String {
    hex(Sha256::new_with_prefix(text))
}
