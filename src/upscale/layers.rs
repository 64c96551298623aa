//! Which layers of the base the layers of the result come from.

use std::fmt;

use serde::Serialize;

use crate::weights::{LayerTensor, Recipe, Step, TensorId, WeightSource};

/// Consecutive layers of the result that come from consecutive layers of a base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LayerRun {
    /// Index of the first in the result.
    first: usize,
    count: usize,
    /// `None` for created layers.
    source: Option<SourceLayers>,
    /// Whether they add nothing to the residual stream.
    identity: bool,
}

/// The origin of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct SourceLayers {
    first: usize,
    /// The model, where several are merged.
    model: Option<String>,
}

impl LayerRun {
    /// The run of one layer.
    fn of(source: &dyn WeightSource, layer: usize) -> Self {
        let lineage = |tensor| source.lineage(TensorId::Layer(layer, tensor));
        let Recipe { source: from, steps, .. } = lineage(LayerTensor::InputLayernorm);
        let model = steps.into_iter().find_map(|step| match step {
            Step::ModelLayer { model, .. } => Some(model),
            _ => None,
        });
        let from = match from {
            Some(TensorId::Layer(first, _)) => Some(SourceLayers { first, model }),
            _ => None,
        };
        Self { first: layer, count: 1, source: from, identity: lineage(LayerTensor::OProj).source.is_none() }
    }

    /// The runs of all layers.
    pub fn all(source: &dyn WeightSource) -> Vec<Self> {
        let mut runs: Vec<Self> = Vec::new();
        for next in (0..source.config().num_hidden_layers).map(|layer| Self::of(source, layer)) {
            match runs.last_mut().filter(|run| run.continues_with(&next)) {
                Some(run) => run.count += 1,
                None => runs.push(next),
            }
        }
        runs
    }

    fn continues_with(&self, next: &Self) -> bool {
        let follows = match (&self.source, &next.source) {
            (Some(own), Some(next)) => own.model == next.model && own.first + self.count == next.first,
            _ => false,
        };
        follows && self.identity == next.identity
    }
}

/// `layers 0..6 ← 0..6 of model`.
impl fmt::Display for LayerRun {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { first, count, source, identity } = self;
        write!(f, "layers {first}..{} ← ", first + count)?;
        match source {
            None => f.write_str("new")?,
            Some(SourceLayers { first, .. }) => write!(f, "{first}..{}", first + count)?,
        }
        if let Some(model) = source.as_ref().and_then(|source| source.model.as_ref()) {
            write!(f, " of {model}")?;
        }
        f.write_str(if *identity { ", adding nothing yet" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::DecoderConfig;
    use crate::growth::{Grown, GrowthPlan};
    use crate::weights::MemoryWeights;

    fn runs(plan: GrowthPlan) -> Vec<LayerRun> {
        let base = MemoryWeights::untrained(DecoderConfig::pico(), 0.02, 0);
        LayerRun::all(&Grown::new(base, plan).unwrap())
    }

    #[test]
    fn layers_that_follow_each_other_are_one_run() {
        let deep = runs(GrowthPlan::DepthUpScaling { overlap: 2 });
        let shown: Vec<String> = deep.iter().map(LayerRun::to_string).collect();
        assert_eq!(shown, ["layers 0..6 ← 0..6", "layers 6..12 ← 2..8"]);
        let expected = json!({"first": 6, "count": 6, "source": {"first": 2, "model": null}, "identity": false});
        assert_eq!(json!(deep[1]), expected);
    }

    #[test]
    fn an_identity_block_is_marked() {
        let blocks = runs(GrowthPlan::IdentityBlocks { num_blocks: 1 });
        let shown: Vec<String> = blocks.iter().map(LayerRun::to_string).collect();
        assert_eq!(shown, ["layers 0..8 ← 0..8", "layers 8..9 ← 7..8, adding nothing yet"]);
    }
}
