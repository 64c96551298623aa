//! Routers with given rows, for example computed from the hidden states of prompts.

use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::PlanError;
use crate::config::DecoderConfig;
use crate::weights::{LayerTensor, Like, Recipe, Step, TensorId};

/// The router of every layer, `[num_local_experts, hidden_size]` each, row-major. Cheap to clone; serialized as its hash.
#[derive(Debug, Clone, PartialEq)]
pub struct RouterRows(Vec<Arc<[f32]>>);

impl RouterRows {
    /// Takes the entries of each layer.
    ///
    /// # Errors
    /// [`PlanError::RouterNotFinite`].
    pub fn new(layers: Vec<Vec<f32>>) -> Result<Self, PlanError> {
        for (layer, rows) in layers.iter().enumerate() {
            if let Some(place) = rows.iter().position(|w| !w.is_finite()) {
                return Err(PlanError::RouterNotFinite { layer, place, found: rows[place] });
            }
        }
        Ok(Self(layers.into_iter().map(Arc::from).collect()))
    }

    /// The direction of an expert's prompts, `(p − n) / max(‖p − n‖, 1e-8)` of the mean hidden states `positive` and
    /// `negative` (zeros without a negative prompt), as mergekit's `hidden` modes compute a row.
    ///
    /// # Panics
    /// If the two have different lengths.
    pub fn direction(positive: &[f32], negative: &[f32]) -> Vec<f32> {
        assert_eq!(positive.len(), negative.len(), "hidden sizes");
        normalized(positive.iter().zip(negative).map(|(p, n)| p - n).collect())
    }

    /// The entries of one layer.
    ///
    /// # Panics
    /// If there is no such layer.
    pub fn layer(&self, layer: usize) -> &[f32] {
        &self.0[layer]
    }

    /// The hash of all entries, BLAKE3 in hexadecimal.
    pub fn blake3(&self) -> String {
        let mut hash = blake3::Hasher::new();
        self.0.iter().flat_map(|rows| rows.iter()).for_each(|w| _ = hash.update(&w.to_le_bytes()));
        hash.finalize().to_hex().to_string()
    }

    /// Checks that these fill the routers of a decoder.
    ///
    /// # Errors
    /// [`PlanError::Dense`], [`PlanError::RouterLayers`], [`PlanError::RouterNumbers`].
    pub fn fit(&self, config: &DecoderConfig) -> Result<(), PlanError> {
        let experts = config.moe.ok_or(PlanError::Dense)?.num_local_experts;
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

    /// The recipe of a router of the type of `like`.
    pub(super) fn router(&self, layer: usize, hidden_size: usize, like: Like) -> Recipe {
        let rows = self.0[layer].clone();
        Recipe::created_by(Step::GivenRouter { shape: [rows.len() / hidden_size, hidden_size], rows, like })
    }

    /// The recipe of a weight of a mixture whose routers these replace, in the type of what they replace.
    pub(super) fn recipe(&self, source: &DecoderConfig, like: &dyn Fn(TensorId) -> Like, id: TensorId) -> Recipe {
        match id {
            TensorId::Layer(layer, LayerTensor::Router) => self.router(layer, source.hidden_size, like(id)),
            id => Recipe::of(id),
        }
    }
}

impl Serialize for RouterRows {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.blake3())
    }
}

/// `v / max(‖v‖, 1e-8)`.
pub(super) fn normalized(mut vector: Vec<f32>) -> Vec<f32> {
    let norm = vector.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt().max(1e-8);
    vector.iter_mut().for_each(|x| *x = (f64::from(*x) / norm) as f32);
    vector
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{Grown, GrowthPlan, UpcyclePlan};
    use super::*;
    use crate::weights::{MemoryWeights, WeightSource};

    fn wide() -> Grown<MemoryWeights> {
        let base = MemoryWeights::untrained(DecoderConfig::pico(), 0.02, 3);
        Grown::new(base, GrowthPlan::Upcycle(UpcyclePlan::new(4, 2))).unwrap()
    }

    fn given<S: WeightSource>(source: S, rows: RouterRows) -> Result<Grown<S>, PlanError> {
        Grown::new(source, GrowthPlan::Routers { rows, prompts: None })
    }

    fn rows(layers: usize, numbers: usize) -> RouterRows {
        let row = |layer| (0..numbers).map(|i| (layer * numbers + i) as f32).collect();
        RouterRows::new((0..layers).map(row).collect()).unwrap()
    }

    #[test]
    fn given_rows_replace_the_routers_and_nothing_else() {
        let (plain, given) = (wide(), given(wide(), rows(8, 4 * 96)).unwrap());
        for id in TensorId::all(plain.config()) {
            match id {
                TensorId::Layer(layer, LayerTensor::Router) => {
                    assert_eq!(given.read(id).unwrap().to_f32(), rows(8, 4 * 96).layer(layer));
                    assert_eq!(json!(given.lineage(id).steps), json!([{"kind": "router", "init": "given"}]));
                }
                _ => assert_eq!(given.read(id).unwrap(), plain.read(id).unwrap()),
            }
        }
    }

    #[test]
    fn rows_must_fill_the_routers() {
        let refused = |rows| given(wide(), rows).unwrap_err().to_string();
        assert_eq!(refused(rows(7, 384)), "router rows are given for 7 layers, expected num_hidden_layers 8");
        let message = "the router rows of layer 0 have 383 numbers, expected num_local_experts · hidden_size 384";
        assert_eq!(refused(rows(8, 383)), message);
        let dense = MemoryWeights::untrained(DecoderConfig::pico(), 0.02, 3);
        assert_eq!(given(dense, rows(8, 384)).unwrap_err(), PlanError::Dense);
        let error = RouterRows::new(vec![vec![0.0, f32::NAN]]).unwrap_err().to_string();
        assert_eq!(error, "number 1 of the router rows of layer 0 is NaN, expected a finite number");
    }

    #[test]
    fn a_direction_has_length_1_unless_there_is_none() {
        assert_eq!(RouterRows::direction(&[4.0, 4.0], &[1.0, 0.0]), [0.6, 0.8]);
        assert_eq!(RouterRows::direction(&[1.0, 2.0], &[1.0, 2.0]), [0.0, 0.0]);
    }
}
