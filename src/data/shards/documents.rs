//! The texts of files of data, one after the other.

use std::path::PathBuf;

use crate::data::source::{RowNumber, Rows, SourceError, SourceFault};
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
    /// Index of the current file.
    file: usize,
    rows: Option<Rows>,
    /// Bytes of the current file that were reported.
    reported_bytes: u64,
    progress: &'a (dyn Fn(u64) + Sync),
}

impl<'a> DocumentTexts<'a> {
    /// `progress` is called with the bytes of the files as they are read.
    pub(super) fn new(files: &'a [PathBuf], field: &'a str, progress: &'a (dyn Fn(u64) + Sync)) -> Self {
        Self { files, field, file: 0, rows: None, reported_bytes: 0, progress }
    }

    /// The next texts, at least one and at least `size_bytes` of them; none at the end.
    ///
    /// # Errors
    /// [`SourceError`] for the first row that breaks a rule.
    pub(super) fn take(&mut self, size_bytes: usize) -> Result<Vec<DocumentText>, SourceError> {
        let (mut texts, mut found_bytes) = (Vec::new(), 0);
        while found_bytes < size_bytes && self.file < self.files.len() {
            match self.next()? {
                Some(document) => {
                    found_bytes += document.text.len();
                    texts.push(document);
                }
                None => (self.file, self.rows, self.reported_bytes) = (self.file + 1, None, 0),
            }
        }
        Ok(texts)
    }

    /// The next text of the current file.
    fn next(&mut self) -> Result<Option<DocumentText>, SourceError> {
        let path = &self.files[self.file];
        let rows = match &mut self.rows {
            Some(rows) => rows,
            none => none.insert(Rows::open(path)?),
        };
        let row = rows.next().transpose()?;
        (self.progress)(rows.read_bytes() - self.reported_bytes);
        self.reported_bytes = rows.read_bytes();
        let Some(mut row) = row else { return Ok(None) };
        let (file, number) = (self.file, row.number);
        match row.take_text(self.field) {
            Ok(text) => Ok(Some(DocumentText { file, number, text })),
            Err(fault) => Err(InFile::new(path, SourceFault::Row { number, fault })),
        }
    }
}
