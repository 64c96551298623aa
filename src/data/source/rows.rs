//! The rows of a file, whatever its format.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::csv::Csv;
use super::error::{SourceError, SourceFault};
use super::format::{Format, format_of};
use super::input;
use super::json::Json;
use super::json_lines::JsonLines;
use super::parquet::Parquet;
use super::row::Row;
use super::text::Text;
use crate::error::InFile;

/// The rows of a file of data, in its order, read as they are asked for.
///
/// The format follows from the extension: `.txt`, `.jsonl`, `.json`, `.csv`, each also compressed as `.gz` or `.zst`, and
/// `.parquet`. Memory does not depend on the size of the file: a row has at most 64 MiB.
///
/// - `.txt`: one row with the key `text`. A file of more than 4 MiB is cut into several, each as long as possible within
///   4 MiB, behind a blank line; where there is none, behind a line; in a longer line, behind a character.
/// - `.jsonl`: a row per line; blank lines are skipped.
/// - `.json`: an array of objects, or objects one after the other.
/// - `.csv`: a header, then a row per record, all fields strings.
/// - `.parquet`: a row per record; times and decimals become strings, and binary fields that are not UTF-8 are left out.
///
/// A byte-order mark at the start is ignored. After an error there are no more rows.
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
    rows: Option<Box<dyn Iterator<Item = Result<Row, SourceFault>> + Send>>,
    read_bytes: Arc<AtomicU64>,
}

impl Rows {
    /// Opens a file.
    ///
    /// # Errors
    /// [`SourceFault::UnknownFormat`], [`SourceFault::File`], [`SourceFault::LfsPointer`]; a header that breaks a rule.
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        let read_bytes = Arc::default();
        let rows = rows(path, &read_bytes).map_err(InFile::at(path))?;
        Ok(Self { path: path.to_owned(), rows: Some(rows), read_bytes })
    }

    /// Bytes of the file that were read so far, for progress; of a `.parquet` file the share of its rows.
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes.load(Ordering::Relaxed)
    }
}

type Boxed = Box<dyn Iterator<Item = Result<Row, SourceFault>> + Send>;

fn rows(path: &Path, read_bytes: &Arc<AtomicU64>) -> Result<Boxed, SourceFault> {
    let (format, compression) = format_of(path)?;
    let open = || input::open(path, compression, read_bytes);
    Ok(match format {
        Format::Text => Box::new(Text::new(open()?)),
        Format::JsonLines => Box::new(JsonLines::new(open()?)),
        Format::Json => Box::new(Json::new(open()?)),
        Format::Csv => Box::new(Csv::new(open()?)?),
        Format::Parquet => Box::new(Parquet::open(path, read_bytes)?),
    })
}

impl Iterator for Rows {
    type Item = Result<Row, SourceError>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.rows.as_mut()?.next();
        if !matches!(row, Some(Ok(_))) {
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
