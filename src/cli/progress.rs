//! Progress on stderr: bars with an ETA on a terminal, a line every ten seconds elsewhere.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::console::{shows_bars, tell};
use crate::study::Progress;

/// Time between two lines without a terminal.
pub(super) const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Shows the [`Progress`] of a study.
pub(super) struct Watcher {
    bar: Option<ProgressBar>,
    arm: String,
    num_steps: usize,
    heldout_nats: f64,
    last_line: Instant,
}

impl Watcher {
    pub(super) fn new() -> Self {
        Self { bar: None, arm: String::new(), num_steps: 0, heldout_nats: f64::NAN, last_line: Instant::now() }
    }

    pub(super) fn show(&mut self, progress: Progress<'_>) {
        match progress {
            Progress::Run { arm, seed, num_steps, loss_nats } => self.begin(arm, seed, num_steps, loss_nats),
            Progress::Step(log) => {
                let message = format!(
                    "loss {:.4}  held-out {:.4}  lr {:.1e}{}",
                    log.log.loss_nats,
                    self.heldout_nats,
                    log.learning_rate,
                    router_in_words(&log.log)
                );
                match &self.bar {
                    Some(bar) => {
                        bar.set_message(message);
                        bar.inc(1);
                    }
                    None if self.last_line.elapsed() >= LINE_INTERVAL || log.step == self.num_steps => {
                        tell(format_args!("{} step {}/{}  {message}", self.arm, log.step, self.num_steps));
                        self.last_line = Instant::now();
                    }
                    None => {}
                }
            }
            Progress::Scored(loss) => self.heldout_nats = loss,
            Progress::Resumed { arm, seed } => {
                self.end();
                tell(format_args!("{arm} (seed {seed}): finished before, not run again"));
            }
            Progress::Timing { round, num_rounds } => {
                self.end();
                if self.last_line.elapsed() >= LINE_INTERVAL || round == 1 || round == num_rounds {
                    tell(format_args!("timing prefill and decoding of all arms: round {round} of {num_rounds}"));
                    self.last_line = Instant::now();
                }
            }
        }
    }

    fn begin(&mut self, arm: &str, seed: u64, num_steps: usize, loss_nats: f64) {
        self.end();
        (self.arm, self.num_steps, self.heldout_nats) = (format!("{arm} (seed {seed})"), num_steps, loss_nats);
        if shows_bars() {
            let template = "{prefix:24} {bar:24} {pos}/{len} {elapsed} ETA {eta}  {msg}";
            let style = ProgressStyle::with_template(template).expect("a template of known keys");
            let bar = ProgressBar::new(num_steps as u64).with_style(style).with_prefix(self.arm.clone());
            bar.enable_steady_tick(Duration::from_millis(200));
            self.bar = Some(bar);
        } else {
            tell(format_args!("{}: held-out {loss_nats:.4} right after growth, {num_steps} steps", self.arm));
        }
    }

    fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish();
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.end();
    }
}

/// Balance of the experts, mean over layers: coefficient of variation and entropy of the load, experts without tokens.
fn router_in_words(log: &crate::train::NextTokenLog) -> String {
    if log.routers.is_empty() {
        return String::new();
    }
    let mean =
        |of: fn(&crate::train::RouterStats) -> f64| log.routers.iter().map(of).sum::<f64>() / log.routers.len() as f64;
    format!(
        "  aux {:.3}  load cv {:.2}  entropy {:.2}  dead {}",
        log.aux_loss.unwrap_or_default(),
        mean(|router| router.load_cv()),
        mean(|router| router.entropy_nats()),
        log.routers.iter().map(|router| router.dead_experts()).sum::<usize>()
    )
}

/// Shows the bytes that a command has processed.
pub(super) struct Bytes {
    bar: Option<ProgressBar>,
    what: &'static str,
    total: Option<u64>,
    state: Mutex<(u64, Instant)>,
}

impl Bytes {
    /// A bar for `total` bytes, or a counter if the total is unknown.
    pub(super) fn new(what: &'static str, total: Option<u64>) -> Self {
        let bar = shows_bars().then(|| {
            let template = "{prefix} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} ETA {eta}";
            let counting = "{prefix} {spinner} {bytes} {bytes_per_sec}";
            let template = if total.is_some() { template } else { counting };
            let style = ProgressStyle::with_template(template).expect("a template of known keys");
            let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
            bar.with_style(style).with_prefix(what)
        });
        Self { bar, what, total, state: Mutex::new((0, Instant::now())) }
    }

    pub(super) fn add(&self, bytes: u64) {
        if let Some(bar) = &self.bar {
            return bar.inc(bytes);
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 += bytes;
        if state.1.elapsed() >= LINE_INTERVAL {
            let of = self.total.map(|total| format!(" of {}", super::output::size(total))).unwrap_or_default();
            tell(format_args!("{} {}{of}", self.what, super::output::size(state.0)));
            state.1 = Instant::now();
        }
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
