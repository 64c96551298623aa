//! What Hugging Face's files call each weight.

use crate::config::DecoderConfig;
use crate::weights::{LayerTensor, Projection, TensorId};

/// Weights outside the layers.
const NAMES: [(TensorId, &str); 3] = [
    (TensorId::EmbedTokens, "model.embed_tokens.weight"),
    (TensorId::Norm, "model.norm.weight"),
    (TensorId::LmHead, "lm_head.weight"),
];

/// Weights of layer `N`, after `model.layers.N.`.
const LAYER_NAMES: [(LayerTensor, &str); 10] = [
    (LayerTensor::InputLayernorm, "input_layernorm.weight"),
    (LayerTensor::QProj, "self_attn.q_proj.weight"),
    (LayerTensor::KProj, "self_attn.k_proj.weight"),
    (LayerTensor::VProj, "self_attn.v_proj.weight"),
    (LayerTensor::OProj, "self_attn.o_proj.weight"),
    (LayerTensor::PostAttentionLayernorm, "post_attention_layernorm.weight"),
    (LayerTensor::Mlp(Projection::Gate), "mlp.gate_proj.weight"),
    (LayerTensor::Mlp(Projection::Up), "mlp.up_proj.weight"),
    (LayerTensor::Mlp(Projection::Down), "mlp.down_proj.weight"),
    (LayerTensor::Router, "block_sparse_moe.gate.weight"),
];

/// Weights of expert `K` of layer `N`, after `model.layers.N.block_sparse_moe.experts.K.`.
const EXPERT_NAMES: [(Projection, &str); 3] =
    [(Projection::Gate, "w1.weight"), (Projection::Up, "w3.weight"), (Projection::Down, "w2.weight")];

/// Layer names where transformers 5 keeps the experts of a layer in one tensor.
const FUSED_ROUTER: &str = "mlp.gate.weight";
const FUSED_GATE_UP: &str = "mlp.experts.gate_up_proj";
const FUSED_DOWN: &str = "mlp.experts.down_proj";

/// The name under which files hold this weight; for an expert, where each has its own.
pub fn hf_name(id: TensorId) -> String {
    match id {
        TensorId::Layer(layer, LayerTensor::Expert(expert, projection)) => {
            let name = second(&EXPERT_NAMES, projection);
            format!("model.layers.{layer}.block_sparse_moe.experts.{expert}.{name}")
        }
        TensorId::Layer(layer, tensor) => format!("model.layers.{layer}.{}", second(&LAYER_NAMES, tensor)),
        _ => second(&NAMES, id).to_owned(),
    }
}

/// The weight that [`hf_name`] gives this name, if any.
pub fn tensor_of_hf_name(name: &str) -> Option<TensorId> {
    let Some((layer, name)) = name.strip_prefix("model.layers.").and_then(indexed) else {
        return first(&NAMES, name);
    };
    let tensor = match name.strip_prefix("block_sparse_moe.experts.").and_then(indexed) {
        Some((expert, name)) => LayerTensor::Expert(expert, first(&EXPERT_NAMES, name)?),
        None => first(&LAYER_NAMES, name)?,
    };
    Some(TensorId::Layer(layer, tensor))
}

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
        let TensorId::Layer(layer, tensor) = id else { return whole(hf_name(id)) };
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
            _ => whole(hf_name(id)),
        }
    }
}

/// Whether a tensor of this name changes nothing: rotary frequencies that old files store, or a head beside tied
/// embeddings, which must be a copy of them.
pub(super) fn is_ignored(name: &str, config: &DecoderConfig) -> bool {
    name.ends_with(".rotary_emb.inv_freq") || (config.tie_word_embeddings && name == hf_name(TensorId::LmHead))
}

fn second<K: PartialEq>(table: &[(K, &'static str)], key: K) -> &'static str {
    table.iter().find(|(k, _)| *k == key).map(|(_, name)| *name).expect("the table has every key")
}

fn first<K: Copy>(table: &[(K, &'static str)], name: &str) -> Option<K> {
    table.iter().find(|(_, n)| *n == name).map(|(key, _)| *key)
}

/// Splits `12.rest` into 12 and `rest`; an index has one spelling.
fn indexed(name: &str) -> Option<(usize, &str)> {
    let (digits, rest) = name.split_once('.')?;
    let index: usize = digits.parse().ok()?;
    (index.to_string() == digits).then_some((index, rest))
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
    fn every_weight_is_found_again_by_its_name() {
        for config in [mixtral(), DecoderConfig::llama2_7b()] {
            for id in TensorId::all(&config) {
                assert_eq!(tensor_of_hf_name(&hf_name(id)), Some(id));
            }
        }
    }

    #[test]
    fn names_are_those_of_published_checkpoints() {
        let expert = |projection| hf_name(TensorId::Layer(31, LayerTensor::Expert(7, projection)));
        assert_eq!(expert(Projection::Gate), "model.layers.31.block_sparse_moe.experts.7.w1.weight");
        assert_eq!(expert(Projection::Down), "model.layers.31.block_sparse_moe.experts.7.w2.weight");
        assert_eq!(expert(Projection::Up), "model.layers.31.block_sparse_moe.experts.7.w3.weight");
        assert_eq!(hf_name(TensorId::Layer(0, LayerTensor::QProj)), "model.layers.0.self_attn.q_proj.weight");
    }

    #[test]
    fn an_index_has_one_spelling_and_other_names_are_nobodys() {
        for name in [
            "model.layers.01.mlp.up_proj.weight",
            "model.layers.+1.mlp.up_proj.weight",
            "model.layers.0.mlp.up_proj.bias",
            "model.layers.0.block_sparse_moe.experts.0.w4.weight",
            "model.layers.99999999999999999999.mlp.up_proj.weight",
            "norm.weight",
            "",
        ] {
            assert_eq!(tensor_of_hf_name(name), None, "{name}");
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
