//! Rows of a `.csv` file: a header with the names of the fields, then a record per row. All fields are strings.

use std::collections::HashSet;
use std::io::Read;

use csv::{Error, ErrorKind, Reader, ReaderBuilder, StringRecord};

use super::error::{RowFault, SourceFault};
use super::input::Limited;
use super::number::RowNumber;
use super::row::{MAX_ROW_BYTES, Row};

/// The rows of a `.csv` file.
pub(super) struct Csv<R> {
    reader: Reader<Limited<R>>,
    names: StringRecord,
    record: StringRecord,
}

impl<R: Read> Csv<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// As of any row; [`RowFault::RepeatedColumn`].
    pub(super) fn new(stream: R) -> Result<Self, SourceFault> {
        let mut reader = ReaderBuilder::new().from_reader(Limited::new(stream, MAX_ROW_BYTES));
        let names = reader.headers().cloned().map_err(|error| fault(error, &reader))?;
        let mut known = HashSet::new();
        if let Some(name) = names.iter().find(|name| !known.insert(*name)) {
            return Err(RowFault::RepeatedColumn { name: name.to_owned() }.at(RowNumber::Line(1)));
        }
        Ok(Self { reader, names, record: StringRecord::new() })
    }

    fn read_row(&mut self) -> Result<Option<Row>, SourceFault> {
        self.reader.get_mut().refill(MAX_ROW_BYTES);
        if !self.reader.read_record(&mut self.record).map_err(|error| fault(error, &self.reader))? {
            return Ok(None);
        }
        let number = number(self.record.position().map_or(0, csv::Position::record));
        let fields = self.names.iter().zip(&self.record);
        Ok(Some(Row { number, fields: fields.map(|(name, field)| (name.to_owned(), field.into())).collect() }))
    }
}

impl<R: Read> Iterator for Csv<R> {
    type Item = Result<Row, SourceFault>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read_row().transpose()
    }
}

fn fault<R: Read>(error: Error, reader: &Reader<Limited<R>>) -> SourceFault {
    let record = error.position().map_or_else(|| reader.position().record(), csv::Position::record);
    let fault = match error.into_kind() {
        ErrorKind::Io(_) if reader.get_ref().is_spent() => RowFault::TooLong { limit_bytes: MAX_ROW_BYTES },
        ErrorKind::Io(error) => return error.into(),
        ErrorKind::UnequalLengths { expected_len: expected, len: found, .. } => {
            RowFault::FieldCount { found, expected }
        }
        ErrorKind::Utf8 { err, .. } => RowFault::BadField { field: err.field() + 1 },
        other => return std::io::Error::other(format!("{other:?}")).into(),
    };
    fault.at(number(record))
}

/// The header is record 0. Lines are not counted: of a file with carriage returns, the reader counts them wrongly.
fn number(record: u64) -> RowNumber {
    if record == 0 { RowNumber::Line(1) } else { RowNumber::Row(record) }
}
