//! Where time and FLOPs go: spans of named work, recorded on request.
//!
//! Each part of a decoder opens a [`span`]. Outside of [`record`], that costs one read of a thread-local flag.

mod chrome;
mod op_counter;
mod recorder;
mod work;

pub use chrome::to_chrome_json;
pub use op_counter::executed_flops;
pub(crate) use op_counter::{Op, count, uncounted};
#[cfg(feature = "cube")]
pub(crate) use recorder::innermost;
pub(crate) use recorder::is_recording;
pub use recorder::{
    MemoryProbe, MemorySample, Span, SpanGuard, indexed_span, record, record_memory, record_queued, span,
};
pub(crate) use work::Work;
