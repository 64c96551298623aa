//! Rows of a `.parquet` file, in its order.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::record::{self, Field};
use serde_json::{Map, Value};

use super::error::SourceFault;
use super::input::{Tally, open_file};
use super::number::RowNumber;
use super::row::Row;

/// Values of a column that are decoded at a time: of long documents, more would be gigabytes.
const BATCH_ROWS: usize = 64;

/// The rows of a `.parquet` file.
pub(super) struct Parquet {
    rows: RowIter<'static>,
    number: u64,
    num_rows: u64,
    size_bytes: u64,
    tally: Arc<Tally>,
}

impl Parquet {
    /// Reads the metadata of a file. The bytes of `tally` advance with the rows, up to the size of the file.
    ///
    /// # Errors
    /// [`SourceFault::File`], [`SourceFault::LfsPointer`], [`SourceFault::BadParquet`].
    pub(super) fn open(path: &Path, tally: &Arc<Tally>) -> Result<Self, SourceFault> {
        let file = open_file(path)?;
        let size_bytes = file.metadata()?.len();
        guarded(|| {
            let reader = SerializedFileReader::new(file)?;
            let num_rows = reader.metadata().file_metadata().num_rows().max(0) as u64;
            let rows = RowIter::from_file_into(Box::new(reader)).with_batch_size(BATCH_ROWS);
            Ok(Self { rows, number: 0, num_rows, size_bytes, tally: Arc::clone(tally) })
        })
    }
}

impl Iterator for Parquet {
    type Item = Result<Row, SourceFault>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = guarded(|| self.rows.next().transpose()).transpose()?;
        self.number += 1;
        let share = self.number as f64 / self.num_rows.max(1) as f64;
        self.tally.read_bytes.store((self.size_bytes as f64 * share.min(1.0)) as u64, Ordering::Relaxed);
        Some(row.map(|row| Row { number: RowNumber::Row(self.number), fields: fields(&row) }))
    }
}

/// Runs the library. It panics on some broken files.
fn guarded<T>(run: impl FnOnce() -> parquet::errors::Result<T>) -> Result<T, SourceFault> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result.map_err(|error| SourceFault::BadParquet { found: error.to_string() }),
        Err(_) => Err(SourceFault::BadParquet { found: "the parquet library panicked".to_owned() }),
    }
}

fn fields(row: &record::Row) -> Map<String, Value> {
    row.get_column_iter().filter_map(|(name, field)| Some((name.clone(), value(field)?))).collect()
}

/// A value as JSON; `None` for binary data, which JSON lacks.
fn value(field: &Field) -> Option<Value> {
    Some(match field {
        Field::Null => Value::Null,
        Field::Bool(value) => (*value).into(),
        Field::Byte(value) => (*value).into(),
        Field::Short(value) => (*value).into(),
        Field::Int(value) => (*value).into(),
        Field::Long(value) => (*value).into(),
        Field::UByte(value) => (*value).into(),
        Field::UShort(value) => (*value).into(),
        Field::UInt(value) => (*value).into(),
        Field::ULong(value) => (*value).into(),
        Field::Float(value) => (*value).into(),
        Field::Double(value) => (*value).into(),
        Field::Str(value) => value.as_str().into(),
        // Some writers do not mark strings as such.
        Field::Bytes(value) => std::str::from_utf8(value.data()).ok()?.into(),
        Field::Group(row) => fields(row).into(),
        Field::ListInternal(list) => list.elements().iter().filter_map(value).collect(),
        Field::MapInternal(map) => {
            let key = |key: &Field| match key {
                Field::Str(key) => key.clone(),
                other => other.to_string(),
            };
            let entries = map.entries().iter().filter_map(|(name, field)| Some((key(name), value(field)?)));
            Value::Object(entries.collect())
        }
        other => other.to_string().into(),
    })
}
