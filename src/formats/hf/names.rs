//! The tensors of Hugging Face files: their names, and which weights each holds.

use crate::config::DecoderConfig;
use crate::weights::{LayerTensor, Projection, TensorId, indexed};

/// Names in a layer where transformers 5 stores all experts in one tensor.
const FUSED_ROUTER: &str = "mlp.gate.weight";
const FUSED_GATE_UP: &str = "mlp.experts.gate_up_proj";
const FUSED_DOWN: &str = "mlp.experts.down_proj";

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

/// Where a weight is stored: in the tensor `name` of shape `shape`, from number `first` on.
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

/// How the names in a checkpoint differ from the published ones: by a prefix for `model.`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Naming {
    /// Stands for `model.`.
    prefix: String,
}

impl Naming {
    /// Prefixes of `torch.compile` and of PyTorch's parallel wrappers.
    const WRAPPERS: [&str; 3] = ["_orig_mod.", "module.", "_fsdp_wrapped_module."];

    /// The naming of a checkpoint with these tensors.
    pub fn of<'a>(mut names: impl Iterator<Item = &'a str>) -> Self {
        let prefix = names.find_map(|name| {
            let prefix = name.strip_suffix("embed_tokens.weight")?;
            let mut rest = prefix;
            while let Some(inner) = Self::WRAPPERS.iter().find_map(|wrapper| rest.strip_prefix(wrapper)) {
                rest = inner;
            }
            matches!(rest, "model." | "").then(|| prefix.to_owned())
        });
        Self { prefix: prefix.unwrap_or_else(|| "model.".to_owned()) }
    }

    /// The unusual prefix of the names, if they have one.
    pub fn unusual(&self) -> Option<&str> {
        (self.prefix != "model.").then_some(&self.prefix)
    }

    /// The checkpoint's name for a tensor, of which this is the published one.
    pub fn in_file(&self, name: &str) -> String {
        match name.strip_prefix("model.") {
            Some(rest) => format!("{}{rest}", self.prefix),
            None => format!("{}{name}", self.prefix.strip_suffix("model.").unwrap_or(&self.prefix)),
        }
    }

    /// The layer that a tensor belongs to, by its name.
    pub fn layer_of(&self, name: &str) -> Option<usize> {
        name.strip_prefix(&self.prefix)?.strip_prefix("layers.").and_then(indexed).map(|(layer, _)| layer)
    }
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
    fn a_prefix_is_recognized_and_given_to_every_name() {
        for (prefix, head) in [
            ("model.", "lm_head.weight"),
            ("", "lm_head.weight"),
            ("_orig_mod.model.", "_orig_mod.lm_head.weight"),
            ("_orig_mod.", "_orig_mod.lm_head.weight"),
            ("module._orig_mod.model.", "module._orig_mod.lm_head.weight"),
        ] {
            let embeddings = format!("{prefix}embed_tokens.weight");
            let naming = Naming::of(["other", &embeddings].into_iter());
            assert_eq!(naming.unusual(), (prefix != "model.").then_some(prefix));
            assert_eq!(naming.in_file("model.embed_tokens.weight"), embeddings);
            assert_eq!(naming.in_file("lm_head.weight"), head);
            assert_eq!(naming.layer_of(&format!("{prefix}layers.7.mlp.gate.weight")), Some(7));
            assert_eq!(naming.layer_of("other.layers.7.mlp.gate.weight"), None);
        }
        for unknown in ["language_model.model.embed_tokens.weight", "model.norm.weight", "xmodel.embed_tokens.weight"] {
            assert_eq!(Naming::of([unknown].into_iter()).unusual(), None, "{unknown}");
        }
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
