//! The rows of a file, whatever its format.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::arrow::Arrow;
use super::csv::Csv;
use super::error::{RowFault, SourceError, SourceFault};
use super::format::{Format, format_of};
use super::input::{self, Tally};
use super::json::Json;
use super::json_lines::JsonLines;
use super::parquet::Parquet;
use super::row::Row;
use super::skipped_rows::SkippedRows;
use super::text::Text;
use crate::error::InFile;

/// The rows of a file of data, in its order, read as they are asked for.
///
/// The format follows from the extension: `.txt`, `.jsonl`, `.json`, `.csv`, each also compressed as `.gz` or `.zst`,
/// `.parquet` and `.arrow`. Memory does not depend on the size of the file: a row has at most 64 MiB; of `.parquet`, a few pages per column are
/// held, of `.arrow` a batch of rows.
///
/// - `.txt`: one row with the key `text`. A file of more than 4 MiB is cut into several, each as long as possible within
///   1 MiB, behind a blank line; where there is none, behind a line; in a longer line, behind a character.
/// - `.jsonl`: a row per line; blank lines are skipped.
/// - `.json`: an array of objects, or objects one after the other.
/// - `.csv`: a header, then a row per record, all fields strings.
/// - `.parquet`: a row per record; times and decimals become strings, and binary fields that are not UTF-8 are left out.
/// - `.arrow`: a row per record; times, decimals and binary fields are left out.
///
/// A byte-order mark at the start is ignored. After a row of `.jsonl` that breaks a rule, the rows behind it follow, unless it is too long;
/// after any other error there are no more.
///
/// ```
/// use deepwide::data::source::Rows;
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("a.jsonl");
/// std::fs::write(&path, "{\"text\": \"red\"}\n{\"text\": \"blue\"}\n")?;
/// let rows = Rows::open(&path)?.collect::<Result<Vec<_>, _>>()?;
/// assert_eq!(rows[1].fields["text"], "blue");
/// assert_eq!(rows[1].number.to_string(), "line 2");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Rows {
    path: PathBuf,
    rows: Option<Boxed>,
    /// Whether the end of a row is known without reading it as one. Not in CSV: a stray quote joins lines.
    is_by_line: bool,
    tally: Arc<Tally>,
}

impl Rows {
    /// Opens a file.
    ///
    /// # Errors
    /// [`SourceFault::UnknownFormat`], [`SourceFault::File`], [`SourceFault::LfsPointer`]; a header that breaks a rule.
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        let tally = Arc::default();
        let rows = rows(path, &tally).map_err(InFile::at(path))?;
        let is_by_line = matches!(format_of(path), Ok((Format::JsonLines, _)));
        Ok(Self { path: path.to_owned(), rows: Some(rows), is_by_line, tally })
    }

    /// The next row that breaks no rule. Those before it are `skipped`, if the file can be read behind them.
    ///
    /// # Errors
    /// As of any row.
    pub fn next_whole(&mut self, skipped: &mut SkippedRows) -> Option<Result<Row, SourceError>> {
        loop {
            match self.next()? {
                Err(error) if self.rows.is_some() => {
                    if let Err(error) = skipped.skip(error) {
                        return Some(Err(error));
                    }
                }
                row => return Some(row),
            }
        }
    }

    /// Bytes of the file that were read so far, for progress; of a `.parquet` file the share of its rows.
    pub fn read_bytes(&self) -> u64 {
        self.tally.read_bytes.load(Ordering::Relaxed)
    }

    /// BLAKE3 of the file, in hexadecimal, as `b3sum` prints it. It was computed while the rows were read; a `.parquet` or `.arrow` file is
    /// read once more.
    ///
    /// # Errors
    /// [`SourceFault::File`].
    ///
    /// # Panics
    /// If rows are left.
    pub fn blake3(&self) -> Result<String, SourceError> {
        assert!(self.rows.is_none(), "a hash of a file with rows that were not read");
        match format_of(&self.path) {
            Ok((Format::Parquet | Format::Arrow, _)) => {
                blake3_of(&self.path).map_err(|error| InFile::new(&self.path, error.into()))
            }
            _ => Ok(self.tally.blake3()),
        }
    }
}

type Boxed = Box<dyn Iterator<Item = Result<Row, SourceFault>> + Send>;

fn blake3_of(path: &Path) -> io::Result<String> {
    let mut hash = blake3::Hasher::new();
    io::copy(&mut std::fs::File::open(path)?, &mut hash)?;
    Ok(hash.finalize().to_hex().to_string())
}

fn rows(path: &Path, tally: &Arc<Tally>) -> Result<Boxed, SourceFault> {
    let (format, compression) = format_of(path)?;
    let open = || input::open(path, compression, tally);
    Ok(match format {
        Format::Text => Box::new(Text::new(open()?)),
        Format::JsonLines => Box::new(JsonLines::new(open()?)),
        Format::Json => Box::new(Json::new(open()?)),
        Format::Csv => Box::new(Csv::new(open()?)?),
        Format::Parquet => Box::new(Parquet::open(path, tally)?),
        Format::Arrow => Box::new(Arrow::open(path, tally)?),
    })
}

impl Iterator for Rows {
    type Item = Result<Row, SourceError>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.rows.as_mut()?.next();
        let goes_on = match &row {
            Some(Ok(_)) => true,
            Some(Err(SourceFault::Row { fault, .. })) => self.is_by_line && !matches!(fault, RowFault::TooLong { .. }),
            _ => false,
        };
        if !goes_on {
            self.rows = None;
        }
        row.map(|row| row.map_err(InFile::at(&self.path)))
    }
}

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Rows").field("path", &self.path).finish_non_exhaustive()
    }
}
