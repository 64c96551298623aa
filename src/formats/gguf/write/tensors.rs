//! Which tensors a GGUF file of a decoder has, in the order in which they are written.

use super::encode::Head;
use super::number_types::number_type;
use super::options::GgufFileType;
use super::rope_factors::rope_factors;
use crate::config::{DecoderConfig, RopeScaling};
use crate::formats::gguf::names::{LAYER_NAMES, MLP_NAMES, ROPE_FACTORS};
use crate::weights::{GgmlType, LayerTensor, TensorId};

/// One tensor of the file.
#[derive(Debug)]
pub(super) struct GgufTensor {
    pub name: String,
    pub number_type: GgmlType,
    /// Sizes of its axes, slowest first: the reverse of the order in the file.
    pub shape: Vec<usize>,
    pub content: Content,
}

/// Where the numbers of a tensor come from.
#[derive(Debug)]
pub(super) enum Content {
    /// Weights of the source, one behind the other; of rotary projections, with the rows of each head in GGUF's order.
    Weights { ids: Vec<TensorId>, head: Option<Head> },
    /// Numbers that follow from the config.
    Numbers(Vec<f32>),
}

impl GgufTensor {
    /// Bytes that it takes, without padding.
    pub fn size_bytes(&self) -> u64 {
        self.number_type.size_bytes(self.shape.iter().map(|&size| size as u64).product())
    }
}

/// All tensors of a decoder of this config.
pub(super) fn tensors(config: &DecoderConfig, file_type: GgufFileType) -> Vec<GgufTensor> {
    let weight = |name: String, ids: Vec<TensorId>, head: Option<Head>| {
        let one = ids[0].shape(config);
        let shape = if ids.len() > 1 || name.contains("_exps.") { [vec![ids.len()], one].concat() } else { one };
        GgufTensor {
            number_type: number_type(config, ids[0], &shape, file_type),
            name,
            shape,
            content: Content::Weights { ids, head },
        }
    };
    let mut tensors = vec![weight("token_embd.weight".to_owned(), vec![TensorId::EmbedTokens], None)];
    if let RopeScaling::Llama3 { .. } = config.rope_scaling {
        let factors = rope_factors(config);
        tensors.push(GgufTensor {
            name: ROPE_FACTORS.to_owned(),
            number_type: GgmlType::F32,
            shape: vec![factors.len()],
            content: Content::Numbers(factors),
        });
    }
    let head = Head { head_dim: config.head_dim, columns: config.hidden_size };
    for layer in 0..config.num_hidden_layers {
        for (tensor, name) in LAYER_NAMES {
            let head = matches!(tensor, LayerTensor::QProj | LayerTensor::KProj).then_some(head);
            tensors.push(weight(format!("blk.{layer}.{name}.weight"), vec![TensorId::Layer(layer, tensor)], head));
        }
        let mlp = |projection| match config.moe {
            None => vec![TensorId::Layer(layer, LayerTensor::Mlp(projection))],
            Some(moe) => (0..moe.num_local_experts)
                .map(|expert| TensorId::Layer(layer, LayerTensor::Expert(expert, projection)))
                .collect(),
        };
        if config.moe.is_some() {
            let router = vec![TensorId::Layer(layer, LayerTensor::Router)];
            tensors.push(weight(format!("blk.{layer}.ffn_gate_inp.weight"), router, None));
        }
        let suffix = if config.moe.is_some() { "_exps" } else { "" };
        for (projection, name) in MLP_NAMES {
            tensors.push(weight(format!("blk.{layer}.{name}{suffix}.weight"), mlp(projection), None));
        }
    }
    tensors.push(weight("output_norm.weight".to_owned(), vec![TensorId::Norm], None));
    if !config.tie_word_embeddings {
        tensors.push(weight("output.weight".to_owned(), vec![TensorId::LmHead], None));
    }
    tensors
}
