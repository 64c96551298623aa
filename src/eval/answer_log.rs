//! A log of answered requests, from which an interrupted run goes on.
//!
//! JSON Lines: first what was evaluated, then an answer a line. A line that was not finished is ignored.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::EvalError;
use super::scoring::Answer;
use crate::error::FileError;

/// An open log, which no other process can open until it is dropped.
#[derive(Debug)]
pub struct AnswerLog {
    path: PathBuf,
    file: File,
    known: HashMap<String, Logged>,
}

/// An answer in a log.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum Logged {
    LogLikelihood(Answer),
    Text { text: String },
}

#[derive(Serialize, Deserialize)]
struct Header {
    model: String,
}

#[derive(Serialize, Deserialize)]
struct Line {
    request: String,
    #[serde(flatten)]
    answer: Logged,
}

impl AnswerLog {
    /// Opens or creates a log of a model, whose `fingerprint` covers all that its answers depend on. Takes its lock, unless
    /// the file system has none.
    ///
    /// # Errors
    /// [`EvalError::File`], [`EvalError::LogInUse`], [`EvalError::OtherModel`], [`EvalError::BadLog`].
    pub fn open(path: &Path, fingerprint: &str) -> Result<Self, EvalError> {
        let failed = FileError::io(path);
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path).map_err(&failed)?;
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return Err(EvalError::LogInUse { path: path.to_owned() });
        }
        let mut reader = BufReader::new(&file);
        let (mut known, mut whole_bytes, mut number) = (HashMap::new(), 0, 0);
        loop {
            let mut line = Vec::new();
            reader.read_until(b'\n', &mut line).map_err(&failed)?;
            if line.last() != Some(&b'\n') {
                break;
            }
            whole_bytes += line.len() as u64;
            number += 1;
            let bad = |error: serde_json::Error| EvalError::BadLog {
                path: path.to_owned(),
                line: number,
                reason: error.to_string(),
            };
            if number == 1 {
                let Header { model } = serde_json::from_slice(&line).map_err(bad)?;
                if model != fingerprint {
                    let (path, expected) = (path.to_owned(), fingerprint.to_owned());
                    return Err(EvalError::OtherModel { path, found: model, expected });
                }
            } else {
                let Line { request, answer } = serde_json::from_slice(&line).map_err(bad)?;
                known.insert(request, answer);
            }
        }
        let header = json(&Header { model: fingerprint.to_owned() }) + "\n";
        if number == 0 {
            let mut start = Vec::new();
            reader.rewind().map_err(&failed)?;
            reader.take(header.len() as u64 + 1).read_to_end(&mut start).map_err(&failed)?;
            if !header.as_bytes().starts_with(&start) {
                let reason = "found another kind of file, expected a log of answers".to_owned();
                return Err(EvalError::BadLog { path: path.to_owned(), line: 1, reason });
            }
        }
        file.set_len(whole_bytes).map_err(&failed)?;
        if number == 0 {
            file.write_all(header.as_bytes()).map_err(&failed)?;
        }
        Ok(Self { path: path.to_owned(), file, known })
    }

    /// The answer to a request, if it was answered.
    pub fn answer(&self, key: &str) -> Option<Answer> {
        match self.known.get(key)? {
            Logged::LogLikelihood(answer) => Some(*answer),
            Logged::Text { .. } => None,
        }
    }

    /// The text for an open question, if it was generated.
    pub fn text(&self, key: &str) -> Option<String> {
        match self.known.get(key)? {
            Logged::LogLikelihood(_) => None,
            Logged::Text { text } => Some(text.clone()),
        }
    }

    /// Appends answers, in one write.
    ///
    /// # Errors
    /// [`EvalError::File`].
    pub fn append(&mut self, answers: impl IntoIterator<Item = (String, Answer)>) -> Result<(), EvalError> {
        self.write(answers.into_iter().map(|(request, answer)| (request, Logged::LogLikelihood(answer))))
    }

    /// Appends generated texts, in one write.
    ///
    /// # Errors
    /// [`EvalError::File`].
    pub fn append_texts(&mut self, texts: impl IntoIterator<Item = (String, String)>) -> Result<(), EvalError> {
        self.write(texts.into_iter().map(|(request, text)| (request, Logged::Text { text })))
    }

    fn write(&mut self, answers: impl Iterator<Item = (String, Logged)>) -> Result<(), EvalError> {
        let lines = answers.map(|(request, answer)| json(&Line { request, answer }) + "\n");
        let text: String = lines.collect();
        Ok(self.file.write_all(text.as_bytes()).map_err(FileError::io(&self.path))?)
    }

    /// Removes the log of a finished run, if it is still there.
    ///
    /// # Errors
    /// [`EvalError::File`].
    pub fn remove(self) -> Result<(), EvalError> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(FileError::io(&self.path)(error).into()),
            _ => Ok(()),
        }
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("text and numbers")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(log_likelihood: f64) -> Answer {
        Answer { log_likelihood, is_greedy: true }
    }

    #[test]
    fn answers_are_found_again_to_the_bit_and_a_torn_line_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("answers.jsonl");
        let mut log = AnswerLog::open(&path, "m").unwrap();
        assert_eq!(log.answer("a"), None);
        log.append([("a".to_owned(), answer(-0.1)), ("b".to_owned(), answer(-1e-300))]).unwrap();
        drop(log);
        let whole = std::fs::read(&path).unwrap();
        for cut in [3, 1] {
            std::fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            let mut log = AnswerLog::open(&path, "m").unwrap();
            assert_eq!((log.answer("a"), log.answer("b")), (Some(answer(-0.1)), None));
            log.append([("b".to_owned(), answer(-1e-300))]).unwrap();
            drop(log);
            assert_eq!(std::fs::read(&path).unwrap(), whole);
        }
    }

    #[test]
    fn a_log_of_another_model_or_another_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("answers.jsonl");
        drop(AnswerLog::open(&path, "m").unwrap());
        assert!(matches!(AnswerLog::open(&path, "n").unwrap_err(), EvalError::OtherModel { .. }));
        std::fs::write(&path, "{\"model\":\"m\"}\nno\n").unwrap();
        assert!(matches!(AnswerLog::open(&path, "m").unwrap_err(), EvalError::BadLog { line: 2, .. }));
        let absent = folder.path().join("a/b");
        assert!(matches!(AnswerLog::open(&absent, "m").unwrap_err(), EvalError::File(_)));
    }

    #[test]
    fn a_log_is_open_once_until_it_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("answers.jsonl");
        let held = AnswerLog::open(&path, "m").unwrap();
        let message = AnswerLog::open(&path, "m").unwrap_err().to_string();
        assert_eq!(message, format!("{path:?}: another process writes this log, expected one at a time"));
        drop(held);
        AnswerLog::open(&path, "m").unwrap();
    }

    #[test]
    fn a_log_that_is_gone_is_removed_without_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("answers.jsonl");
        let log = AnswerLog::open(&path, "m").unwrap();
        std::fs::remove_file(&path).unwrap();
        log.remove().unwrap();
        AnswerLog::open(&path, "m").unwrap().remove().unwrap();
        assert!(!path.exists());
    }
}
