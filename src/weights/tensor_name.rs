//! The Hugging Face name of each weight: `model.layers.1.mlp.up_proj.weight`.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserialize, Deserializer};
use serde::{Serialize, Serializer};

use crate::error::quoted;
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

/// The name in Hugging Face files; of an expert, in the layout with one tensor per matrix.
impl fmt::Display for TensorId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match *self {
            Self::Layer(layer, LayerTensor::Expert(expert, projection)) => {
                let name = second(&EXPERT_NAMES, projection);
                write!(f, "model.layers.{layer}.block_sparse_moe.experts.{expert}.{name}")
            }
            Self::Layer(layer, tensor) => write!(f, "model.layers.{layer}.{}", second(&LAYER_NAMES, tensor)),
            id => f.write_str(second(&NAMES, id)),
        }
    }
}

/// A name that no weight of a decoder has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("found tensor {}, expected the name of a decoder's weight", quoted(.name))]
pub struct UnknownTensor {
    /// The name.
    pub name: String,
}

/// The inverse of [`Display`](fmt::Display).
impl FromStr for TensorId {
    type Err = UnknownTensor;

    fn from_str(name: &str) -> Result<Self, UnknownTensor> {
        let id = match name.strip_prefix("model.layers.").and_then(indexed) {
            None => first(&NAMES, name),
            Some((layer, name)) => match name.strip_prefix("block_sparse_moe.experts.").and_then(indexed) {
                None => first(&LAYER_NAMES, name),
                Some((expert, name)) => first(&EXPERT_NAMES, name).map(|p| LayerTensor::Expert(expert, p)),
            }
            .map(|tensor| Self::Layer(layer, tensor)),
        };
        id.ok_or_else(|| UnknownTensor { name: name.to_owned() })
    }
}

impl Serialize for TensorId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TensorId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

fn second<K: PartialEq>(table: &[(K, &'static str)], key: K) -> &'static str {
    table.iter().find(|(k, _)| *k == key).map(|(_, name)| *name).expect("the table has every key")
}

fn first<K: Copy>(table: &[(K, &'static str)], name: &str) -> Option<K> {
    table.iter().find(|(_, n)| *n == name).map(|(key, _)| *key)
}

/// Splits `12.rest` into 12 and `rest`, if the number is spelled without a sign or leading zeros.
pub(crate) fn indexed(name: &str) -> Option<(usize, &str)> {
    let (digits, rest) = name.split_once('.')?;
    let index: usize = digits.parse().ok()?;
    (index.to_string() == digits).then_some((index, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DecoderConfig, MoeConfig};

    #[test]
    fn every_weight_is_found_again_by_its_name() {
        let moe = MoeConfig { num_local_experts: 12, num_experts_per_tok: 2, router_aux_loss_coef: 0.0 };
        for config in [DecoderConfig::llama2_7b(), DecoderConfig::llama2_7b().with_experts(moe).unwrap()] {
            for id in TensorId::all(&config) {
                assert_eq!(id.to_string().parse(), Ok(id));
                assert_eq!(serde_json::from_value::<TensorId>(serde_json::json!(id)).unwrap(), id);
            }
        }
    }

    #[test]
    fn names_are_those_of_published_checkpoints() {
        let expert = |projection| TensorId::Layer(31, LayerTensor::Expert(7, projection)).to_string();
        assert_eq!(expert(Projection::Gate), "model.layers.31.block_sparse_moe.experts.7.w1.weight");
        assert_eq!(expert(Projection::Down), "model.layers.31.block_sparse_moe.experts.7.w2.weight");
        assert_eq!(expert(Projection::Up), "model.layers.31.block_sparse_moe.experts.7.w3.weight");
        let query = TensorId::Layer(0, LayerTensor::QProj);
        assert_eq!(query.to_string(), "model.layers.0.self_attn.q_proj.weight");
    }

    #[test]
    fn an_index_has_one_spelling_and_other_names_are_unknown() {
        for name in [
            "model.layers.01.mlp.up_proj.weight",
            "model.layers.+1.mlp.up_proj.weight",
            "model.layers.0.mlp.up_proj.bias",
            "model.layers.0.block_sparse_moe.experts.0.w4.weight",
            "model.layers.99999999999999999999.mlp.up_proj.weight",
            "norm.weight",
            "__metadata__",
            "",
        ] {
            assert!(name.parse::<TensorId>().is_err(), "{name}");
        }
    }
}
