//! Rows of training data: documents of token ids with a mask of trained tokens.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use super::FinetuneError;
use crate::data::packing::Segment;
use crate::data::shards::TokenWindows;
use crate::data::{Document, Example};

/// Packed documents, which do not attend to each other.
pub type Row = Vec<Example>;

/// A set of rows that can be read in any order.
pub trait Rows {
    /// Number of rows.
    fn len(&self) -> u64;

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A row by its index.
    ///
    /// # Errors
    /// If a file can no longer be read.
    fn row(&self, index: u64) -> Result<Row, FinetuneError>;

    /// Where a row comes from, for messages.
    fn name(&self, index: u64) -> String;
}

/// Documents in memory, concatenated and cut into windows: window `i` starts at token `i · max_length` and has `max_length + 1`
/// tokens, the last of which only is a target.
#[derive(Debug, Clone)]
pub struct TextRows {
    ids: Vec<u32>,
    /// The first token of each document, ascending.
    starts: Vec<usize>,
    /// The files and their tokens, ascending.
    files: Vec<(PathBuf, Range<usize>)>,
    max_length: usize,
}

impl TextRows {
    /// Concatenates documents. A last window of less than two tokens is left out.
    ///
    /// # Panics
    /// If `max_length` is 0.
    pub fn new(documents: &[Document], max_length: usize) -> Self {
        assert!(max_length > 0, "windows of no tokens");
        let (mut ids, mut starts) = (Vec::new(), Vec::new());
        for document in documents {
            starts.push(ids.len());
            ids.extend(&document.ids);
        }
        Self { ids, starts, files: Vec::new(), max_length }
    }

    /// With the files that the documents are from, in order, each with the number of documents up to its end.
    #[must_use]
    pub fn of_files(mut self, files: Vec<(PathBuf, usize)>) -> Self {
        let mut start = 0;
        for (path, num_documents) in files {
            let end = self.starts.get(num_documents).copied().unwrap_or(self.ids.len());
            self.files.push((path, start..end));
            start = end;
        }
        self
    }

    /// The documents, by index, that have a target in a row.
    pub fn documents_of(&self, row: u64) -> impl Iterator<Item = usize> {
        let start = row as usize * self.max_length;
        let end = (start + self.max_length + 1).min(self.ids.len());
        // Targets are the tokens from `start + 1`, but for the first of each document.
        let first = self.starts.partition_point(|at| *at <= start + 1) - 1;
        let documents = first..self.starts.partition_point(|at| *at + 1 < end);
        documents.filter(|document| self.document(*document).len() > 1)
    }

    /// The tokens of a document.
    pub fn document(&self, index: usize) -> &[u32] {
        &self.ids[self.starts[index]..self.starts.get(index + 1).copied().unwrap_or(self.ids.len())]
    }
}

impl Rows for TextRows {
    fn len(&self) -> u64 {
        (self.ids.len().saturating_sub(1)).div_ceil(self.max_length) as u64
    }

    fn row(&self, index: u64) -> Result<Row, FinetuneError> {
        let start = index as usize * self.max_length;
        let end = (start + self.max_length + 1).min(self.ids.len());
        let first = self.starts.partition_point(|at| *at <= start);
        let cuts = self.starts[first..].iter().copied().take_while(|at| *at < end);
        let mut row = Vec::new();
        let mut from = start;
        for cut in cuts.chain([end]) {
            row.push(Example::trained_whole(self.ids[from..cut].to_vec()));
            from = cut;
        }
        Ok(row)
    }

    /// The files of its tokens, and their places in each.
    fn name(&self, index: u64) -> String {
        let start = index as usize * self.max_length;
        let end = (start + self.max_length + 1).min(self.ids.len());
        let part = |(path, tokens): &(PathBuf, Range<usize>)| {
            let (first, last) = (start.max(tokens.start), end.min(tokens.end));
            (first < last)
                .then(|| format!("{}, tokens {} to {}", path.display(), first - tokens.start, last - 1 - tokens.start))
        };
        let parts: Vec<String> = self.files.iter().filter_map(part).collect();
        if parts.is_empty() { format!("tokens {start} to {}", end - 1) } else { parts.join(" + ") }
    }
}

/// Rows in memory.
impl Rows for Vec<Row> {
    fn len(&self) -> u64 {
        Vec::len(self) as u64
    }

    fn row(&self, index: u64) -> Result<Row, FinetuneError> {
        Ok(self[index as usize].clone())
    }

    fn name(&self, index: u64) -> String {
        format!("row {index}")
    }
}

/// Rows that are shared.
impl<R: Rows> Rows for Arc<R> {
    fn len(&self) -> u64 {
        R::len(self)
    }

    fn row(&self, index: u64) -> Result<Row, FinetuneError> {
        R::row(self, index)
    }

    fn name(&self, index: u64) -> String {
        R::name(self, index)
    }
}

/// Examples in memory, several to a row.
#[derive(Debug, Clone)]
pub struct ExampleRows {
    examples: Vec<Example>,
    names: Vec<String>,
    rows: Vec<Vec<Segment>>,
}

impl ExampleRows {
    /// Rows of parts of the examples, which are called `names`. Rows without a target are left out: the first part of a cut
    /// example may be all prompt.
    ///
    /// # Panics
    /// If there are not as many names as examples.
    pub fn new(examples: Vec<Example>, names: Vec<String>, mut rows: Vec<Vec<Segment>>) -> Self {
        assert_eq!(examples.len(), names.len(), "names of examples");
        rows.retain(|row| row.iter().any(|segment| part(&examples, segment).num_trained() > 0));
        Self { examples, names, rows }
    }

    /// Inputs of the longest row; 0 without a row.
    pub fn longest(&self) -> usize {
        let inputs = |row: &Vec<Segment>| row.iter().map(|segment| segment.tokens.len().saturating_sub(1)).sum();
        self.rows.iter().map(inputs).max().unwrap_or(0)
    }

    /// Mean number of tokens of a row, rounded up.
    ///
    /// # Panics
    /// If there is no row.
    pub fn mean_tokens(&self) -> u64 {
        let num_tokens: usize = self.rows.iter().flatten().map(|segment| segment.tokens.len()).sum();
        num_tokens.div_ceil(self.rows.len()) as u64
    }
}

fn part(examples: &[Example], segment: &Segment) -> Example {
    let Example { ids, trained } = &examples[segment.example];
    Example { ids: ids[segment.tokens.clone()].to_vec(), trained: trained[segment.tokens.clone()].to_vec() }
}

impl Rows for ExampleRows {
    fn len(&self) -> u64 {
        self.rows.len() as u64
    }

    fn row(&self, index: u64) -> Result<Row, FinetuneError> {
        Ok(self.rows[index as usize].iter().map(|segment| part(&self.examples, segment)).collect())
    }

    fn name(&self, index: u64) -> String {
        let names = self.rows[index as usize].iter().map(|segment| self.names[segment.example].as_str());
        names.collect::<Vec<_>>().join(" + ")
    }
}

/// Windows of token shards, read as they are needed.
impl Rows for TokenWindows {
    fn len(&self) -> u64 {
        TokenWindows::len(self)
    }

    fn row(&self, index: u64) -> Result<Row, FinetuneError> {
        let window = self.read(index)?;
        Ok(window.documents().map(|ids| Example::trained_whole(ids.to_vec())).collect())
    }

    /// The file in which it begins, and its tokens from the start of that file.
    fn name(&self, index: u64) -> String {
        let (path, first) = self.shards().place(index * self.seq_length() as u64);
        format!("{}, tokens {first} to {}", path.display(), first + self.seq_length() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(lens: &[u32], max_length: usize) -> TextRows {
        let mut next = 0..;
        let documents: Vec<Document> = lens
            .iter()
            .map(|len| Document { ids: next.by_ref().take(*len as usize).collect(), logprobs: None, topic: None })
            .collect();
        TextRows::new(&documents, max_length)
    }

    #[test]
    fn a_row_of_text_is_named_by_its_files() {
        let rows = rows(&[3, 1, 6, 2, 9], 8).of_files(vec![("a.jsonl".into(), 2), ("b.jsonl".into(), 5)]);
        let names = [0, 1, 2].map(|index| rows.name(index));
        let expected =
            ["a.jsonl, tokens 0 to 3 + b.jsonl, tokens 0 to 4", "b.jsonl, tokens 4 to 12", "b.jsonl, tokens 12 to 16"];
        assert_eq!(names, expected);
    }

    #[test]
    fn every_token_but_the_first_of_a_document_is_a_target_once() {
        let lens = [3, 1, 6, 2, 9];
        for max_length in 1..=22 {
            let rows = rows(&lens, max_length);
            let mut targets = Vec::new();
            for index in 0..rows.len() {
                for document in rows.row(index).unwrap() {
                    targets.extend(document.ids.iter().skip(1).copied());
                }
            }
            // Tokens 0, 3, 4, 10 and 12 begin documents.
            let expected: Vec<u32> = (0..21).filter(|id| ![0, 3, 4, 10, 12].contains(id)).collect();
            assert_eq!(targets, expected, "windows of {max_length}");
        }
    }

    #[test]
    fn a_window_has_no_more_inputs_than_the_context() {
        let rows = rows(&[7, 5], 4);
        assert_eq!(rows.len(), 3);
        let lens = |index| rows.row(index).unwrap().iter().map(|text| text.ids.len()).collect::<Vec<_>>();
        assert_eq!([lens(0), lens(1), lens(2)], [vec![5], vec![3, 2], vec![4]]);
    }

    #[test]
    fn a_document_is_in_the_rows_that_have_a_target_of_it() {
        let lens = [3, 1, 6, 2, 9];
        for max_length in 1..=22 {
            let rows = rows(&lens, max_length);
            for index in 0..rows.len() {
                // The first id of a document names it.
                let row = rows.row(index).unwrap();
                let expected = row.iter().filter(|part| part.ids.len() > 1).map(|part| part.ids[1]);
                let expected: Vec<usize> =
                    expected.map(|id| [3, 4, 10, 12].into_iter().filter(|start| *start <= id).count()).collect();
                assert_eq!(rows.documents_of(index).collect::<Vec<_>>(), expected, "row {index} of {max_length}");
            }
        }
        assert_eq!(rows(&lens, 5).document(3), [10, 11]);
    }
}
