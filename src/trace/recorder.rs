//! The recorder of a thread: spans, their counts, and samples of memory.

use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::time::Instant;

use burn::tensor::Device;

use super::op_counter::{Op, Totals, totals};

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
    /// Bytes of weights, keys and values that operations of a forward pass read.
    pub bytes: u64,
    /// Floating-point operations of the gradients of the operations that ran directly in this span, whenever they are computed.
    pub backward_flops: u64,
    /// Bytes that those gradients read.
    pub backward_bytes: u64,
}

/// Memory in use at a moment of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemorySample {
    /// Nanoseconds after the start of the record.
    pub at_ns: u64,
    /// Bytes in use.
    pub live_bytes: u64,
    /// Most bytes in use since the sample before.
    pub peak_bytes: u64,
    /// Gradients of parameters that the backward pass has computed so far, in float32.
    pub gradient_bytes: u64,
}

/// Bytes of a device in use now, and the most since the last call.
pub type MemoryProbe = fn(&Device) -> [u64; 2];

struct Recorder {
    start: Instant,
    /// The device to wait for; `None` if spans do not wait.
    device: Option<Device>,
    probe: Option<MemoryProbe>,
    spans: Vec<Span>,
    samples: Vec<MemorySample>,
    /// Parameters whose gradients were computed.
    num_gradients: u64,
    /// Places of the spans that are open.
    open: Vec<usize>,
}

thread_local! {
    static RECORDS: Cell<bool> = const { Cell::new(false) };
    static RECORDER: RefCell<Option<Recorder>> = const { RefCell::new(None) };
}

/// Runs `work` and returns its result with the spans that this thread opened meanwhile, in the order of their starts. Every
/// span synchronizes `device` at both ends, so that asynchronous work counts where it was started. Of two nested records, the
/// inner one gets the spans.
pub fn record<R>(device: &Device, work: impl FnOnce() -> R) -> (R, Vec<Span>) {
    let (result, spans, _) = record_with(Some(device), None, work);
    (result, spans)
}

/// As [`record`], but spans wait for no device: their times are those of the host, which may be ahead of the work.
pub fn record_queued<R>(work: impl FnOnce() -> R) -> (R, Vec<Span>) {
    let (result, spans, _) = record_with(None, None, work);
    (result, spans)
}

/// As [`record`], with a sample of memory at both ends of every span and after every gradient.
pub fn record_memory<R>(device: &Device, probe: MemoryProbe, work: impl FnOnce() -> R) -> (R, Vec<MemorySample>) {
    let (result, _, samples) = record_with(Some(device), Some(probe), work);
    (result, samples)
}

fn record_with<R>(
    device: Option<&Device>,
    probe: Option<MemoryProbe>,
    work: impl FnOnce() -> R,
) -> (R, Vec<Span>, Vec<MemorySample>) {
    /// Restores the state before, also after a panic.
    struct Restore(bool, Option<Recorder>);
    impl Drop for Restore {
        fn drop(&mut self) {
            RECORDS.set(self.0);
            RECORDER.set(self.1.take());
        }
    }
    let recorder = Recorder {
        start: Instant::now(),
        device: device.cloned(),
        probe,
        spans: Vec::new(),
        samples: Vec::new(),
        num_gradients: 0,
        open: Vec::new(),
    };
    let _restore = Restore(RECORDS.replace(true), RECORDER.replace(Some(recorder)));
    let result = work();
    let (spans, samples) = RECORDER.take().map(|recorder| (recorder.spans, recorder.samples)).unwrap_or_default();
    (result, spans, samples)
}

/// Whether this thread records.
pub(crate) fn is_recording() -> bool {
    RECORDS.get()
}

/// The place of the innermost span that is open, among the spans of this thread's record.
pub(crate) fn innermost() -> Option<usize> {
    if RECORDS.get() { RECORDER.with_borrow(|recorder| recorder.as_ref()?.open.last().copied()) } else { None }
}

/// Adds gradients to the span of their operation.
pub(super) fn count_gradients(place: Option<usize>, op: Op) {
    if !RECORDS.get() {
        return;
    }
    RECORDER.with_borrow_mut(|recorder| {
        let Some(recorder) = recorder else { return };
        if let Some(span) = place.and_then(|place| recorder.spans.get_mut(place)) {
            span.backward_flops += 2 * op.multiply_adds as u64;
            span.backward_bytes += op.bytes as u64;
        }
        recorder.num_gradients += op.parameters as u64;
        recorder.sample();
    });
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
        let Totals { flops, bytes } = totals();
        let place = recorder.spans.len();
        recorder.spans.push(Span {
            name,
            index,
            depth: recorder.open.len(),
            start_ns,
            duration_ns: 0,
            flops,
            bytes,
            backward_flops: 0,
            backward_bytes: 0,
        });
        recorder.open.push(place);
        recorder.sample();
        Some(place)
    })
}

#[cold]
fn end(place: usize) {
    RECORDER.with_borrow_mut(|recorder| {
        let Some(recorder) = recorder else { return };
        let now_ns = recorder.now_ns();
        recorder.open.pop();
        let (span, Totals { flops, bytes }) = (&mut recorder.spans[place], totals());
        span.duration_ns = now_ns - span.start_ns;
        span.flops = flops - span.flops;
        span.bytes = bytes - span.bytes;
        recorder.sample();
    });
}

impl Recorder {
    fn now_ns(&self) -> u64 {
        if let Some(device) = &self.device {
            device.sync().expect("the device finishes its work");
        }
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Takes a sample of memory, if there is a probe.
    fn sample(&mut self) {
        let Some((probe, device)) = self.probe.zip(self.device.as_ref()) else { return };
        let (at_ns, [live_bytes, peak_bytes]) = (self.now_ns(), probe(device));
        let gradient_bytes = 4 * self.num_gradients;
        self.samples.push(MemorySample { at_ns, live_bytes, peak_bytes, gradient_bytes });
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
        for record in [|| record(&Device::flex(), work), || record_queued(work)] {
            let (result, spans) = record();
            assert_eq!(result, 7);
            assert_nested(&spans);
        }
    }

    fn assert_nested(spans: &[Span]) {
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
