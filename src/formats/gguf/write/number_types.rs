//! The number type of each tensor of a file.

use super::options::GgufFileType;
use crate::config::DecoderConfig;
use crate::weights::{GgmlType, LayerTensor, Projection, TensorId};

/// The type of the tensor that holds the weight `id`, and perhaps others of its kind. `shape` has its rows last.
///
/// As llama.cpp's converter chooses: norms and routers are F32, and rows that no blocks fill are F16.
pub(super) fn number_type(config: &DecoderConfig, id: TensorId, shape: &[usize], file_type: GgufFileType) -> GgmlType {
    if shape.len() == 1 || matches!(id, TensorId::Layer(_, LayerTensor::Router)) {
        return GgmlType::F32;
    }
    let columns = shape.last().copied().unwrap_or(0);
    let mut chosen = chosen(config, id, file_type);
    while !columns.is_multiple_of(chosen.block_numbers) {
        chosen = fallback(chosen);
    }
    chosen
}

/// The type of a matrix whose rows fill blocks; the rules are in [`GgufFileType`].
fn chosen(config: &DecoderConfig, id: TensorId, file_type: GgufFileType) -> GgmlType {
    let is_quantized = matches!(file_type, GgufFileType::Q4_0 | GgufFileType::Q4_K | GgufFileType::Q2_K);
    let is_output = id == TensorId::LmHead || (id == TensorId::EmbedTokens && config.tie_word_embeddings);
    if is_quantized && is_output {
        return GgmlType::Q6_K;
    }
    let TensorId::Layer(layer, tensor) = id else { return file_type.main_type() };
    let is_value = tensor == LayerTensor::VProj;
    let is_down = matches!(tensor, LayerTensor::Mlp(Projection::Down) | LayerTensor::Expert(_, Projection::Down));
    let num_layers = config.num_hidden_layers;
    match file_type {
        GgufFileType::Q4_K if (is_value || is_down) && has_more_bits(layer, num_layers) => GgmlType::Q6_K,
        GgufFileType::Q2_K if is_value && config.num_attention_heads >= 4 * config.num_key_value_heads => {
            GgmlType::Q4_K
        }
        GgufFileType::Q2_K if is_down && layer < num_layers / 8 => GgmlType::Q4_K,
        file_type => file_type.main_type(),
    }
}

/// The layers in which llama.cpp's `_M` mixes spend more bits: the first and the last eighth, and every third between.
fn has_more_bits(layer: usize, num_layers: usize) -> bool {
    let eighth = num_layers / 8;
    layer < eighth || layer >= 7 * num_layers / 8 || (layer - eighth) % 3 == 2
}

/// The type in place of one whose blocks the rows do not fill.
fn fallback(ty: GgmlType) -> GgmlType {
    match ty {
        GgmlType::Q6_K => GgmlType::Q8_0,
        GgmlType::Q4_K => GgmlType::Q5_0,
        GgmlType::Q2_K => GgmlType::Q4_0,
        _ => GgmlType::F16,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(config: &DecoderConfig, file_type: GgufFileType, id: impl Fn(usize) -> TensorId) -> Vec<&'static str> {
        let name = |layer| number_type(config, id(layer), &id(layer).shape(config), file_type).name;
        (0..config.num_hidden_layers).map(name).collect()
    }

    #[test]
    fn types_are_mixed_as_llama_cpp_mixes_them() {
        let mistral = DecoderConfig::mistral_7b();
        let down = |layer| TensorId::Layer(layer, LayerTensor::Mlp(Projection::Down));
        let value = |layer| TensorId::Layer(layer, LayerTensor::VProj);
        let key = |layer| TensorId::Layer(layer, LayerTensor::KProj);
        let q4_k = names(&mistral, GgufFileType::Q4_K, down);
        let more: Vec<usize> = (0..32).filter(|layer| q4_k[*layer] == "Q6_K").collect();
        assert_eq!(more, [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]);
        assert_eq!(names(&mistral, GgufFileType::Q4_K, value), q4_k);
        assert!(names(&mistral, GgufFileType::Q4_K, key).iter().all(|name| *name == "Q4_K"));
        assert!(names(&mistral, GgufFileType::Q2_K, value).iter().all(|name| *name == "Q4_K"));
        let q2_k = names(&mistral, GgufFileType::Q2_K, down);
        assert!(q2_k[..4].iter().all(|name| *name == "Q4_K") && q2_k[4..].iter().all(|name| *name == "Q2_K"));
        let head =
            |file_type| number_type(&mistral, TensorId::LmHead, &TensorId::LmHead.shape(&mistral), file_type).name;
        assert_eq!([GgufFileType::Q4_0, GgufFileType::Q8_0, GgufFileType::F16].map(head), ["Q6_K", "Q8_0", "F16"]);
    }

    #[test]
    fn rows_that_fill_no_blocks_have_the_next_smaller_ones() {
        let of = |columns, id, file_type| number_type(&DecoderConfig::mistral_7b(), id, &[8, columns], file_type).name;
        let key = TensorId::Layer(9, LayerTensor::KProj);
        assert_eq!([512, 576, 40].map(|columns| of(columns, key, GgufFileType::Q2_K)), ["Q2_K", "Q4_0", "F16"]);
        assert_eq!([512, 576, 40].map(|columns| of(columns, key, GgufFileType::Q4_K)), ["Q4_K", "Q5_0", "F16"]);
        assert_eq!(of(576, TensorId::LmHead, GgufFileType::Q2_K), "Q8_0");
        assert_eq!(of(40, key, GgufFileType::Bf16), "BF16");
    }
}
