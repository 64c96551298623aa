//! Which files of a repository a model needs: config, card, tokenizer, safetensors or one GGUF. Never a pickle.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Deserialize;

use super::{HubError, HubReference, ggufs};

/// The weights in one file.
pub(super) const SINGLE: &str = "model.safetensors";

/// The names of the files that the weights are in.
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// What every checkpoint has.
const CONFIG: &str = "config.json";

/// What a checkpoint may have beside its weights, in the order of use.
const OPTIONAL: [&str; 11] = [
    "README.md",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
];

/// The largest index that is read.
const MAX_INDEX_BYTES: u64 = 64 << 20;

/// The files to download before the weights, [`INDEX`] among them if the weights are in several, and the weights whose
/// names are known already. A model without safetensors is its only GGUF.
///
/// # Errors
/// [`HubError::NoFile`] without config or without the GGUF that is asked for; [`HubError::NoSafetensors`].
pub(super) fn wanted(
    reference: &HubReference,
    commit: &str,
    listed: &BTreeSet<String>,
) -> Result<(Vec<String>, Vec<String>), HubError> {
    let repo = reference.repo().to_owned();
    let must_have = |file: &str| match listed.contains(file) {
        true => Ok(()),
        false => Err(HubError::NoFile { repo: repo.clone(), file: file.to_owned(), commit: commit.to_owned() }),
    };
    let single = listed.contains(SINGLE);
    let only = || ggufs::only(listed.iter().map(String::as_str)).filter(|_| !single && !listed.contains(INDEX));
    if let Some(gguf) = reference.gguf().or_else(only) {
        let parts = ggufs::parts_of(gguf).map(|part| must_have(&part).map(|()| part));
        return Ok((Vec::new(), parts.collect::<Result<_, _>>()?));
    }
    if !single && !listed.contains(INDEX) {
        let ggufs = listed.iter().filter(|name| name.ends_with(".gguf")).cloned().collect();
        let pickles = listed.iter().any(|name| is_pickle(name));
        return Err(HubError::NoSafetensors { repo, commit: commit.to_owned(), ggufs, pickles });
    }
    must_have(CONFIG)?;
    let optional = OPTIONAL.into_iter().filter(|name| listed.contains(*name));
    let mut small: Vec<String> = [CONFIG].into_iter().chain(optional).map(str::to_owned).collect();
    if single {
        return Ok((small, vec![SINGLE.to_owned()]));
    }
    small.push(INDEX.to_owned());
    Ok((small, Vec::new()))
}

/// The shards that an index names, each once; `None` if the text is not an index.
fn shards(index: &str) -> Option<Vec<String>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let index: Index = serde_json::from_str(index).ok()?;
    let shards: BTreeSet<String> = index.weight_map.into_values().collect();
    (!shards.is_empty()).then(|| shards.into_iter().collect())
}

/// The first file that a snapshot lacks to be loaded, if any: symbolic links must lead to a file.
pub(super) fn missing(snapshot: &Path, gguf: Option<&str>) -> Option<String> {
    let lacks = |name: &str| (!snapshot.join(name).is_file()).then(|| name.to_owned());
    if let Some(gguf) = gguf {
        return ggufs::parts_of(gguf).find_map(|part| lacks(&part));
    }
    if lacks(SINGLE).is_none() {
        return lacks(CONFIG);
    }
    match read_index(&snapshot.join(INDEX)) {
        Some(shards) => {
            let absent = |shard: &String| !is_file_name(shard) || lacks(shard).is_some();
            lacks(CONFIG).or_else(|| shards.into_iter().find(absent))
        }
        None => Some(SINGLE.to_owned()),
    }
}

/// The shards that the index at `path` names; `None` without such a file, or if it is not an index.
pub(super) fn read_index(path: &Path) -> Option<Vec<String>> {
    let readable = path.metadata().is_ok_and(|file| file.is_file() && file.len() <= MAX_INDEX_BYTES);
    shards(&readable.then(|| std::fs::read_to_string(path).ok())??)
}

/// Whether a path of a repository stays inside it, under the rules of POSIX and of Windows.
pub(super) fn is_safe(path: &str) -> bool {
    let plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains(['\\', ':']);
    !path.contains(|c: char| c.is_control()) && path.split('/').all(plain)
}

/// Whether this names a file right in the directory.
pub(super) fn is_file_name(name: &str) -> bool {
    is_safe(name) && !name.contains('/')
}

fn is_pickle(name: &str) -> bool {
    [".bin", ".pt", ".pth", ".ckpt", ".pkl"].iter().any(|ending| name.ends_with(ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn wanted_of(reference: &str, names: &[&str]) -> Result<(Vec<String>, Vec<String>), HubError> {
        wanted(&reference.parse().unwrap(), &"0a".repeat(20), &files(names))
    }

    #[test]
    fn a_checkpoint_is_its_config_card_tokenizer_and_safetensors() {
        let names = ["README.md", "config.json", "model.safetensors", "pytorch_model.bin", "tokenizer.json", "x.gguf"];
        let (small, weights) = wanted_of("a/b", &names).unwrap();
        assert_eq!(small, ["config.json", "README.md", "tokenizer.json"]);
        assert_eq!(weights, ["model.safetensors"]);
        assert_eq!(wanted_of("a/b/x.gguf", &names).unwrap(), (vec![], vec!["x.gguf".to_owned()]));
        let (small, weights) = wanted_of("a/b", &["config.json", INDEX, "model-1.safetensors"]).unwrap();
        assert_eq!((small.last().unwrap().as_str(), weights.len()), (INDEX, 0));
    }

    #[test]
    fn what_a_repository_lacks_is_named_with_what_it_has_instead() {
        let message = |reference, names: &[&str]| wanted_of(reference, names).unwrap_err().to_string();
        assert!(message("a/b", &["config.json", "pytorch_model.bin"]).contains("only PyTorch pickles"));
        assert!(message("a/b", &["m-Q4_0.gguf", "m-Q8_0.gguf"]).contains("org/name/m-Q4_0.gguf"));
        assert!(message("a/b", &["config.json"]).contains("expected model.safetensors"));
        assert!(message("a/b", &["model.safetensors"]).contains("no file \"config.json\""));
        assert!(message("a/b/y.gguf", &["x.gguf"]).contains("no file \"y.gguf\""));
        let lacking = ["x-00001-of-00002.gguf"];
        assert!(message("a/b", &lacking).contains("no file \"x-00002-of-00002.gguf\""));
    }

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
    fn a_snapshot_is_whole_with_config_and_every_shard() {
        let snapshot = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(snapshot.path().join(name), text).unwrap();
        assert_eq!(missing(snapshot.path(), None).unwrap(), SINGLE);
        write(INDEX, r#"{"weight_map": {"a": "1.safetensors", "b": "2.safetensors", "c": "1.safetensors"}}"#);
        assert_eq!(missing(snapshot.path(), None).unwrap(), "config.json");
        write("config.json", "{}");
        write("1.safetensors", "");
        assert_eq!(missing(snapshot.path(), None).unwrap(), "2.safetensors");
        write("2.safetensors", "");
        assert_eq!(missing(snapshot.path(), None), None);
        assert_eq!(missing(snapshot.path(), Some("x.gguf")).unwrap(), "x.gguf");
        write(INDEX, "<html>");
        assert_eq!(missing(snapshot.path(), None).unwrap(), SINGLE);
    }
}
