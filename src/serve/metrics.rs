//! Counters for Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Counters of a server, in Prometheus' text format at `/metrics`.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Responses by path and status.
    responses: Mutex<BTreeMap<(&'static str, u16), u64>>,
    /// Tokens of the prompts of accepted requests.
    pub(super) prompt_tokens: AtomicU64,
    /// Of these, tokens whose keys and values were those of an earlier prompt.
    pub(super) cached_prompt_tokens: AtomicU64,
    /// Tokens of outputs.
    pub(super) generated_tokens: AtomicU64,
    /// Texts that are computed now.
    pub(super) running: AtomicU64,
    /// Requests that wait for a place.
    pub(super) waiting: AtomicU64,
    /// Texts whose client hung up.
    pub(super) cancelled: AtomicU64,
    /// Nanoseconds of passes, and their number.
    pub(super) step_ns: AtomicU64,
    pub(super) steps: AtomicU64,
}

impl Metrics {
    /// Counts a response.
    pub(super) fn respond(&self, path: &'static str, status: u16) {
        let mut responses = self.responses.lock().unwrap_or_else(PoisonError::into_inner);
        *responses.entry((path, status)).or_insert(0) += 1;
    }

    /// Counts a step of the batch.
    pub(super) fn step(&self, time: Duration) {
        self.steps.fetch_add(1, Ordering::Relaxed);
        self.step_ns.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The counters as text.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let head = |text: &mut String, name: &str, kind: &str, help: &str| {
            let _infallible = write!(text, "# HELP deepwide_{name} {help}\n# TYPE deepwide_{name} {kind}\n");
        };
        head(&mut text, "responses_total", "counter", "Responses by path and status.");
        for ((path, status), count) in &*self.responses.lock().unwrap_or_else(PoisonError::into_inner) {
            let _infallible = writeln!(text, "deepwide_responses_total{{path=\"{path}\",status=\"{status}\"}} {count}");
        }
        let counters = [
            ("prompt_tokens_total", "counter", "Tokens of accepted prompts.", &self.prompt_tokens),
            (
                "prompt_tokens_cached_total",
                "counter",
                "Tokens of prompts whose keys and values were reused.",
                &self.cached_prompt_tokens,
            ),
            ("generated_tokens_total", "counter", "Tokens of outputs.", &self.generated_tokens),
            ("cancelled_total", "counter", "Requests whose client hung up.", &self.cancelled),
            ("sequences_running", "gauge", "Texts that are computed now.", &self.running),
            ("requests_waiting", "gauge", "Requests that wait for a place.", &self.waiting),
            ("steps_total", "counter", "Steps of the batch.", &self.steps),
        ];
        for (name, kind, help, value) in counters {
            head(&mut text, name, kind, help);
            let _infallible = writeln!(text, "deepwide_{name} {}", value.load(Ordering::Relaxed));
        }
        head(&mut text, "step_seconds_total", "counter", "Time of the steps of the batch.");
        let seconds = self.step_ns.load(Ordering::Relaxed) as f64 / 1e9;
        let _infallible = writeln!(text, "deepwide_step_seconds_total {seconds}");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_have_the_text_format_of_prometheus() {
        let metrics = Metrics::default();
        metrics.respond("/v1/models", 200);
        metrics.respond("/v1/models", 200);
        metrics.step(Duration::from_millis(1500));
        let text = metrics.to_text();
        assert!(text.contains("# TYPE deepwide_responses_total counter\n"));
        assert!(text.contains("deepwide_responses_total{path=\"/v1/models\",status=\"200\"} 2\n"));
        assert!(text.contains("deepwide_step_seconds_total 1.5\n") && text.contains("deepwide_sequences_running 0\n"));
        assert!(text.lines().all(|line| line.starts_with('#') || line.split(' ').count() == 2));
    }
}
