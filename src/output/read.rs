//! Reads whole files: bounded, or streamed.

use std::io;
use std::path::Path;

use super::disk::{Disk, Kind, ReadAt};
use crate::error::{FileError, FileFault};

/// Opens a regular file, no pipe or device, which might never end.
///
/// # Errors
/// [`FileFault::NotFound`], [`FileFault::NotAFile`], [`FileFault::Io`].
pub(crate) fn open_regular(disk: &dyn Disk, path: &Path) -> Result<Box<dyn ReadAt>, FileError> {
    // Before opening, which blocks on a pipe without writer.
    if disk.stat(path).map_err(FileError::io(path))?.kind != Kind::File {
        return Err(FileError::new(path, FileFault::NotAFile));
    }
    disk.open(path).map_err(FileError::io(path))
}

/// Reads a whole file of at most `limit_bytes`.
///
/// # Errors
/// As [`open_regular`]; [`FileFault::TooLarge`].
pub(crate) fn read_bounded(disk: &dyn Disk, path: &Path, limit_bytes: u64) -> Result<Vec<u8>, FileError> {
    let file = open_regular(disk, path)?;
    let found_bytes = file.stat().map_err(FileError::io(path))?.size_bytes;
    if found_bytes > limit_bytes {
        return Err(FileError::new(path, FileFault::TooLarge { found_bytes, limit_bytes }));
    }
    let mut bytes = vec![0; found_bytes as usize];
    file.read_exact_at(&mut bytes, 0).map_err(FileError::io(path))?;
    Ok(bytes)
}

/// Whether anything exists at `path`.
///
/// # Errors
/// [`FileFault::Io`].
pub(crate) fn exists(disk: &dyn Disk, path: &Path) -> Result<bool, FileError> {
    match disk.stat(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(FileError::io(path)(error)),
    }
}

/// Whether a directory exists at `path`.
///
/// # Errors
/// [`FileFault::Io`].
pub(crate) fn is_directory(disk: &dyn Disk, path: &Path) -> Result<bool, FileError> {
    match disk.stat(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        stat => Ok(stat.map_err(FileError::io(path))?.kind == Kind::Directory),
    }
}

/// BLAKE3 of a whole file, in hexadecimal; `watch` receives the size of each chunk read.
pub(crate) fn blake3(file: &dyn ReadAt, watch: &mut dyn FnMut(u64)) -> io::Result<String> {
    let mut hash = ::blake3::Hasher::new();
    read_through(file, watch, &mut |bytes| {
        hash.update(bytes);
    })?;
    Ok(hash.finalize().to_hex().to_string())
}

/// Streams a whole file to `sink`; `watch` receives the size of each chunk.
pub(crate) fn read_through(
    file: &dyn ReadAt,
    watch: &mut dyn FnMut(u64),
    sink: &mut dyn FnMut(&[u8]),
) -> io::Result<()> {
    let (mut buffer, mut offset) = (vec![0; 1 << 18], 0);
    loop {
        match file.read_at(&mut buffer, offset) {
            Ok(0) => return Ok(()),
            Ok(count) => {
                sink(&buffer[..count]);
                offset += count as u64;
                watch(count as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
