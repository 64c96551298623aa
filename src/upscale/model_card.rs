//! The model card beside grown weights, with the front matter that the hub reads.

use super::growth::Growth;
use super::sources::Sources;
use crate::formats::{CheckpointError, License, Origin};
use crate::profile::flops::count_parameters;
use crate::weights::WeightSource;

/// The name of the program.
const COMMAND: &str = env!("CARGO_PKG_NAME");

/// The library that loads adapters.
const PEFT: &str = "peft";

/// What happens to the grown weights before they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish<'a> {
    /// At most they are rounded to another type of float.
    Stored,
    /// They are quantized, to a type of this name.
    Quantized(&'a str),
    /// They are trained. The words, such as `by next-token prediction`, follow the verb.
    Trained(&'a str),
}

/// The model card. `library` loads the weights, by its name on the hub.
///
/// # Errors
/// If the card of a parent cannot be read.
pub fn model_card(
    sources: &Sources,
    growth: &Growth<'_>,
    library: &str,
    finish: Finish<'_>,
) -> Result<String, CheckpointError> {
    let config = growth.source.config();
    let parameters = count_parameters(config);
    let front = front_matter(sources)?;
    let adapter = if library == PEFT { adapter_tags(sources) } else { String::new() };
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
    let names: Vec<String> = sources.readable_names().iter().map(|name| format!("`{name}`")).collect();
    let names = names.join(", ");
    let (verb, lineage) = (verb(growth, finish), lineage(growth, finish, &names));
    Ok(format!(
        "---\n{front}library_name: {library}\ntags:\n- {COMMAND}\n{kind}{adapter}---\n\n# {verb} by {COMMAND}\n\n{lineage}\n\n\
         | | |\n|---|---|\n| layers | {} |\n| total parameters | {} |\n| active parameters | {} |\n{configs}{usage}\n\
         `deepwide.json` names the source of every layer and the hash of every file; `{COMMAND} verify` compares them.\n",
        config.num_hidden_layers, parameters.total, parameters.active,
    ))
}

/// What was done, for the title.
fn verb(growth: &Growth<'_>, finish: Finish<'_>) -> &'static str {
    match finish {
        Finish::Trained(_) => "Trained",
        _ if growth.merges_adapter() => "Merged",
        _ if growth.is_grown() => "Grown",
        Finish::Quantized(_) => "Quantized",
        Finish::Stored => "Converted",
    }
}

/// What was done with the models of these `names`, and what the result computes.
fn lineage(growth: &Growth<'_>, finish: Finish<'_>, names: &str) -> String {
    let is_grown = growth.is_grown();
    let made = match finish {
        _ if is_grown => format!("{}, from {names}", capitalised(&growth.title())),
        Finish::Trained(_) => format!("Trained from {names}"),
        _ => format!("Converted from {names}"),
    };
    let function = match growth.merges_adapter() {
        true => Some("what its parent computes with the adapter"),
        false => growth.preserves.then_some("what its parent computes"),
    };
    match (finish, function) {
        (Finish::Trained(how), _) if is_grown => format!("{made}. Trained {how}"),
        (Finish::Trained(how), _) => format!("{made} {how}"),
        (Finish::Quantized(name), Some(function)) => {
            format!("{made}, quantized to {name}. It computes approximately {function}.")
        }
        (Finish::Quantized(name), None) => format!(
            "{made}, quantized to {name}. It computes approximately what the grown model computes, not what its parents \
             compute, and the grown model needs training."
        ),
        (Finish::Stored, Some(function)) => {
            let until = if is_grown && growth.preserves { ", until it is trained" } else { "" };
            format!("{made}. It computes {function}, up to rounding{until}.")
        }
        (Finish::Stored, None) => {
            format!("{made}. It does not compute what its parents compute, and needs training.")
        }
    }
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

/// The tags that PEFT gives an adapter, and the pipeline.
fn adapter_tags(sources: &Sources) -> String {
    let base = sources.hub_ids().into_iter().flatten().map(|id| format!("- base_model:adapter:{id}\n"));
    base.collect::<String>() + "- lora\n- transformers\npipeline_tag: text-generation\n"
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::output::disk::disk;
    use crate::upscale::{GrowthRequest, Request, UpscaleError};

    #[test]
    fn the_card_of_an_adapter_has_the_tags_of_peft() {
        let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments/pico_base");
        let card = |name: &str, library: &str| {
            let located = |_: &str| Ok::<_, UpscaleError>(base.clone());
            let sources = Sources::open(&disk(), Request::Base(name.to_owned()), located).unwrap();
            let growth = Growth::of_base(&sources.bases[0], name, &GrowthRequest::default()).unwrap();
            model_card(&sources, &growth, library, Finish::Trained("by reading.")).unwrap()
        };
        let on_hub = card("org/base", PEFT);
        assert!(on_hub.contains("\nTrained from `org/base` by reading.\n"), "{on_hub}");
        let front = "---\nbase_model:\n- org/base\nlibrary_name: peft\ntags:\n- deepwide\n- base_model:adapter:org/base\n\
                     - lora\n- transformers\npipeline_tag: text-generation\n---\n";
        assert!(on_hub.starts_with(front), "{on_hub}");
        let local = card(base.to_str().unwrap(), PEFT);
        assert!(local.contains("\n- deepwide\n- lora\n- transformers\npipeline_tag:"), "{local}");
        assert!(
            local.contains("`pico_base`") && !local.contains("base_model") && !local.contains("experiments"),
            "{local}"
        );
        assert!(!card("org/base", "transformers").contains("lora"));
    }
}
