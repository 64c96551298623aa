//! What lies beside grown weights for people: the receipt and the model card.

use serde_json::{Value, json};

use super::super::run_info::{COMMAND, words};
use super::growth::{Growth, Request};
use crate::profile::flops::count_parameters;
use crate::weights::commit::FileRecord;
use crate::weights::{Checkpoint, LayerTensor, Projection, TensorId, WeightError, WeightSource};

/// The weights that a growth came from, hashed. `watch` is told of every run of bytes read.
pub(super) fn parents(request: &Request, watch: &mut dyn FnMut(u64)) -> Result<Vec<Value>, WeightError> {
    let parent = |(name, base): (&String, &Checkpoint)| {
        let files: Vec<FileRecord> = base.weight_records(watch)?;
        Ok(json!({"name": words(name), "weights": files}))
    };
    request.names.iter().zip(&request.bases).map(parent).collect()
}

/// The receipt but for its files: the same bytes for the same command and the same parents, so without a date.
pub(super) fn receipt(parents: Vec<Value>, growth: &Growth<'_>, seed: u64) -> Value {
    let config = growth.source.config();
    let layers: Vec<Value> = (0..config.num_hidden_layers)
        .map(|layer| {
            let lineage = |tensor| growth.source.lineage(TensorId::Layer(layer, tensor));
            let mlp = match config.moe {
                None => json!({"mlp": lineage(LayerTensor::Mlp(Projection::Down))}),
                Some(moe) => json!({
                    "router": lineage(LayerTensor::Router),
                    "experts": (0..moe.num_local_experts)
                        .map(|expert| lineage(LayerTensor::Expert(expert, Projection::Down)))
                        .collect::<Vec<_>>(),
                }),
            };
            json!({"layer": layer, "self_attn": lineage(LayerTensor::OProj), "feed_forward": mlp})
        })
        .collect();
    let parameters = count_parameters(config);
    json!({
        "format": 1,
        COMMAND: env!("CARGO_PKG_VERSION"),
        "command": super::super::run_info::command(),
        "seed": seed,
        "growth": growth.operators,
        "parents": parents,
        "total_parameters": parameters.total,
        "active_parameters": parameters.active,
        "layers": layers,
    })
}

/// The model card, with the front matter that the hub reads.
pub(super) fn card(request: &Request, growth: &Growth<'_>) -> String {
    let config = growth.source.config();
    let parameters = count_parameters(config);
    let names: Vec<String> = request.names.iter().map(|name| words(name)).collect();
    let bases: String = request.hub_ids.iter().map(|id| format!("- {id}\n")).collect();
    let base_model = if bases.is_empty() { String::new() } else { format!("base_model:\n{bases}") };
    let parent = request.parent().config();
    let deeper = config.num_hidden_layers != parent.num_hidden_layers;
    let wider = config.moe.is_some() && parent.moe.is_none();
    let kinds = [(deeper, "- depth-up-scaling\n"), (wider, "- sparse-upcycling\n")];
    let kind: String = kinds.into_iter().filter_map(|(is, tag)| is.then_some(tag)).collect();
    let kept: String = growth
        .kept
        .iter()
        .map(|(name, bytes)| format!("\n`{name}`:\n\n```yaml\n{}\n```\n", String::from_utf8_lossy(bytes).trim_end()))
        .collect();
    let preserved = if growth.preserves {
        "It computes what its parent computes, up to rounding, until it is trained."
    } else {
        "It does not compute what its parents compute, and needs training."
    };
    format!(
        "---\n{base_model}library_name: transformers\ntags:\n- {COMMAND}\n{kind}---\n\n# Grown by {COMMAND}\n\n{}, from {}. {preserved}\n\n\
         | | |\n|---|---|\n| layers | {} |\n| total parameters | {} |\n| active parameters | {} |\n{kept}\n\
         `deepwide.json` names the source of every layer and the hash of every file; `{COMMAND} verify` compares them.\n",
        capitalised(&growth.title),
        names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
        config.num_hidden_layers,
        parameters.total,
        parameters.active,
    )
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}
