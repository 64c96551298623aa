//! Bytes that the weights of a model will take, told from headers before one of them is read.

use std::collections::HashSet;

use crate::kernel::quantized_linear::BlockFormat;
use crate::model::Precision;
use crate::weights::{Dtype, LayerTensor, Lineage, Projection, TensorId, WeightSource};

/// Weights that are to be loaded, as far as memory goes.
pub(super) struct Weights<'s, S> {
    pub source: &'s S,
    pub precision: Precision,
    /// The blocks in which a file has a matrix of the root checkpoint.
    pub stored: &'s dyn Fn(TensorId) -> Option<BlockFormat>,
    /// Whether each expert has random numbers of its own.
    pub experts_differ: bool,
}

/// The memory of weights, at the least: what blocks are padded with and what loading takes for a while come on top.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct LeastBytes {
    /// As they are loaded: weights of one lineage once.
    pub loaded: u128,
    /// The same with every expert of a layer apart, as training would leave them.
    pub apart: u128,
    /// Different experts of a layer, where equal ones share their memory.
    pub distinct_experts: Option<usize>,
}

impl<S: WeightSource> Weights<'_, S> {
    /// Counts norms, and routers beside blocks, in float32 and matrices as they are precision. Experts in floats are one stack a layer and
    /// projection, so they are shared by whole layers alone; layers whose first experts are twins are twins.
    pub fn least_bytes(&self) -> LeastBytes {
        let config = self.source.config();
        let num_experts = config.moe.map_or(0, |moe| moe.num_local_experts);
        let is_first = |tensor: &LayerTensor| !matches!(tensor, LayerTensor::Expert(1.., _));
        let tensors: Vec<_> = LayerTensor::all(config).into_iter().filter(is_first).collect();
        let layers = 0..config.num_hidden_layers;
        let in_layers = layers.flat_map(|layer| tensors.iter().map(move |tensor| TensorId::Layer(layer, *tensor)));
        let head = (!config.tie_word_embeddings).then_some(TensorId::LmHead);
        let mut least = LeastBytes::default();
        let (mut firsts, mut matrices) = (HashSet::new(), HashSet::new());
        for id in in_layers.chain([TensorId::EmbedTokens, TensorId::Norm]).chain(head) {
            let (bytes, copies) = (self.bytes(id), if is_expert(id) { num_experts } else { 1 });
            let all = bytes * copies as u128;
            let is_shared = self.is_shared(id);
            if is_shared && !firsts.insert(self.twin(id)) {
                continue;
            }
            least.apart += all;
            least.loaded += match id {
                TensorId::Layer(layer, LayerTensor::Expert(_, projection))
                    if is_shared && self.blocks(id).is_some() =>
                {
                    let of = |index| TensorId::Layer(layer, LayerTensor::Expert(index, projection));
                    let new = (0..num_experts).filter(|index| matrices.insert(self.twin(of(*index)))).count();
                    least.distinct_experts.get_or_insert(new);
                    bytes * new as u128
                }
                _ => all,
            };
        }
        least
    }

    /// Whether the loader looks for an equal of this weight.
    fn is_shared(&self, id: TensorId) -> bool {
        match id {
            TensorId::Layer(_, LayerTensor::Router) => false,
            id if is_expert(id) => !self.experts_differ,
            id => id.shape(self.source.config()).len() == 2,
        }
    }

    /// What weights have in common that are equal without being read.
    fn twin(&self, id: TensorId) -> (Vec<usize>, Option<TensorId>, String) {
        let Lineage { root, steps } = self.source.lineage(id);
        (id.shape(self.source.config()), root, format!("{steps:?}"))
    }

    fn bytes(&self, id: TensorId) -> u128 {
        let shape = id.shape(self.source.config());
        let numbers: u128 = shape.iter().map(|size| *size as u128).product();
        match (self.blocks(id), self.precision) {
            (Some(format), _) => numbers / format.block_len() as u128 * format.block_bytes() as u128,
            (None, Precision::Float(dtype)) if shape.len() == 2 => numbers * dtype.size_bytes() as u128,
            _ => numbers * Dtype::Float32.size_bytes() as u128,
        }
    }

    /// The blocks in which a matrix is precision: an expert only if its other matrices are in blocks too.
    fn blocks(&self, id: TensorId) -> Option<BlockFormat> {
        let own = self.blocks_alone(id)?;
        match id {
            TensorId::Layer(layer, LayerTensor::Expert(index, _)) => {
                let of = |projection| TensorId::Layer(layer, LayerTensor::Expert(index, projection));
                Projection::ALL.map(of).into_iter().all(|id| self.blocks_alone(id).is_some()).then_some(own)
            }
            _ => Some(own),
        }
    }

    fn blocks_alone(&self, id: TensorId) -> Option<BlockFormat> {
        let Precision::Blocks(rounded) = self.precision else { return None };
        let [_, cols] = id.shape(self.source.config())[..] else { return None };
        if matches!(id, TensorId::Layer(_, LayerTensor::Router)) {
            return None;
        }
        let is_computed = self.experts_differ && is_expert(id);
        let stored = self.source.lineage(id).root.filter(|_| !is_computed).and_then(self.stored);
        stored.or(rounded).filter(|format| cols.is_multiple_of(format.block_len()))
    }
}

fn is_expert(id: TensorId) -> bool {
    matches!(id, TensorId::Layer(_, LayerTensor::Expert(..)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DecoderConfig;
    use crate::growth::{ExpertInit, Grown, GrowthPlan, LayerPlan, UpcyclePlan};
    use crate::model::AnyDecoder;
    use crate::weights::MemoryWeights;
    use burn::tensor::Device;

    const Q8: Precision = Precision::Blocks(Some(BlockFormat::Q8_0));

    /// Eight layers, every row of a matrix a whole number of blocks.
    fn small() -> MemoryWeights {
        let config = DecoderConfig::pico().with(|fields| fields.intermediate_size = 320).unwrap();
        MemoryWeights::untrained(config, 0.02, 3)
    }

    fn deep(source: MemoryWeights) -> Grown<MemoryWeights> {
        Grown::new(source, GrowthPlan::Splice(LayerPlan::depth_up_scaling(8, 2).unwrap())).unwrap()
    }

    fn wide<S: WeightSource>(source: S, init: ExpertInit) -> Grown<S> {
        Grown::new(source, GrowthPlan::Upcycle(UpcyclePlan { init, ..UpcyclePlan::new(4, 2) })).unwrap()
    }

    fn least(source: &impl WeightSource, precision: Precision, experts_differ: bool) -> LeastBytes {
        Weights { source, precision, stored: &|_| None, experts_differ }.least_bytes()
    }

    fn loaded(source: &impl WeightSource, precision: Precision) -> u128 {
        AnyDecoder::load_as(source, precision, &Device::flex()).unwrap().footprint().size_bytes().into()
    }

    #[test]
    fn what_is_told_before_loading_is_what_loading_takes() {
        for precision in [Precision::Float(Dtype::Float32), Precision::Float(Dtype::Bfloat16), Q8] {
            assert_eq!(least(&small(), precision, false).loaded, loaded(&small(), precision), "{precision:?}");
            let grown = deep(small());
            assert_eq!(least(&grown, precision, false).loaded, loaded(&grown, precision), "{precision:?}");
            let copies = wide(deep(small()), ExpertInit::Copy);
            assert_eq!(least(&copies, precision, false).loaded, loaded(&copies, precision), "{precision:?}");
            let noisy = wide(deep(small()), ExpertInit::Noise { relative_std: 0.1 });
            let told = least(&noisy, precision, true);
            assert_eq!(told.loaded, loaded(&noisy, precision), "{precision:?}");
            assert!(told.loaded > least(&copies, precision, false).loaded, "experts of twin layers differ");
        }
    }

    #[test]
    fn equal_experts_are_one_in_blocks_and_four_in_floats() {
        let (copies, dense) = (wide(small(), ExpertInit::Copy), least(&small(), Q8, false));
        let blocks = least(&copies, Q8, false);
        let routers = (8 * 4 * 96 * 4) as u128;
        assert_eq!((blocks.loaded, blocks.distinct_experts), (dense.loaded + routers, Some(1)));
        let mlps = 8 * 3 * (96 * 320 / 32 * 34) as u128;
        assert_eq!(blocks.apart, blocks.loaded + 3 * mlps);
        let floats = least(&copies, Precision::Float(Dtype::Float32), false);
        assert_eq!((floats.loaded, floats.distinct_experts), (floats.apart, None));
    }

    #[test]
    fn blocks_of_a_file_count_as_the_file_has_them() {
        let q4 = |id| matches!(id, TensorId::Layer(..)).then_some(BlockFormat::Q4_0);
        let of = |stored: &dyn Fn(TensorId) -> Option<BlockFormat>| {
            let source = &small();
            Weights { source, precision: Precision::Blocks(None), stored, experts_differ: false }.least_bytes().loaded
        };
        let matrices = 8 * (2 * 96 * 96 + 2 * 96 * 48 + 3 * 96 * 320) as u128;
        assert_eq!(of(&|_| None) - of(&q4), matrices * 4 - matrices / 32 * 18);
    }
}
