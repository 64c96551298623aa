//! The texts of files of data, one after the other.

use std::path::{Path, PathBuf};

use super::record::SourceRecord;
use crate::data::source::{RowNumber, Rows, SkippedRows, SourceError, SourceFault};
use crate::error::InFile;

/// A text of a row.
pub(super) struct DocumentText {
    /// Index of its file.
    pub file: usize,
    pub number: RowNumber,
    pub text: String,
}

/// The texts in a field of the rows of some files.
pub(super) struct DocumentTexts<'a> {
    files: &'a [PathBuf],
    field: &'a str,
    rows: Option<Rows>,
    /// The files that were read to their end; the next is the current one.
    finished: Vec<SourceRecord>,
    skipped: SkippedRows,
    /// The row that broke a rule, behind texts that were returned.
    failed: Option<SourceError>,
    /// Bytes of the current file that were reported.
    reported_bytes: u64,
    progress: &'a (dyn Fn(u64) + Sync),
}

impl<'a> DocumentTexts<'a> {
    /// Rows that break a rule are `skipped`. `progress` is called with the bytes of the files as they are read.
    pub(super) fn new(
        files: &'a [PathBuf],
        field: &'a str,
        skipped: SkippedRows,
        progress: &'a (dyn Fn(u64) + Sync),
    ) -> Self {
        Self { files, field, rows: None, finished: Vec::new(), skipped, failed: None, reported_bytes: 0, progress }
    }

    /// The next texts, at least one and `size_bytes` of them if there are so many; none at the end.
    ///
    /// # Errors
    /// [`SourceError`] for the first row that breaks a rule and is not skipped, once the texts before it were returned.
    pub(super) fn take(&mut self, size_bytes: usize) -> Result<Vec<DocumentText>, SourceError> {
        let (mut texts, mut found_bytes) = (Vec::new(), 0);
        while self.failed.is_none() && found_bytes < size_bytes && self.finished.len() < self.files.len() {
            match self.next() {
                Ok(None) => {}
                Ok(Some(document)) => {
                    found_bytes += document.text.len();
                    texts.push(document);
                }
                Err(error) => self.failed = Some(error),
            }
        }
        match self.failed.take_if(|_| texts.is_empty()) {
            Some(error) => Err(error),
            None => Ok(texts),
        }
    }

    /// The files that were read to their end, and the rows that were left out.
    pub(super) fn finished(self) -> (Vec<SourceRecord>, SkippedRows) {
        (self.finished, self.skipped)
    }

    /// The next text of the current file; `None` at its end, and for a row that is left out.
    fn next(&mut self) -> Result<Option<DocumentText>, SourceError> {
        let file = self.finished.len();
        let path = &self.files[file];
        let rows = match &mut self.rows {
            Some(rows) => rows,
            none => none.insert(Rows::open(path)?),
        };
        let row = rows.next_whole(&mut self.skipped).transpose()?;
        (self.progress)(rows.read_bytes() - self.reported_bytes);
        self.reported_bytes = rows.read_bytes();
        let Some(mut row) = row else {
            let source = SourceRecord { name: recorded(path), size_bytes: self.reported_bytes, blake3: rows.blake3()? };
            self.finished.push(source);
            (self.rows, self.reported_bytes) = (None, 0);
            return Ok(None);
        };
        let number = row.number;
        match row.take_text(self.field) {
            Ok(text) => Ok(Some(DocumentText { file, number, text })),
            Err(fault) => {
                self.skipped.skip(InFile::new(path, SourceFault::Row { number, fault }))?;
                Ok(None)
            }
        }
    }
}

/// A path without the folders in which a user keeps files.
fn recorded(path: &Path) -> String {
    let name = path.file_name().filter(|_| path.is_absolute()).unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}
