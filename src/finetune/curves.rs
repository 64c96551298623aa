//! TensorBoard scalars, and plots of the loss and of the load of experts.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::log::LogEntry;
use super::tensorboard::EventFile;
use crate::figure::{FigureError, TrainingCurve, draw_training};
use crate::output::commit::write_file_atomically;

/// TensorBoard's folder beside the checkpoints.
const RUNS: &str = "runs";

/// The words of the pictures.
#[derive(Debug, Clone)]
pub struct Titles {
    /// The loss: `Next-token loss`.
    pub loss: &'static str,
    /// The unit of the loss: `nats per token`.
    pub unit: &'static str,
    /// Name of the model.
    pub model: String,
    /// One line about the run.
    pub subtitle: String,
}

/// The curves of a run beside its checkpoints. They are not needed to resume, so a failure is reported once and training continues.
#[derive(Debug)]
pub struct Curves {
    directory: PathBuf,
    events: Option<EventFile>,
    /// A failure that was not reported yet.
    failed: Option<String>,
    loss: TrainingCurve,
    experts: TrainingCurve,
    is_live: bool,
}

impl Curves {
    /// Curves in the directory of the checkpoints; the pictures are redrawn at every line if `is_live`, and else at the end.
    /// `history` has the lines of an earlier process.
    pub fn new(directory: &Path, titles: Titles, history: &[LogEntry], is_live: bool) -> Self {
        let created = EventFile::create(&directory.join(RUNS));
        let failed = created.as_ref().err().map(|error| format!("TensorBoard's file cannot be written: {error}"));
        let Titles { loss, subtitle, unit, model } = titles;
        let named = |names: &[&'static str]| names.iter().map(|name| (*name, Vec::new())).collect();
        let loss = TrainingCurve {
            name: "loss",
            title: format!("{loss} of {model} in training"),
            subtitle: subtitle.clone(),
            axis: format!("loss ({unit})"),
            lines: named(&["training", "held-out"]),
        };
        let experts = TrainingCurve {
            name: "experts",
            title: format!("Load of the experts of {model} in training"),
            subtitle,
            axis: "expert load relative to an even share".to_owned(),
            lines: named(&["busiest", "idlest", "exp(entropy)/E"]),
        };
        let mut curves = Self { directory: directory.to_owned(), events: created.ok(), failed, loss, experts, is_live };
        history.iter().for_each(|entry| curves.add(entry));
        curves
    }

    /// Adds a line; returns a message if that fails.
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

    /// Draws `loss.svg` and `loss.png` beside the checkpoints, and `experts` likewise for a mixture.
    ///
    /// # Errors
    /// A message for the user.
    pub fn draw(&self) -> Result<(), String> {
        [&self.loss, &self.experts].into_iter().try_for_each(|curve| self.draw_one(curve))
    }

    fn draw_one(&self, curve: &TrainingCurve) -> Result<(), String> {
        let figure = draw_training(curve).map_err(|error: FigureError| error.to_string())?;
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
        for (key, (_, points)) in ["loss", "eval_loss"].into_iter().zip(&mut self.loss.lines) {
            points.extend(number(key).map(|loss| (tokens, loss)));
        }
        let Some((busiest, idlest, num_experts)) = loads(entry) else { return };
        let spread = number("moe/entropy").map_or(f64::NAN, |entropy| entropy.exp() / num_experts);
        let values = [busiest * num_experts, idlest * num_experts, spread];
        self.experts.lines.iter_mut().zip(values).for_each(|((_, points), value)| points.push((tokens, value)));
    }
}

/// The largest and the smallest share of visits of an expert in any layer, and the number of experts of a layer.
fn loads(entry: &LogEntry) -> Option<(f64, f64, f64)> {
    let layers = entry.iter().filter(|(key, _)| key.starts_with("moe/load/")).filter_map(|(_, load)| load.as_array());
    let num_experts = layers.clone().map(Vec::len).max()?;
    let shares = layers.flatten().filter_map(Value::as_f64);
    Some((shares.clone().fold(0.0, f64::max), shares.fold(1.0, f64::min), num_experts as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_are_those_of_the_extreme_experts_of_all_layers() {
        let entry: LogEntry =
            serde_json::from_str(r#"{"moe/load/L0": [0.25, 0.75], "moe/load/L1": [1.0, 0.0], "loss": 1.0}"#).unwrap();
        assert_eq!(loads(&entry), Some((1.0, 0.0, 2.0)));
        assert_eq!(loads(&LogEntry::new()), None);
    }
}
