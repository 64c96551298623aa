//! Progress of training: a bar with an ETA on a terminal; elsewhere the start of each phase, the first update and the log.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use super::utilization::Utilization;
use crate::cli::console::{shows_bars, tell};
use crate::cli::progress::LINE_INTERVAL;
use crate::finetune::{Event, LogEntry, Settings};

/// Shows the [`Event`]s of a run.
pub(super) struct Watcher {
    bar: Option<ProgressBar>,
    start: Instant,
    heldout: Option<f64>,
    utilization: Utilization,
    /// Updates of the run, and those since the last line.
    all: Updates,
    since_line: Updates,
    /// Seconds of the loop beside the updates.
    overhead_s: f64,
    /// Without a bar, the line of the first update, until it or a line of the log with it is printed.
    first_line: Option<String>,
}

/// Sums over updates.
#[derive(Debug, Clone, Copy, Default)]
struct Updates {
    num_tokens: u64,
    flops: f64,
    wall_s: f64,
}

impl Updates {
    fn add(&mut self, other: Self) {
        self.num_tokens += other.num_tokens;
        self.flops += other.flops;
        self.wall_s += other.wall_s;
    }
}

/// Counts what a phase before the updates has done: a bar on a terminal; elsewhere a line at its start, every ten seconds, and
/// at its end.
pub(super) struct Counter {
    bar: Option<ProgressBar>,
    what: &'static str,
    last_line: Option<Instant>,
}

impl Counter {
    pub(super) fn new(what: &'static str) -> Self {
        let bar = shows_bars().then(|| {
            let template = "{prefix} {bar:24} {pos}/{len} ETA {eta}";
            let style = ProgressStyle::with_template(template).expect("a template of known keys");
            ProgressBar::new(0).with_style(style).with_prefix(what)
        });
        Self { bar, what, last_line: None }
    }

    pub(super) fn show(&mut self, num_done: usize, of: usize) {
        if let Some(bar) = &self.bar {
            bar.set_length(of as u64);
            bar.set_position(num_done as u64);
        } else if num_done == of || self.last_line.is_none_or(|line| line.elapsed() >= LINE_INTERVAL) {
            tell(format_args!("{}: {num_done} of {of}", self.what));
            self.last_line = Some(Instant::now());
        }
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// How fast a run was.
pub(super) struct Summary {
    pub(super) runtime_s: f64,
    pub(super) tokens_per_second: f64,
    /// Share of the peak of the device.
    pub(super) mfu: f64,
    /// Time of the loop beside passes and optimizer (batches, log, display; no evaluations, no checkpoints), as a share of theirs.
    pub(super) loop_overhead: f64,
}

impl Watcher {
    /// For a run with these settings, of which `done` updates were made before.
    pub(super) fn new(settings: &Settings, done: usize, utilization: Utilization) -> Self {
        let num_steps = settings.schedule.num_steps;
        let bar = shows_bars().then(|| {
            let template = "{bar:24} {pos}/{len} {elapsed} ETA {eta}  {msg}";
            let style = ProgressStyle::with_template(template).expect("a template of known keys");
            let bar = ProgressBar::new(num_steps as u64).with_style(style).with_position(done as u64);
            bar.reset_eta();
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        if bar.is_none() && done < num_steps {
            let most_tokens = settings.batch_size * settings.sequences_of_row() * settings.max_length;
            tell(format_args!("training: updates {} to {num_steps}, of at most {most_tokens} tokens each", done + 1));
        }
        Self {
            bar,
            start: Instant::now(),
            heldout: None,
            utilization,
            all: Updates::default(),
            since_line: Updates::default(),
            overhead_s: 0.0,
            first_line: None,
        }
    }

    pub(super) fn show(&mut self, event: Event<'_>) {
        match event {
            Event::Updated { step, loss, num_tokens, wall_s } => {
                let update = Updates { num_tokens, flops: self.utilization.update_flops(num_tokens), wall_s };
                if self.bar.is_none() && self.all.num_tokens == 0 {
                    self.first_line = Some(format!("step {step}  loss {loss:.4}  {}", self.speed(update)));
                }
                self.all.add(update);
                self.since_line.add(update);
                if let Some(bar) = &self.bar {
                    let heldout = self.heldout.map(|loss| format!("  held-out {loss:.4}")).unwrap_or_default();
                    bar.set_message(format!("loss {loss:.4}{heldout}  {}", self.speed(update)));
                    bar.inc(1);
                }
            }
            Event::Looped { overhead_s } => {
                self.overhead_s += overhead_s;
                if let Some(line) = self.first_line.take() {
                    self.line(line);
                }
            }
            Event::Logged(entry) => {
                self.first_line = None;
                self.heldout = entry.get("eval_loss").and_then(Value::as_f64).or(self.heldout);
                let updates = std::mem::take(&mut self.since_line);
                let speed = if updates.wall_s > 0.0 { format!("  {}", self.speed(updates)) } else { String::new() };
                self.line(format!("{}{speed}", in_words(entry)));
            }
            Event::Saved(path) => self.line(format!("saved {}", path.display())),
            Event::Warned(warning) => self.line(format!("warning: {warning}")),
            Event::LogFailed(error) => {
                self.line(format!("warning: the log cannot be written now; its lines are in the checkpoints: {error}"));
            }
            Event::Skipped { step } => self.line(format!("step {step}: not finite, left out")),
        }
    }

    /// Tokens per second and the share of the peak: `1234 tok/s, 56 % MFU`.
    fn speed(&self, Updates { num_tokens, flops, wall_s }: Updates) -> String {
        let mfu = 100.0 * self.utilization.of(flops, wall_s);
        format!("{:.0} tok/s, {mfu:.0} % MFU", num_tokens as f64 / wall_s)
    }

    pub(super) fn line(&self, line: String) {
        match &self.bar {
            Some(bar) => bar.suspend(|| tell(line)),
            None => tell(line),
        }
    }

    pub(super) fn finish(self) -> Summary {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let Updates { num_tokens, flops, wall_s } = self.all;
        let of = |value: f64| if wall_s > 0.0 { value } else { 0.0 };
        let tokens_per_second = of(num_tokens as f64 / wall_s);
        let mfu = of(self.utilization.of(flops, wall_s));
        let loop_overhead = of(self.overhead_s / wall_s);
        Summary { runtime_s: self.start.elapsed().as_secs_f64(), tokens_per_second, mfu, loop_overhead }
    }
}

/// A line of the log without the load of each expert.
fn in_words(entry: &LogEntry) -> String {
    let value = |value: &Value| match value.as_f64() {
        Some(number) if value.is_f64() && number.abs() < 1e-3 && number != 0.0 => format!("{number:.2e}"),
        Some(number) if value.is_f64() => format!("{number:.4}"),
        _ => value.to_string(),
    };
    let step = entry.get("step").map(Value::to_string).unwrap_or_default();
    let words = entry.iter().filter(|(key, _)| *key != "step" && !key.starts_with("moe/load/"));
    let words: Vec<String> = words.map(|(key, number)| format!("{key} {}", value(number))).collect();
    format!("step {step}  {}", words.join("  "))
}
