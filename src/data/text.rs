//! Text files as documents of token ids: `.txt` and `.jsonl`.
//!
//! A `.txt` file is one document, blank lines and headings included: perplexity on WikiText is defined on the whole
//! file as one stream. A `.jsonl` file is one document a line, the `text` of `{"text": …}`. A byte-order mark at the
//! start and carriage returns at line ends mean nothing. Documents are cut into windows by [`packing`](super::packing).

mod error;

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::Document;
use crate::tokenizer::Tokenizer;

pub use error::DataError;

/// The documents of a text file, not yet tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct TextFile {
    path: PathBuf,
    /// Where each begins, in lines from 1, and its text.
    documents: Vec<(usize, String)>,
    found_bytes: usize,
}

impl TextFile {
    /// Reads a `.txt` or `.jsonl` file whole. Blank lines of a `.jsonl` file are passed over.
    ///
    /// # Errors
    /// [`DataError::NotFound`] if there is no file; otherwise the variant of the first broken rule, with its line.
    pub fn read(path: &Path) -> Result<Self, DataError> {
        if !std::fs::metadata(path).map_err(DataError::io(path))?.is_file() {
            return Err(DataError::NotAFile { path: path.to_owned() });
        }
        let format = path.extension().map(|found| found.to_string_lossy().to_lowercase()).unwrap_or_default();
        if !["txt", "jsonl"].contains(&format.as_str()) {
            return Err(DataError::UnsupportedFormat { path: path.to_owned(), found: format });
        }
        let bytes = std::fs::read(path).map_err(DataError::io(path))?;
        let text = utf8(path, &bytes)?;
        if text.starts_with("version https://git-lfs") {
            return Err(DataError::LfsPointer { path: path.to_owned() });
        }
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let documents = match format.as_str() {
            "jsonl" => jsonl_documents(path, text)?,
            _ => vec![(1, text.replace("\r\n", "\n"))],
        };
        Ok(Self { path: path.to_owned(), documents, found_bytes: bytes.len() })
    }

    /// The documents in the order of the file.
    pub fn texts(&self) -> impl ExactSizeIterator<Item = &str> {
        self.documents.iter().map(|(_, text)| text.as_str())
    }

    /// Bytes of text over all documents, as UTF-8.
    pub fn size_bytes(&self) -> usize {
        self.texts().map(str::len).sum()
    }

    /// The documents as token ids, in the order of the file, without those that have no token.
    ///
    /// Documents are encoded in parallel, each in one piece: to cut one could change its tokens around the cut.
    /// `progress` hears the bytes of each document when it is done, from any thread; they add up to
    /// [`size_bytes`](Self::size_bytes).
    ///
    /// # Errors
    /// [`DataError::Tokenizer`] for the first document that the tokenizer refuses, and [`DataError::NoDocuments`] if no
    /// document has a token.
    pub fn tokenize(&self, tokenizer: &Tokenizer, progress: impl Fn(usize) + Sync) -> Result<Vec<Document>, DataError> {
        let encode = |(line, text): &(usize, String)| {
            let ids = tokenizer.encode(text);
            progress(text.len());
            ids.map_err(|source| DataError::Tokenizer { path: self.path.clone(), line: *line, source })
        };
        let encoded: Vec<_> = self.documents.par_iter().map(encode).collect();
        let mut ids = encoded.into_iter().collect::<Result<Vec<_>, _>>()?;
        ids.retain(|ids| !ids.is_empty());
        if ids.is_empty() {
            return Err(DataError::NoDocuments { path: self.path.clone(), found_bytes: self.found_bytes });
        }
        Ok(ids.into_iter().map(|ids| Document { ids, logprobs: None, topic: None }).collect())
    }
}

/// Reads a text file and turns its documents into token ids: [`TextFile::read`], then [`TextFile::tokenize`].
///
/// # Errors
/// Those of the two.
pub fn read_documents(path: &Path, tokenizer: &Tokenizer) -> Result<Vec<Document>, DataError> {
    TextFile::read(path)?.tokenize(tokenizer, |_| ())
}

/// Refuses ids that a model of `vocab_size` has no embedding for.
///
/// # Errors
/// [`DataError::IdOutsideVocabulary`] for the first such id.
pub fn check_vocabulary(documents: &[Document], vocab_size: usize) -> Result<(), DataError> {
    for (document, ids) in documents.iter().map(|document| &document.ids).enumerate() {
        if let Some(position) = ids.iter().position(|id| *id as usize >= vocab_size) {
            return Err(DataError::IdOutsideVocabulary { document, position, id: ids[position], vocab_size });
        }
    }
    Ok(())
}

fn utf8<'a>(path: &Path, bytes: &'a [u8]) -> Result<&'a str, DataError> {
    std::str::from_utf8(bytes).map_err(|error| {
        let offset_bytes = error.valid_up_to();
        let line = 1 + bytes[..offset_bytes].iter().filter(|byte| **byte == b'\n').count();
        DataError::NotUtf8 { path: path.to_owned(), line, offset_bytes, found: bytes[offset_bytes] }
    })
}

/// A line of a `.jsonl` file; keys other than `text` are passed over.
#[derive(Deserialize)]
struct Example {
    text: Option<Value>,
}

fn jsonl_documents(path: &Path, text: &str) -> Result<Vec<(usize, String)>, DataError> {
    let lines = (1..).zip(text.split('\n')).filter(|(_, content)| !content.trim().is_empty());
    lines.map(|(line, content)| Ok((line, jsonl_text(path, line, content.trim())?))).collect()
}

fn jsonl_text(path: &Path, line: usize, content: &str) -> Result<String, DataError> {
    let bad_json = |source| DataError::BadJson { path: path.to_owned(), line, source };
    if !content.starts_with('{') {
        let found = kind_of(&serde_json::from_str(content).map_err(bad_json)?);
        return Err(DataError::NotAnObject { path: path.to_owned(), line, found });
    }
    let example: Example = serde_json::from_str(content).map_err(bad_json)?;
    match example.text {
        Some(Value::String(text)) => Ok(text),
        Some(value) => Err(DataError::TextNotString { path: path.to_owned(), line, found: kind_of(&value) }),
        None => {
            let keys: Map<String, Value> = serde_json::from_str(content).map_err(bad_json)?;
            Err(match keys.get("text") {
                Some(value) => DataError::TextNotString { path: path.to_owned(), line, found: kind_of(value) },
                None => DataError::MissingText { path: path.to_owned(), line, found: keys.keys().cloned().collect() },
            })
        }
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tempfile::TempDir;

    use super::*;
    use crate::error::ErrorKind;
    use crate::tokenizer::TokenizerError;

    fn tokenizer() -> Tokenizer {
        Tokenizer::word_level(&["red", "green", "blue"].map(String::from))
    }

    fn written(name: &str, bytes: impl AsRef<[u8]>) -> (TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        (directory, path)
    }

    fn ids_of(name: &str, bytes: impl AsRef<[u8]>) -> Vec<Vec<u32>> {
        let (_directory, path) = written(name, bytes);
        let documents = read_documents(&path, &tokenizer()).unwrap();
        assert!(documents.iter().all(|document| document.logprobs.is_none() && document.topic.is_none()));
        documents.into_iter().map(|document| document.ids).collect()
    }

    fn refusal(name: &str, bytes: impl AsRef<[u8]>) -> DataError {
        let (_directory, path) = written(name, bytes);
        let error = read_documents(&path, &tokenizer()).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
        assert!(error.to_string().contains("expected"), "{error}");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        error
    }

    #[test]
    fn a_text_file_is_one_document() {
        assert_eq!(ids_of("a.txt", "red\n\n\ngreen blue\n"), [[0, 1, 2]]);
    }

    #[test]
    fn a_json_lines_file_is_a_document_a_line() {
        let lines = "{\"text\": \"red red\"}\n\n  \n{\"id\": 7, \"text\": \"blue\"}";
        assert_eq!(ids_of("a.JSONL", lines), [vec![0, 0], vec![2]]);
    }

    #[test]
    fn a_byte_order_mark_and_carriage_returns_mean_nothing() {
        let (_directory, path) = written("a.txt", "\u{feff}red\r\ngreen\r\n");
        assert_eq!(TextFile::read(&path).unwrap().texts().collect::<Vec<_>>(), ["red\ngreen\n"]);
        let lines = "\u{feff}{\"text\": \"red\"}\r\n\r\n{\"text\": \"blue\"}\r\n";
        assert_eq!(ids_of("a.jsonl", lines), [[0], [2]]);
    }

    #[test]
    fn documents_without_a_token_are_left_out() {
        assert_eq!(ids_of("a.jsonl", "{\"text\": \"\"}\n{\"text\": \"red\"}\n{\"text\": \" \"}"), [[0]]);
    }

    #[test]
    fn progress_adds_up_to_the_bytes_of_the_text() {
        let lines: String = (0..100).map(|_| "{\"text\": \"red green\"}\n").collect();
        let (_directory, path) = written("a.jsonl", lines);
        let file = TextFile::read(&path).unwrap();
        let done_bytes = AtomicUsize::new(0);
        let documents =
            file.tokenize(&tokenizer(), |bytes| _ = done_bytes.fetch_add(bytes, Ordering::Relaxed)).unwrap();
        assert_eq!(documents.len(), 100);
        assert_eq!(done_bytes.into_inner(), file.size_bytes());
        assert_eq!(file.size_bytes(), 100 * "red green".len());
    }

    #[test]
    fn a_missing_file_is_told_from_one_that_cannot_be_read() {
        let directory = tempfile::tempdir().unwrap();
        let error = read_documents(&directory.path().join("a.txt"), &tokenizer()).unwrap_err();
        assert!(matches!(error, DataError::NotFound { .. }));
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let error = read_documents(&directory.path().join("a\0.txt"), &tokenizer()).unwrap_err();
        assert!(matches!(error, DataError::Io { .. }));
        assert_eq!(error.kind(), ErrorKind::Io);
        let error = read_documents(directory.path(), &tokenizer()).unwrap_err();
        assert!(matches!(error, DataError::NotAFile { .. }));
    }

    #[test]
    fn other_formats_are_named_with_those_that_are_read() {
        for format in ["json", "csv", "parquet", "gz"] {
            let error = refusal(&format!("a.{format}"), "x");
            assert!(matches!(&error, DataError::UnsupportedFormat { found, .. } if found == format));
            assert!(error.to_string().contains(".txt and .jsonl"), "{error}");
        }
        assert!(matches!(refusal("a", "x"), DataError::UnsupportedFormat { found, .. } if found.is_empty()));
    }

    #[test]
    fn a_file_without_a_token_has_no_documents() {
        for (name, bytes) in [("a.txt", ""), ("a.txt", " \n"), ("a.jsonl", "\n\n"), ("a.jsonl", "{\"text\": \"\"}")] {
            let error = refusal(name, bytes);
            assert!(matches!(error, DataError::NoDocuments { found_bytes, .. } if found_bytes == bytes.len()));
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_named_with_line_and_offset() {
        let error = refusal("a.txt", b"red\ngr\xffeen");
        assert!(matches!(error, DataError::NotUtf8 { line: 2, offset_bytes: 6, found: 0xff, .. }), "{error}");
        let error = refusal("a.jsonl", b"\xff\xfe{\x00");
        assert!(matches!(error, DataError::NotUtf8 { line: 1, offset_bytes: 0, .. }), "{error}");
    }

    #[test]
    fn a_pointer_in_place_of_the_text_is_named() {
        let error = refusal("a.txt", "version https://git-lfs.github.com/spec/v1\n");
        assert!(matches!(error, DataError::LfsPointer { .. }));
    }

    #[test]
    fn a_line_that_is_not_json_is_named() {
        for bad in
            ["{\"text\": \"red", "red", "{\"text\": \"a\"} {\"text\": \"b\"}", "{\"text\": \"a\", \"text\": \"b\"}"]
        {
            let error = refusal("a.jsonl", format!("{{\"text\": \"red\"}}\n\n{bad}\n"));
            assert!(matches!(error, DataError::BadJson { line: 3, .. }), "{error}");
        }
    }

    #[test]
    fn a_line_without_a_text_is_named_with_what_it_has() {
        let error = refusal("a.jsonl", r#"{"messages": [], "id": 1}"#);
        assert!(matches!(&error, DataError::MissingText { line: 1, found, .. } if found == &["messages", "id"]));
        assert!(error.to_string().contains(r#"found the keys ["messages", "id"], expected "text""#), "{error}");
        for (bad, kind) in [("null", "null"), ("3", "a number"), ("[\"a\"]", "a list"), ("{}", "an object")] {
            let error = refusal("a.jsonl", format!("{{\"text\": {bad}}}"));
            assert!(matches!(error, DataError::TextNotString { line: 1, found, .. } if found == kind), "{bad}");
        }
        for (bad, kind) in [("[\"a\"]", "a list"), ("\"a\"", "a string"), ("true", "a boolean")] {
            let error = refusal("a.jsonl", bad);
            assert!(matches!(error, DataError::NotAnObject { line: 1, found, .. } if found == kind), "{bad}");
        }
    }

    #[test]
    fn a_message_shows_hostile_keys_cut_and_escaped() {
        let key = "\u{1b}".repeat(10_000);
        let keys: Map<String, Value> = (0..1000).map(|index| (format!("{index}{key}"), Value::Null)).collect();
        let message = refusal("a.jsonl", Value::Object(keys).to_string()).to_string();
        assert!(message.len() < 4096 && !message.contains('\u{1b}'), "{message}");
    }

    #[test]
    fn a_document_that_the_tokenizer_refuses_is_named_with_its_line() {
        let lines = "{\"text\": \"red\"}\n\n{\"text\": \"red grey\"}\n{\"text\": \"black\"}";
        let error = refusal("a.jsonl", lines);
        assert!(
            matches!(&error, DataError::Tokenizer { line: 3, source: TokenizerError::UnknownWord { word, .. }, .. }
            if word == "grey")
        );
    }

    #[test]
    fn ids_above_the_vocabulary_of_a_model_are_found() {
        let document = |ids: &[u32]| Document { ids: ids.to_vec(), logprobs: None, topic: None };
        let documents = [document(&[0, 1]), document(&[2, 3, 4])];
        assert!(check_vocabulary(&documents, 5).is_ok());
        let error = check_vocabulary(&documents, 3).unwrap_err();
        assert!(matches!(error, DataError::IdOutsideVocabulary { document: 1, position: 1, id: 3, vocab_size: 3 }));
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
}
