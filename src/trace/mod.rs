//! Where time and FLOPs go: spans of named work, recorded on request.
//!
//! Each part of a decoder opens a [`span`]. Outside of [`record`], that costs one read of a thread-local flag.

mod chrome;
mod flop_counter;

pub use chrome::to_chrome_json;
pub(crate) use flop_counter::count_multiply_adds;
pub use flop_counter::executed_flops;

use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::time::Instant;

use burn::tensor::Device;

/// A named part of some work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Name of the work.
    pub name: &'static str,
    /// Index among parts of this name, as that of a layer.
    pub index: Option<usize>,
    /// Number of enclosing spans.
    pub depth: usize,
    /// Start in nanoseconds after that of the record.
    pub start_ns: u64,
    /// Duration in nanoseconds.
    pub duration_ns: u64,
    /// Floating-point operations of the matrix products of a forward pass.
    pub flops: u64,
}

struct Recorder {
    start: Instant,
    device: Device,
    spans: Vec<Span>,
    depth: usize,
}

thread_local! {
    static RECORDS: Cell<bool> = const { Cell::new(false) };
    static RECORDER: RefCell<Option<Recorder>> = const { RefCell::new(None) };
}

/// Runs `work` and returns its result with the spans that this thread opened meanwhile, in the order of their starts. Every
/// span synchronizes `device` at both ends, so that asynchronous work counts where it was started. Of two nested records, the
/// inner one gets the spans.
pub fn record<R>(device: &Device, work: impl FnOnce() -> R) -> (R, Vec<Span>) {
    /// Restores the state before, also after a panic.
    struct Restore(bool, Option<Recorder>);
    impl Drop for Restore {
        fn drop(&mut self) {
            RECORDS.set(self.0);
            RECORDER.set(self.1.take());
        }
    }
    let recorder = Recorder { start: Instant::now(), device: device.clone(), spans: Vec::new(), depth: 0 };
    let _restore = Restore(RECORDS.replace(true), RECORDER.replace(Some(recorder)));
    let result = work();
    let spans = RECORDER.take().map_or_else(Vec::new, |recorder| recorder.spans);
    (result, spans)
}

/// Ends its span on drop.
#[must_use = "a span ends when its guard is dropped"]
#[derive(Debug)]
pub struct SpanGuard {
    place: Option<usize>,
    /// A span belongs to its thread.
    _on_this_thread: PhantomData<*const ()>,
}

/// Begins a span.
pub fn span(name: &'static str) -> SpanGuard {
    open(name, None)
}

/// Begins a span with an index.
pub fn indexed_span(name: &'static str, index: usize) -> SpanGuard {
    open(name, Some(index))
}

fn open(name: &'static str, index: Option<usize>) -> SpanGuard {
    let place = if RECORDS.get() { begin(name, index) } else { None };
    SpanGuard { place, _on_this_thread: PhantomData }
}

#[cold]
fn begin(name: &'static str, index: Option<usize>) -> Option<usize> {
    RECORDER.with_borrow_mut(|recorder| {
        let recorder = recorder.as_mut()?;
        let start_ns = recorder.now_ns();
        recorder.spans.push(Span {
            name,
            index,
            depth: recorder.depth,
            start_ns,
            duration_ns: 0,
            flops: flop_counter::total(),
        });
        recorder.depth += 1;
        Some(recorder.spans.len() - 1)
    })
}

#[cold]
fn end(place: usize) {
    RECORDER.with_borrow_mut(|recorder| {
        let Some(recorder) = recorder else { return };
        let now_ns = recorder.now_ns();
        recorder.depth -= 1;
        let span = &mut recorder.spans[place];
        span.duration_ns = now_ns - span.start_ns;
        span.flops = flop_counter::total() - span.flops;
    });
}

impl Recorder {
    fn now_ns(&self) -> u64 {
        self.device.sync().expect("the device finishes its work");
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Drop for SpanGuard {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            end(place);
        }
    }
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use super::*;

    fn work() -> usize {
        let _outer = span("outer");
        for layer in 0..2 {
            let _inner = indexed_span("inner", layer);
        }
        7
    }

    #[test]
    fn spans_nest_and_are_in_the_order_of_their_starts() {
        let (result, spans) = record(&Device::flex(), work);
        assert_eq!(result, 7);
        let shape: Vec<_> = spans.iter().map(|span| (span.name, span.index, span.depth)).collect();
        assert_eq!(shape, [("outer", None, 0), ("inner", Some(0), 1), ("inner", Some(1), 1)]);
        let [outer, first, second] = spans[..] else { panic!("three spans") };
        let end = |span: Span| span.start_ns + span.duration_ns;
        assert!(outer.start_ns <= first.start_ns && end(first) <= second.start_ns && end(second) <= end(outer));
    }

    #[test]
    fn nothing_is_recorded_outside_of_a_record_or_on_other_threads() {
        work();
        let (_, spans) = record(&Device::flex(), || std::thread::scope(|scope| scope.spawn(work).join()));
        assert!(spans.is_empty());
        assert!(!RECORDS.get() && RECORDER.with_borrow(Option::is_none));
    }

    #[test]
    fn the_inner_of_two_records_gets_the_spans_and_a_panic_ends_a_record() {
        let (inner, outer) = record(&Device::flex(), || {
            let _around = span("around");
            record(&Device::flex(), work).1
        });
        assert_eq!((inner.len(), outer.len()), (3, 1));
        let fails = || record(&Device::flex(), || -> () { panic!("on purpose") });
        assert!(std::panic::catch_unwind(fails).is_err());
        assert!(!RECORDS.get());
    }
}
