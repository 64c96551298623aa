//! Files of data to token shards, on all cores.

use std::path::PathBuf;

use rayon::prelude::*;
use serde_json::json;

use super::documents::{DocumentText, DocumentTexts};
use super::error::{DocumentFault, TokenizeError};
use super::record::{DATASET, DatasetRecord, FORMAT, HeldOutRecord, TokenDtype};
use super::split_writer::SplitWriter;
use crate::data::heldout::HeldOut;
use crate::data::source::SkippedRows;
use crate::error::InFile;
use crate::output::commit::PartialDirectory;
use crate::output::receipt::RECEIPT;
use crate::tokenizer::Tokenizer;

/// Text per thread that is encoded at a time.
const BATCH_BYTES: usize = 1 << 20;

/// How documents are tokenized.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenizeOptions {
    /// The field of a row that holds its text.
    pub text_field: String,
    /// The id to append to each document, unless it ends with it.
    pub eos: Option<u32>,
    /// Largest size of a file of tokens, unless a document is larger.
    pub shard_size_bytes: u64,
    /// The share of the documents to keep from training.
    pub heldout: Option<HeldOut>,
    /// Rows that break a rule and are left out, at most.
    pub skip_bad: u64,
}

/// Result of [`tokenize`].
#[derive(Debug, Clone, PartialEq)]
pub struct Tokenized {
    /// The contents of `dataset.json`.
    pub record: DatasetRecord,
    /// Rows without a token, which are left out.
    pub num_empty: u64,
    /// Rows that break a rule, which are left out.
    pub skipped: SkippedRows,
}

/// Documents as encoded ids, and whether they are held out.
type Encoded = Vec<(Vec<u8>, bool)>;

/// Encodes the text of each row of `files` and writes the ids into shards, then `dataset.json` and a receipt.
///
/// Rows are read, encoded and written at the same time, a batch each, so that memory depends on neither the number nor the size
/// of the files: three batches of about 1 MiB of text per thread. The files written depend on neither the number of threads nor the time.
/// `progress` is called with the bytes of `files` as they are read, from any thread.
///
/// # Errors
/// The variants of [`TokenizeError`]; of several bad rows, the first that is not left out is named. The target is then as it was before.
pub fn tokenize(
    files: &[PathBuf],
    tokenizer: &Tokenizer,
    options: &TokenizeOptions,
    mut partial: PartialDirectory,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Tokenized, TokenizeError> {
    let tokenized = write_documents(files, tokenizer, options, &mut partial, progress)?;
    partial.write(DATASET, format!("{:#}\n", json!(tokenized.record)).as_bytes())?;
    let receipt = json!({env!("CARGO_PKG_NAME"): env!("CARGO_PKG_VERSION"), "files": partial.files()});
    partial.write(RECEIPT, format!("{receipt:#}\n").as_bytes())?;
    partial.commit()?;
    Ok(tokenized)
}

/// Writes the shards.
fn write_documents(
    files: &[PathBuf],
    tokenizer: &Tokenizer,
    options: &TokenizeOptions,
    partial: &mut PartialDirectory,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Tokenized, TokenizeError> {
    let dtype = TokenDtype::holding(tokenizer.vocab_size());
    let batch_bytes = BATCH_BYTES * rayon::current_num_threads();
    let mut texts = DocumentTexts::new(files, &options.text_field, SkippedRows::up_to(options.skip_bad), progress);
    let split = |prefix| SplitWriter::new(prefix, dtype, options.shard_size_bytes);
    let (mut train, mut heldout) = (split(""), split("heldout-"));
    let (mut num_rows, mut num_written) = (0, 0);
    let mut batch = texts.take(batch_bytes)?;
    let mut encoded = Encoded::new();
    while !batch.is_empty() || !encoded.is_empty() {
        num_rows += batch.len() as u64;
        num_written += encoded.len() as u64;
        let encode =
            || batch.par_iter().filter_map(|text| encoded_document(text, files, tokenizer, dtype, options)).collect();
        let write = || {
            encoded.iter().try_for_each(|(document, is_heldout)| {
                if *is_heldout { &mut heldout } else { &mut train }.push(partial, document)
            })
        };
        let (next, (ids, written)) = rayon::join(|| texts.take(batch_bytes), || rayon::join(encode, write));
        written?;
        // In the order of the rows, so that the first bad one is named.
        encoded = Vec::into_iter(ids).collect::<Result<_, _>>()?;
        batch = next?;
    }
    if num_written == 0 {
        return Err(TokenizeError::NoTokens { num_rows });
    }
    let (train, heldout) = (train.finish(partial)?, heldout.finish(partial)?);
    if let Some(HeldOut { fraction, .. }) = options.heldout
        && (train.num_documents == 0 || heldout.num_documents == 0)
    {
        let (num_train, num_heldout) = (train.num_documents, heldout.num_documents);
        return Err(TokenizeError::EmptySplit { num_train, num_heldout, fraction });
    }
    let (sources, skipped) = texts.finished();
    let record = DatasetRecord {
        format: FORMAT,
        dtype,
        vocab_size: tokenizer.vocab_size(),
        tokenizer_sha256: tokenizer.sha256(),
        eos_token_id: options.eos,
        text_field: options.text_field.clone(),
        shard_size_bytes: options.shard_size_bytes,
        train,
        heldout: options.heldout.map(|share| HeldOutRecord { share, split: heldout }),
        sources,
    };
    Ok(Tokenized { record, num_empty: num_rows - num_written, skipped })
}

/// The encoded ids of a document, and whether it is held out; `None` without a token.
fn encoded_document(
    document: &DocumentText,
    files: &[PathBuf],
    tokenizer: &Tokenizer,
    dtype: TokenDtype,
    options: &TokenizeOptions,
) -> Option<Result<(Vec<u8>, bool), TokenizeError>> {
    let DocumentText { file, number, text } = document;
    match tokenizer.encode_document(text, options.eos) {
        Ok(ids) if ids.is_empty() => None,
        Ok(ids) => {
            let is_heldout = options.heldout.is_some_and(|share| share.contains(text.as_bytes()));
            Some(Ok((dtype.encode(&ids), is_heldout)))
        }
        Err(fault) => {
            Some(Err(InFile::new(&files[*file], DocumentFault { number: *number, fault: Box::new(fault) }).into()))
        }
    }
}
