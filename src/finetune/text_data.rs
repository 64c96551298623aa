//! Text to train on: files in memory and token shards on disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::FinetuneError;
use super::dataset::{is_shards, read_texts};
use super::rows::{Row, Rows, TextRows};
use super::settings::DataSettings;
use super::sources::{Concatenated, DataSource, Holdout, TrainRows};
use super::split_texts::{Overlap, SplitTexts, overlap};
use crate::data::shards::{DATASET, ShardError, TokenShards, TokenWindows};
use crate::data::source::{SkippedRows, data_files};
use crate::data::{RowSplit, check_vocabulary};
use crate::error::FileError;
use crate::tokenizer::Tokenizer;

/// Rows of text from several sources.
#[derive(Default)]
pub struct TextData {
    /// The rows to train on.
    pub rows: Concatenated,
    /// The rows held out, in memory.
    pub heldout: Vec<Row>,
    /// The sources.
    pub sources: Vec<DataSettings>,
    /// The documents of files.
    texts: Vec<SplitTexts>,
}

/// Rows of text that are evaluated only.
pub struct EvaluatedText {
    /// The rows, in memory.
    pub rows: Vec<Row>,
    /// Their hash.
    pub hash: String,
    /// The documents of files.
    texts: Vec<SplitTexts>,
}

/// How text becomes rows.
#[derive(Debug, Clone, Copy)]
pub struct TextOptions<'a> {
    /// The tokenizer of the model.
    pub tokenizer: &'a Tokenizer,
    /// Ids are below it.
    pub vocab_size: usize,
    /// Inputs per row, at most.
    pub max_length: usize,
    /// The rows kept from training. Of token shards with held-out documents it is the documents that are kept.
    pub holdout: Holdout,
}

impl TextData {
    /// Reads the sources. Directories of token shards are streamed, each as a source of its own; other files are held in
    /// memory, and rows of them that break a rule are `skipped`.
    ///
    /// # Errors
    /// If a file cannot be read, does not suit the model, or has no row to train on.
    pub fn read(
        sources: &[DataSource],
        options: TextOptions<'_>,
        skipped: &mut SkippedRows,
    ) -> Result<Self, FinetuneError> {
        let mut data = Self::default();
        for DataSource { paths, weight } in sources {
            let (shards, files): (Vec<&PathBuf>, Vec<&PathBuf>) = paths.iter().partition(|path| is_shards(path));
            if !files.is_empty() {
                data.add_files(&files.into_iter().cloned().collect::<Vec<_>>(), *weight, options, skipped)?;
            }
            shards.into_iter().try_for_each(|directory| data.add_shards(directory, *weight, options))?;
        }
        Ok(data)
    }

    /// Rows to evaluate on, at most `max_rows` at random. Of token shards with held-out documents
    /// those are evaluated.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn evaluated(
        paths: &[PathBuf],
        options: TextOptions<'_>,
        skipped: &mut SkippedRows,
    ) -> Result<EvaluatedText, FinetuneError> {
        let Holdout { max_rows, .. } = options.holdout;
        let options = TextOptions { holdout: Holdout { share: 0.0, max_rows }, ..options };
        let (mut all, mut hash, mut texts) = (Concatenated::default(), String::new(), Vec::new());
        for path in paths {
            let source = DataSource { paths: vec![path.clone()], weight: 1.0 };
            let read = Self::read(&[source], options, skipped).map_err(evaluating)?;
            all.push(if read.heldout.is_empty() { Box::new(read.rows) } else { Box::new(read.heldout) });
            texts.extend(read.texts);
            read.sources.iter().for_each(|source| hash += &source.hash);
        }
        let rows = sampled(&all, max_rows)?;
        hash += &format!(" {}", rows.len());
        Ok(EvaluatedText { rows, hash, texts })
    }

    /// The documents of files that are held out, or else `evaluated`, and how many of them are trained, too. Token shards are not
    /// compared, which would read them whole.
    pub fn overlap(&self, evaluated: Option<&EvaluatedText>) -> Overlap {
        overlap(&self.texts, evaluated.map(|evaluated| &evaluated.texts[..]))
    }

    fn add_files(
        &mut self,
        paths: &[PathBuf],
        weight: f64,
        options: TextOptions<'_>,
        skipped: &mut SkippedRows,
    ) -> Result<(), FinetuneError> {
        let TextOptions { tokenizer, vocab_size, max_length, .. } = options;
        let eos = end_of_text(tokenizer, vocab_size)?;
        let (mut documents, mut files) = (Vec::new(), Vec::new());
        for file in data_files(paths)? {
            documents.extend(read_texts(std::slice::from_ref(&file), tokenizer, eos, skipped)?);
            files.push((file, documents.len()));
        }
        check_vocabulary(&documents, vocab_size)?;
        let mut hash = blake3::Hasher::new();
        hash.update(&eos.to_le_bytes());
        // Each document ends with the id that is hashed once.
        for ids in documents.iter().map(|document| &document.ids[..document.ids.len() - 1]) {
            hash.update(&(ids.len() as u64).to_le_bytes());
            let ids: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
            hash.update(&ids);
        }
        let rows = Arc::new(TextRows::new(&documents, max_length).of_files(files));
        let split = self.add(Box::new(rows.clone()), &paths[0], weight, &hash.finalize().to_hex(), options)?;
        self.texts.push(SplitTexts::new(rows, split));
        Ok(())
    }

    /// The hash is that of the record, which lists the hashes of its files.
    fn add_shards(&mut self, directory: &Path, weight: f64, options: TextOptions<'_>) -> Result<(), FinetuneError> {
        let TextOptions { tokenizer, vocab_size, max_length, holdout } = options;
        let shards = TokenShards::open(directory)?;
        shards.check_tokenizer(tokenizer)?;
        if shards.vocab_size() > vocab_size {
            return Err(FinetuneError::NoData(format!(
                "{directory:?} has ids below {}, expected below vocab_size {vocab_size} of the model",
                shards.vocab_size()
            )));
        }
        let record = directory.join(DATASET);
        let hash = blake3::hash(&std::fs::read(&record).map_err(FileError::io(&record))?).to_hex();
        let heldout = TokenShards::open_heldout(directory)?.map(|shards| windows_within(shards, max_length));
        let windows = Box::new(TokenWindows::new(shards, max_length)?);
        let Some(heldout) = heldout else { return self.add(windows, directory, weight, &hash, options).map(drop) };
        let mut hash = hash.to_string();
        if let Some(heldout) = heldout? {
            let evaluated = sampled(&heldout, holdout.max_rows)?;
            hash += &format!(" {} evaluated", evaluated.len());
            self.heldout.extend(evaluated);
        }
        self.add(
            windows,
            directory,
            weight,
            &hash,
            TextOptions { holdout: Holdout { share: 0.0, ..holdout }, ..options },
        )
        .map(drop)
    }

    fn add(
        &mut self,
        rows: Box<dyn Rows>,
        name: &Path,
        weight: f64,
        hash: &str,
        options: TextOptions<'_>,
    ) -> Result<RowSplit, FinetuneError> {
        let split = options.holdout.split(rows.len(), name)?;
        self.heldout.extend(split.heldout().map(|row| rows.row(row)).collect::<Result<Vec<_>, _>>()?);
        let num_rows = split.num_train();
        let hash = blake3::hash(format!("{hash} {num_rows} {}", options.max_length).as_bytes()).to_hex().to_string();
        self.sources.push(DataSettings { num_rows, weight, hash });
        self.rows.push(Box::new(TrainRows::new(rows, split)));
        Ok(split)
    }
}

/// The token at the end of each document.
///
/// # Errors
/// If there is none, or the model does not have it.
fn end_of_text(tokenizer: &Tokenizer, vocab_size: usize) -> Result<u32, FinetuneError> {
    let id = *tokenizer.eos().first().ok_or(FinetuneError::NoEos)?;
    if (id as usize) < vocab_size { Ok(id) } else { Err(FinetuneError::EosOutsideVocabulary { id, vocab_size }) }
}

/// Says that the data to evaluate on is too short, which is not that of the run.
fn evaluating(error: FinetuneError) -> FinetuneError {
    match error {
        FinetuneError::Shards(error) if error.is_too_short() => {
            FinetuneError::NoData(format!("data to evaluate on: {error}"))
        }
        error => error,
    }
}

/// At most `max_rows` rows, at random.
fn sampled(rows: &dyn Rows, max_rows: u64) -> Result<Vec<Row>, FinetuneError> {
    RowSplit::new(rows.len(), rows.len().min(max_rows)).heldout().map(|index| rows.row(index)).collect()
}

/// Windows of at most `max_length` inputs; `None` of fewer than two tokens.
fn windows_within(shards: TokenShards, max_length: usize) -> Result<Option<TokenWindows>, ShardError> {
    let num_inputs = shards.num_tokens().saturating_sub(1).min(max_length as u64) as usize;
    (num_inputs > 0).then(|| TokenWindows::new(shards, num_inputs)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evaluated_rows_are_bounded_over_all_paths() {
        let folder = tempfile::tempdir().unwrap();
        let paths = ["a.txt", "b.txt"].map(|name| folder.path().join(name));
        paths.iter().for_each(|path| std::fs::write(path, "red green ".repeat(20)).unwrap());
        let tokenizer = Tokenizer::word_level(&["<bos>", "red", "green", "<eos>"].map(String::from));
        let evaluated = |max_rows| {
            let holdout = Holdout { share: 0.0, max_rows };
            let options = TextOptions { tokenizer: &tokenizer, vocab_size: 4, max_length: 4, holdout };
            TextData::evaluated(&paths, options, &mut SkippedRows::default()).unwrap().rows.len()
        };
        // 41 tokens of each file are 10 rows.
        assert_eq!([3, 12, 100].map(evaluated), [3, 12, 20]);
    }
}
