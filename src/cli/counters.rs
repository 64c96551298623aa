//! Progress of what can be counted: a bar with an ETA on a terminal.

use std::cell::Cell;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};

use super::console::{shows_bars, tell};
use super::progress::LINE_INTERVAL;
use crate::eval::RunProgress;

/// Shows how many of some things are done, on a terminal.
pub(super) struct Count(ProgressBar);

impl Count {
    pub(super) fn new(what: &'static str, things: &str, count: usize) -> Self {
        Self(bar(what, &format!("{{prefix}} {{bar:30}} {{pos}}/{{len}} {things} ETA {{eta}}  {{msg}}"), count))
    }

    /// Adds some that were done, with a remark behind the bar.
    pub(super) fn add(&self, count: usize, remark: impl Into<String>) {
        self.0.set_message(remark.into());
        self.0.inc(count as u64);
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Shows the tokens that an evaluation has computed: a bar on a terminal, a line every ten seconds elsewhere.
pub(super) struct Tokens {
    what: &'static str,
    bar: ProgressBar,
    done: Cell<usize>,
    start: Instant,
    last_line: Cell<Instant>,
}

impl Tokens {
    pub(super) fn new(what: &'static str) -> Self {
        let bar = bar(what, "{prefix} {bar:30} {human_pos}/{human_len} tokens {per_sec} ETA {eta}", 0);
        let now = Instant::now();
        Self { what, bar, done: Cell::new(0), start: now, last_line: Cell::new(now) }
    }

    pub(super) fn show(&self, progress: RunProgress) {
        let RunProgress { num_tokens, num_total_tokens: total } = progress;
        let done = self.done.get() + num_tokens;
        self.done.set(done);
        if !self.bar.is_hidden() {
            self.bar.set_length(total as u64);
            self.bar.set_position(done as u64);
        } else if self.last_line.get().elapsed() >= LINE_INTERVAL {
            let elapsed_s = self.start.elapsed().as_secs_f64();
            let left_s = elapsed_s * (total - done.min(total)) as f64 / done as f64;
            tell(format_args!("{}: {done} of {total} tokens, {left_s:.0} s left", self.what));
            self.last_line.set(Instant::now());
        }
    }
}

impl Drop for Tokens {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn bar(what: &'static str, template: &str, count: usize) -> ProgressBar {
    if !shows_bars() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(template).expect("a template of known keys");
    ProgressBar::new(count as u64).with_style(style).with_prefix(what)
}
