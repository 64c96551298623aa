//! A study: arms grown from one base, trained on the same windows in the same order at matched training FLOPs, and
//! measured alike.
//!
//! [`StudyPlan`] is made from configs alone. [`run`] executes it unit by unit, an arm with a seed, each recorded in
//! [`Units`] as it finishes, so that an interrupted study goes on; then it times all arms in turns.

mod measure;
mod plan;
mod run;
mod unit;

pub use plan::{ArmSpec, Budget, PlanOptions, StudyError, StudyPlan};
pub use run::{Outcome, Progress, RunOptions, StudyData, run};
pub use unit::{UnitRecord, Units};
