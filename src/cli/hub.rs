//! Where a model lies that was named on the command line.

use std::path::PathBuf;

use super::CliError;

/// A path that exists.
pub(super) fn locate(argument: &str) -> Result<PathBuf, CliError> {
    Ok(PathBuf::from(argument))
}
