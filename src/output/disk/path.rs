//! Paths.

use std::path::{Path, PathBuf};

use crate::error::FileError;

/// The directory that holds `path`; `.` for a bare name.
pub(crate) fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// `path` from the root. A symbolic link at its end is followed, so that its target is replaced and the link stays.
///
/// # Errors
/// `FileFault::NotFound` if the link leads to nothing; `FileFault::Io`.
pub fn absolute(path: &Path) -> Result<PathBuf, FileError> {
    // Without a slash at the end, which would hide the link.
    let path: PathBuf = path.components().collect();
    let absolute = if path.is_symlink() { path.canonicalize() } else { std::path::absolute(&path) };
    absolute.map_err(FileError::io(&path))
}
