//! Files of data as rows: `.txt`, `.jsonl`, `.json`, `.csv`, `.parquet` and `.arrow`, in memory that does not depend on their size.

mod arrow;
mod arrow_lengths;
mod csv;
mod error;
mod files;
mod format;
mod input;
mod json;
mod json_lines;
mod number;
mod parquet;
mod row;
mod rows;
mod skipped_rows;
#[cfg(test)]
mod tests;
mod text;

pub use error::{RowFault, SourceError, SourceFault};
pub use files::data_files;
pub use number::RowNumber;
pub use row::Row;
pub use rows::Rows;
pub use skipped_rows::SkippedRows;
