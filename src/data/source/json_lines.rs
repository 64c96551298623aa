//! Rows of a `.jsonl` file: an object per line.

use std::io::{BufRead, Read};

use super::error::{RowFault, SourceFault};
use super::number::RowNumber;
use super::row::{Fields, MAX_ROW_BYTES, Row};
use crate::error::type_name;

/// The rows of a `.jsonl` file. Blank lines are skipped, but counted.
pub(super) struct JsonLines<R> {
    stream: R,
    line: Vec<u8>,
    number: u64,
}

impl<R: BufRead> JsonLines<R> {
    pub(super) fn new(stream: R) -> Self {
        Self { stream, line: Vec::new(), number: 0 }
    }

    fn read_row(&mut self) -> Result<Option<Row>, SourceFault> {
        loop {
            self.line.clear();
            self.stream.by_ref().take(MAX_ROW_BYTES + 1).read_until(b'\n', &mut self.line)?;
            if self.line.is_empty() {
                return Ok(None);
            }
            self.number += 1;
            let number = RowNumber::Line(self.number);
            if self.line.len() as u64 > MAX_ROW_BYTES {
                return Err(RowFault::TooLong { limit_bytes: MAX_ROW_BYTES }.at(number));
            }
            let line = utf8(&self.line).map_err(|fault| fault.at(number))?.trim();
            if !line.is_empty() {
                let fields = object(line).map_err(|fault| fault.at(number))?;
                return Ok(Some(Row { number, fields: fields.0 }));
            }
        }
    }
}

impl<R: BufRead> Iterator for JsonLines<R> {
    type Item = Result<Row, SourceFault>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read_row().transpose()
    }
}

/// The text of a row.
pub(super) fn utf8(bytes: &[u8]) -> Result<&str, RowFault> {
    std::str::from_utf8(bytes).map_err(|error| {
        let offset_bytes = error.valid_up_to();
        RowFault::NotUtf8 { offset_bytes, found: bytes[offset_bytes] }
    })
}

fn object(line: &str) -> Result<Fields, RowFault> {
    if !line.starts_with('{') {
        let value = serde_json::from_str(line).map_err(RowFault::BadJson)?;
        return Err(RowFault::NotAnObject { found: type_name(&value) });
    }
    serde_json::from_str(line).map_err(RowFault::BadJson)
}
