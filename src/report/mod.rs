//! What was measured, as plain records, and what may be said of it: a table and a verdict.
//!
//! A [`Study`] is everything that one comparison measured, raw samples kept; it is what `results.json` holds. Summaries
//! are computed when somebody asks, by [`statistics`]; [`table`] and [`verdict()`] read nothing but the record, so both
//! can be made again from the file alone. Where the file goes is the caller's business, pictures are `figure`'s.

mod json;
mod provenance;
mod records;
pub mod statistics;
pub mod table;
mod verdict;

#[cfg(test)]
pub(crate) mod fixture;

pub use json::RecordError;
pub use provenance::build_number;
pub use records::{
    Arm, ArmKind, BaseInfo, Cost, CurvePoint, DataInfo, EvalPoint, ExpertLoad, MemoryRecord, RouterSummary, RunInfo,
    SeedRun, Study, StudySettings, Timing, TimingRound, Workload,
};
pub use verdict::{TIE_NATS, verdict};
