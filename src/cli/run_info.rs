//! The command line of a run, for records: without the folders in which a user keeps files.

use std::fs::File;
use std::path::Path;

use super::failure::Failure;
use crate::report::RunInfo;

/// The name of the program.
pub(super) const COMMAND: &str = env!("CARGO_PKG_NAME");

/// Describes this run for a record: the build, the machine and the words of the command line.
pub fn run_info(device: &str, dtype: &str) -> RunInfo {
    RunInfo::now(command(), device, dtype)
}

/// Hash of this program.
///
/// # Errors
/// If its file cannot be read.
pub(super) fn build() -> Result<String, Failure> {
    let program = std::env::current_exe().map_err(Failure::reading(Path::new("the program")))?;
    let file = File::open(&program).map_err(Failure::reading(&program))?;
    let mut hash = blake3::Hasher::new();
    Ok(hash.update_reader(file).map_err(Failure::reading(&program))?.finalize().to_hex().to_string())
}

/// The words of the command line.
pub(super) fn command() -> Vec<String> {
    std::env::args_os().map(|word| words(&word.to_string_lossy())).collect()
}

/// A word of a command line; of an absolute path, alone or behind `--option=`, the last part.
pub(super) fn words(word: &str) -> String {
    let (option, value) = word.split_once('=').map_or(("", word), |(option, value)| (option, value));
    let path = Path::new(value);
    match path.file_name() {
        Some(name) if path.is_absolute() => {
            let equals = if option.is_empty() { "" } else { "=" };
            format!("{option}{equals}{}", name.to_string_lossy())
        }
        _ => word.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_keep_arguments_but_no_folders() {
        assert_eq!(words("--m"), "--m");
        assert_eq!(words("/home/somebody/base"), "base");
        assert_eq!(words("--base=/home/somebody/base"), "--base=base");
        assert_eq!(words("figures/x"), "figures/x");
    }
}
