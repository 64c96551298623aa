//! Finer experts: each is cut into parts that a token visits together.

use super::PlanError;
use crate::config::{DecoderConfig, MoeConfig};
use crate::weights::{LayerTensor, Recipe, Step, TensorId};

/// The config of a mixture whose experts are cut into `G = parts` parts of `intermediate_size / G` each, every token
/// visiting `G · k` of `G · E` (Dai et al., 2024, arXiv:2401.06066, §3.1; initialized as in He et al., 2024,
/// arXiv:2410.07524, §4.2).
///
/// The parts of an expert share its router row, so they are visited together, and their down projections are multiplied by
/// `G`, since each weighs `1/G` of its expert. Where no two experts tie, function and active parameters (but for the
/// router) stay, up to rounding.
pub(super) fn config(source: &DecoderConfig, parts: usize) -> Result<DecoderConfig, PlanError> {
    let (moe, intermediate_size) = (source.moe.ok_or(PlanError::Dense)?, source.intermediate_size);
    if parts == 0 || intermediate_size % parts != 0 {
        return Err(PlanError::UnevenParts { intermediate_size, parts });
    }
    let finer = MoeConfig {
        num_local_experts: moe.num_local_experts * parts,
        num_experts_per_tok: moe.num_experts_per_tok * parts,
        ..moe
    };
    Ok(source.with(|fields| {
        fields.moe = Some(finer);
        fields.intermediate_size /= parts;
    })?)
}

/// The recipe of a weight of the result.
pub(super) fn recipe(num_parts: usize, id: TensorId) -> Recipe {
    match id {
        TensorId::Layer(_, LayerTensor::Router) => Recipe::of(id).then(Step::RepeatRows { times: num_parts }),
        TensorId::Layer(layer, LayerTensor::Expert(expert, projection)) => {
            let part = Step::Part { part: expert % num_parts, num_parts, projection };
            Recipe::of(TensorId::Layer(layer, LayerTensor::Expert(expert / num_parts, projection))).then(part)
        }
        id => Recipe::of(id),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Grown, GrowthPlan, PlanError, UpcyclePlan};
    use crate::config::DecoderConfig;
    use crate::weights::{LayerTensor, MemoryWeights, Projection, TensorId, WeightSource};

    fn mixture() -> Grown<MemoryWeights> {
        let base = MemoryWeights::untrained(DecoderConfig::pico(), 0.02, 3);
        Grown::new(base, GrowthPlan::Upcycle(UpcyclePlan::new(3, 2))).unwrap()
    }

    fn finer<S: WeightSource>(source: S, num_parts: usize) -> Result<Grown<S>, PlanError> {
        Grown::new(source, GrowthPlan::Granularity { num_parts })
    }

    #[test]
    fn the_parts_of_an_expert_are_its_dimensions_and_share_its_router_row() {
        let (coarse, fine) = (mixture(), finer(mixture(), 4).unwrap());
        let moe = fine.config().moe.unwrap();
        assert_eq!((moe.num_local_experts, moe.num_experts_per_tok, fine.config().intermediate_size), (12, 8, 84));
        let of = |source: &dyn WeightSource, tensor| source.read(TensorId::Layer(1, tensor)).unwrap().to_f32();
        let (h, f) = (96, 336);
        for (expert, projection) in (0..3).flat_map(|e| Projection::ALL.map(|p| (e, p))) {
            let whole = of(&coarse, LayerTensor::Expert(expert, projection));
            for part in 0..4 {
                let cut = of(&fine, LayerTensor::Expert(4 * expert + part, projection));
                let expected: Vec<f32> = match projection {
                    Projection::Down => (0..h * f).filter(|i| (i % f) / 84 == part).map(|i| 4.0 * whole[i]).collect(),
                    _ => whole[part * 84 * h..(part + 1) * 84 * h].to_vec(),
                };
                assert_eq!(cut, expected, "{projection:?} of part {part} of expert {expert}");
            }
        }
        let (rows, finer) = (of(&coarse, LayerTensor::Router), of(&fine, LayerTensor::Router));
        assert!((0..12).all(|e| finer[e * h..][..h] == rows[e / 4 * h..][..h]));
    }

    #[test]
    fn parts_are_even() {
        let message = finer(mixture(), 5).unwrap_err().to_string();
        assert_eq!(message, "granularity is 5, expected a divisor of intermediate_size 336");
        let dense = MemoryWeights::untrained(DecoderConfig::pico(), 0.02, 3);
        assert!(matches!(finer(dense, 2), Err(PlanError::Dense)));
    }
}
