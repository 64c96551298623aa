//! Rows of an `.arrow` file, in its order: of the streams that Hugging Face's `datasets` writes, and of Arrow's file format.

use std::fs::File;
use std::io::{BufReader, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, RecordBatch, StructArray};
use arrow_ipc::reader::{FileReader, StreamReader};
use arrow_schema::{ArrowError, DataType};
use serde_json::{Map, Value};

use super::arrow_lengths::{check_file, check_stream};
use super::error::SourceFault;
use super::input::{Tally, open_file};
use super::number::RowNumber;
use super::row::Row;

/// The first bytes of Arrow's file format.
const FILE_MAGIC: &[u8] = b"ARROW1";

/// The rows of an `.arrow` file.
pub(super) struct Arrow {
    batches: Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>> + Send>,
    batch: Option<RecordBatch>,
    /// The next row of the batch.
    at: usize,
    number: u64,
    size_bytes: u64,
    tally: Arc<Tally>,
}

impl Arrow {
    /// Reads the schema of a file. The bytes of `tally` are those of the whole file once it is read.
    ///
    /// # Errors
    /// [`SourceFault::File`], [`SourceFault::LfsPointer`], [`SourceFault::BadArrow`].
    pub(super) fn open(path: &Path, tally: &Arc<Tally>) -> Result<Self, SourceFault> {
        let file = open_file(path)?;
        let size_bytes = file.metadata()?.len();
        let mut magic = Vec::new();
        (&File::open(path)?).take(FILE_MAGIC.len() as u64).read_to_end(&mut magic)?;
        let batches = guarded(|| -> Result<Box<dyn Iterator<Item = _> + Send>, ArrowError> {
            let lengths = File::open(path)?;
            Ok(match magic == FILE_MAGIC {
                true => {
                    check_file(lengths, size_bytes)?;
                    Box::new(FileReader::try_new(file, None)?)
                }
                false => {
                    check_stream(lengths, size_bytes)?;
                    Box::new(StreamReader::try_new(BufReader::new(file), None)?)
                }
            })
        })?;
        Ok(Self { batches, batch: None, at: 0, number: 0, size_bytes, tally: Arc::clone(tally) })
    }
}

impl Iterator for Arrow {
    type Item = Result<Row, SourceFault>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(batch) = self.batch.as_ref().filter(|batch| self.at < batch.num_rows()) {
                let columns = batch.schema_ref().fields().iter().zip(batch.columns());
                let fields =
                    columns.filter_map(|(field, column)| Some((field.name().clone(), value(&**column, self.at)?)));
                let fields: Map<String, Value> = fields.collect();
                self.at += 1;
                self.number += 1;
                return Some(Ok(Row { number: RowNumber::Row(self.number), fields }));
            }
            match guarded(|| self.batches.next().transpose()) {
                Ok(Some(batch)) => (self.batch, self.at) = (Some(batch), 0),
                Ok(None) => {
                    self.tally.read_bytes.store(self.size_bytes, Ordering::Relaxed);
                    return None;
                }
                Err(fault) => return Some(Err(fault)),
            }
        }
    }
}

/// Runs the library. It panics on some broken files.
fn guarded<T>(run: impl FnOnce() -> Result<T, ArrowError>) -> Result<T, SourceFault> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result.map_err(|error| SourceFault::BadArrow { found: error.to_string() }),
        Err(_) => Err(SourceFault::BadArrow { found: "the arrow library panicked".to_owned() }),
    }
}

/// A value as JSON; `None` for binary data and other types that JSON lacks.
fn value(array: &dyn Array, at: usize) -> Option<Value> {
    if array.is_null(at) {
        return Some(Value::Null);
    }
    Some(match array.data_type() {
        DataType::Null => Value::Null,
        DataType::Boolean => array.as_boolean().value(at).into(),
        DataType::Int8 => array.as_primitive::<Int8Type>().value(at).into(),
        DataType::Int16 => array.as_primitive::<Int16Type>().value(at).into(),
        DataType::Int32 => array.as_primitive::<Int32Type>().value(at).into(),
        DataType::Int64 => array.as_primitive::<Int64Type>().value(at).into(),
        DataType::UInt8 => array.as_primitive::<UInt8Type>().value(at).into(),
        DataType::UInt16 => array.as_primitive::<UInt16Type>().value(at).into(),
        DataType::UInt32 => array.as_primitive::<UInt32Type>().value(at).into(),
        DataType::UInt64 => array.as_primitive::<UInt64Type>().value(at).into(),
        DataType::Float32 => array.as_primitive::<Float32Type>().value(at).into(),
        DataType::Float64 => array.as_primitive::<Float64Type>().value(at).into(),
        DataType::Utf8 => array.as_string::<i32>().value(at).into(),
        DataType::LargeUtf8 => array.as_string::<i64>().value(at).into(),
        DataType::Utf8View => array.as_string_view().value(at).into(),
        DataType::List(_) => list(&*array.as_list::<i32>().value(at)),
        DataType::LargeList(_) => list(&*array.as_list::<i64>().value(at)),
        DataType::FixedSizeList(..) => list(&*array.as_fixed_size_list().value(at)),
        DataType::Struct(_) => Value::Object(object(array.as_struct(), at)),
        _ => return None,
    })
}

fn list(array: &dyn Array) -> Value {
    (0..array.len()).filter_map(|at| value(array, at)).collect()
}

fn object(array: &StructArray, at: usize) -> Map<String, Value> {
    let columns = array.column_names().into_iter().zip(array.columns());
    columns.filter_map(|(name, column)| Some((name.to_owned(), value(&**column, at)?))).collect()
}
