//! One preparation from its beginning, or from where it was interrupted, to the dataset that is in its place.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use fs_err as fs;
use oxigpt_compute::cpu::threads;
use oxigpt_text::Tokenizer;

use super::block::Position;
use super::blocks::Cutter;
use super::choose::{Chooser, Holdout};
use super::encode::{Counted, Encoded, Encoder, EndOfText, check_splits, count};
use super::extent::Extent;
use super::inputs::{check_inputs, saved_pipes};
use super::journal::{InputState, Journal, Mark};
use super::left::{Left, Part, left, request};
use super::open::locate;
use super::pipeline::in_order;
use super::source::{Place, Source};
use super::staged::{Staged, sha256_of};
use super::{PrepareOptions, Progress, Stage, Watch};
use crate::dataset::{STAGING, Split};
use crate::dataset_writer::{check_free, check_inputs_stay, check_staging, complete, publish};
use crate::error::{Error, PrepareError, Result};
use crate::lock::DirLock;
use crate::manifest::{InputInfo, Manifest, TokenizerInfo};
use crate::shard::TokenWidth;

/// How long we wait for another process that writes to the same place: one that is to be replaced anyway may be short.
const PATIENCE: Duration = Duration::from_secs(2);
const PATIENCE_WITH_FORCE: Duration = Duration::from_secs(120);

/// See [`super::prepare`].
pub(crate) fn run(
    source: &Source,
    out: &Path,
    options: &PrepareOptions,
    watch: Watch<'_>,
) -> Result<Manifest> {
    check_inputs(&source.inputs)?;
    let out_is_new = !out.exists();
    let prepared = run_locked(source, out, options, watch);
    if prepared.is_err() && out_is_new {
        // This fails, as it should, where something stands in it; and the error that matters is the one we have.
        let _ = fs::remove_dir(out);
    }
    prepared
}

fn run_locked(source: &Source, out: &Path, options: &PrepareOptions, watch: Watch<'_>) -> Result<Manifest> {
    let patience = if options.force { PATIENCE_WITH_FORCE } else { PATIENCE };
    let known = options.tokenizer.load()?;
    let request = request(source, options, known.as_ref());
    let _lock = DirLock::acquire(out, patience)?;
    check_inputs_stay(out, &source.inputs)?;
    if !options.force {
        check_staging(out)?;
    }
    let staging = out.join(STAGING);
    let part = match left(&staging, source, options, &request, watch)? {
        Left::Whole(manifest) => {
            publish(&staging, out, &manifest)?;
            return Ok(manifest);
        }
        Left::Part(part) => Some(part),
        Left::Nothing => None,
    };
    if !options.force {
        check_free(out, &source.inputs)?;
    }
    fs::create_dir_all(&staging)?;
    let prepared = stage(source, &staging, options, known, request, part, watch);
    match &prepared {
        Ok(manifest) => publish(&staging, out, manifest)?,
        // What can be gone on with stays; of two errors, the one that matters is the one we have.
        Err(_) if Journal::read(&staging).is_none() => drop(fs::remove_dir_all(&staging)),
        Err(_) => {}
    }
    prepared
}

/// Makes all files of the dataset in the staging directory.
fn stage(
    source: &Source,
    staging: &Path,
    options: &PrepareOptions,
    known: Option<Tokenizer>,
    request: String,
    part: Option<Part>,
    watch: Watch<'_>,
) -> Result<Manifest> {
    let source = &Source { inputs: saved_pipes(&source.inputs, staging, watch)?, ..source.clone() };
    let reads_twice = known.is_none() || options.holdout == Holdout::Tail;
    let inputs = part.as_ref().map_or_else(|| vec![None; source.inputs.len()], |part| part.inputs.clone());
    let run = Run {
        source,
        options,
        extent: Extent::of(&source.inputs),
        inputs: Mutex::new(inputs),
        staging,
        stop: AtomicBool::new(false),
        threads: threads(options.threads)?,
        reads_twice,
    };
    let counted = if reads_twice { run.count(known.is_none(), watch)? } else { Counted::default() };
    let tokenizer = match known {
        Some(tokenizer) => tokenizer,
        None => Tokenizer::chars_of(&counted.alphabet.into_iter().collect::<String>())?,
    };
    let width = TokenWidth::for_vocab(tokenizer.vocab_size());
    let (staged, whole) = match part {
        Some(Part { staged, whole, .. }) => (staged, whole),
        None => (Staged::new(staging, width, options.shard_tokens as u64), Mark::default()),
    };
    let chooser = chooser(options, counted.chars)?;
    let manifest =
        run.encode(&tokenizer, chooser, Writer::new(&tokenizer, options, staged, whole, request), watch)?;
    complete(staging, &tokenizer, &manifest)?;
    Ok(manifest)
}

fn chooser(options: &PrepareOptions, chars: u64) -> Result<Chooser> {
    let value = options.val_fraction;
    Ok(match options.holdout {
        Holdout::Documents { seed } => Chooser::Documents { seed, fraction: value },
        Holdout::FirstShard => Chooser::All,
        Holdout::Inputs => Chooser::Inputs,
        Holdout::Tail => {
            let train_chars = ((1.0 - value) * chars as f64) as u64;
            let empty =
                |split: Split| Err(PrepareError::EmptySplit { value, chars, split: split.name() }.into());
            match train_chars {
                0 => return empty(Split::Train),
                _ if train_chars >= chars => return empty(Split::Val),
                _ => Chooser::Tail { train_chars },
            }
        }
    })
}

/// A preparation under way, as all its threads see it.
struct Run<'a> {
    source: &'a Source,
    options: &'a PrepareOptions,
    extent: Extent,
    /// Those that have been opened, as they were then; with checksums as far as these have been computed.
    inputs: Mutex<Vec<Option<InputState>>>,
    staging: &'a Path,
    /// Whether checksums are of no use any more.
    stop: AtomicBool,
    threads: usize,
    reads_twice: bool,
}

impl Run<'_> {
    fn inputs(&self) -> MutexGuard<'_, Vec<Option<InputState>>> {
        self.inputs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes how an input is, or that it is as it was when it was opened first.
    fn note(&self, index: usize, path: Option<&Path>) -> Result<()> {
        let Some(path) = path else { return Ok(()) };
        let input = &self.source.inputs[index];
        let now = match &input.sha256 {
            Some(sha256) => InputState { bytes: input.bytes, modified: None, sha256: Some(sha256.clone()) },
            None => InputState::of(path)?,
        };
        match &mut self.inputs()[index] {
            Some(before) if before.differs(&now) => {
                Err(PrepareError::InputChanged { name: input.name.clone() }.into())
            }
            Some(_) => Ok(()),
            none => {
                *none = Some(now);
                Ok(())
            }
        }
    }

    /// One pass over all inputs that only counts.
    fn count(&self, collect: bool, watch: Watch<'_>) -> Result<Counted> {
        let opened = |index: usize, path: Option<&Path>| self.note(index, path);
        let cutter = Cutter { source: self.source, chooser: Chooser::All, opened: &opened };
        let mut all = Counted::default();
        in_order(
            self.threads,
            |emit| cutter.run(Position::default(), emit),
            |block| Ok((count(self.source, &block, collect)?, block.next, block.read)),
            |(mut counted, next, read)| {
                all.chars += counted.chars;
                all.alphabet.append(&mut counted.alphabet);
                self.extent.show(watch, Stage::Read, &next, read)
            },
        )?;
        Ok(all)
    }

    /// The pass that makes tokens. What it leaves where it fails can be gone on with.
    fn encode(
        &self,
        tokenizer: &Tokenizer,
        chooser: Chooser,
        mut writer: Writer,
        watch: Watch<'_>,
    ) -> Result<Manifest> {
        let end_of_text = self.options.end_of_text;
        let encoder = Encoder { source: self.source, tokenizer, chooser, end_of_text };
        let encoded = self.encode_rest(&encoder, &mut writer, watch);
        if let Err(error) = encoded {
            // Where an input is to blame, it will have to change: what has been done of it is of no use.
            let is_input = !matches!(error, Error::Interrupted | Error::Fetch(_) | Error::Io(_));
            let mark = if is_input { writer.whole } else { writer.done };
            // Of two errors, the one that matters is the one we have.
            let _ = writer.staged.back_to(mark).and_then(|()| self.save(&mut writer, mark));
            return Err(error);
        }
        let mark = writer.done;
        self.save(&mut writer, mark)?;
        let _ = watch(Progress { stage: Stage::Write, done: 0, total: self.extent.total() });
        check_splits(writer.done.tokens).inspect_err(|_| drop(fs::remove_dir_all(self.staging)))?;
        let info = TokenizerInfo { name: tokenizer.name().to_string(), hash: tokenizer.hash() };
        let manifest = Manifest {
            source: self.source.inputs.iter().map(|input| input.name.clone()).collect(),
            inputs: self.input_infos(),
            documents: writer.done.documents,
            empty_documents: writer.done.empty_documents,
            ..Manifest::new(tokenizer.vocab_size(), info, writer.staged.end()?)
        };
        let _ =
            watch(Progress { stage: Stage::Write, done: self.extent.total(), total: self.extent.total() });
        Ok(manifest)
    }

    /// Encodes what is left, and takes checksums of the inputs beside it.
    fn encode_rest(&self, encoder: &Encoder, writer: &mut Writer, watch: Watch<'_>) -> Result<()> {
        let (hash, queue) = mpsc::channel();
        self.hash_done(writer.done.at.input, &hash)?;
        thread::scope(|scope| {
            let hasher = scope.spawn(move || self.take_checksums(&queue));
            let encoded = self.encode_blocks(encoder, writer, &hash, watch);
            self.stop.store(encoded.is_err(), Ordering::Relaxed);
            drop(hash);
            let hashed = hasher.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            encoded.and(hashed)
        })
    }

    fn encode_blocks(
        &self,
        encoder: &Encoder,
        writer: &mut Writer,
        hash: &Sender<(usize, PathBuf)>,
        watch: Watch<'_>,
    ) -> Result<()> {
        let opened = |index: usize, path: Option<&Path>| {
            self.note(index, path)?;
            if let Some(path) = path {
                // Where nobody takes checksums any more, the preparation is failing.
                let _ = hash.send((index, path.to_owned()));
            }
            Ok(())
        };
        let cutter = Cutter { source: self.source, chooser: encoder.chooser, opened: &opened };
        let (from, mut since_saved, mut read) = (writer.done.at, 0, 0);
        in_order(
            self.threads,
            |emit| cutter.run(from, emit),
            |block| encoder.encode(&block),
            |encoded| {
                since_saved += encoded.bytes[0] + encoded.bytes[1];
                let at = writer.done.at;
                let mut pause = || self.extent.show(watch, Stage::Encode, &at, read);
                writer.take(encoder, &encoded, &mut pause)?;
                if since_saved >= self.options.save_every {
                    since_saved = 0;
                    let mark = writer.done;
                    self.save(writer, mark)?;
                }
                read = encoded.read;
                self.extent.show(watch, Stage::Encode, &encoded.next, read)
            },
        )
    }

    /// Makes everything up to a mark safe on the disk, and says so in the journal. If that is nothing, there is none.
    fn save(&self, writer: &mut Writer, mark: Mark) -> Result<()> {
        if mark.at == Position::default() {
            return Journal::remove(self.staging);
        }
        writer.staged.sync()?;
        let is_used = |index: usize| {
            self.reads_twice || index < mark.at.input || index == mark.at.input && mark.at.offset > 0
        };
        let inputs =
            self.inputs().iter().enumerate().map(|(i, state)| state.clone().filter(|_| is_used(i))).collect();
        let Writer { staged, request, whole, .. } = &*writer;
        Journal {
            request: request.clone(),
            width: staged.width,
            mark,
            whole: *whole,
            shards: staged.shards.clone(),
            open: staged.checksums(),
            inputs,
        }
        .write(self.staging)?;
        self.release(writer, mark.at.input);
        Ok(())
    }

    /// Tells of inputs that are not needed any more: they are before `end`, and their checksum is known.
    fn release(&self, writer: &mut Writer, end: usize) {
        let inputs = self.inputs();
        let is_done = |index: usize| match &self.source.inputs[index].place {
            Place::Fetched(_) => inputs[index].as_ref().is_some_and(|state| state.sha256.is_some()),
            _ => true,
        };
        while writer.released < end && is_done(writer.released) {
            if let Place::Fetched(file) = &self.source.inputs[writer.released].place {
                file.release();
            }
            writer.released += 1;
        }
    }

    /// Asks for the checksums of inputs that an interrupted preparation has read, but not summed.
    fn hash_done(&self, end: usize, hash: &Sender<(usize, PathBuf)>) -> Result<()> {
        for (index, input) in self.source.inputs[..end].iter().enumerate() {
            let is_known = self.inputs()[index].as_ref().is_some_and(|state| state.sha256.is_some());
            if let Some(path) = if is_known { None } else { locate(input)? } {
                self.note(index, Some(&path))?;
                let _ = hash.send((index, path));
            }
        }
        Ok(())
    }

    /// Takes the checksums of the files that come, until no more do.
    fn take_checksums(&self, files: &Receiver<(usize, PathBuf)>) -> Result<()> {
        for (index, path) in files {
            let is_known = self.inputs()[index].as_ref().is_some_and(|state| state.sha256.is_some());
            if is_known {
                continue;
            }
            let mut file = Stoppable { file: fs::File::open(path)?, stop: &self.stop };
            let sha256 = match sha256_of(&mut file) {
                Err(_) if self.stop.load(Ordering::Relaxed) => return Ok(()),
                sha256 => sha256?,
            };
            if let Some(state) = &mut self.inputs()[index] {
                state.sha256 = Some(sha256);
            }
        }
        Ok(())
    }

    fn input_infos(&self) -> Vec<InputInfo> {
        let inputs = self.inputs();
        let states = self.source.inputs.iter().zip(inputs.iter());
        let known = states.filter_map(|(input, state)| {
            let InputState { bytes, sha256, .. } = state.clone()?;
            Some(InputInfo { file: input.name.clone(), bytes, sha256: sha256? })
        });
        known.collect()
    }
}

/// A file that ends with an error when it is not wanted any more.
struct Stoppable<'a> {
    file: fs::File,
    stop: &'a AtomicBool,
}

impl Read for Stoppable<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Other.into());
        }
        self.file.read(buffer)
    }
}

/// What the calling thread keeps.
struct Writer {
    staged: Staged,
    /// The token between documents, which does not stand at the beginning of a split.
    between: Option<u32>,
    /// Whether the first shard is for validation.
    first_shard: bool,
    /// What has been done, up to the last block.
    done: Mark,
    /// What has been done, up to the last whole input.
    whole: Mark,
    request: String,
    /// Inputs whose release has been told.
    released: usize,
}

impl Writer {
    fn new(
        tokenizer: &Tokenizer,
        options: &PrepareOptions,
        staged: Staged,
        whole: Mark,
        request: String,
    ) -> Writer {
        Writer {
            between: tokenizer.end_of_text().filter(|_| options.end_of_text == EndOfText::Between),
            first_shard: options.holdout == Holdout::FirstShard,
            done: staged.mark,
            staged,
            whole,
            request,
            released: 0,
        }
    }

    /// Appends what a block has become. Where it fills a shard, `pause` may stop it.
    fn take(
        &mut self,
        encoder: &Encoder,
        encoded: &Encoded,
        pause: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        for split in Split::BOTH {
            let (tokens, bytes) = (&encoded.tokens[split as usize][..], encoded.bytes[split as usize]);
            let is_first = self.staged.mark.tokens[split as usize] == 0;
            let is_between = tokens.first().is_some_and(|&token| Some(token) == self.between);
            let tokens = if is_first && is_between { &tokens[1..] } else { tokens };
            if self.first_shard && self.staged.shards[Split::Val as usize].is_empty() {
                let (head, tail) = tokens.split_at(tokens.len().min(self.staged.room(Split::Val) as usize));
                let head_bytes = if tail.is_empty() { bytes } else { encoder.bytes_of(head).min(bytes) };
                self.append(Split::Val, head, head_bytes, pause)?;
                self.append(Split::Train, tail, bytes - head_bytes, pause)?;
            } else {
                self.append(split, tokens, bytes, pause)?;
            }
        }
        let mark = &mut self.staged.mark;
        mark.documents += encoded.documents;
        mark.empty_documents += encoded.empty_documents;
        mark.at = encoded.next;
        self.done = *mark;
        if encoded.next.offset == 0 {
            self.whole = self.done;
        }
        Ok(())
    }

    fn append(
        &mut self,
        split: Split,
        tokens: &[u32],
        bytes: u64,
        pause: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        self.staged.mark.bytes[split as usize] += bytes;
        self.staged.append(split, tokens, pause)
    }
}
