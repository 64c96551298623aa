//! A study: arms grown from one base, trained on the same windows in the same order at matched training FLOPs, and
//! measured alike.
//!
//! [`StudyPlan`] decides from configs alone what will be run; [`run`] does it and returns the record.

mod measure;
mod plan;
mod run;

pub use plan::{ArmPlan, Budget, PlanOptions, StudyError, StudyPlan};
pub use run::{Progress, RunOptions, StudyData, run};
