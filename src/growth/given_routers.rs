//! Routers whose rows somebody computed: from the hidden states of prompts, say.

use std::sync::Arc;

use super::PlanError;
use crate::config::DecoderConfig;
use crate::weights::{
    Change, Dtype, LayerTensor, Lineage, PIECE_NUMBERS, RawTensor, Sink, TensorId, WeightError, WeightSource,
};

/// The router of every layer: per layer `[num_local_experts, hidden_size]`, row-major. Cheap to clone.
#[derive(Debug, Clone, PartialEq)]
pub struct RouterRows(Arc<Vec<Vec<f32>>>);

impl RouterRows {
    /// What a router made of them is, for a record.
    pub(super) const CHANGE: Change = Change::Router { init: "given", std: None };

    /// One list of numbers a layer.
    ///
    /// # Errors
    /// [`PlanError::RouterNotFinite`].
    pub fn new(layers: Vec<Vec<f32>>) -> Result<Self, PlanError> {
        for (layer, rows) in layers.iter().enumerate() {
            if let Some(place) = rows.iter().position(|w| !w.is_finite()) {
                return Err(PlanError::RouterNotFinite { layer, place, found: rows[place] });
            }
        }
        Ok(Self(Arc::new(layers)))
    }

    /// The direction in which an expert's prompts stand out: `(p − n) / max(‖p − n‖, 1e-8)` of the mean hidden states
    /// `positive` and `negative` (zeros for no negative prompt), as mergekit's `hidden` modes compute a row.
    ///
    /// # Panics
    /// If the two are not equally long.
    pub fn direction(positive: &[f32], negative: &[f32]) -> Vec<f32> {
        assert_eq!(positive.len(), negative.len(), "hidden sizes");
        let difference: Vec<f32> = positive.iter().zip(negative).map(|(p, n)| p - n).collect();
        normalised(difference)
    }

    /// The numbers of one layer.
    ///
    /// # Panics
    /// If there is no such layer.
    pub fn layer(&self, layer: usize) -> &[f32] {
        &self.0[layer]
    }

    /// Checks that these fill the routers of a decoder.
    ///
    /// # Errors
    /// [`PlanError::NoRouters`], [`PlanError::RouterLayers`], [`PlanError::RouterNumbers`].
    pub fn fit(&self, config: &DecoderConfig) -> Result<(), PlanError> {
        let experts = config.moe.ok_or(PlanError::NoRouters)?.num_local_experts;
        let (found, expected) = (self.0.len(), config.num_hidden_layers);
        if found != expected {
            return Err(PlanError::RouterLayers { found, expected });
        }
        let expected = experts * config.hidden_size;
        match self.0.iter().position(|rows| rows.len() != expected) {
            Some(layer) => Err(PlanError::RouterNumbers { layer, found: self.0[layer].len(), expected }),
            None => Ok(()),
        }
    }

    /// The router of one layer as a weight of type `dtype`, to `sink`.
    pub(super) fn stream(&self, layer: usize, dtype: Dtype, sink: &mut Sink<'_>) -> Result<(), WeightError> {
        let rows = &self.0[layer];
        let weight = RawTensor::from_f32(dtype, vec![rows.len()], rows);
        weight.bytes().chunks(PIECE_NUMBERS * dtype.size_bytes()).try_for_each(sink)
    }
}

/// `v / max(‖v‖, 1e-8)`.
pub(super) fn normalised(mut vector: Vec<f32>) -> Vec<f32> {
    let norm = vector.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt().max(1e-8);
    vector.iter_mut().for_each(|x| *x = (f64::from(*x) / norm) as f32);
    vector
}

/// A mixture of experts whose routers are replaced by given rows, rounded to the type of what they replace.
#[derive(Debug, Clone)]
pub struct GivenRouters<S> {
    source: S,
    rows: RouterRows,
}

impl<S: WeightSource> GivenRouters<S> {
    /// Checks the rows against the config of `source`; reads no weight.
    ///
    /// # Errors
    /// Those of [`RouterRows::fit`].
    pub fn new(source: S, rows: RouterRows) -> Result<Self, PlanError> {
        rows.fit(source.config())?;
        Ok(Self { source, rows })
    }
}

impl<S: WeightSource> WeightSource for GivenRouters<S> {
    fn config(&self) -> &DecoderConfig {
        self.source.config()
    }

    fn dtype(&self, id: TensorId) -> Dtype {
        self.source.dtype(id)
    }

    fn stream(&self, id: TensorId, sink: &mut Sink<'_>) -> Result<(), WeightError> {
        match id {
            TensorId::Layer(layer, LayerTensor::Router) => self.rows.stream(layer, self.dtype(id), sink),
            _ => self.source.stream(id, sink),
        }
    }

    fn lineage(&self, id: TensorId) -> Lineage {
        match id {
            TensorId::Layer(_, LayerTensor::Router) => Lineage { root: None, steps: vec![RouterRows::CHANGE] },
            _ => self.source.lineage(id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Grown, GrowthPlan, UpcyclePlan};
    use super::*;
    use crate::weights::MemoryWeights;

    fn wide() -> Grown<MemoryWeights> {
        let base = MemoryWeights::untrained(DecoderConfig::pico(), 0.02, 3);
        Grown::new(base, GrowthPlan::Upcycle(UpcyclePlan::new(4, 2))).unwrap()
    }

    fn rows(layers: usize, numbers: usize) -> RouterRows {
        let row = |layer| (0..numbers).map(|i| (layer * numbers + i) as f32).collect();
        RouterRows::new((0..layers).map(row).collect()).unwrap()
    }

    #[test]
    fn given_rows_replace_the_routers_and_nothing_else() {
        let (plain, given) = (wide(), GivenRouters::new(wide(), rows(8, 4 * 96)).unwrap());
        for id in TensorId::all(plain.config()) {
            match id {
                TensorId::Layer(layer, LayerTensor::Router) => {
                    assert_eq!(given.read(id).unwrap().to_f32(), rows(8, 4 * 96).layer(layer));
                    assert_eq!(given.lineage(id).steps, [RouterRows::CHANGE]);
                }
                _ => assert_eq!(given.read(id).unwrap(), plain.read(id).unwrap()),
            }
        }
    }

    #[test]
    fn rows_must_fill_the_routers() {
        let refused = |rows| GivenRouters::new(wide(), rows).unwrap_err().to_string();
        assert_eq!(refused(rows(7, 384)), "router rows are given for 7 layers, expected num_hidden_layers 8");
        let message = "the router rows of layer 0 have 383 numbers, expected num_local_experts · hidden_size 384";
        assert_eq!(refused(rows(8, 383)), message);
        let dense = MemoryWeights::untrained(DecoderConfig::pico(), 0.02, 3);
        assert_eq!(GivenRouters::new(dense, rows(8, 384)).unwrap_err(), PlanError::NoRouters);
        let error = RouterRows::new(vec![vec![0.0, f32::NAN]]).unwrap_err().to_string();
        assert_eq!(error, "number 1 of the router rows of layer 0 is NaN, expected a finite number");
    }

    #[test]
    fn a_direction_has_length_1_unless_there_is_none() {
        assert_eq!(RouterRows::direction(&[4.0, 4.0], &[1.0, 0.0]), [0.6, 0.8]);
        assert_eq!(RouterRows::direction(&[1.0, 2.0], &[1.0, 2.0]), [0.0, 0.0]);
    }
}
