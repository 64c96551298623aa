//! TensorBoard scalars and a plot of the loss.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::log::LogEntry;
use super::tensorboard::EventFile;
use crate::figure::{FigureError, TrainingCurve, draw_training};
use crate::output::commit::write_file_atomically;

/// TensorBoard's folder beside the checkpoints.
const RUNS: &str = "runs";

/// Records beside the checkpoints of a run. None is needed to resume, so a failure is reported once and training continues.
#[derive(Debug)]
pub struct Records {
    directory: PathBuf,
    events: Option<EventFile>,
    /// A failure that was not reported yet.
    failed: Option<String>,
    curve: TrainingCurve,
    is_live: bool,
}

impl Records {
    /// Records in the directory of the checkpoints; the picture is redrawn at every line if `is_live`, and else at the end.
    /// `history` has the lines of an earlier process.
    pub fn new(directory: &Path, curve: TrainingCurve, history: &[LogEntry], is_live: bool) -> Self {
        let created = EventFile::create(&directory.join(RUNS));
        let failed = created.as_ref().err().map(|error| format!("TensorBoard's file cannot be written: {error}"));
        let mut records = Self { directory: directory.to_owned(), events: created.ok(), failed, curve, is_live };
        history.iter().for_each(|entry| records.add(entry));
        records
    }

    /// Records a line; returns a message if that fails.
    pub fn push(&mut self, entry: &LogEntry) -> Option<String> {
        self.add(entry);
        if self.failed.is_some() {
            return self.failed.take();
        }
        let logged = self.events.as_mut().map_or(Ok(()), |events| events.push(entry));
        if let Err(error) = logged {
            self.events = None;
            return Some(format!(
                "TensorBoard's file in {:?} is no longer written: {error}",
                self.directory.join(RUNS)
            ));
        }
        if self.is_live { self.draw().err() } else { None }
    }

    /// Draws `loss.svg` and `loss.png` beside the checkpoints.
    ///
    /// # Errors
    /// A message for the user.
    pub fn draw(&self) -> Result<(), String> {
        let figure = draw_training(&self.curve).map_err(|error: FigureError| error.to_string())?;
        let Some(figure) = figure else { return Ok(()) };
        let write = |ending: &str, bytes: &[u8]| {
            let path = self.directory.join(format!("{}.{ending}", figure.name));
            write_file_atomically(&path, bytes).map_err(|error| error.to_string())
        };
        write("svg", figure.svg.as_bytes())?;
        write("png", &figure.png)
    }

    fn add(&mut self, entry: &LogEntry) {
        let number = |key: &str| entry.get(key).and_then(Value::as_f64);
        let Some(tokens) = entry.get("num_tokens").and_then(Value::as_u64) else { return };
        self.curve.train.extend(number("loss").map(|loss| (tokens, loss)));
        self.curve.heldout.extend(number("eval_loss").map(|loss| (tokens, loss)));
    }
}
