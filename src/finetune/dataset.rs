//! Reads files of records into training examples.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::FinetuneError;
use crate::data::shards::TokenShards;
use crate::data::source::{Row, Rows, SkippedRows, SourceError, data_files};
use crate::data::{Document, EncoderFault, Record, RecordFormat, RowSplit};
use crate::tokenizer::Tokenizer;

/// Rows by which the format of a file is recognized.
const PEEKED: usize = 64;

/// Items read from files of records.
#[derive(Debug)]
pub struct Dataset<T> {
    /// The items, in the order of the files.
    pub items: Vec<T>,
    /// The file and the row of each item.
    pub names: Vec<String>,
    /// The files with their formats.
    pub formats: Vec<(PathBuf, RecordFormat)>,
    /// The records by outcome.
    pub counts: RecordCounts,
}

/// The outcome of encoding a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Encoded<T> {
    /// All of it.
    Whole(T),
    /// Its start, with a trained token.
    Cut(T),
    /// The part that is kept has no trained token, or is the same in both completions of a pair.
    CutOff,
    /// Nothing in it is trained.
    Untrained,
}

/// Records by outcome. Each is counted once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RecordCounts {
    /// Whole items.
    pub whole: usize,
    /// Items that are the start of a record.
    pub cut: usize,
    /// Records left out because what they teach is cut off.
    pub cut_off: usize,
    /// Records left out because nothing in them is trained, such as an empty completion or two equal ones.
    pub untrained: usize,
}

impl RecordCounts {
    /// All records.
    pub fn total(self) -> usize {
        let Self { whole, cut, cut_off, untrained } = self;
        whole + cut + cut_off + untrained
    }

    fn add<T>(&mut self, encoded: &Encoded<T>) {
        *match encoded {
            Encoded::Whole(_) => &mut self.whole,
            Encoded::Cut(_) => &mut self.cut,
            Encoded::CutOff => &mut self.cut_off,
            Encoded::Untrained => &mut self.untrained,
        } += 1;
    }
}

/// The files of records that arguments name.
///
/// # Errors
/// As [`data_files`]; [`FinetuneError::NoData`] for a directory of token shards.
pub fn record_files(arguments: &[PathBuf]) -> Result<Vec<PathBuf>, FinetuneError> {
    match arguments.iter().find(|argument| is_shards(argument)) {
        None => Ok(data_files(arguments)?),
        Some(shards) => Err(FinetuneError::NoData(format!(
            "{shards:?} holds token shards, which only continued pretraining reads (deepwide train); expected files of records"
        ))),
    }
}

/// Whether a directory holds token shards.
pub(super) fn is_shards(path: &Path) -> bool {
    TokenShards::are_in(path)
}

impl<T> Dataset<T> {
    /// Takes out the items that are kept from training, with their names. The others keep their order.
    ///
    /// # Panics
    /// If the split is of another number of items.
    pub fn hold_out(&mut self, split: &RowSplit) -> Vec<(T, String)> {
        let heldout: HashSet<u64> = split.heldout().collect();
        assert_eq!(self.items.len() as u64, split.num_train() + heldout.len() as u64, "items of the split");
        let named = std::mem::take(&mut self.items).into_iter().zip(std::mem::take(&mut self.names));
        let (kept, trained): (Vec<_>, Vec<_>) = (0u64..).zip(named).partition(|(index, _)| heldout.contains(index));
        (self.items, self.names) = trained.into_iter().map(|(_, named)| named).unzip();
        kept.into_iter().map(|(_, named)| named).collect()
    }
}

/// Reads the records of files, which are preferences or are not, and encodes those with something to learn in parallel. Rows that
/// cannot be read or encoded are `skipped`.
///
/// # Errors
/// [`FinetuneError::Source`], [`FinetuneError::Format`], [`FinetuneError::Record`] for the first row that cannot be read and is not
/// left out.
pub fn read_records<T: Send>(
    files: &[PathBuf],
    are_preferences: bool,
    skipped: &mut SkippedRows,
    encode: impl Fn(&Record) -> Result<Encoded<T>, EncoderFault> + Sync,
) -> Result<Dataset<T>, FinetuneError> {
    let mut dataset =
        Dataset { items: Vec::new(), names: Vec::new(), formats: Vec::new(), counts: RecordCounts::default() };
    for file in files {
        let rows = rows_of(file, skipped)?;
        let format = RecordFormat::recognize(rows.iter().take(PEEKED).map(|row| &row.fields))
            .map_err(|unknown| FinetuneError::Format { path: file.clone(), reason: unknown.to_string() })?;
        if format.is_preference() != are_preferences {
            let expected = RecordFormat::ALL.into_iter().filter(|format| format.is_preference() == are_preferences);
            let expected: Vec<String> = expected.map(|format| format.to_string()).collect();
            let reason = format!("found records of {format}, expected those of one of: {}", expected.join("; "));
            return Err(FinetuneError::Format { path: file.clone(), reason });
        }
        dataset.formats.push((file.clone(), format));
        let read = |row: Row| -> Result<(String, Encoded<T>), FinetuneError> {
            let name = name_of(file, &row);
            let refused = |reason: String| FinetuneError::Record { row: name.clone(), reason };
            let record = Record::from_row(format, row.fields).map_err(|fault| refused(fault.to_string()))?;
            let item = match record.is_informative() {
                true => encode(&record).map_err(|fault| refused(fault.to_string()))?,
                false => Encoded::Untrained,
            };
            Ok((name, item))
        };
        for record in rows.into_par_iter().map(read).collect::<Vec<_>>() {
            let (name, encoded) = match record {
                Ok(record) => record,
                Err(error) => {
                    skipped.skip(error)?;
                    continue;
                }
            };
            dataset.counts.add(&encoded);
            if let Encoded::Whole(item) | Encoded::Cut(item) = encoded {
                dataset.items.push(item);
                dataset.names.push(name);
            }
        }
    }
    Ok(dataset)
}

/// Reads the texts of files, `text` of each row, as documents that end with `eos`. Those without a token are left out, and
/// rows without a text are `skipped`.
///
/// # Errors
/// [`FinetuneError::Source`], [`FinetuneError::Record`], [`FinetuneError::Tokenizer`].
pub fn read_texts(
    files: &[PathBuf],
    tokenizer: &Tokenizer,
    eos: u32,
    skipped: &mut SkippedRows,
) -> Result<Vec<Document>, FinetuneError> {
    let mut documents = Vec::new();
    for file in files {
        let mut texts = Vec::new();
        for mut row in rows_of(file, skipped)? {
            match row.take_text("text") {
                Ok(text) => texts.push(text),
                Err(fault) => {
                    skipped.skip(FinetuneError::Record { row: name_of(file, &row), reason: fault.to_string() })?;
                }
            }
        }
        let encode = |text: String| tokenizer.encode_document(&text, Some(eos));
        let encoded = texts.into_par_iter().map(encode).collect::<Result<Vec<_>, _>>()?;
        let full = encoded.into_iter().filter(|ids| !ids.is_empty());
        documents.extend(full.map(|ids| Document { ids, logprobs: None, topic: None }));
    }
    Ok(documents)
}

/// The rows of a file that break no rule.
fn rows_of(file: &Path, skipped: &mut SkippedRows) -> Result<Vec<Row>, SourceError> {
    let mut rows = Rows::open(file)?;
    std::iter::from_fn(|| rows.next_whole(skipped)).collect()
}

fn name_of(file: &Path, row: &Row) -> String {
    format!("{}, {}", file.display(), row.number)
}
