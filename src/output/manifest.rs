//! A written file as a receipt records it, and how a file may differ from its record.

use std::fmt;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::FileError;
use crate::output::disk::{Disk, Kind};
use crate::output::read::{blake3, open_regular};

/// A file that was written completely.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Its name in the directory.
    pub name: String,
    /// Its size.
    pub size_bytes: u64,
    /// BLAKE3 of its bytes, in hexadecimal, as `b3sum` prints it.
    pub blake3: String,
}

impl FileRecord {
    /// Hashes a file. `watch` is called with the size of each run of bytes read.
    ///
    /// # Errors
    /// I/O errors.
    pub fn read(disk: &dyn Disk, path: &Path, watch: &mut dyn FnMut(u64)) -> Result<Self, FileError> {
        let file = disk.open(path).map_err(FileError::io(path))?;
        let size_bytes = file.stat().map_err(FileError::io(path))?.size_bytes;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { name, size_bytes, blake3: blake3(&*file, watch).map_err(FileError::io(path))? })
    }
}

/// A file that differs from its record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Mismatch {
    /// The file does not exist.
    Missing {
        /// Its name.
        name: String,
    },
    /// A directory, a pipe or a device has its name.
    NotAFile {
        /// Its name.
        name: String,
    },
    /// The sizes differ.
    Size {
        /// Its name.
        name: String,
        /// Its size.
        found_bytes: u64,
        /// The recorded size.
        expected_bytes: u64,
    },
    /// The sizes are equal, but the bytes differ.
    Hash {
        /// Its name.
        name: String,
        /// BLAKE3 of its bytes.
        found: String,
        /// The recorded one.
        expected: String,
    },
    /// There is no record of it.
    Unknown {
        /// Its name.
        name: String,
    },
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Missing { name } => write!(f, "{name:?} is missing"),
            Self::NotAFile { name } => write!(f, "{name:?} is not a regular file"),
            Self::Size { name, found_bytes, expected_bytes } => {
                write!(f, "{name:?} has {found_bytes} bytes, expected {expected_bytes}")
            }
            Self::Hash { name, found, expected } => write!(f, "{name:?} has blake3 {found}, expected {expected}"),
            Self::Unknown { name } => write!(f, "{name:?} is not in the receipt"),
        }
    }
}

impl FileRecord {
    /// How the file in `directory` differs from this record. Hashes it only if the sizes are equal; `watch` receives the
    /// size of each chunk read.
    pub(super) fn mismatch(
        &self,
        disk: &dyn Disk,
        directory: &Path,
        watch: &mut dyn FnMut(u64),
    ) -> Result<Option<Mismatch>, FileError> {
        if let Some(mismatch) = self.size_mismatch(disk, directory)? {
            return Ok(Some(mismatch));
        }
        let path = directory.join(&self.name);
        let found = blake3(&*open_regular(disk, &path)?, watch).map_err(FileError::io(&path))?;
        let (name, expected) = (self.name.clone(), self.blake3.clone());
        Ok((found != expected).then_some(Mismatch::Hash { name, found, expected }))
    }

    /// As [`mismatch`](Self::mismatch), without reading the file.
    pub(super) fn size_mismatch(&self, disk: &dyn Disk, directory: &Path) -> Result<Option<Mismatch>, FileError> {
        let (name, path) = (self.name.clone(), directory.join(&self.name));
        let stat = match disk.stat(&path) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(Some(Mismatch::Missing { name }));
            }
            stat => stat.map_err(FileError::io(&path))?,
        };
        let (found_bytes, expected_bytes) = (stat.size_bytes, self.size_bytes);
        Ok(match stat.kind {
            Kind::Directory | Kind::Other => Some(Mismatch::NotAFile { name }),
            Kind::File if found_bytes != expected_bytes => Some(Mismatch::Size { name, found_bytes, expected_bytes }),
            Kind::File => None,
        })
    }
}
