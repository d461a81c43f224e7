//! Files in the three layouts, made by hand; and sources of documents in every format.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fs_err as fs;
use oxigpt_data::{
    Dataset, EndOfText, Error, Format, Holdout, Input, Manifest, PrepareOptions, Source, Split, prepare,
};
use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

/// llm.c's header and 2-byte tokens.
pub(crate) fn llmc(tokens: &[u16]) -> Vec<u8> {
    let mut bytes = Vec::new();
    [20_240_520, 1, tokens.len() as i32].iter().for_each(|word: &i32| bytes.extend(word.to_le_bytes()));
    bytes.resize(1024, 0);
    bytes.extend(headerless(tokens));
    bytes
}

/// llm.c's header and 4-byte tokens.
pub(crate) fn llmc_wide(tokens: &[u32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    [20_240_801, 7, tokens.len() as i32].iter().for_each(|word: &i32| bytes.extend(word.to_le_bytes()));
    bytes.resize(1024, 0);
    bytes.extend(tokens.iter().flat_map(|token| token.to_le_bytes()));
    bytes
}

/// nanoGPT's 2-byte tokens.
pub(crate) fn headerless(tokens: &[u16]) -> Vec<u8> {
    tokens.iter().flat_map(|token| token.to_le_bytes()).collect()
}

/// What `np.save` writes for an array of `type_name` and `shape`: version 1, padded to a multiple of 64 bytes.
pub(crate) fn npy(type_name: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let dictionary = format!("{{'descr': '{type_name}', 'fortran_order': False, 'shape': {shape}, }}");
    let padding = (64 - (10 + dictionary.len() + 1) % 64) % 64;
    let header = format!("{dictionary}{}\n", " ".repeat(padding));
    [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// A flat NumPy array of 2-byte tokens.
pub(crate) fn npy16(tokens: &[u16]) -> Vec<u8> {
    npy("<u2", &format!("({},)", tokens.len()), &headerless(tokens))
}

/// A file of `tests/fixtures`. `brotli.parquet` and `checksums.parquet` are written by pyarrow: three rows of `text`.
pub(crate) fn fixture(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)).unwrap()
}

/// Puts files into a directory.
pub(crate) fn put(dir: &Path, files: &[(&str, Vec<u8>)]) {
    for (name, bytes) in files {
        fs::write(dir.join(name), bytes).unwrap();
    }
}

/// That an error says `message` and advises `hint`, both in part.
#[track_caller]
pub(crate) fn assert_error<T: std::fmt::Debug>(result: Result<T, Error>, message: &str, hint: &str) {
    let error = result.unwrap_err();
    assert!(error.to_string().contains(message), "message: {error}");
    let advice = error.hint().unwrap_or_default();
    assert!(advice.contains(hint), "hint: {advice}");
}

pub(crate) fn options() -> PrepareOptions {
    PrepareOptions {
        end_of_text: EndOfText::Before,
        holdout: Holdout::Documents { seed: 7 },
        val_fraction: 0.2,
        threads: 2,
        ..PrepareOptions::default()
    }
}

pub(crate) fn source(format: Format, paths: &[PathBuf]) -> Source {
    Source { format, inputs: paths.iter().map(Input::file).collect() }
}

pub(crate) fn jsonl() -> Format {
    Format::Jsonl { field: "text".into() }
}

pub(crate) fn parquet() -> Format {
    Format::Parquet { column: "text".into() }
}

pub(crate) fn run(source: &Source, out: &Path, options: &PrepareOptions) -> oxigpt_data::Result<Manifest> {
    prepare(source, out, options, &mut |_| ControlFlow::Continue(()))
}

pub(crate) fn tokens(dir: &Path, split: Split) -> Vec<u32> {
    let dataset = Dataset::open(dir).unwrap();
    let mut out = vec![0; dataset.split(split).len() as usize];
    dataset.split(split).read(0, &mut out);
    out
}

/// Documents that differ, some of them long, one empty, one null.
pub(crate) fn documents(count: usize) -> Vec<Option<String>> {
    let text = |i: usize| match i {
        3 => None,
        5 => Some(String::new()),
        _ => Some(format!("Document {i}, \"quoted\"\n").repeat(1 + i * i % 37) + "Gr\u{fc}\u{df}e \u{1f600}"),
    };
    (0..count).map(text).collect()
}

pub(crate) fn lines(documents: &[Option<String>]) -> Vec<u8> {
    let lines = documents.iter().enumerate();
    let lines = lines.map(|(id, text)| serde_json::json!({ "id": id, "text": text, "meta": { "text": 1 } }));
    lines.flat_map(|line| (line.to_string() + "\n").into_bytes()).collect()
}

/// A file of two columns, in row groups of `group` rows, each cut into several calls.
pub(crate) fn rows(documents: &[Option<String>], group: usize, compression: Compression) -> Vec<u8> {
    let schema = "message m { required int64 id; optional binary text (UTF8); }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties =
        WriterProperties::builder().set_compression(compression).set_data_page_row_count_limit(7);
    let mut writer =
        SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties.set_write_batch_size(3).build()))
            .unwrap();
    for rows in documents.chunks(group) {
        let mut group = writer.next_row_group().unwrap();
        let mut ids = group.next_column().unwrap().unwrap();
        let numbers: Vec<i64> = (0..rows.len() as i64).collect();
        ids.typed::<Int64Type>().write_batch(&numbers, None, None).unwrap();
        ids.close().unwrap();
        let mut texts = group.next_column().unwrap().unwrap();
        let levels: Vec<i16> = rows.iter().map(|text| i16::from(text.is_some())).collect();
        let values: Vec<ByteArray> = rows.iter().flatten().map(|text| text.as_str().into()).collect();
        texts.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None).unwrap();
        texts.close().unwrap();
        group.close().unwrap();
    }
    writer.into_inner().unwrap()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Everything in a data directory, by name.
pub(crate) fn content(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries
        .map(|path| {
            (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap_or_default())
        })
        .collect();
    files.sort();
    files
}
