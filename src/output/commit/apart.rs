//! Keeps an output apart from its inputs.

use std::collections::HashSet;
use std::path::Path;

use crate::output::OutputError;
use crate::output::disk::{Disk, parent_of};

/// Refuses a target that is, contains or lies in an input, by whatever path, symbolic links resolved.
///
/// # Errors
/// [`OutputError::MeetsInput`].
pub fn check_apart(disk: &dyn Disk, target: &Path, input: &Path) -> Result<(), OutputError> {
    let identity = |path: &Path| disk.stat(path).ok().map(|stat| stat.identity);
    let with_ancestors = |path: &Path| -> HashSet<(u64, u64)> {
        let resolved = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        resolved.ancestors().filter_map(identity).collect()
    };
    let mut above_target = with_ancestors(parent_of(target));
    above_target.extend(identity(target));
    let lies_in_input = identity(input).is_some_and(|input| above_target.contains(&input));
    let contains_input = identity(target).is_some_and(|target| with_ancestors(input).contains(&target));
    if lies_in_input || contains_input {
        return Err(OutputError::MeetsInput { path: target.to_owned(), input: input.to_owned() });
    }
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::output::disk::disk;

    #[test]
    fn an_output_is_apart_from_its_inputs_by_whatever_path() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        for directory in ["base", "out", "linked"] {
            fs::create_dir(path(directory)).unwrap();
        }
        fs::write(path("out/weights"), "").unwrap();
        symlink(path("out/weights"), path("linked/weights")).unwrap();
        symlink(path("base"), path("link")).unwrap();
        let apart = |target: &str, input: &str| check_apart(&*disk(), &path(target), &path(input)).is_ok();
        assert!(apart("out", "base") && apart("new", "base") && apart("out", "linked"));
        for (target, input) in
            [("base", "base"), ("base/new", "base"), ("link/new", "base"), ("base", "link"), (".", "base")]
        {
            assert!(!apart(target, input), "{target} {input}");
        }
        assert!(!apart("out", "linked/weights"), "a link into the output");
    }
}
