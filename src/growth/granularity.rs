//! Finer experts: each cut into parts that a token visits together.

use super::PlanError;
use crate::config::{DecoderConfig, MoeConfig};
use crate::weights::{
    Change, Chunks, Dtype, LayerTensor, Lineage, Projection, Sink, TensorId, WeightError, WeightSource, cast_bytes,
    widen_to_f32,
};

/// A mixture whose experts are cut into `G` parts of `intermediate_size / G` each, every token visiting `G · k` of `G · E`
/// (Dai et al., 2024, arXiv:2401.06066, §3.1; started as He et al., 2024, arXiv:2410.07524, §4.2).
///
/// The parts of an expert have its router row, so they are visited together, and their down projections are `G` times
/// its columns, since each then weighs `1/G` of what it did: where no two experts tie, the function stays what it was,
/// up to rounding, and so do the active parameters but for the router.
#[derive(Debug, Clone)]
pub struct FineGrained<S> {
    source: S,
    parts: usize,
    config: DecoderConfig,
}

impl<S: WeightSource> FineGrained<S> {
    /// Checks that the experts of `source` can be cut into `parts`; reads no weight.
    ///
    /// # Errors
    /// [`PlanError::NoExperts`] for a dense source; [`PlanError::UnevenParts`]; [`PlanError::Config`].
    pub fn new(source: S, parts: usize) -> Result<Self, PlanError> {
        let (moe, found) =
            (source.config().moe.ok_or(PlanError::NoExperts { parts })?, source.config().intermediate_size);
        if parts == 0 || found % parts != 0 {
            return Err(PlanError::UnevenParts { intermediate_size: found, parts });
        }
        let finer = MoeConfig {
            num_local_experts: moe.num_local_experts * parts,
            num_experts_per_tok: moe.num_experts_per_tok * parts,
            ..moe
        };
        let config = source.config().with(|fields| {
            fields.moe = Some(finer);
            fields.intermediate_size /= parts;
        })?;
        Ok(Self { source, parts, config })
    }

    /// The weight of the source that `id` is a part of.
    fn whole(&self, id: TensorId) -> TensorId {
        match id {
            TensorId::Layer(layer, LayerTensor::Expert(expert, projection)) => {
                TensorId::Layer(layer, LayerTensor::Expert(expert / self.parts, projection))
            }
            id => id,
        }
    }

    /// Rows of the source's router, each as often as an expert has parts.
    fn stream_router(&self, id: TensorId, sink: &mut Sink<'_>) -> Result<(), WeightError> {
        let router = self.source.read(id)?;
        let row_bytes = router.shape()[1] * router.dtype().size_bytes();
        let mut pieces = Chunks::new(router.dtype(), sink);
        for row in router.bytes().chunks(row_bytes) {
            (0..self.parts).try_for_each(|_| pieces.push(row))?;
        }
        pieces.finish()
    }

    /// The numbers of a matrix in the rows, or for down the columns, of one part.
    fn stream_part(
        &self,
        id: TensorId,
        part: usize,
        projection: Projection,
        sink: &mut Sink<'_>,
    ) -> Result<(), WeightError> {
        let dtype = self.dtype(id);
        let (size, inner) = (dtype.size_bytes(), self.config.intermediate_size);
        let width = if projection == Projection::Down { inner * self.parts } else { self.config.hidden_size };
        let is_inside = |place: usize| {
            let dimension = if projection == Projection::Down { place % width } else { place / width };
            dimension / inner == part
        };
        if projection == Projection::Down && !dtype.is_computed_with() {
            let expected = "float32, float16 or bfloat16 to compute with";
            return Err(WeightError::NotComputable { id, found: dtype, expected });
        }
        let mut pieces = Chunks::new(dtype, sink);
        let (mut place, mut kept) = (0, Vec::new());
        self.source.stream(self.whole(id), &mut |piece| {
            kept.clear();
            // Runs of numbers inside: a row of down, or all rows of a part.
            let count = piece.len() / size;
            let mut i = 0;
            while i < count {
                let left = width - (place + i) % width;
                let run = if projection == Projection::Down { (inner - (place + i) % inner).min(left) } else { left };
                let run = run.min(count - i);
                if is_inside(place + i) {
                    kept.extend_from_slice(&piece[i * size..(i + run) * size]);
                }
                i += run;
            }
            place += count;
            if projection == Projection::Down {
                pieces.push(&times(&kept, dtype, self.parts))
            } else {
                pieces.push(&kept)
            }
        })?;
        pieces.finish()
    }
}

/// Numbers multiplied by a count, rounded once.
fn times(bytes: &[u8], dtype: Dtype, factor: usize) -> Vec<u8> {
    let (mut values, mut wide, mut product) = (Vec::new(), Vec::new(), Vec::new());
    widen_to_f32(bytes, dtype, &mut values);
    values.iter().for_each(|w| wide.extend_from_slice(&(w * factor as f32).to_le_bytes()));
    cast_bytes(&wide, Dtype::Float32, dtype, &mut product);
    product
}

impl<S: WeightSource> WeightSource for FineGrained<S> {
    fn config(&self) -> &DecoderConfig {
        &self.config
    }

    fn dtype(&self, id: TensorId) -> Dtype {
        self.source.dtype(self.whole(id))
    }

    fn stream(&self, id: TensorId, sink: &mut Sink<'_>) -> Result<(), WeightError> {
        match id {
            TensorId::Layer(_, LayerTensor::Router) => self.stream_router(id, sink),
            TensorId::Layer(_, LayerTensor::Expert(expert, projection)) => {
                self.stream_part(id, expert % self.parts, projection, sink)
            }
            id => self.source.stream(id, sink),
        }
    }

    fn lineage(&self, id: TensorId) -> Lineage {
        let mut lineage = self.source.lineage(self.whole(id));
        if let TensorId::Layer(_, LayerTensor::Expert(expert, _)) = id {
            lineage.steps.push(Change::Part { part: expert % self.parts, num_parts: self.parts });
        }
        lineage
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Grown, GrowthPlan, UpcyclePlan};
    use super::*;
    use crate::weights::MemoryWeights;

    fn mixture() -> Grown<MemoryWeights> {
        let base = MemoryWeights::untrained(DecoderConfig::pico(), 0.02, 3);
        Grown::new(base, GrowthPlan::Upcycle(UpcyclePlan::new(3, 2))).unwrap()
    }

    #[test]
    fn the_parts_of_an_expert_are_its_dimensions_and_share_its_router_row() {
        let (coarse, fine) = (mixture(), FineGrained::new(mixture(), 4).unwrap());
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
        let message = FineGrained::new(mixture(), 5).unwrap_err().to_string();
        assert_eq!(message, "granularity is 5, expected a divisor of intermediate_size 336");
        let dense = MemoryWeights::untrained(DecoderConfig::pico(), 0.02, 3);
        assert!(matches!(FineGrained::new(dense, 2), Err(PlanError::NoExperts { parts: 2 })));
    }
}
