//! Sources of training data, and the rows of several of them.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::FinetuneError;
use super::dataset::is_shards;
use super::rows::{Row, Rows};
use crate::data::RowSplit;
use crate::data::source::data_files;

/// Files of training data: their paths, directories or patterns.
#[derive(Debug, Clone, PartialEq)]
pub struct DataSource {
    /// The paths.
    pub paths: Vec<PathBuf>,
    /// Visits of each row in an epoch; see [`Mixture`](crate::data::Mixture).
    pub weight: f64,
}

/// Refuses sources that share a file or a directory of token shards: rows held out of one would be trained in the other.
///
/// # Errors
/// [`FinetuneError::Repeated`]; [`FinetuneError::Source`] as [`data_files`].
pub fn check_disjoint(sources: &[DataSource]) -> Result<(), FinetuneError> {
    let mut known = HashSet::new();
    for DataSource { paths, .. } in sources {
        let (shards, files): (Vec<PathBuf>, Vec<PathBuf>) = paths.iter().cloned().partition(|path| is_shards(path));
        for path in shards.into_iter().chain(data_files(&files)?) {
            if !known.insert(path.canonicalize().unwrap_or_else(|_| path.clone())) {
                return Err(FinetuneError::Repeated { path });
            }
        }
    }
    Ok(())
}

/// How many rows of each source are kept from training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Holdout {
    /// Their share, from 0 to below 1.
    pub share: f64,
    /// Their largest number.
    pub max_rows: u64,
}

impl Holdout {
    /// Splits the rows of a source, which is called `name`.
    ///
    /// # Errors
    /// [`FinetuneError::NoData`] if there is no row to train on.
    pub fn split(&self, num_rows: u64, name: &Path) -> Result<RowSplit, FinetuneError> {
        let num_heldout = ((num_rows as f64 * self.share).round() as u64).min(self.max_rows);
        if num_rows == 0 {
            return Err(FinetuneError::NoData(format!("{name:?} has no row, expected at least one")));
        }
        if num_rows == num_heldout {
            return Err(FinetuneError::NoData(format!(
                "{name:?} has {num_rows} rows, of which {num_heldout} are held out, expected at least one to train on"
            )));
        }
        Ok(RowSplit::new(num_rows, num_heldout))
    }
}

/// Takes at most `max_rows` items to evaluate on, at random.
pub fn sample<T>(items: Vec<T>, max_rows: u64) -> Vec<T> {
    let num_rows = items.len() as u64;
    let mut items: Vec<Option<T>> = items.into_iter().map(Some).collect();
    let sampled = RowSplit::new(num_rows, num_rows.min(max_rows)).heldout();
    sampled.map(|index| items[index as usize].take().expect("an item is sampled once")).collect()
}

/// The rows of a source that are trained.
pub struct TrainRows {
    rows: Box<dyn Rows>,
    split: RowSplit,
}

impl TrainRows {
    /// The rows of `split`.
    pub fn new(rows: Box<dyn Rows>, split: RowSplit) -> Self {
        Self { rows, split }
    }
}

impl Rows for TrainRows {
    fn len(&self) -> u64 {
        self.split.num_train()
    }

    fn row(&self, index: u64) -> Result<Row, FinetuneError> {
        self.rows.row(self.split.train(index))
    }

    fn name(&self, index: u64) -> String {
        self.rows.name(self.split.train(index))
    }
}

/// The rows of several sources, one source after the other.
#[derive(Default)]
pub struct Concatenated {
    /// The sources, with the index of their first row.
    sources: Vec<(u64, Box<dyn Rows>)>,
    len: u64,
}

impl Concatenated {
    /// Adds the rows of a source.
    pub fn push(&mut self, rows: Box<dyn Rows>) {
        let first = self.len;
        self.len += rows.len();
        self.sources.push((first, rows));
    }

    fn source(&self, index: u64) -> (&dyn Rows, u64) {
        let at = self.sources.partition_point(|(first, _)| *first <= index) - 1;
        let (first, rows) = &self.sources[at];
        (&**rows, index - first)
    }
}

impl Rows for Concatenated {
    fn len(&self) -> u64 {
        self.len
    }

    fn row(&self, index: u64) -> Result<Row, FinetuneError> {
        let (rows, index) = self.source(index);
        rows.row(index)
    }

    fn name(&self, index: u64) -> String {
        let (rows, index) = self.source(index);
        rows.name(index)
    }
}
