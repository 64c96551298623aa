//! Rows of a `.txt` file: the whole file as one document, or a few if it is very long.

use std::io::{BufRead, Read};

use serde_json::Map;

use super::error::SourceFault;
use super::json_lines::utf8;
use super::number::RowNumber;
use super::row::Row;

/// Longest file that is one document, in bytes: longer than *War and Peace*.
pub(super) const MAX_WHOLE_BYTES: usize = 4 << 20;

/// Longest document of a longer file: a tokenizer takes some hundred bytes of memory per byte.
pub(super) const MAX_PART_BYTES: usize = 1 << 20;

/// The documents of a `.txt` file, each a row with a `text`.
///
/// A file of up to 4 MiB is one document. A longer one is cut: each document is as long as possible within 1 MiB, and ends
/// behind a blank line; where there is none, behind a line; in a longer line, behind a character. Carriage returns at line
/// ends are removed.
pub(super) struct Text<R> {
    stream: R,
    /// Read, but not yet in a row.
    rest: Vec<u8>,
    /// Longest document from here on.
    limit_bytes: usize,
    line: u64,
}

impl<R: BufRead> Text<R> {
    pub(super) fn new(stream: R) -> Self {
        Self { stream, rest: Vec::new(), limit_bytes: MAX_WHOLE_BYTES, line: 1 }
    }

    fn read_row(&mut self) -> Result<Option<Row>, SourceFault> {
        let missing_bytes = (self.limit_bytes + 1).saturating_sub(self.rest.len());
        self.stream.by_ref().take(missing_bytes as u64).read_to_end(&mut self.rest)?;
        if self.rest.is_empty() {
            return Ok(None);
        }
        let number = RowNumber::Line(self.line);
        let end = if self.rest.len() <= self.limit_bytes {
            self.rest.len()
        } else {
            self.limit_bytes = MAX_PART_BYTES;
            cut(&self.rest)
        };
        let text = utf8(&self.rest[..end]).map_err(|fault| fault.at(number))?.replace("\r\n", "\n");
        self.rest.drain(..end);
        self.line += text.bytes().filter(|byte| *byte == b'\n').count() as u64;
        Ok(Some(Row { number, fields: Map::from_iter([("text".to_owned(), text.into())]) }))
    }
}

impl<R: BufRead> Iterator for Text<R> {
    type Item = Result<Row, SourceFault>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read_row().transpose()
    }
}

/// The length of the first document of `bytes`, which are more than the longest.
fn cut(bytes: &[u8]) -> usize {
    let behind = |end: &[u8]| bytes[..MAX_PART_BYTES].windows(end.len()).rposition(|found| found == end);
    let blank_line = [&b"\n\n"[..], b"\n\r\n"].into_iter().filter_map(|end| Some(behind(end)? + end.len())).max();
    let line = || behind(b"\n").map(|start| start + 1);
    let is_start = |byte: u8| byte & 0xc0 != 0x80;
    let character = || (1..=MAX_PART_BYTES).rev().find(|end| is_start(bytes[*end]));
    blank_line.or_else(line).or_else(character).unwrap_or(MAX_PART_BYTES)
}
