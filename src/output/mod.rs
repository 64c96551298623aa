//! Files on disk: the one seam to the file system, directories that appear complete or not at all, and their receipts.

pub mod commit;
pub mod disk;
mod error;
mod file_name;
pub mod manifest;
pub(crate) mod read;
pub mod receipt;

pub use error::{OutputError, ReceiptFault};
pub(crate) use file_name::{TEMPLATES_FOLDER, is_output_name, is_plain_file_name};
