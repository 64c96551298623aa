//! A disk in memory, of one directory, for parsers that read files.

use std::path::Path;
use std::sync::Arc;

use deepwide::output::disk::{Disk, MemoryDisk};

/// Where the files of [`disk_with`] lie.
pub const DIRECTORY: &str = "checkpoint";

/// A disk with these files, by name, in [`DIRECTORY`].
pub fn disk_with(files: &[(&str, &[u8])]) -> Arc<dyn Disk> {
    MemoryDisk::with(Path::new(DIRECTORY), files)
}
