//! Which parameters growth has added, by the lineage of their weights.

use std::collections::BTreeSet;

use crate::weights::{LayerTensor, Step, TensorId, WeightSource};

/// Patterns of the names of parameters that a growth added and of those that it copied once.
///
/// A layer is new if it repeats a layer that occurs before it, or if it was made of zeros, as the blocks of LLaMA-Pro (Wu et al.,
/// 2024, arXiv:2401.02415, §3.1) are; a router is new if growth created it. Everything else is copied. The experts of a layer share
/// its provenance: they are one parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provenance {
    /// Of the parameters that are new; `None` if none is.
    pub new: Option<String>,
    /// Of the others.
    pub copied: String,
}

impl Provenance {
    /// Reads it from the lineage of a source.
    pub fn of<S: WeightSource>(source: &S) -> Self {
        let config = source.config();
        let (mut roots, mut new, mut copied) = (BTreeSet::new(), Vec::new(), Vec::new());
        for layer in 0..config.num_hidden_layers {
            let recipe = source.lineage(TensorId::Layer(layer, LayerTensor::OProj));
            let is_zero = recipe.steps.iter().any(|step| matches!(step, Step::Zeros { .. }));
            let is_first = recipe.source.is_some_and(|root| roots.insert((recipe.model, root)));
            if is_zero || !is_first { new.push(layer.to_string()) } else { copied.push(layer.to_string()) }
        }
        let router = TensorId::Layer(0, LayerTensor::Router);
        let is_router_new = config.moe.is_some() && source.lineage(router).source.is_none();
        let new_layers = (!new.is_empty()).then(|| format!(r"^model\.layers\.({})\.", new.join("|")));
        let new_routers = is_router_new.then(|| r"\.block_sparse_moe\.gate\.".to_owned());
        let patterns: Vec<String> = new_layers.into_iter().chain(new_routers).collect();
        let router = if is_router_new { "" } else { r"|block_sparse_moe\.gate" };
        let tensors =
            format!(r"(input_layernorm|post_attention_layernorm|self_attn|mlp|block_sparse_moe\.experts{router})");
        let copied_layers = format!(r"^model\.layers\.({})\.{tensors}\.", copied.join("|"));
        Self {
            new: (!patterns.is_empty()).then(|| patterns.join("|")),
            copied: format!(r"^model\.embed_tokens\.|^model\.norm\.|^lm_head\.|{copied_layers}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use regex::Regex;

    use super::*;
    use crate::config::DecoderConfig;
    use crate::growth::{Grown, GrowthPlan, UpcyclePlan};
    use crate::weights::MemoryWeights;

    /// The layers, and whether the routers, that are new after growth of a base of four layers.
    fn new_after(plans: Vec<GrowthPlan>) -> (Vec<usize>, bool) {
        let config = DecoderConfig::pico().with(|f| f.num_hidden_layers = 4).unwrap();
        let grown = Grown::all(MemoryWeights::untrained(config, 0.02, 0), plans).unwrap();
        let Provenance { new, copied } = Provenance::of(&grown);
        let new = new.map(|pattern| Regex::new(&pattern).unwrap());
        let copied = Regex::new(&copied).unwrap();
        let is_new = |name: &str| {
            let is_new = new.as_ref().is_some_and(|new| new.is_match(name));
            assert!(is_new != copied.is_match(name), "{name} is new, or copied, and not both");
            is_new
        };
        assert!(!is_new("model.embed_tokens.weight") && !is_new("model.norm.weight"));
        let mlp = if grown.config().moe.is_some() { "block_sparse_moe.experts.w1" } else { "mlp.up_proj" };
        let layers = 0..grown.config().num_hidden_layers;
        let layers = layers.filter(|layer| {
            let [attention, mlp] =
                ["self_attn.q_proj", mlp].map(|name| is_new(&format!("model.layers.{layer}.{name}.weight")));
            assert_eq!(attention, mlp);
            attention
        });
        (layers.collect(), grown.config().moe.is_some() && is_new("model.layers.0.block_sparse_moe.gate.weight"))
    }

    #[test]
    fn repeated_layers_zero_blocks_and_created_routers_are_new() {
        assert_eq!(new_after(vec![]), (vec![], false));
        assert_eq!(new_after(vec![GrowthPlan::DepthUpScaling { overlap: 1 }]), (vec![3, 4], false));
        assert_eq!(new_after(vec![GrowthPlan::IdentityBlocks { num_blocks: 2 }]), (vec![2, 5], false));
        assert_eq!(new_after(vec![GrowthPlan::Upcycle(UpcyclePlan::new(4, 2))]), (vec![], true));
    }
}
