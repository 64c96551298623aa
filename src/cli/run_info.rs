//! Where, when and with what a command ran.

use std::process::Command;
use std::time::SystemTime;

use crate::report::RunInfo;

/// The version that Cargo.toml pins.
const BURN_VERSION: &str = "0.22.1";

/// The provenance of results that are about to be measured.
pub(super) fn run_info(device: &str, dtype: &str) -> RunInfo {
    RunInfo {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        commit: commit(),
        date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        command: command(),
        device: device.to_owned(),
        cpu: cpu(),
        num_threads: rayon::current_num_threads(),
        dtype: dtype.to_owned(),
        burn_version: BURN_VERSION.to_owned(),
        os: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
    }
}

/// The name of the program.
pub(super) const COMMAND: &str = env!("CARGO_PKG_NAME");

/// The words of the command line, for a record.
pub(super) fn command() -> Vec<String> {
    std::env::args_os().map(|word| words(&word.to_string_lossy())).collect()
}

/// A word of the command line, for a record: without where somebody keeps things.
pub(super) fn words(word: &str) -> String {
    file_name(word)
}

/// The commit of the source where it lies under git, with `-dirty` if it has been changed since.
fn commit() -> Option<String> {
    git(&["describe", "--always", "--dirty"])
}

/// How many commits led to it.
pub(super) fn build_number() -> Option<u64> {
    git(&["rev-list", "--count", "HEAD"])?.parse().ok()
}

fn git(words: &[&str]) -> Option<String> {
    let git = Command::new("git").args(["-C", env!("CARGO_MANIFEST_DIR")]).args(words).output();
    let output = git.ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

/// What the system calls its processor.
fn cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}

/// The last part of an absolute path, alone or behind `--option=`, so that records do not tell where somebody keeps
/// things; other words stay.
fn file_name(word: &str) -> String {
    let (option, value) = word.split_once('=').map_or(("", word), |(option, value)| (option, value));
    let path = std::path::Path::new(value);
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
    fn the_recorded_version_of_burn_is_the_one_that_the_manifest_pins() {
        let manifest = include_str!("../../Cargo.toml");
        assert!(manifest.contains(&format!("burn = {{ version = \"={BURN_VERSION}\"")));
    }

    #[test]
    fn records_keep_arguments_but_not_where_files_lie() {
        assert_eq!(file_name("--m"), "--m");
        assert_eq!(file_name("/home/somebody/base"), "base");
        assert_eq!(file_name("--base=/home/somebody/base"), "--base=base");
        assert_eq!(file_name("figures/x"), "figures/x");
    }
}
