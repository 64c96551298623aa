//! Plain records of a study, and the table and the verdict made of them.
//!
//! A [`Study`] holds everything that one comparison measured, raw samples included; `results.json` is its JSON. [`table`]
//! and [`verdict()`] read nothing but the record, so both can be made again from the file alone.

mod json;
mod profiles;
mod provenance;
mod records;
pub mod statistics;
pub mod table;
mod verdict;

#[cfg(test)]
pub(crate) mod fixture;

pub use json::RecordError;
pub use profiles::{MemoryCurve, MemoryPoint, ModulePoint, ModuleTable, ProfileStudy, ProfiledModel, SpeedPoint};
pub use provenance::build_number;
pub use records::{
    Arm, ArmKind, BaseInfo, Cost, CurvePoint, DataInfo, EvalPoint, ExpertLoad, MemoryRecord, RouterSummary, RunInfo,
    SeedRun, Study, StudySettings, Timing, TimingRound, Workload,
};
pub use verdict::{FEWEST_UPDATES, TIE_NATS, UNEQUAL_FLOPS, caveat, verdict};
