//! Which files of a repository a model needs, and which a snapshot lacks. Never a pickle.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::error::HubError;
use super::names::{CONFIG, INDEX, SINGLE, gguf_parts, is_file_name, only_gguf};
use super::reference::HubReference;
use crate::formats::chat_templates;

/// Files that a checkpoint may have beside its weights.
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

/// Cap on the size of an index.
const MAX_INDEX_BYTES: u64 = 64 << 20;

/// The files to download before the weights, and the weights as far as their names are known: those of shards are in
/// [`INDEX`]. A model without safetensors is its only GGUF.
///
/// # Errors
/// [`HubError::NoFile`] without the config or the requested GGUF; [`HubError::NoSafetensors`].
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
    let only = || only_gguf(listed.iter().map(String::as_str)).filter(|_| !single && !listed.contains(INDEX));
    if let Some(gguf) = reference.gguf().or_else(only) {
        let parts = gguf_parts(gguf).map(|part| must_have(&part).map(|()| part));
        return Ok((Vec::new(), parts.collect::<Result<_, _>>()?));
    }
    if !single && !listed.contains(INDEX) {
        let ggufs = listed.iter().filter(|name| name.ends_with(".gguf")).cloned().collect();
        let pickles = listed.iter().any(|name| is_pickle(name));
        return Err(HubError::NoSafetensors { repo, commit: commit.to_owned(), ggufs, pickles });
    }
    must_have(CONFIG)?;
    let optional = OPTIONAL.into_iter().filter(|name| listed.contains(*name));
    let templates = listed.iter().map(String::as_str).filter(|name| chat_templates::name_of(name).is_some());
    let mut small: Vec<String> = [CONFIG].into_iter().chain(optional).chain(templates).map(str::to_owned).collect();
    if single {
        return Ok((small, vec![SINGLE.to_owned()]));
    }
    small.push(INDEX.to_owned());
    Ok((small, Vec::new()))
}

/// The shards in an index, each once; `None` if the text is not an index.
fn shards(index: &str) -> Option<Vec<String>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let index: Index = serde_json::from_str(index).ok()?;
    let shards: BTreeSet<String> = index.weight_map.into_values().collect();
    (!shards.is_empty()).then(|| shards.into_iter().collect())
}

/// The first file that loading a snapshot needs and that is missing; a symbolic link to nothing counts as missing.
pub(super) fn missing(snapshot: &Path, gguf: Option<&str>) -> Option<String> {
    let lacks = |name: &str| (!snapshot.join(name).is_file()).then(|| name.to_owned());
    if let Some(gguf) = gguf {
        return gguf_parts(gguf).find_map(|part| lacks(&part));
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

/// The shards in the index at `path`; `None` without such a file, or if it is not an index.
pub(super) fn read_index(path: &Path) -> Option<Vec<String>> {
    let readable = path.metadata().is_ok_and(|file| file.is_file() && file.len() <= MAX_INDEX_BYTES);
    shards(&readable.then(|| fs::read_to_string(path).ok())??)
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
        let templates = ["chat_template.jinja", "additional_chat_templates/tool_use.jinja"];
        let others = ["additional_chat_templates/x.py", "additional_chat_templates/old/x.jinja"];
        let names = [&["config.json", "model.safetensors"], &templates[..], &others].concat();
        assert_eq!(wanted_of("a/b", &names).unwrap().0[1..], templates);
        let (small, weights) = wanted_of("a/b", &["config.json", INDEX, "model-1.safetensors"]).unwrap();
        assert_eq!((small.last().unwrap().as_str(), weights.len()), (INDEX, 0));
    }

    #[test]
    fn a_missing_file_is_named_with_the_alternatives() {
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
    fn a_snapshot_is_complete_with_config_and_every_shard() {
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
