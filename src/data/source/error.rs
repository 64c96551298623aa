//! Why a file of data could not be read.

use std::io;

use super::number::RowNumber;
use crate::error::{ErrorKind, FileFault, InFile, cut, listed, quoted};

/// A fault of a file of data.
pub type SourceError = InFile<SourceFault>;

/// Faults of a data file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceFault {
    /// The file could not be read.
    #[error(transparent)]
    File(FileFault),
    /// The extension is none of those that are read.
    #[error(
        "is a file of format {}, expected one of .txt, .jsonl, .json and .csv, also with .gz or .zst, .parquet and .arrow",
        quoted(.found)
    )]
    UnknownFormat {
        /// The extension, without the dot.
        found: String,
    },
    /// The file is a pointer of Git LFS instead of the data.
    #[error("is a Git LFS pointer, expected data: run `git lfs pull` where it came from")]
    LfsPointer,
    /// The file is truncated or not compressed as its extension says.
    #[error("cannot be decompressed: {}, expected a whole {expected} file", cut(.found))]
    BadCompression {
        /// The failure of the decompressor.
        found: io::Error,
        /// The compression.
        expected: &'static str,
    },
    /// The file breaks a rule of Parquet.
    #[error("{}, expected a Parquet file", cut(.found))]
    BadParquet {
        /// The failure of the reader.
        found: String,
    },
    /// The file breaks a rule of Arrow.
    #[error("{}, expected an Arrow file", cut(.found))]
    BadArrow {
        /// The failure of the reader.
        found: String,
    },
    /// A row breaks a rule.
    #[error("{number}: {fault}")]
    Row {
        /// Where it is.
        number: RowNumber,
        /// The fault.
        fault: RowFault,
    },
    /// A pattern breaks the rules of patterns.
    #[error("is not a pattern: {reason}")]
    BadPattern {
        /// Which rule.
        reason: &'static str,
    },
    /// A pattern matches no file.
    #[error("matches no file")]
    NoMatch,
    /// A directory has no file of a format that is read.
    #[error("holds no data, expected a .txt, .jsonl, .json, .csv, .parquet or .arrow file")]
    NoData,
    /// A file is given twice, which would repeat its rows.
    #[error("is given twice, expected each file once")]
    Repeated,
}

/// Faults of a row.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RowFault {
    /// The row is longer than any real document.
    #[error("has more than {limit_bytes} bytes, expected at most that many")]
    TooLong {
        /// The limit.
        limit_bytes: u64,
    },
    /// The bytes are not UTF-8.
    #[error("found byte {found:#04x} at offset {offset_bytes} of it, expected UTF-8")]
    NotUtf8 {
        /// Offset in the row of the first byte that is not UTF-8.
        offset_bytes: usize,
        /// That byte.
        found: u8,
    },
    /// A field is not UTF-8.
    #[error("field {field} is not text, expected UTF-8")]
    BadField {
        /// Its place, from 1.
        field: usize,
    },
    /// The row is not JSON, or has a key twice.
    #[error("{} of it, expected a JSON object", cut(.0))]
    BadJson(serde_json::Error),
    /// The row is JSON but not an object.
    #[error("found {found}, expected an object")]
    NotAnObject {
        /// The type of the value.
        found: &'static str,
    },
    /// Something other than a comma or the end after an element of an array.
    #[error("found {} after it, expected a comma or ]", found.map_or("the end of the file".to_owned(), |byte| format!("{:?}", char::from(byte))))]
    NoSeparator {
        /// The byte; `None` at the end of the file.
        found: Option<u8>,
    },
    /// The row has more or fewer fields than the header.
    #[error("found {found} fields, expected the {expected} of the header")]
    FieldCount {
        /// Fields of the row.
        found: u64,
        /// Fields of the header.
        expected: u64,
    },
    /// Two columns have one name.
    #[error("found the column {} twice, expected unique names", quoted(.name))]
    RepeatedColumn {
        /// The name.
        name: String,
    },
    /// The row lacks a field.
    #[error("found the fields [{}], expected {}", listed(&found[..found.len().min(8)], found.len()), quoted(.expected))]
    MissingField {
        /// Its fields.
        found: Vec<String>,
        /// The field.
        expected: String,
    },
    /// A field is not a string.
    #[error("{} is {found}, expected a string", quoted(.field))]
    NotAString {
        /// The field.
        field: String,
        /// The type of its value.
        found: &'static str,
    },
}

impl RowFault {
    pub(super) fn at(self, number: RowNumber) -> SourceFault {
        SourceFault::Row { number, fault: self }
    }
}

impl SourceFault {
    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::File(fault) => fault.kind(),
            Self::NoMatch => ErrorKind::NotFound,
            _ => ErrorKind::Invalid,
        }
    }
}

impl SourceError {
    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        self.fault.kind()
    }
}

/// An error of a reader: of the operating system, or of a decompressor below it, which leaves its own in place of one.
impl From<io::Error> for SourceFault {
    fn from(error: io::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(fault) => fault,
            Err(error) => Self::File(error.into()),
        }
    }
}
