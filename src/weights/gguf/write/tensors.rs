//! Which tensors a GGUF file of a decoder has, in the order in which they are written.

use super::GgufFileType;
use super::encode::Head;
use super::rope_factors::rope_factors;
use crate::config::{DecoderConfig, RopeScaling};
use crate::weights::gguf::names::{LAYER_NAMES, MLP_NAMES, ROPE_FACTORS};
use crate::weights::{LayerTensor, TensorId};

/// The number types that are written, with the numbers that ggml gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum GgmlType {
    F32 = 0,
    F16 = 1,
    Q8_0 = 8,
    Bf16 = 30,
}

/// Numbers in a block of Q8_0.
pub(super) const Q8_0_NUMBERS: usize = 32;

/// Bytes of a block of Q8_0: a scale, and as many bytes as numbers.
pub(super) const Q8_0_BYTES: usize = 2 + Q8_0_NUMBERS;

impl GgmlType {
    /// Bytes that so many numbers take, whole blocks of them.
    pub fn size_bytes(self, numbers: u64) -> u64 {
        match self {
            Self::F32 => 4 * numbers,
            Self::F16 | Self::Bf16 => 2 * numbers,
            Self::Q8_0 => numbers / Q8_0_NUMBERS as u64 * Q8_0_BYTES as u64,
        }
    }
}

/// One tensor of the file.
#[derive(Debug)]
pub(super) struct GgufTensor {
    pub name: String,
    pub kind: GgmlType,
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
        self.kind.size_bytes(self.shape.iter().map(|&size| size as u64).product())
    }
}

/// All tensors of a decoder of this config.
pub(super) fn tensors(config: &DecoderConfig, file_type: GgufFileType) -> Vec<GgufTensor> {
    let weight = |name: String, ids: Vec<TensorId>, head: Option<Head>| {
        let one = ids[0].shape(config);
        let shape = if ids.len() > 1 || name.contains("_exps.") { [vec![ids.len()], one].concat() } else { one };
        GgufTensor { kind: kind(&name, &shape, file_type), name, shape, content: Content::Weights { ids, head } }
    };
    let mut tensors = vec![weight("token_embd.weight".to_owned(), vec![TensorId::EmbedTokens], None)];
    if let RopeScaling::Llama3 { .. } = config.rope_scaling {
        let factors = rope_factors(config);
        tensors.push(GgufTensor {
            name: ROPE_FACTORS.to_owned(),
            kind: GgmlType::F32,
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

/// As llama.cpp's converter chooses: norms and routers are F32, and rows that no blocks fill are F16.
fn kind(name: &str, shape: &[usize], file_type: GgufFileType) -> GgmlType {
    let fills_blocks = shape.last().is_some_and(|columns| columns.is_multiple_of(Q8_0_NUMBERS));
    match file_type {
        _ if shape.len() == 1 || name.contains("ffn_gate_inp.") => GgmlType::F32,
        GgufFileType::F32 => GgmlType::F32,
        GgufFileType::Q8_0 if fills_blocks => GgmlType::Q8_0,
        GgufFileType::F16 | GgufFileType::Q8_0 => GgmlType::F16,
        GgufFileType::Bf16 => GgmlType::Bf16,
    }
}
