//! Text files as documents of token ids: `.txt` and `.jsonl`.
//!
//! A `.txt` file is one document, blank lines and headings included: perplexity on WikiText is defined on the whole
//! file as one stream. A `.jsonl` file has one document per line, the `text` of `{"text": …}`. A byte-order mark at the
//! start and carriage returns at line ends are ignored.

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::document::Document;
use super::error::{DataError, LineFault, TextFault};
use crate::error::{FileError, FileFault, InFile, type_name};
use crate::tokenizer::Tokenizer;

/// The documents of a text file as text.
#[derive(Debug, Clone, PartialEq)]
pub struct TextFile {
    path: PathBuf,
    /// The first line of each, from 1, and its text.
    documents: Vec<(usize, String)>,
    found_bytes: usize,
}

impl TextFile {
    /// Reads a `.txt` or `.jsonl` file. Blank lines of a `.jsonl` file are skipped.
    ///
    /// # Errors
    /// [`DataError::File`]; [`DataError::Text`] for the first broken rule.
    pub fn read(path: &Path) -> Result<Self, DataError> {
        if !std::fs::metadata(path).map_err(FileError::io(path))?.is_file() {
            return Err(FileError::new(path, FileFault::NotAFile).into());
        }
        let refused = |fault| InFile::new(path, fault);
        let format = path.extension().map(|found| found.to_string_lossy().to_lowercase()).unwrap_or_default();
        if !["txt", "jsonl"].contains(&format.as_str()) {
            return Err(refused(TextFault::UnsupportedFormat { found: format }).into());
        }
        let bytes = std::fs::read(path).map_err(FileError::io(path))?;
        let text = utf8(&bytes).map_err(refused)?;
        if text.starts_with("version https://git-lfs") {
            return Err(refused(TextFault::LfsPointer).into());
        }
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let documents = match format.as_str() {
            "jsonl" => jsonl_documents(text).map_err(refused)?,
            _ => vec![(1, text.replace("\r\n", "\n"))],
        };
        Ok(Self { path: path.to_owned(), documents, found_bytes: bytes.len() })
    }

    /// The documents in the order of the file.
    pub fn texts(&self) -> impl ExactSizeIterator<Item = &str> {
        self.documents.iter().map(|(_, text)| text.as_str())
    }

    /// Bytes of all documents in UTF-8.
    pub fn size_bytes(&self) -> usize {
        self.texts().map(str::len).sum()
    }

    /// Encodes the documents in the order of the file and drops those without a token.
    ///
    /// Documents are encoded in parallel, each in one piece, because a cut could change the tokens around it. `progress` is
    /// called with the bytes of each finished document, from any thread; they add up to [`size_bytes`](Self::size_bytes).
    ///
    /// # Errors
    /// [`LineFault::Tokenizer`] for the first document that the tokenizer refuses; [`TextFault::NoDocuments`] if no document
    /// has a token.
    pub fn tokenize(&self, tokenizer: &Tokenizer, progress: impl Fn(usize) + Sync) -> Result<Vec<Document>, DataError> {
        let encode = |(line, text): &(usize, String)| {
            let ids = tokenizer.encode(text);
            progress(text.len());
            let line_fault = |error| TextFault::Line { line: *line, fault: LineFault::Tokenizer(error) };
            ids.map_err(|error| InFile::new(&self.path, line_fault(error)))
        };
        let encoded: Vec<_> = self.documents.par_iter().map(encode).collect();
        let mut ids = encoded.into_iter().collect::<Result<Vec<_>, _>>()?;
        ids.retain(|ids| !ids.is_empty());
        if ids.is_empty() {
            let fault = TextFault::NoDocuments { found_bytes: self.found_bytes };
            return Err(InFile::new(&self.path, fault).into());
        }
        Ok(ids.into_iter().map(|ids| Document { ids, logprobs: None, topic: None }).collect())
    }
}

/// Reads a text file and encodes its documents: [`TextFile::read`], then [`TextFile::tokenize`].
///
/// # Errors
/// As those two.
pub fn read_documents(path: &Path, tokenizer: &Tokenizer) -> Result<Vec<Document>, DataError> {
    TextFile::read(path)?.tokenize(tokenizer, |_| ())
}

fn utf8(bytes: &[u8]) -> Result<&str, TextFault> {
    std::str::from_utf8(bytes).map_err(|error| {
        let offset_bytes = error.valid_up_to();
        let line = 1 + bytes[..offset_bytes].iter().filter(|byte| **byte == b'\n').count();
        TextFault::NotUtf8 { line, offset_bytes, found: bytes[offset_bytes] }
    })
}

/// A line of a `.jsonl` file; keys other than `text` are ignored.
#[derive(Deserialize)]
struct Example {
    text: Option<Value>,
}

fn jsonl_documents(text: &str) -> Result<Vec<(usize, String)>, TextFault> {
    let lines = (1..).zip(text.split('\n')).filter(|(_, content)| !content.trim().is_empty());
    let document = |(line, content): (usize, &str)| match jsonl_text(content.trim()) {
        Ok(text) => Ok((line, text)),
        Err(fault) => Err(TextFault::Line { line, fault }),
    };
    lines.map(document).collect()
}

fn jsonl_text(content: &str) -> Result<String, LineFault> {
    if !content.starts_with('{') {
        let found = type_name(&serde_json::from_str(content).map_err(LineFault::BadJson)?);
        return Err(LineFault::NotAnObject { found });
    }
    let example: Example = serde_json::from_str(content).map_err(LineFault::BadJson)?;
    match example.text {
        Some(Value::String(text)) => Ok(text),
        Some(value) => Err(LineFault::TextNotString { found: type_name(&value) }),
        None => {
            let keys: Map<String, Value> = serde_json::from_str(content).map_err(LineFault::BadJson)?;
            Err(match keys.get("text") {
                Some(value) => LineFault::TextNotString { found: type_name(value) },
                None => LineFault::MissingText { found: keys.keys().cloned().collect() },
            })
        }
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

    fn fault(name: &str, bytes: impl AsRef<[u8]>) -> TextFault {
        match refusal(name, bytes) {
            DataError::Text(error) => error.fault,
            error => panic!("{error}"),
        }
    }

    fn line_fault(line: usize, bytes: impl AsRef<[u8]>) -> LineFault {
        match fault("a.jsonl", bytes) {
            TextFault::Line { line: found, fault } if found == line => fault,
            fault => panic!("{fault}"),
        }
    }

    #[test]
    fn a_text_file_is_one_document() {
        assert_eq!(ids_of("a.txt", "red\n\n\ngreen blue\n"), [[0, 1, 2]]);
    }

    #[test]
    fn a_json_lines_file_has_one_document_per_line() {
        let lines = "{\"text\": \"red red\"}\n\n  \n{\"id\": 7, \"text\": \"blue\"}";
        assert_eq!(ids_of("a.JSONL", lines), [vec![0, 0], vec![2]]);
    }

    #[test]
    fn byte_order_marks_and_carriage_returns_are_ignored() {
        let (_directory, path) = written("a.txt", "\u{feff}red\r\ngreen\r\n");
        assert_eq!(TextFile::read(&path).unwrap().texts().collect::<Vec<_>>(), ["red\ngreen\n"]);
        let lines = "\u{feff}{\"text\": \"red\"}\r\n\r\n{\"text\": \"blue\"}\r\n";
        assert_eq!(ids_of("a.jsonl", lines), [[0], [2]]);
    }

    #[test]
    fn documents_without_a_token_are_dropped() {
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
    fn a_missing_file_differs_from_one_that_cannot_be_read() {
        let directory = tempfile::tempdir().unwrap();
        let error = read_documents(&directory.path().join("a.txt"), &tokenizer()).unwrap_err();
        assert!(error.to_string().contains("does not exist"), "{error}");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let error = read_documents(&directory.path().join("a\0.txt"), &tokenizer()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        let error = read_documents(directory.path(), &tokenizer()).unwrap_err();
        assert!(matches!(&error, DataError::File(error) if matches!(error.fault, FileFault::NotAFile)), "{error}");
    }

    #[test]
    fn other_formats_are_refused() {
        for format in ["json", "csv", "parquet", "gz"] {
            let fault = fault(&format!("a.{format}"), "x");
            assert!(matches!(&fault, TextFault::UnsupportedFormat { found } if found == format));
            assert!(fault.to_string().contains(".txt and .jsonl"), "{fault}");
        }
        assert!(matches!(fault("a", "x"), TextFault::UnsupportedFormat { found } if found.is_empty()));
    }

    #[test]
    fn a_file_without_a_token_has_no_documents() {
        for (name, bytes) in [("a.txt", ""), ("a.txt", " \n"), ("a.jsonl", "\n\n"), ("a.jsonl", "{\"text\": \"\"}")] {
            let fault = fault(name, bytes);
            assert!(matches!(fault, TextFault::NoDocuments { found_bytes } if found_bytes == bytes.len()));
        }
    }

    #[test]
    fn bytes_that_are_not_utf8_are_located() {
        let found = fault("a.txt", b"red\ngr\xffeen");
        assert!(matches!(found, TextFault::NotUtf8 { line: 2, offset_bytes: 6, found: 0xff }), "{found}");
        let found = fault("a.jsonl", b"\xff\xfe{\x00");
        assert!(matches!(found, TextFault::NotUtf8 { line: 1, offset_bytes: 0, .. }), "{found}");
    }

    #[test]
    fn a_git_lfs_pointer_is_refused() {
        let found = fault("a.txt", "version https://git-lfs.github.com/spec/v1\n");
        assert!(matches!(found, TextFault::LfsPointer), "{found}");
    }

    #[test]
    fn a_line_that_is_not_json_is_located() {
        for bad in
            ["{\"text\": \"red", "red", "{\"text\": \"a\"} {\"text\": \"b\"}", "{\"text\": \"a\", \"text\": \"b\"}"]
        {
            let fault = line_fault(3, format!("{{\"text\": \"red\"}}\n\n{bad}\n"));
            assert!(matches!(fault, LineFault::BadJson(_)), "{fault}");
        }
    }

    #[test]
    fn a_line_without_a_text_is_located() {
        let fault = line_fault(1, r#"{"messages": [], "id": 1}"#);
        assert!(matches!(&fault, LineFault::MissingText { found } if found == &["messages", "id"]));
        assert_eq!(fault.to_string(), r#"found the keys ["messages", "id"], expected "text""#);
        for (bad, kind) in [("null", "null"), ("3", "a number"), ("[\"a\"]", "a list"), ("{}", "an object")] {
            let fault = line_fault(1, format!("{{\"text\": {bad}}}"));
            assert!(matches!(fault, LineFault::TextNotString { found } if found == kind), "{bad}");
        }
        for (bad, kind) in [("[\"a\"]", "a list"), ("\"a\"", "a string"), ("true", "a boolean")] {
            let fault = line_fault(1, bad);
            assert!(matches!(fault, LineFault::NotAnObject { found } if found == kind), "{bad}");
        }
    }

    #[test]
    fn hostile_keys_are_truncated_and_escaped() {
        let key = "\u{1b}".repeat(10_000);
        let keys: Map<String, Value> = (0..1000).map(|index| (format!("{index}{key}"), Value::Null)).collect();
        let message = refusal("a.jsonl", Value::Object(keys).to_string()).to_string();
        assert!(message.len() < 4096 && !message.contains('\u{1b}'), "{message}");
    }

    #[test]
    fn a_document_that_the_tokenizer_refuses_is_located() {
        let lines = "{\"text\": \"red\"}\n\n{\"text\": \"red grey\"}\n{\"text\": \"black\"}";
        let LineFault::Tokenizer(error) = line_fault(3, lines) else { panic!("the tokenizer knows no grey") };
        assert!(matches!(&error, TokenizerError::UnknownWord { word, .. } if word == "grey"), "{error}");
    }
}
