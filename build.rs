//! Passes the commit of the source and the number of commits to rustc, if the source is a git checkout.

use std::env;
use std::path::Path;
use std::process::Command;

/// What is compiled. If it differs from the commit, the commit is recorded as dirty.
const SOURCES: [&str; 5] = ["Cargo.lock", "Cargo.toml", "build.rs", "experiments/pico_base", "src"];

/// Files of git that change when `HEAD` names another commit, besides that of its branch.
const GIT_FILES: [&str; 3] = ["HEAD", "logs/HEAD", "packed-refs"];

fn main() {
    SOURCES.into_iter().for_each(watch);
    // Sources in the repository of something else, as of a vendored crate that is not committed, have no commit of their own.
    if git(&["ls-files", "--error-unmatch", "build.rs"]).is_none() {
        return;
    }
    // In release builds only: a commit would otherwise recompile unchanged sources. A development build names the commit at
    // which its sources were compiled.
    if env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        let branch = git(&["symbolic-ref", "--quiet", "HEAD"]);
        for file in GIT_FILES.into_iter().chain(branch.as_deref()) {
            if let Some(path) = git(&["rev-parse", "--git-path", file]) {
                watch(&path);
            }
        }
    }
    if let Some(commit) = git(&["describe", "--always"]) {
        let status = git(&[&["status", "--porcelain", "--"], &SOURCES[..]].concat());
        let dirty = if status.is_none_or(|changes| !changes.is_empty()) { "-dirty" } else { "" };
        println!("cargo::rustc-env=DEEPWIDE_COMMIT={commit}{dirty}");
    }
    if let Some(number) = git(&["rev-list", "--count", "HEAD"]) {
        println!("cargo::rustc-env=DEEPWIDE_BUILD_NUMBER={number}");
    }
}

/// Runs this script again when the file changes. A file that is missing would run it on every build.
fn watch(path: &str) {
    if Path::new(path).exists() {
        println!("cargo::rerun-if-changed={path}");
    }
}

/// What git prints in the folder of this package, in which Cargo runs this script; `None` if it fails or is not installed.
fn git(words: &[&str]) -> Option<String> {
    let output = Command::new("git").args(words).output().ok()?;
    let text = output.status.success().then_some(output.stdout)?;
    Some(String::from_utf8(text).ok()?.trim_end().to_owned())
}
