//! Which GGUF files of a repository are one model: a file, or the parts that one is split into.

use super::files::is_file_name;
use crate::formats::gguf::part_name::{self, suffix};

/// The files of the model that starts in `first`: itself, or every part if it is `…-00001-of-00003.gguf`.
pub(super) fn parts_of(first: &str) -> impl Iterator<Item = String> {
    let split = split(first).filter(|(_, number, _)| *number == 1);
    let (stem, count) = split.map_or((first, 0), |(stem, _, count)| (stem, count));
    let whole = (count == 0).then(|| stem.to_owned());
    whole.into_iter().chain((1..=count).map(move |part| format!("{stem}{}", suffix(part, count))))
}

/// The GGUF that is meant where none is named: the only one of a repository, right in its directory. Parts count as one.
pub(super) fn only<'a>(names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let mut firsts = names.filter(|name| name.ends_with(".gguf") && split(name).is_none_or(|(_, part, _)| part == 1));
    match (firsts.next(), firsts.next()) {
        (Some(only), None) => is_file_name(only).then_some(only),
        _ => None,
    }
}

/// Stem, number and count of a part that there can be: `stem-00002-of-00003.gguf`.
fn split(name: &str) -> Option<(&str, u64, u64)> {
    part_name::split(name.strip_suffix(".gguf")?).filter(|(_, number, count)| (1..=*count).contains(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_model_is_all_its_parts_and_another_is_itself() {
        let parts: Vec<_> = parts_of("q/m-00001-of-00003.gguf").collect();
        assert_eq!(parts, ["q/m-00001-of-00003.gguf", "q/m-00002-of-00003.gguf", "q/m-00003-of-00003.gguf"]);
        for whole in
            ["m.gguf", "m-00002-of-00003.gguf", "m-00001-of-00000.gguf", "m-1-of-3.gguf", "m-+0001-of-00003.gguf"]
        {
            assert_eq!(parts_of(whole).collect::<Vec<_>>(), [whole]);
        }
    }

    #[test]
    fn the_only_gguf_is_meant_and_of_two_neither() {
        let only = |names: &[&'static str]| only(names.iter().copied());
        assert_eq!(only(&["README.md", "m.gguf"]), Some("m.gguf"));
        assert_eq!(only(&["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]), Some("m-00001-of-00002.gguf"));
        for unclear in [&["a.gguf", "b.gguf"] as &[_], &["q/a.gguf"], &["a.gguf", "q/b.gguf"], &[]] {
            assert_eq!(only(unclear), None, "{unclear:?}");
        }
    }
}
