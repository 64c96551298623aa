//! The documents of a file of text as token ids.

use std::path::Path;

use rayon::prelude::*;

use super::document::Document;
use super::error::DataError;
use super::source::{Row, RowNumber, Rows, SourceError, SourceFault};
use crate::error::InFile;
use crate::tokenizer::Tokenizer;

/// The `text` of each row of a file, in the order of the file, encoded by [`Tokenizer::encode_document`]. Texts without a
/// token are left out.
///
/// Documents are encoded in parallel. A `.txt` file of more than 4 MiB is several documents, as in training.
///
/// # Errors
/// [`DataError::Source`] for the first row that breaks a rule; [`DataError::Tokenizer`] for the first document that the
/// tokenizer refuses; [`DataError::NoDocuments`] if no document has a token.
pub fn read_documents(path: &Path, tokenizer: &Tokenizer) -> Result<Vec<Document>, DataError> {
    let text_of = |row: Result<Row, SourceError>| {
        let mut row = row?;
        let number = row.number;
        let located = |fault| InFile::new(path, SourceFault::Row { number, fault });
        row.take_text("text").map(|text| (number, text)).map_err(located)
    };
    let texts = Rows::open(path)?.map(text_of).collect::<Result<Vec<_>, SourceError>>()?;
    let eos = tokenizer.eos().first().copied();
    let encode = |(number, text): (RowNumber, String)| {
        let refused = |error| DataError::Tokenizer { path: path.to_owned(), number, error: Box::new(error) };
        tokenizer.encode_document(&text, eos).map_err(refused)
    };
    let encoded: Vec<_> = texts.into_par_iter().map(encode).collect();
    let mut ids = encoded.into_iter().collect::<Result<Vec<_>, _>>()?;
    ids.retain(|ids| !ids.is_empty());
    if ids.is_empty() {
        return Err(DataError::NoDocuments { path: path.to_owned() });
    }
    Ok(ids.into_iter().map(|ids| Document { ids, logprobs: None, topic: None }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::tokenizer::TokenizerError;

    fn read(name: &str, bytes: &str) -> Result<Vec<Vec<u32>>, DataError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let documents = read_documents(&path, &Tokenizer::word_level(&["red", "green", "blue"].map(String::from)))?;
        assert!(documents.iter().all(|document| document.logprobs.is_none() && document.topic.is_none()));
        Ok(documents.into_iter().map(|document| document.ids).collect())
    }

    fn refusal(name: &str, bytes: &str) -> String {
        let error = read(name, bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let message = error.to_string();
        assert!(message.contains(name), "{message}");
        message
    }

    #[test]
    fn each_row_with_a_token_is_a_document() {
        assert_eq!(read("a.txt", "red\n\n\ngreen blue\n").unwrap(), [[0, 1, 2]]);
        let lines = "{\"text\": \"red red\"}\n\n{\"text\": \"\"}\n{\"id\": 7, \"text\": \"blue\"}\n{\"text\": \" \"}";
        assert_eq!(read("a.jsonl", lines).unwrap(), [vec![0, 0], vec![2]]);
        assert_eq!(read("a.csv", "id,text\n1,green\n2,blue red\n").unwrap(), [vec![1], vec![2, 0]]);
    }

    #[test]
    fn documents_end_with_the_token_that_ends_a_text() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.jsonl");
        std::fs::write(&path, "{\"text\": \"red\"}\n{\"text\": \"red <eos>\"}\n{\"text\": \"\"}").unwrap();
        let documents = read_documents(&path, &Tokenizer::word_level(&["red", "<eos>"].map(String::from))).unwrap();
        assert_eq!(documents.iter().map(|document| document.ids.as_slice()).collect::<Vec<_>>(), [[0, 1], [0, 1]]);
    }

    #[test]
    fn a_row_without_a_text_is_located() {
        let message = refusal("a.jsonl", "{\"text\": \"red\"}\n\n{\"messages\": []}\n");
        assert!(message.ends_with(r#"line 3: found the fields ["messages"], expected "text""#), "{message}");
        let message = refusal("a.jsonl", "{\"text\": 3}");
        assert!(message.ends_with(r#"line 1: "text" is a number, expected a string"#), "{message}");
    }

    #[test]
    fn a_document_that_the_tokenizer_refuses_is_located() {
        let lines = "{\"text\": \"red\"}\n\n{\"text\": \"red grey\"}\n{\"text\": \"black\"}";
        let error = read("a.jsonl", lines).unwrap_err();
        let DataError::Tokenizer { number, error, .. } = error else { panic!("{error}") };
        assert_eq!(number, RowNumber::Line(3));
        assert!(matches!(&*error, TokenizerError::UnknownWord { word, .. } if word == "grey"), "{error}");
    }

    #[test]
    fn a_file_without_a_token_has_no_documents() {
        for (name, bytes) in [("a.txt", ""), ("a.txt", " \n"), ("a.jsonl", "\n\n"), ("a.jsonl", "{\"text\": \"\"}")] {
            assert!(refusal(name, bytes).contains("no document"));
        }
    }
}
