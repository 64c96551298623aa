//! The build and the machine of a measurement.

use std::time::SystemTime;

use super::records::RunInfo;

/// The version that Cargo.toml pins.
const BURN_VERSION: &str = "0.22.1";

/// The commit that this program was built from, by `build.rs`; `None` if the source was no git checkout.
const COMMIT: Option<&str> = option_env!("DEEPWIDE_COMMIT");

impl RunInfo {
    /// Describes a run that starts now, of this build on this machine, with the words of its command line.
    pub fn now(command: Vec<String>, device: &str, dtype: &str) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: COMMIT.map(str::to_owned),
            build: None,
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

    /// Whether the same program made both measurements, on the same machine and device. Dates and command lines may differ.
    pub fn is_alike(&self, other: &Self) -> bool {
        let undated = |info: &Self| Self { date: String::new(), command: Vec::new(), ..info.clone() };
        self.build.is_some() && undated(self) == undated(other)
    }
}

/// Number of commits up to that of the build, by `build.rs`; `None` if the source was no git checkout.
pub fn build_number() -> Option<u64> {
    option_env!("DEEPWIDE_BUILD_NUMBER")?.parse().ok()
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

    #[test]
    fn the_recorded_commit_is_that_of_the_build() {
        let git = |words: &[&str]| {
            let output = std::process::Command::new("git").current_dir(env!("CARGO_MANIFEST_DIR")).args(words).output();
            output.ok().filter(|output| output.status.success()).map(|output| String::from_utf8(output.stdout).unwrap())
        };
        let recorded = RunInfo::now(Vec::new(), "flex", "float32").commit;
        // Where the test runs, git or the checkout of the build may be absent.
        if git(&["rev-parse", "--git-dir"]).is_none() {
            return;
        }
        // In the checkout of another project, it is a package.
        if git(&["ls-files", "--error-unmatch", "build.rs"]).is_none() {
            return assert_eq!((recorded, build_number()), (None, None));
        }
        // The sources may have been committed since.
        let recorded = recorded.unwrap();
        let commit = recorded.trim_end_matches("-dirty");
        let number = git(&["rev-list", "--count", commit]).expect("the commit is in the checkout");
        assert_eq!(build_number(), number.trim().parse().ok());
    }
}
