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

    /// What made this measurement and does not make that of `now`: another build, processor or system, or other threads.
    pub fn differences_from(&self, now: &Self) -> Vec<String> {
        let is_same_build = self.build.is_some()
            && (&self.build, &self.version, &self.commit) == (&now.build, &now.version, &now.commit)
            && self.burn_version == now.burn_version;
        let differences = [
            (!is_same_build).then(|| "another build".to_owned()),
            (self.cpu != now.cpu).then(|| format!("another processor ({:?})", self.cpu)),
            (self.os != now.os).then(|| format!("another system ({:?})", self.os)),
            (self.num_threads != now.num_threads).then(|| format!("another number of threads ({})", self.num_threads)),
        ];
        differences.into_iter().flatten().collect()
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
    fn another_build_and_another_machine_are_named() {
        let now = RunInfo { build: Some("cafe".into()), ..RunInfo::now(Vec::new(), "flex", "float32") };
        let again = RunInfo { date: String::new(), command: vec!["compare".into()], ..now.clone() };
        assert_eq!(again.differences_from(&now), [""; 0]);
        let builds: [fn(&mut RunInfo); 4] = [
            |info| info.build = Some("beef".into()),
            |info| info.build = None,
            |info| info.version = "0.0.1".into(),
            |info| info.commit = Some("0123456".into()),
        ];
        for change in builds {
            let mut found = now.clone();
            change(&mut found);
            assert_eq!(found.differences_from(&now), ["another build"]);
        }
        let (cpu, os, num_threads) = ("Imaginary".to_owned(), "plan9".to_owned(), now.num_threads + 1);
        let elsewhere = RunInfo { cpu, os, num_threads, ..now.clone() };
        let threads = format!("another number of threads ({num_threads})");
        let expected = ["another processor (\"Imaginary\")", "another system (\"plan9\")", threads.as_str()];
        assert_eq!(elsewhere.differences_from(&now), expected);
    }

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
