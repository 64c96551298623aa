//! What GGUF files call each weight.

use crate::config::DecoderConfig;
use crate::weights::{LayerTensor, Projection, TensorId};

/// Weights of a layer outside its MLP, after `blk.N.`.
pub(super) const LAYER_NAMES: [(LayerTensor, &str); 6] = [
    (LayerTensor::InputLayernorm, "attn_norm"),
    (LayerTensor::QProj, "attn_q"),
    (LayerTensor::KProj, "attn_k"),
    (LayerTensor::VProj, "attn_v"),
    (LayerTensor::OProj, "attn_output"),
    (LayerTensor::PostAttentionLayernorm, "ffn_norm"),
];

/// The matrices of an MLP, after `blk.N.`.
pub(super) const MLP_NAMES: [(Projection, &str); 3] =
    [(Projection::Gate, "ffn_gate"), (Projection::Up, "ffn_up"), (Projection::Down, "ffn_down")];

/// What llama.cpp divides rotary frequencies by.
pub(super) const ROPE_FACTORS: &str = "rope_freqs.weight";

/// How a file stores experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// A tensor for each matrix of each expert: `blk.N.ffn_gate.K.weight`, of early 2024.
    PerExpert,
    /// A tensor for all experts of a layer: `blk.N.ffn_gate_exps.weight`, `[E, out, in]`.
    Merged,
}

impl Layout {
    /// The layout of a file with these names.
    pub fn of<'a>(mut names: impl Iterator<Item = &'a str>) -> Self {
        if names.any(|name| name.contains(".ffn_gate_exps.")) { Self::Merged } else { Self::PerExpert }
    }
}

/// Where a weight lies: in the tensor `name` of shape `shape`, the whole of it or one of `slices` equal parts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub name: String,
    pub shape: Vec<usize>,
    pub slice: usize,
    pub slices: usize,
}

impl Place {
    /// The place of a weight that a decoder of this config has.
    pub fn of(id: TensorId, config: &DecoderConfig, layout: Layout) -> Self {
        let shape = id.shape(config);
        let whole = |name| Self { name, shape: shape.clone(), slice: 0, slices: 1 };
        let TensorId::Layer(layer, tensor) = id else {
            return whole(match id {
                TensorId::EmbedTokens => "token_embd.weight".to_owned(),
                TensorId::LmHead => "output.weight".to_owned(),
                _ => "output_norm.weight".to_owned(),
            });
        };
        match (tensor, layout) {
            (LayerTensor::Expert(slice, projection), Layout::Merged) => {
                let slices = config.moe.map_or(0, |moe| moe.num_local_experts);
                let name = format!("blk.{layer}.{}_exps.weight", of(&MLP_NAMES, projection));
                Self { name, shape: [vec![slices], shape].concat(), slice, slices }
            }
            (LayerTensor::Expert(expert, projection), Layout::PerExpert) => {
                whole(format!("blk.{layer}.{}.{expert}.weight", of(&MLP_NAMES, projection)))
            }
            (LayerTensor::Mlp(projection), _) => whole(format!("blk.{layer}.{}.weight", of(&MLP_NAMES, projection))),
            (LayerTensor::Router, _) => whole(format!("blk.{layer}.ffn_gate_inp.weight")),
            _ => whole(format!("blk.{layer}.{}.weight", of(&LAYER_NAMES, tensor))),
        }
    }
}

fn of<K: PartialEq>(table: &[(K, &'static str)], key: K) -> &'static str {
    table.iter().find(|(k, _)| *k == key).map(|(_, name)| *name).expect("the table has every key")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expert_is_a_tensor_or_a_slice_of_one() {
        let config = DecoderConfig::mixtral_8x7b();
        let id = TensorId::Layer(31, LayerTensor::Expert(7, Projection::Down));
        let place = |layout| Place::of(id, &config, layout);
        let (shape, name) = (vec![4096, 14_336], "blk.31.ffn_down.7.weight".to_owned());
        assert_eq!(place(Layout::PerExpert), Place { name, shape, slice: 0, slices: 1 });
        let (shape, name) = (vec![8, 4096, 14_336], "blk.31.ffn_down_exps.weight".to_owned());
        assert_eq!(place(Layout::Merged), Place { name, shape, slice: 7, slices: 8 });
    }
}
