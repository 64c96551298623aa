//! Names in a repository: which are safe, which are commits, and which GGUF files form one model.

use crate::formats::gguf::part_name::{self, suffix};

/// The weights in one file.
pub(super) const SINGLE: &str = "model.safetensors";

/// The index of weights in several files.
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// Every checkpoint has it.
pub(super) const CONFIG: &str = "config.json";

/// Whether a path stays inside its repository, under the rules of POSIX and of Windows.
pub(super) fn is_safe(path: &str) -> bool {
    let plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains(['\\', ':']);
    !path.contains(|c: char| c.is_control()) && path.split('/').all(plain)
}

/// Whether this is a safe path without a directory.
pub(super) fn is_file_name(name: &str) -> bool {
    is_safe(name) && !name.contains('/')
}

/// Whether this is a complete Git commit: 40 lower-case hexadecimal digits.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The files of the model that starts in `first`: itself, or every part of `…-00001-of-00003.gguf`.
pub(super) fn gguf_parts(first: &str) -> impl Iterator<Item = String> {
    let split = split(first).filter(|(_, number, _)| *number == 1);
    let (stem, count) = split.map_or((first, 0), |(stem, _, count)| (stem, count));
    let single = (count == 0).then(|| stem.to_owned());
    single.into_iter().chain((1..=count).map(move |part| format!("{stem}{}", suffix(part, count))))
}

/// The only GGUF model among the names, if it is not in a subdirectory. Parts count as one.
pub(super) fn only_gguf<'a>(names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let mut firsts = names.filter(|name| name.ends_with(".gguf") && split(name).is_none_or(|(_, part, _)| part == 1));
    match (firsts.next(), firsts.next()) {
        (Some(only), None) => is_file_name(only).then_some(only),
        _ => None,
    }
}

/// Stem, number and count of `stem-00002-of-00003.gguf`.
fn split(name: &str) -> Option<(&str, u64, u64)> {
    part_name::split(name.strip_suffix(".gguf")?).filter(|(_, number, count)| (1..=*count).contains(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stays_inside_under_posix_and_windows_rules() {
        for safe in ["a", "a/b.c", "..a", "a..", "a b"] {
            assert!(is_safe(safe), "{safe}");
        }
        for unsafe_ in
            ["", "../a", "a/../b", "/a", "a//b", "a/", "./a", r"a\b", r"C:\a", "C:a", r"\\srv\x", "a\0", "a\n"]
        {
            assert!(!is_safe(unsafe_), "{unsafe_:?}");
        }
        assert!(is_file_name("model-1.safetensors") && !is_file_name("a/b"));
    }

    #[test]
    fn a_commit_is_forty_hexadecimal_digits() {
        assert!(is_commit(&"0a".repeat(20)));
        for other in ["main", &"0a".repeat(19), &"0A".repeat(20), &"0g".repeat(20)] {
            assert!(!is_commit(other), "{other}");
        }
    }

    #[test]
    fn a_split_gguf_is_all_its_parts() {
        let parts: Vec<_> = gguf_parts("q/m-00001-of-00003.gguf").collect();
        assert_eq!(parts, ["q/m-00001-of-00003.gguf", "q/m-00002-of-00003.gguf", "q/m-00003-of-00003.gguf"]);
        for single in
            ["m.gguf", "m-00002-of-00003.gguf", "m-00001-of-00000.gguf", "m-1-of-3.gguf", "m-+0001-of-00003.gguf"]
        {
            assert_eq!(gguf_parts(single).collect::<Vec<_>>(), [single]);
        }
    }

    #[test]
    fn of_two_ggufs_neither_is_chosen() {
        let only = |names: &[&'static str]| only_gguf(names.iter().copied());
        assert_eq!(only(&["README.md", "m.gguf"]), Some("m.gguf"));
        assert_eq!(only(&["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]), Some("m-00001-of-00002.gguf"));
        for unclear in [&["a.gguf", "b.gguf"] as &[_], &["q/a.gguf"], &["a.gguf", "q/b.gguf"], &[]] {
            assert_eq!(only(unclear), None, "{unclear:?}");
        }
    }
}
