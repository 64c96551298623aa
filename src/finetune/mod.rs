//! Training from files to files: the library behind `train`, `sft` and `dpo`.
//!
//! A [`Task`] turns data into batches and an objective; [`Run`] makes the updates, logs them, and saves checkpoints from which
//! it continues exactly; [`write_model`] writes the result as `grow` does.

mod checkpoint;
mod curves;
mod dataset;
mod disk_space;
mod error;
mod health;
mod job;
mod language_modeling;
mod log;
mod maker;
mod method;
mod overlap;
mod passes;
mod preference;
mod progress;
mod provenance;
mod rows;
mod run;
mod run_state;
mod settings;
mod sources;
mod split_texts;
mod task;
mod tensorboard;
mod text_data;
mod writer;

pub use checkpoint::{Checkpoints, Resumed};
pub use curves::{Curves, Titles};
pub use dataset::{Dataset, Encoded, RecordCounts, read_records, record_files};
pub use disk_space::DiskSpace;
pub use error::FinetuneError;
pub use health::{HealthWatch, Warning};
pub use job::Job;
pub use language_modeling::LanguageModeling;
pub use log::LogEntry;
pub use maker::Maker;
pub use method::{Method, RowKind};
pub use overlap::TrainedItems;
pub use passes::PassSize;
pub use preference::{Pair, Preference};
pub use progress::Progress;
pub use provenance::Provenance;
pub use rows::{ExampleRows, Row, Rows, TextRows};
pub use run::{Control, Ended, Event, Run, Start};
pub use settings::{Change, DataSettings, LoraSettings, Settings};
pub use sources::{Concatenated, DataSource, Holdout, check_disjoint, sample};
pub use split_texts::Overlap;
pub use task::Task;
pub use text_data::{EvaluatedText, TextData, TextOptions};
pub use writer::{Trained, write_model};
