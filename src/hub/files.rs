//! Which files of a repository a model needs, and which a snapshot lacks. Never a pickle.

use std::collections::BTreeSet;
use std::path::Path;

use super::error::HubError;
use super::reference::{HubReference, is_safe};
use crate::error::cut;
use crate::formats::chat_templates;
use crate::formats::gguf::part_name::{self, suffix};
use crate::formats::hf::{INDEX, INHERITED_FILES, SINGLE, ShardIndex};
use crate::output::disk::disk;
use crate::output::is_plain_file_name;
use crate::output::read::read_bounded;

/// Every checkpoint has it.
const CONFIG: &str = "config.json";
/// Cap on the size of an index.
const MAX_INDEX_BYTES: u64 = 64 << 20;

/// The GGUF of a reference, and the files to download before the weights. A model without safetensors is its only GGUF.
///
/// # Errors
/// [`HubError::Absent`] without the config; [`HubError::NoSafetensors`].
pub(super) fn wanted(
    reference: &HubReference,
    commit: &str,
    listed: &BTreeSet<String>,
) -> Result<(Option<String>, Vec<String>), HubError> {
    let has = |name: &&str| listed.contains(*name);
    let safetensors = [SINGLE, INDEX].into_iter().find(has);
    let only = || only_gguf(listed).filter(|_| safetensors.is_none());
    match (reference.gguf().or_else(only), safetensors) {
        (Some(gguf), _) => Ok((Some(gguf.to_owned()), Vec::new())),
        (None, None) => {
            let (repo, instead) = (reference.repo(), instead(listed));
            Err(HubError::NoSafetensors(format!("{repo} has no safetensors at commit {commit}, {instead}")))
        }
        (None, Some(_)) if !has(&CONFIG) => Err(HubError::no_file(reference.repo(), CONFIG, commit)),
        (None, Some(weights)) => {
            let index = Some(weights).filter(|name| *name == INDEX);
            let optional = ["README.md"].into_iter().chain(INHERITED_FILES).filter(has);
            let templates = listed.iter().map(String::as_str).filter(|name| chat_templates::name_of(name).is_some());
            let small = [CONFIG].into_iter().chain(optional).chain(templates).chain(index);
            Ok((None, small.map(str::to_owned).collect()))
        }
    }
}

/// The files of weights: every part of a GGUF, or safetensors as far as a repository `has` them in one file, or else the
/// shards in the index of the snapshot; `None` without an index of at least one.
pub(super) fn weights(snapshot: &Path, gguf: Option<&str>, single: bool) -> Option<Vec<String>> {
    match gguf {
        Some(gguf) => Some(gguf_parts(gguf).collect()),
        None if single => Some(vec![SINGLE.to_owned()]),
        None => {
            let text = read_bounded(&*disk(), &snapshot.join(INDEX), MAX_INDEX_BYTES).ok()?;
            let index = ShardIndex::parse(&text).ok()?;
            Some(index.shards().to_vec()).filter(|shards| !shards.is_empty())
        }
    }
}

/// The first file that loading a snapshot needs and that is missing; a symbolic link to nothing counts as missing.
pub(super) fn missing(snapshot: &Path, gguf: Option<&str>) -> Option<String> {
    let lacks = |name: &String| !is_safe(name) || !snapshot.join(name).is_file();
    let Some(weights) = weights(snapshot, gguf, snapshot.join(SINGLE).is_file()) else {
        return Some(SINGLE.to_owned());
    };
    gguf.is_none().then(|| CONFIG.to_owned()).into_iter().chain(weights).find(lacks)
}

/// The weights that a repository without safetensors has.
fn instead(listed: &BTreeSet<String>) -> String {
    let is_pickle =
        |name: &String| [".bin", ".pt", ".pth", ".ckpt", ".pkl"].iter().any(|ending| name.ends_with(ending));
    let ggufs: Vec<&str> = listed.iter().map(String::as_str).filter(|name| name.ends_with(".gguf")).collect();
    match ggufs.is_empty() {
        false => format!("but GGUF: name one of them after the model, as in org/name/{}", cut(&ggufs.join(", "))),
        true if listed.iter().any(is_pickle) => "only PyTorch pickles, which are never read".to_owned(),
        true => "expected model.safetensors or model.safetensors.index.json".to_owned(),
    }
}

/// The files of the model that starts in `first`: itself, or every part of `…-00001-of-00003.gguf`.
fn gguf_parts(first: &str) -> impl Iterator<Item = String> {
    let split = split(first).filter(|(_, number, _)| *number == 1);
    let (stem, count) = split.map_or((first, 0), |(stem, _, count)| (stem, count));
    let single = (count == 0).then(|| stem.to_owned());
    single.into_iter().chain((1..=count).map(move |part| format!("{stem}{}", suffix(part, count))))
}

/// The only GGUF model among the names, if it is not in a subdirectory. Parts count as one.
pub(super) fn only_gguf(names: &BTreeSet<String>) -> Option<&str> {
    let is_first = |name: &&String| split(name).is_none_or(|(_, part, _)| part == 1);
    let mut firsts = names.iter().filter(|name| name.ends_with(".gguf")).filter(is_first);
    firsts.next().filter(|only| firsts.next().is_none() && is_plain_file_name(only)).map(String::as_str)
}

/// Stem, number and count of `stem-00002-of-00003.gguf`.
fn split(name: &str) -> Option<(&str, u64, u64)> {
    part_name::split(name.strip_suffix(".gguf")?).filter(|(_, number, count)| (1..=*count).contains(number))
}
