//! What Hugging Face's files call each weight.

use crate::config::DecoderConfig;
use crate::weights::{LayerTensor, Projection, TensorId, indexed};

/// Layer names where transformers 5 keeps the experts of a layer in one tensor.
const FUSED_ROUTER: &str = "mlp.gate.weight";
const FUSED_GATE_UP: &str = "mlp.experts.gate_up_proj";
const FUSED_DOWN: &str = "mlp.experts.down_proj";

/// The layer that a tensor of this name belongs to, of whatever kind it is.
pub(super) fn layer_of(name: &str) -> Option<usize> {
    name.strip_prefix("model.layers.").and_then(indexed).map(|(layer, _)| layer)
}

/// How a checkpoint stores experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Three matrices per expert.
    PerExpert,
    /// Per layer, `gate_up_proj` `[E, 2·i, h]` (an expert's gate rows, then its up rows) and `down_proj` `[E, h, i]`.
    Fused,
}

impl Layout {
    /// The layout that a checkpoint with these names has.
    pub(super) fn of<'a>(mut names: impl Iterator<Item = &'a str>) -> Self {
        let fused = names.any(|name| name.ends_with(FUSED_GATE_UP) || name.ends_with(FUSED_DOWN));
        if fused { Self::Fused } else { Self::PerExpert }
    }
}

/// Where a weight lies: in the tensor `name` of shape `shape`, from number `first` on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub name: String,
    pub shape: Vec<usize>,
    pub first: u64,
}

impl Place {
    /// The place of a weight that a decoder of this config has.
    pub fn of(id: TensorId, config: &DecoderConfig, layout: Layout) -> Self {
        let whole = |name| Self { name, shape: id.shape(config), first: 0 };
        let TensorId::Layer(layer, tensor) = id else { return whole(id.to_string()) };
        let experts = config.moe.map_or(0, |moe| moe.num_local_experts);
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let fused = |name, rows: usize, columns: usize, first_row: usize| Self {
            name: format!("model.layers.{layer}.{name}"),
            shape: vec![experts, rows, columns],
            first: first_row as u64 * columns as u64,
        };
        match (layout, tensor) {
            (Layout::Fused, LayerTensor::Router) => whole(format!("model.layers.{layer}.{FUSED_ROUTER}")),
            (Layout::Fused, LayerTensor::Expert(e, projection)) => match projection {
                Projection::Gate => fused(FUSED_GATE_UP, 2 * inner, hidden, 2 * e * inner),
                Projection::Up => fused(FUSED_GATE_UP, 2 * inner, hidden, (2 * e + 1) * inner),
                Projection::Down => fused(FUSED_DOWN, hidden, inner, e * hidden),
            },
            _ => whole(id.to_string()),
        }
    }
}

/// Whether a tensor of this name changes nothing: rotary frequencies that old files store, or a head beside tied
/// embeddings, which must be a copy of them.
pub(super) fn is_ignored(name: &str, config: &DecoderConfig) -> bool {
    name.ends_with(".rotary_emb.inv_freq") || (config.tie_word_embeddings && name == TensorId::LmHead.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MoeConfig;

    fn mixtral() -> DecoderConfig {
        let moe = MoeConfig { num_local_experts: 12, num_experts_per_tok: 2, router_aux_loss_coef: 0.0 };
        let untied = DecoderConfig::pico().with(|fields| fields.tie_word_embeddings = false).unwrap();
        untied.with_experts(moe).unwrap()
    }

    #[test]
    fn the_fused_layout_is_covered_by_its_weights_once() {
        let config = mixtral();
        let mut spans = std::collections::BTreeMap::<String, Vec<(u64, u64)>>::new();
        let mut sizes = std::collections::BTreeMap::new();
        for id in TensorId::all(&config) {
            let place = Place::of(id, &config, Layout::Fused);
            let count = id.shape(&config).iter().product::<usize>() as u64;
            sizes.insert(place.name.clone(), place.shape.iter().product::<usize>() as u64);
            spans.entry(place.name).or_default().push((place.first, place.first + count));
        }
        for (name, mut spans) in spans {
            spans.sort_unstable();
            assert!(spans.windows(2).all(|pair| pair[0].1 == pair[1].0), "{name}: {spans:?}");
            assert_eq!((spans[0].0, spans[spans.len() - 1].1), (0, sizes[&name]), "{name}");
        }
    }
}
