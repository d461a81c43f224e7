//! Training a tokenizer: the documents of a source are counted on all cores, as they are encoded when they are prepared.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use fs_err as fs;
use oxigpt_compute::cpu;
use oxigpt_text::{Tokenizer, TokenizerTrainer};

use super::block::Position;
use super::blocks::Cutter;
use super::choose::Chooser;
use super::extent::Extent;
use super::inputs::check_inputs;
use super::pipeline::in_order;
use super::source::Source;
use super::{Progress, Stage, Watch};
use crate::error::{Error, PrepareError, Result};
use crate::shard_writer::write_atomically;

/// What ends a document, and is the first token.
const END_OF_TEXT: &str = "<|endoftext|>";

/// What a tokenizer's directory holds.
const FILES: [&str; 2] = ["tokenizer.json", "tokenizer_config.json"];

/// A tokenizer, and what it was learned from.
#[derive(Clone, Debug)]
pub struct Learned {
    /// It may have fewer tokens than were asked for: a pair that occurs once is never merged.
    pub tokenizer: Tokenizer,
    /// Bytes of text.
    pub bytes: u64,
    /// Documents that are not empty.
    pub documents: u64,
}

/// Learns a byte-level byte-pair encoding of `vocab_size` tokens, `<|endoftext|>` among them, from all documents of a
/// source, in one pass. The tokenizer depends on the documents and the size alone: not on their order, nor on how many
/// `threads` there are (0 is one per core).
///
/// The memory needed is that of the blocks at hand, as in [`super::prepare`], and of each different word once.
///
/// # Errors
/// If the size is less than 257 or more than 2^20; if an input is missing, empty, or not what its format says; if whoever
/// watches stops it.
pub fn train_tokenizer(
    source: &Source,
    vocab_size: usize,
    threads: usize,
    watch: Watch<'_>,
) -> Result<Learned> {
    let new = || TokenizerTrainer::new(vocab_size, &[END_OF_TEXT]);
    let mut trainer = new()?;
    let threads = cpu::threads(threads)?;
    check_inputs(&source.inputs)?;
    let extent = Extent::of(&source.inputs);
    let cutter = Cutter { source, chooser: Chooser::All, opened: &|_, _| Ok(()) };
    let (mut bytes, mut documents) = (0, 0);
    in_order(
        threads,
        |emit| cutter.run(Position::default(), emit),
        |block| {
            let (mut trainer, mut bytes, mut documents) = (new()?, 0, 0);
            block.documents(&source.format, &mut |document| {
                trainer.add(document.text);
                bytes += document.text.len() as u64;
                documents += u64::from(document.starts && !document.text.is_empty());
                Ok(())
            })?;
            Ok((trainer, bytes, documents, block.next, block.read))
        },
        |(part, part_bytes, part_documents, next, read)| {
            trainer.absorb(part);
            bytes += part_bytes;
            documents += part_documents;
            extent.show(watch, Stage::Read, &next, read)
        },
    )?;
    let (total, stage) = (extent.total(), Stage::Merge);
    if watch(Progress { stage, done: 0, total }) == ControlFlow::Break(()) {
        return Err(Error::Interrupted);
    }
    let tokenizer = trainer.finish()?;
    let _ = watch(Progress { stage, done: total, total });
    Ok(Learned { tokenizer, bytes, documents })
}

/// Where [`write_tokenizer`] would write: to `out` itself where it is the name of a `.json`, or else to the files of a
/// tokenizer in the directory `out`.
///
/// # Errors
/// If one of them is there already, and `force` is off.
pub fn tokenizer_paths(out: &Path, force: bool) -> Result<Vec<PathBuf>> {
    let is_file = out.extension().is_some_and(|extension| extension == "json") && !out.is_dir();
    if out.is_file() && !is_file {
        return Err(PrepareError::OutputIsFile { path: out.into() }.into());
    }
    let paths = if is_file { vec![out.into()] } else { FILES.map(|name| out.join(name)).to_vec() };
    match paths.iter().find(|path| path.exists() && !force) {
        Some(path) => Err(PrepareError::OutputFileExists { path: path.clone() }.into()),
        None => Ok(paths),
    }
}

/// Writes a tokenizer that was learned, each file whole or not at all; one file, `tokenizer.json`, is enough to read it
/// again. Returns where they are.
///
/// # Errors
/// If a file is there already and `force` is off, or it cannot be written.
pub fn write_tokenizer(tokenizer: &Tokenizer, out: &Path, force: bool) -> Result<Vec<PathBuf>> {
    let paths = tokenizer_paths(out, force)?;
    let files = tokenizer.to_files();
    for (path, name) in paths.iter().zip(FILES) {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        let content = files.iter().find(|(own, _)| own == name).map_or(&[][..], |(_, content)| content);
        write_atomically(path, |file| file.write_all(content))?;
    }
    Ok(paths)
}
