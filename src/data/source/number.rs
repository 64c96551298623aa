//! The place of a row in its file.

use std::fmt;

/// Where a row is in its file. Displays as `line 3` or `row 3`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RowNumber {
    /// The line where it starts, from 1, in a `.txt` or `.jsonl` file.
    Line(u64),
    /// Its place among the rows, from 1, of a `.json`, `.csv` or `.parquet` file; the header of `.csv` is none.
    Row(u64),
}

impl fmt::Display for RowNumber {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Line(number) => write!(f, "line {number}"),
            Self::Row(number) => write!(f, "row {number}"),
        }
    }
}
