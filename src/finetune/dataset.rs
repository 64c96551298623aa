//! Reads files of records into training examples.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::FinetuneError;
use crate::data::source::{Row, Rows};
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
    /// Records left out because nothing in them is trained, such as an empty completion or two equal ones.
    pub num_left_out: usize,
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

/// Reads the records of files, and encodes those with something to learn in parallel.
///
/// # Errors
/// [`FinetuneError::Source`], [`FinetuneError::Format`], [`FinetuneError::Record`] for the first record that cannot be read.
pub fn read_records<T: Send>(
    files: &[PathBuf],
    encode: impl Fn(&Record) -> Result<Option<T>, EncoderFault> + Sync,
) -> Result<Dataset<T>, FinetuneError> {
    let mut dataset = Dataset { items: Vec::new(), names: Vec::new(), formats: Vec::new(), num_left_out: 0 };
    for file in files {
        let rows = Rows::open(file)?.collect::<Result<Vec<Row>, _>>()?;
        let format = RecordFormat::recognize(rows.iter().take(PEEKED).map(|row| &row.fields))
            .map_err(|unknown| FinetuneError::Format { path: file.clone(), reason: unknown.to_string() })?;
        dataset.formats.push((file.clone(), format));
        let read = |row: Row| -> Result<(String, Option<T>), FinetuneError> {
            let name = name_of(file, &row);
            let refused = |reason: String| FinetuneError::Record { row: name.clone(), reason };
            let record = Record::from_row(format, row.fields).map_err(|fault| refused(fault.to_string()))?;
            let item = match record.is_informative() {
                true => encode(&record).map_err(|fault| refused(fault.to_string()))?,
                false => None,
            };
            Ok((name, item))
        };
        for (name, item) in rows.into_par_iter().map(read).collect::<Result<Vec<_>, _>>()? {
            match item {
                Some(item) => {
                    dataset.items.push(item);
                    dataset.names.push(name);
                }
                None => dataset.num_left_out += 1,
            }
        }
    }
    Ok(dataset)
}

/// Reads the texts of files, `text` of each row, as documents. Those without a token are left out.
///
/// # Errors
/// [`FinetuneError::Source`], [`FinetuneError::Record`], [`FinetuneError::Tokenizer`].
pub fn read_texts(files: &[PathBuf], tokenizer: &Tokenizer) -> Result<Vec<Document>, FinetuneError> {
    let mut documents = Vec::new();
    for file in files {
        let rows = Rows::open(file)?.collect::<Result<Vec<Row>, _>>()?;
        let encode = |mut row: Row| -> Result<Vec<u32>, FinetuneError> {
            let text = row
                .take_text("text")
                .map_err(|fault| FinetuneError::Record { row: name_of(file, &row), reason: fault.to_string() })?;
            Ok(tokenizer.encode(&text)?)
        };
        let encoded = rows.into_par_iter().map(encode).collect::<Result<Vec<_>, _>>()?;
        let full = encoded.into_iter().filter(|ids| !ids.is_empty());
        documents.extend(full.map(|ids| Document { ids, logprobs: None, topic: None }));
    }
    Ok(documents)
}

fn name_of(file: &Path, row: &Row) -> String {
    format!("{}, {}", file.display(), row.number)
}
