//! The file system, as far as checkpoints need it: the one seam through which they are read and written.
//!
//! Everything that touches a checkpoint takes a [`Disk`]; [`disk`] is the real one, [`MemoryDisk`] holds the files of one
//! directory. Tests use one that fails on request, to see what happens after each failure.

mod memory;
mod path;
mod real;
mod seam;

pub use memory::MemoryDisk;
pub use path::absolute;
pub(crate) use path::parent_of;
pub use real::disk;
pub use seam::{Disk, Kind, Lock, ReadAt, Stat, WriteFile};
