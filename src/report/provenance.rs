//! The build and the machine of a measurement.

use std::process::Command;
use std::time::SystemTime;

use super::records::RunInfo;

/// The version that Cargo.toml pins.
const BURN_VERSION: &str = "0.22.1";

impl RunInfo {
    /// Describes a run that starts now, of this build on this machine, with the words of its command line.
    pub fn now(command: Vec<String>, device: &str, dtype: &str) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: git(&["describe", "--always", "--dirty"]),
            date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            command,
            device: device.to_owned(),
            cpu: cpu(),
            num_threads: rayon::current_num_threads(),
            dtype: dtype.to_owned(),
            burn_version: BURN_VERSION.to_owned(),
            os: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        }
    }
}

/// Number of commits of the source, if it is a git checkout.
pub fn build_number() -> Option<u64> {
    git(&["rev-list", "--count", "HEAD"])?.parse().ok()
}

fn git(words: &[&str]) -> Option<String> {
    let git = Command::new("git").args(["-C", env!("CARGO_MANIFEST_DIR")]).args(words).output();
    let output = git.ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

/// Model name of the processor, as the system reports it.
fn cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recorded_version_of_burn_is_the_pinned_one() {
        let manifest = include_str!("../../Cargo.toml");
        assert!(manifest.contains(&format!("burn = {{ version = \"={BURN_VERSION}\"")));
    }
}
