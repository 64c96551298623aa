//! Identifies a weight of a decoder, with its shape and the list of all weights of a config.
//!
//! A [`TensorId`] displays as its Hugging Face name. The layouts that files use belong to [`crate::formats`].

use serde::Serialize;

use crate::config::DecoderConfig;

/// One weight of a decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TensorId {
    /// Token embeddings, `[vocab_size, hidden_size]`.
    EmbedTokens,
    /// A weight of the layer with this index.
    Layer(usize, LayerTensor),
    /// Gain of the norm after the last layer, `[hidden_size]`.
    Norm,
    /// Output head, `[vocab_size, hidden_size]`; absent when tied to the embeddings.
    LmHead,
}

/// One weight of a decoder layer. All matrices are `[out, in]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LayerTensor {
    /// Gain of the norm before attention, `[hidden_size]`.
    InputLayernorm,
    /// `[num_attention_heads · head_dim, hidden_size]`.
    QProj,
    /// `[num_key_value_heads · head_dim, hidden_size]`.
    KProj,
    /// `[num_key_value_heads · head_dim, hidden_size]`.
    VProj,
    /// `[hidden_size, num_attention_heads · head_dim]`.
    OProj,
    /// Gain of the norm before the MLP, `[hidden_size]`.
    PostAttentionLayernorm,
    /// A matrix of the dense MLP.
    Mlp(Projection),
    /// The router, `[num_local_experts, hidden_size]`.
    Router,
    /// A matrix of the expert with this index.
    Expert(usize, Projection),
}

/// One matrix of a gated MLP `down(silu(gate(x)) * up(x))`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum Projection {
    /// `[intermediate_size, hidden_size]`, before the SiLU; Mixtral's `w1`.
    Gate,
    /// `[intermediate_size, hidden_size]`; Mixtral's `w3`.
    Up,
    /// `[hidden_size, intermediate_size]`; Mixtral's `w2`.
    Down,
}

impl Projection {
    /// The three matrices of an MLP.
    pub const ALL: [Self; 3] = [Self::Gate, Self::Up, Self::Down];
}

impl TensorId {
    /// All weights of a decoder of this config, in the order of the forward pass.
    pub fn all(config: &DecoderConfig) -> Vec<Self> {
        Self::in_order(config).collect()
    }

    /// The same as an iterator: a config that is not checked against a file may call for more weights than memory can list.
    pub(crate) fn in_order(config: &DecoderConfig) -> impl Iterator<Item = Self> {
        let layers = (0..config.num_hidden_layers)
            .flat_map(|layer| LayerTensor::all(config).into_iter().map(move |tensor| Self::Layer(layer, tensor)));
        let head = (!config.tie_word_embeddings).then_some(Self::LmHead);
        std::iter::once(Self::EmbedTokens).chain(layers).chain([Self::Norm]).chain(head)
    }

    /// Shape of this weight in a decoder of this config.
    pub fn shape(&self, config: &DecoderConfig) -> Vec<usize> {
        match self {
            Self::EmbedTokens | Self::LmHead => vec![config.vocab_size, config.hidden_size],
            Self::Layer(_, tensor) => tensor.shape(config),
            Self::Norm => vec![config.hidden_size],
        }
    }

    /// The keys of `config.json` that [`shape`](Self::shape) consists of.
    pub(crate) fn axes(&self) -> &'static str {
        match self {
            Self::EmbedTokens | Self::LmHead => "[vocab_size, hidden_size]",
            Self::Layer(_, tensor) => tensor.axes(),
            Self::Norm => "[hidden_size]",
        }
    }
}

impl LayerTensor {
    /// All weights of one layer, in the order of the forward pass.
    pub fn all(config: &DecoderConfig) -> Vec<Self> {
        let mut tensors = vec![
            Self::InputLayernorm,
            Self::QProj,
            Self::KProj,
            Self::VProj,
            Self::OProj,
            Self::PostAttentionLayernorm,
        ];
        match config.moe {
            None => tensors.extend(Projection::ALL.map(Self::Mlp)),
            Some(moe) => {
                tensors.push(Self::Router);
                tensors.extend(
                    (0..moe.num_local_experts)
                        .flat_map(|expert| Projection::ALL.map(|projection| Self::Expert(expert, projection))),
                );
            }
        }
        tensors
    }

    fn axes(&self) -> &'static str {
        match self {
            Self::InputLayernorm | Self::PostAttentionLayernorm => "[hidden_size]",
            Self::QProj => "[num_attention_heads · head_dim, hidden_size]",
            Self::KProj | Self::VProj => "[num_key_value_heads · head_dim, hidden_size]",
            Self::OProj => "[hidden_size, num_attention_heads · head_dim]",
            Self::Router => "[num_local_experts, hidden_size]",
            Self::Mlp(Projection::Down) | Self::Expert(_, Projection::Down) => "[hidden_size, intermediate_size]",
            Self::Mlp(_) | Self::Expert(..) => "[intermediate_size, hidden_size]",
        }
    }

    fn shape(&self, config: &DecoderConfig) -> Vec<usize> {
        let hidden = config.hidden_size;
        match self {
            Self::InputLayernorm | Self::PostAttentionLayernorm => vec![hidden],
            Self::QProj => vec![config.num_attention_heads * config.head_dim, hidden],
            Self::KProj | Self::VProj => vec![config.num_key_value_heads * config.head_dim, hidden],
            Self::OProj => vec![hidden, config.num_attention_heads * config.head_dim],
            Self::Router => vec![config.moe.map_or(0, |moe| moe.num_local_experts), hidden],
            Self::Mlp(projection) | Self::Expert(_, projection) => match projection {
                Projection::Gate | Projection::Up => vec![config.intermediate_size, hidden],
                Projection::Down => vec![hidden, config.intermediate_size],
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_for_a_config_counts_every_parameter_of_mistral_solar_and_mixtral() {
        let parameters = |config: &DecoderConfig| -> u64 {
            TensorId::all(config).iter().map(|id| id.shape(config).iter().map(|&n| n as u64).product::<u64>()).sum()
        };
        assert_eq!(parameters(&DecoderConfig::mistral_7b()), 7_241_732_096);
        assert_eq!(parameters(&DecoderConfig::solar_10_7b()), 10_731_524_096);
        assert_eq!(parameters(&DecoderConfig::mixtral_8x7b()), 46_702_792_704);
    }

    #[test]
    fn a_tied_head_is_not_a_separate_weight() {
        assert!(!TensorId::all(&DecoderConfig::pico()).contains(&TensorId::LmHead));
        assert!(TensorId::all(&DecoderConfig::mistral_7b()).contains(&TensorId::LmHead));
    }
}
