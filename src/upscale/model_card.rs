//! The model card beside grown weights, with the front matter that the hub reads.

use std::path::Path;

use super::growth::{Growth, name_in_record};
use super::sources::Sources;
use crate::formats::{CheckpointError, License, Origin};
use crate::profile::flops::count_parameters;
use crate::weights::WeightSource;

/// The name of the program.
const COMMAND: &str = env!("CARGO_PKG_NAME");

/// The model card. `library` loads the weights, by its name on the hub. `training` is a sentence on what was trained, if
/// anything was.
///
/// # Errors
/// If the card of a parent cannot be read.
pub fn model_card(
    sources: &Sources,
    growth: &Growth<'_>,
    library: &str,
    training: Option<&str>,
) -> Result<String, CheckpointError> {
    let config = growth.source.config();
    let parameters = count_parameters(config);
    let names: Vec<String> = sources.names.iter().map(|name| name_in_record(Path::new(name))).collect();
    let front = front_matter(sources)?;
    let parent = sources.parent().config();
    let deeper = config.num_hidden_layers != parent.num_hidden_layers;
    let wider = config.moe.is_some() && parent.moe.is_none();
    let kinds = [(deeper, "- depth-up-scaling\n"), (wider, "- sparse-upcycling\n")];
    let kind: String = kinds.into_iter().filter_map(|(is, tag)| is.then_some(tag)).collect();
    let configs: String = growth
        .configs
        .iter()
        .map(|(name, bytes)| format!("\n`{name}`:\n\n```yaml\n{}\n```\n", String::from_utf8_lossy(bytes).trim_end()))
        .collect();
    let usage = configs_usage(growth.configs.len(), growth.record().len());
    let status = match training {
        Some(training) => training,
        None if growth.merges_adapter() => "It computes what its parent computes with the adapter, up to rounding.",
        None if growth.preserves => "It computes what its parent computes, up to rounding, until it is trained.",
        None => "It does not compute what its parents compute, and needs training.",
    };
    let verb = match training {
        Some(_) => "Trained",
        None if growth.merges_adapter() => "Merged",
        None => "Grown",
    };
    Ok(format!(
        "---\n{front}library_name: {library}\ntags:\n- {COMMAND}\n{kind}---\n\n# {verb} by {COMMAND}\n\n{}, from {}. {status}\n\n\
         | | |\n|---|---|\n| layers | {} |\n| total parameters | {} |\n| active parameters | {} |\n{configs}{usage}\n\
         `deepwide.json` names the source of every layer and the hash of every file; `{COMMAND} verify` compares them.\n",
        capitalised(&growth.title()),
        names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
        config.num_hidden_layers,
        parameters.total,
        parameters.active,
    ))
}

/// How the mergekit files of `count` of `total` growths repeat them.
fn configs_usage(count: usize, total: usize) -> String {
    let order = format!(
        "\nIn order, each file repeats one growth: `{COMMAND} grow FILE OUT`, with the seed that `{COMMAND}.json` records. `grown_1` \
         is the OUT of the first file, beside the second.\n"
    );
    let rest = format!("\nmergekit has no keys for the growths after the first {count} of {total}.\n");
    let parts = [(count > 1, order), (0 < count && count < total, rest)];
    parts.into_iter().filter_map(|(is, text)| is.then_some(text)).collect()
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// The models on the hub that the parents are or were made of, and the license if all parents have the same.
fn front_matter(sources: &Sources) -> Result<String, CheckpointError> {
    let origins = sources.bases.iter().map(|base| base.origin()).collect::<Result<Vec<_>, _>>()?;
    let mut models: Vec<&String> = Vec::new();
    let hub_ids = sources.hub_ids();
    for (id, origin) in hub_ids.iter().zip(&origins) {
        for model in id.as_ref().map_or(&origin.base_models[..], std::slice::from_ref) {
            if !models.contains(&model) {
                models.push(model);
            }
        }
    }
    let list: String = models.iter().map(|id| format!("- {id}\n")).collect();
    let base_model = if list.is_empty() { list } else { format!("base_model:\n{list}") };
    Ok(base_model + &common_license(&origins).map(license_lines).unwrap_or_default())
}

fn common_license(origins: &[Origin]) -> Option<&License> {
    let first = origins.first()?.license.as_ref()?;
    origins.iter().all(|origin| origin.license.as_ref() == Some(first)).then_some(first)
}

fn license_lines(license: &License) -> String {
    let License { id, name, link } = license;
    let line = |key: &str, value: &Option<String>| value.as_ref().map(|value| format!("{key}: {value}\n"));
    let further = [line("license_name", name), line("license_link", link)].into_iter().flatten();
    format!("license: {id}\n") + &further.collect::<String>()
}
