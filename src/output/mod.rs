//! Files on disk: the one seam to the file system, directories that appear whole or not at all, and their receipts.

pub mod commit;
pub mod disk;
pub mod receipt;
