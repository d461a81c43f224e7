//! Cuts the inputs into blocks, one after the other, from any position on. What a block holds depends on the position
//! where it begins and on nothing else, so a preparation that goes on makes the blocks that it would have made.

use std::path::Path;
use std::sync::Arc;

use super::block::{BYTE_ORDER_MARK, Block, Content, PIECE, Position, count_lines};
use super::choose::Chooser;
use super::open::{Stream, locate};
use super::pipeline::Emit;
use super::rows;
use super::source::{Format, Input, Source};
use crate::error::{InputError, Result};

/// Text of this many bytes in which no place is good to cut is cut in a bad one.
const LONGEST_PIECE: usize = 16 * PIECE;

/// A line may have so many bytes.
const LONGEST_LINE: usize = 1 << 30;

/// What is cut, and who wants to know.
pub(crate) struct Cutter<'a> {
    pub(crate) source: &'a Source,
    pub(crate) chooser: Chooser,
    /// Is told of each input that is opened, with its path if it has one.
    pub(crate) opened: &'a (dyn Fn(usize, Option<&Path>) -> Result<()> + Sync),
}

impl Cutter<'_> {
    /// Emits all blocks from a position on. After the last of an input comes an empty one.
    pub(crate) fn run(&self, mut at: Position, emit: Emit<'_, Block>) -> Result<()> {
        while let Some(input) = self.source.inputs.get(at.input) {
            let path = locate(input)?;
            (self.opened)(at.input, path.as_deref())?;
            let end = match &self.source.format {
                Format::Parquet { column } => {
                    let name = input.called(path.as_deref());
                    // It is read at any place.
                    let path = path.as_ref().ok_or_else(|| InputError::PipedParquet { path: name.into() })?;
                    rows::read(path, name, at, column, emit)?
                }
                format => {
                    let stream = Stream::open(input, path.as_deref(), at.offset)?;
                    if *format == Format::Text {
                        self.text(stream, input, at, emit)?
                    } else {
                        lines(stream, at, emit)?
                    }
                }
            };
            at = Position { input: at.input + 1, chars: end.chars, ..Position::default() };
            let content = Content::Rows { values: Vec::new(), rows_before: 0 };
            emit(Block { path: Path::new(&input.name).into(), content, next: at, read: input.bytes })?;
        }
        Ok(())
    }

    /// One document in pieces; returns where it ends.
    fn text(
        &self,
        mut stream: Stream,
        input: &Input,
        mut at: Position,
        emit: Emit<'_, Block>,
    ) -> Result<Position> {
        let mut buffer = Vec::new();
        let mut starts = at.offset == 0;
        loop {
            let ended = stream.fill(&mut buffer, PIECE)?;
            if at.offset == 0 {
                let mark = check_start(&stream.path, &buffer)?;
                buffer.drain(..mark);
                at.offset = mark as u64;
            }
            let mut end = if ended { buffer.len() } else { self.cut(&mut stream, &mut buffer)? };
            let split = at.split.unwrap_or_else(|| self.chooser.split_of(&buffer[..end], input, at.chars));
            at.split = Some(split);
            let before = at;
            if let Chooser::Tail { train_chars } = self.chooser {
                let left = Some(train_chars.saturating_sub(at.chars)).filter(|&left| left > 0);
                let (bytes, chars) = first_chars(&buffer[..end], left.unwrap_or(u64::MAX));
                (end, at.chars) = (bytes, at.chars + chars);
                // What comes behind the border is on the other side, in the middle of a document or not.
                at.split = None;
            }
            let rest = buffer.split_off(end);
            at.offset += end as u64;
            at.lines += count_lines(&buffer);
            let ends = ended && rest.is_empty();
            let content = Content::Piece { bytes: buffer, before, starts, ends, split: Some(split) };
            emit(Block { path: stream.path.clone(), content, next: at, read: stream.bytes_read() })?;
            if ends {
                return Ok(at);
            }
            (buffer, starts) = (rest, false);
        }
    }

    /// Where the buffer is to be cut; it is filled further until there is such a place.
    fn cut(&self, stream: &mut Stream, buffer: &mut Vec<u8>) -> Result<usize> {
        loop {
            if let Some(cut) = last_cut(buffer, b'\n').or_else(|| last_cut(buffer, b' ')) {
                return Ok(cut);
            }
            let ended = stream.fill(buffer, (buffer.len() + PIECE).min(LONGEST_PIECE))?;
            if ended || buffer.len() >= LONGEST_PIECE {
                return Ok(last_char(buffer));
            }
        }
    }
}

/// Whole lines; returns where they end.
fn lines(mut stream: Stream, mut at: Position, emit: Emit<'_, Block>) -> Result<Position> {
    let (mut buffer, mut want) = (Vec::new(), PIECE);
    loop {
        let ended = stream.fill(&mut buffer, want)?;
        if at.offset == 0 {
            let mark = check_start(&stream.path, &buffer)?;
            if buffer[mark..].trim_ascii_start().starts_with(b"[") {
                return Err(InputError::JsonArray { path: stream.path.to_path_buf() }.into());
            }
        }
        let end = if ended {
            buffer.len()
        } else if let Some(last) = buffer.iter().rposition(|&byte| byte == b'\n') {
            last + 1
        } else if want < LONGEST_LINE {
            want *= 2;
            continue;
        } else {
            return Err(InputError::LongLine { path: stream.path.to_path_buf(), line: at.lines + 1 }.into());
        };
        let rest = buffer.split_off(end);
        let lines_before = at.lines;
        at.lines += count_lines(&buffer);
        at.offset += end as u64;
        let content = Content::Lines { bytes: buffer, lines_before };
        emit(Block { path: stream.path.clone(), content, next: at, read: stream.bytes_read() })?;
        if ended {
            return Ok(at);
        }
        (buffer, want) = (rest, PIECE);
    }
}

/// How files begin that are no text, and what they are.
const FORMATS: [(&[u8], &str); 5] = [
    (b"PAR1", "Parquet"),
    (b"\xfd7zXZ\0", "compressed with xz"),
    (b"BZh", "compressed with bzip2"),
    (b"PK\x03\x04", "a zip archive"),
    (b"%PDF-", "PDF"),
];

/// Refuses what is empty, UTF-16 or of a format that is no text; returns the length of a byte order mark.
fn check_start(path: &Arc<Path>, buffer: &[u8]) -> Result<usize> {
    if buffer.starts_with(b"\xff\xfe") || buffer.starts_with(b"\xfe\xff") {
        return Err(InputError::Utf16 { path: path.to_path_buf() }.into());
    }
    if let Some((_, format)) = FORMATS.iter().find(|(start, _)| buffer.starts_with(start)) {
        return Err(InputError::OtherFormat { path: path.to_path_buf(), format }.into());
    }
    let mark = if buffer.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
    if buffer.len() == mark {
        return Err(InputError::EmptyInput { path: path.to_path_buf() }.into());
    }
    Ok(mark)
}

/// The last place before `white` where no token of ours goes across: behind a letter, a digit or a punctuation mark.
/// White space stands only at the beginning of GPT-2's pieces, or in pieces of nothing else.
fn last_cut(buffer: &[u8], white: u8) -> Option<usize> {
    let is_good = |&at: &usize| {
        let before = &buffer[..at];
        let last = str::from_utf8(&before[last_char(before)..]).ok().and_then(|text| text.chars().next());
        last.is_some_and(|c| c.is_alphanumeric() || c.is_ascii_punctuation())
    };
    (1..buffer.len()).rev().filter(|&at| buffer[at] == white).find(is_good)
}

/// Where the last character begins, whole or not.
fn last_char(bytes: &[u8]) -> usize {
    let from = bytes.len().saturating_sub(4);
    bytes[from..].iter().rposition(|byte| !is_continuation(*byte)).map_or(from, |found| from + found)
}

fn is_continuation(byte: u8) -> bool {
    byte & 0xc0 == 0x80
}

/// Number of characters that begin in these bytes.
fn count_chars(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| !is_continuation(**byte)).count() as u64
}

/// The first `wanted` characters, or all there are: their bytes and their number.
fn first_chars(bytes: &[u8], wanted: u64) -> (usize, u64) {
    let all = count_chars(bytes);
    if all <= wanted {
        return (bytes.len(), all);
    }
    let mut starts = (0..bytes.len()).filter(|&i| !is_continuation(bytes[i]));
    (starts.nth(wanted as usize).unwrap_or(bytes.len()), wanted)
}
