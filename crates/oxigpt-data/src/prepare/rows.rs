//! Parquet: one column of a file, a few rows at a time. Pages are read and decompressed one by one, so that the memory
//! needed does not depend on the size of the row groups.

use std::path::Path;
use std::sync::Arc;

use fs_err as fs;
use parquet::basic::{Compression, Type};
use parquet::column::reader::{ColumnReaderImpl, get_typed_column_reader};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::ParquetError;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};

use super::block::{Block, Content, PIECE, Position};
use super::pipeline::Emit;
use crate::error::{Error, InputError, Result};

/// Rows in a block, however short they are.
const MOST_ROWS: usize = 8192;

/// Emits the rows from a position on; returns where they end. Errors speak of `name`.
pub(crate) fn read(
    path: &Path,
    name: &Path,
    mut at: Position,
    column: &str,
    emit: Emit<'_, Block>,
) -> Result<Position> {
    let (file, _) = fs::File::open(path)?.into_parts();
    let bytes = file.metadata()?.len();
    let in_file = |error| broken(name, None, error);
    let reader = SerializedFileReader::new(file).map_err(in_file)?;
    let index = find_column(name, &reader, column)?;
    let rows = reader.metadata().file_metadata().num_rows().max(1) as u64;
    if reader.metadata().file_metadata().num_rows() == 0 {
        return Err(InputError::EmptyInput { path: name.into() }.into());
    }
    let shared: Arc<Path> = name.into();
    let mut first = 0;
    for group in 0..reader.num_row_groups() {
        let metadata = reader.metadata().row_group(group);
        let end = first + metadata.num_rows().max(0) as u64;
        check_codec(name, metadata.column(index), column)?;
        let average =
            metadata.column(index).uncompressed_size() as usize / metadata.num_rows().max(1) as usize;
        if at.offset < end {
            let in_group = |error| broken(name, Some(group), error);
            let pages = reader.get_row_group(group).and_then(|group| group.get_column_reader(index));
            let mut values = get_typed_column_reader::<ByteArrayType>(pages.map_err(in_group)?);
            skip(&mut values, at.offset - first).map_err(in_group)?;
            while at.offset < end {
                let wanted = (PIECE / average.max(1)).clamp(1, MOST_ROWS).min((end - at.offset) as usize);
                let values = next_values(&mut values, wanted).map_err(in_group)?;
                let rows_before = at.offset;
                at.offset += values.len() as u64;
                let read = (u128::from(bytes) * u128::from(at.offset) / u128::from(rows)) as u64;
                let content = Content::Rows { values, rows_before };
                emit(Block { path: shared.clone(), content, next: at, read })?;
            }
        }
        first = end;
    }
    Ok(at)
}

/// That the library was built to undo the compression.
fn check_codec(path: &Path, metadata: &ColumnChunkMetaData, column: &str) -> Result<()> {
    let codec = match metadata.compression() {
        Compression::BROTLI(_) => "Brotli",
        Compression::LZO => "LZO",
        _ => return Ok(()),
    };
    Err(InputError::Codec { path: path.into(), column: column.into(), codec }.into())
}

fn broken(path: &Path, group: Option<usize>, error: ParquetError) -> Error {
    let problem = match error {
        ParquetError::General(words) | ParquetError::EOF(words) => words,
        other => other.to_string(),
    };
    Error::from(InputError::Parquet { path: path.into(), group, problem })
}

/// The index of the leaf of this name, which must hold one text a row.
fn find_column(path: &Path, reader: &SerializedFileReader<std::fs::File>, column: &str) -> Result<usize> {
    let schema = reader.metadata().file_metadata().schema_descr();
    let Some(index) = schema.columns().iter().position(|leaf| leaf.path().string() == column) else {
        let found = schema.columns().iter().map(|leaf| leaf.path().string()).collect();
        return Err(InputError::MissingColumn { path: path.into(), column: column.into(), found }.into());
    };
    let leaf = schema.column(index);
    if leaf.physical_type() != Type::BYTE_ARRAY || leaf.max_rep_level() > 0 {
        let found = if leaf.max_rep_level() > 0 { "LIST".into() } else { leaf.physical_type().to_string() };
        return Err(InputError::ColumnType { path: path.into(), column: column.into(), found }.into());
    }
    Ok(index)
}

fn skip(values: &mut ColumnReaderImpl<ByteArrayType>, rows: u64) -> Result<(), ParquetError> {
    if rows > 0 && values.skip_records(rows as usize)? as u64 != rows {
        return Err(ParquetError::General("it has fewer rows than it says".into()));
    }
    Ok(())
}

/// At least one value, and as many as wanted if there are so many; `None` for a null.
fn next_values(
    column: &mut ColumnReaderImpl<ByteArrayType>,
    wanted: usize,
) -> Result<Vec<Option<ByteArray>>, ParquetError> {
    let (mut levels, mut values) = (Vec::new(), Vec::new());
    let (rows, found, _) = column.read_records(wanted, Some(&mut levels), None, &mut values)?;
    if rows == 0 {
        return Err(ParquetError::General("it has fewer rows than it says".into()));
    }
    if rows == found {
        return Ok(values.into_iter().map(Some).collect());
    }
    // A value is there where its level is the highest.
    let highest = levels.iter().copied().max().unwrap_or(0);
    let all_null = found == 0;
    let mut values = values.into_iter();
    let value_at = |level: i16| if level == highest && !all_null { values.next() } else { None };
    Ok(levels.into_iter().map(value_at).collect())
}
