//! Growing deep: which layer of the source stands at each place of the result.
//!
//! A [`LayerPlan`] is plain integers: it can be printed, checked and composed without a weight. Reading weights
//! by it is the business of [`Grown`](super::Grown).

use std::fmt;
use std::ops::Range;

use serde::Serialize;

use super::PlanError;
use crate::config::DecoderConfig;
use crate::weights::TensorId;

/// Layers of the longest plan: far beyond any decoder, small enough that a typing error fills no memory.
const MAX_LAYERS: usize = 1 << 16;

/// For each layer of the result, the layer of the source that it copies: a map `σ: 0..s → 0..n`, never empty.
///
/// ```
/// use deepwide::growth::LayerPlan;
/// let solar = LayerPlan::depth_up_scaling(32, 8)?;
/// assert_eq!(solar.to_string(), "0..24 ++ 8..32 (48 layers)");
/// # Ok::<(), deepwide::growth::PlanError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LayerPlan {
    num_source_layers: usize,
    sources: Vec<usize>,
}

impl LayerPlan {
    /// Depth up-scaling of `n = num_layers` layers by overlap `m`: two copies, without the last `m` layers of the
    /// first and the first `m` of the second (Kim et al., 2023, arXiv:2312.15166, §2).
    ///
    /// `B[0..n−m] ++ B[m..n]`, which has `s = 2(n − m)` layers. SOLAR is `(32, 8)`; `m = 0` is the whole stack
    /// twice; `m = n/2` gives the base back; a larger `m` leaves layers out.
    ///
    /// # Errors
    /// [`PlanError::NoLayers`], [`PlanError::OverlapTooLarge`], [`PlanError::TooManyLayers`]. An overlap below 0
    /// cannot be said: where it comes from text, reading the number refuses it.
    pub fn depth_up_scaling(num_layers: usize, overlap: usize) -> Result<Self, PlanError> {
        if num_layers == 0 {
            return Err(PlanError::NoLayers);
        }
        if overlap >= num_layers {
            return Err(PlanError::OverlapTooLarge { overlap, num_layers });
        }
        Self::from_ranges(num_layers, &[0..num_layers - overlap, overlap..num_layers])
    }

    /// The given ranges of a source of `num_layers` layers, one after the other; they may overlap, repeat and leave
    /// layers out.
    ///
    /// # Errors
    /// [`PlanError::NoLayers`], [`PlanError::NoRanges`], [`PlanError::EmptyRange`], [`PlanError::ReversedRange`],
    /// [`PlanError::OutOfBounds`], [`PlanError::TooManyLayers`].
    pub fn from_ranges(num_layers: usize, ranges: &[Range<usize>]) -> Result<Self, PlanError> {
        if num_layers == 0 {
            return Err(PlanError::NoLayers);
        }
        if ranges.is_empty() {
            return Err(PlanError::NoRanges);
        }
        for (index, &Range { start, end }) in ranges.iter().enumerate() {
            if start == end {
                return Err(PlanError::EmptyRange { index, start });
            }
            if start > end {
                return Err(PlanError::ReversedRange { index, start, end });
            }
            if end > num_layers {
                return Err(PlanError::OutOfBounds { index, start, end, num_layers });
            }
        }
        let found = ranges.iter().fold(0usize, |sum, range| sum.saturating_add(range.len()));
        if found > MAX_LAYERS {
            return Err(PlanError::TooManyLayers { found, limit: MAX_LAYERS });
        }
        Ok(Self { num_source_layers: num_layers, sources: ranges.iter().cloned().flatten().collect() })
    }

    /// The whole source `times` times, one copy on the other (Du et al., 2024, arXiv:2405.15319, `G_stack`).
    ///
    /// # Errors
    /// [`PlanError::NoLayers`], [`PlanError::NoCopies`], [`PlanError::TooManyLayers`].
    pub fn stack(num_layers: usize, times: usize) -> Result<Self, PlanError> {
        if times == 0 {
            return Err(PlanError::NoCopies);
        }
        let found = num_layers.saturating_mul(times);
        if found > MAX_LAYERS {
            return Err(PlanError::TooManyLayers { found, limit: MAX_LAYERS });
        }
        let base = Self::identity(num_layers)?;
        Ok(Self { sources: base.sources.repeat(times), ..base })
    }

    /// Every layer of the source once, in its place.
    ///
    /// # Errors
    /// [`PlanError::NoLayers`], [`PlanError::TooManyLayers`].
    pub fn identity(num_layers: usize) -> Result<Self, PlanError> {
        Self::from_ranges(num_layers, std::slice::from_ref(&(0..num_layers)))
    }

    /// One plan for this one followed by `next`: with `σ` of this plan and `τ` of `next`, `j ↦ σ(τ(j))`.
    ///
    /// # Errors
    /// [`PlanError::DepthsDisagree`] if `next` is not for a source of as many layers as this plan makes.
    pub fn then(&self, next: &Self) -> Result<Self, PlanError> {
        if next.num_source_layers != self.sources.len() {
            return Err(PlanError::DepthsDisagree { expected: next.num_source_layers, found: self.sources.len() });
        }
        let sources = next.sources.iter().map(|&layer| self.sources[layer]).collect();
        Ok(Self { num_source_layers: self.num_source_layers, sources })
    }

    /// For each layer of the result, its layer of the source.
    pub fn as_slice(&self) -> &[usize] {
        &self.sources
    }

    /// Layers of the source that this plan is for.
    pub fn num_source_layers(&self) -> usize {
        self.num_source_layers
    }

    /// Layers of the source that the result lacks, in order.
    pub fn unused_layers(&self) -> Vec<usize> {
        let mut unused = vec![true; self.num_source_layers];
        self.sources.iter().for_each(|&layer| unused[layer] = false);
        (0..self.num_source_layers).filter(|&layer| unused[layer]).collect()
    }

    /// At each seam, a place where a layer does not follow the one that it follows in the source, the distance in
    /// layers that the residual stream jumps, `|σ(j+1) − σ(j)|`.
    ///
    /// Depth up-scaling with `m < n/2` has one seam, of `n − 1 − 2m`.
    pub fn seam_jumps(&self) -> Vec<usize> {
        let neighbours = self.sources.windows(2).map(|pair| (pair[0], pair[1]));
        neighbours.filter(|&(below, above)| above != below + 1).map(|(below, above)| above.abs_diff(below)).collect()
    }

    /// Share of neighbouring layers that are neighbours in the source too (Du et al., 2024, arXiv:2405.15319,
    /// `R_c`); 1 for a single layer, which has no neighbour.
    ///
    /// Depth up-scaling with `m ≠ n/2` has `(s − 2) / (s − 1)`.
    pub fn connection_rate(&self) -> f64 {
        match self.sources.len() - 1 {
            0 => 1.0,
            pairs => (pairs - self.seam_jumps().len()) as f64 / pairs as f64,
        }
    }

    /// The weight of the source that stands at `id` of the result.
    ///
    /// # Panics
    /// If `id` is of a layer that the result does not have.
    pub fn source_of(&self, id: TensorId) -> TensorId {
        match id {
            TensorId::Layer(layer, tensor) => TensorId::Layer(self.sources[layer], tensor),
            TensorId::EmbedTokens | TensorId::Norm | TensorId::LmHead => id,
        }
    }

    pub(super) fn config(&self, source: &DecoderConfig) -> Result<DecoderConfig, PlanError> {
        let (expected, found) = (self.num_source_layers, source.num_hidden_layers);
        if expected != found {
            return Err(PlanError::DepthsDisagree { expected, found });
        }
        Ok(source.with(|fields| fields.num_hidden_layers = self.sources.len())?)
    }

    pub(super) fn runs(&self) -> impl Iterator<Item = Range<usize>> {
        self.sources.chunk_by(|below, above| *above == below + 1).map(|run| run[0]..run[0] + run.len())
    }
}

/// The runs of consecutive layers: `0..24 ++ 8..32 (48 layers)`.
impl fmt::Display for LayerPlan {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for (index, Range { start, end }) in self.runs().enumerate() {
            write!(f, "{}{start}..{end}", if index == 0 { "" } else { " ++ " })?;
        }
        match self.sources.len() {
            1 => write!(f, " (1 layer)"),
            layers => write!(f, " ({layers} layers)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::LayerTensor;

    fn refused(result: Result<LayerPlan, PlanError>) -> PlanError {
        result.unwrap_err()
    }

    #[test]
    fn depth_up_scaling_repeats_the_middle_layers() {
        assert_eq!(LayerPlan::depth_up_scaling(4, 1).unwrap().as_slice(), [0, 1, 2, 1, 2, 3]);
    }

    #[test]
    fn solar_is_two_copies_of_32_layers_with_8_left_out_of_each() {
        let solar = LayerPlan::depth_up_scaling(32, 8).unwrap();
        assert_eq!(solar.to_string(), "0..24 ++ 8..32 (48 layers)");
        assert_eq!(solar.seam_jumps(), [15]);
        assert_eq!(solar.connection_rate(), 46.0 / 47.0);
    }

    #[test]
    fn an_overlap_must_leave_a_layer() {
        let error = refused(LayerPlan::depth_up_scaling(8, 9));
        assert_eq!(error.to_string(), "overlap m = 9 leaves no layer: expected less than num_hidden_layers 8");
        let error = refused(LayerPlan::depth_up_scaling(8, 8));
        assert_eq!(error, PlanError::OverlapTooLarge { overlap: 8, num_layers: 8 });
        assert_eq!(LayerPlan::depth_up_scaling(8, 7).unwrap().as_slice(), [0, 7]);
    }

    #[test]
    fn every_plan_needs_a_source_with_layers() {
        assert_eq!(refused(LayerPlan::depth_up_scaling(0, 0)), PlanError::NoLayers);
        assert_eq!(refused(LayerPlan::from_ranges(0, &[])), PlanError::NoLayers);
        assert_eq!(refused(LayerPlan::stack(0, 2)), PlanError::NoLayers);
        assert_eq!(refused(LayerPlan::identity(0)), PlanError::NoLayers);
    }

    #[test]
    fn a_refused_range_is_named() {
        assert_eq!(refused(LayerPlan::from_ranges(8, &[])), PlanError::NoRanges);
        let error = refused(LayerPlan::from_ranges(8, &[0..8, 3..3]));
        assert_eq!(error.to_string(), "layer range 1 is 3..3, which is empty, expected an end above the start");
        let error = refused(LayerPlan::from_ranges(8, &[Range { start: 6, end: 2 }]));
        assert_eq!(error.to_string(), "layer range 0 is 6..2, which is reversed, expected an end above the start");
        let error = refused(LayerPlan::from_ranges(8, &[0..4, 4..9]));
        assert_eq!(error.to_string(), "layer range 1 is 4..9, expected an end of at most num_hidden_layers 8");
    }

    #[test]
    fn a_stack_has_a_copy() {
        assert_eq!(refused(LayerPlan::stack(8, 0)), PlanError::NoCopies);
        assert_eq!(LayerPlan::stack(2, 3).unwrap().as_slice(), [0, 1, 0, 1, 0, 1]);
    }

    #[test]
    fn a_typing_error_does_not_fill_the_memory() {
        let limit = MAX_LAYERS;
        let found = MAX_LAYERS + 1;
        assert_eq!(refused(LayerPlan::identity(found)), PlanError::TooManyLayers { found, limit });
        let found = usize::MAX;
        assert_eq!(refused(LayerPlan::stack(8, found)), PlanError::TooManyLayers { found, limit });
        assert_eq!(refused(LayerPlan::depth_up_scaling(found, 1)), PlanError::TooManyLayers { found, limit });
        assert!(LayerPlan::identity(MAX_LAYERS).is_ok());
    }

    #[test]
    fn plans_follow_each_other_only_at_equal_depth() {
        let deeper = LayerPlan::depth_up_scaling(8, 2).unwrap();
        let error = deeper.then(&LayerPlan::identity(8).unwrap()).unwrap_err();
        assert_eq!(error, PlanError::DepthsDisagree { expected: 8, found: 12 });
        assert_eq!(deeper.then(&LayerPlan::identity(12).unwrap()).unwrap(), deeper);
    }

    #[test]
    fn what_follows_reads_through_what_came_before() {
        let doubled = LayerPlan::stack(2, 2).unwrap();
        let ends = LayerPlan::from_ranges(4, &[3..4, 0..1]).unwrap();
        assert_eq!(doubled.then(&ends).unwrap().as_slice(), [1, 0]);
    }

    #[test]
    fn seams_are_where_a_run_of_layers_breaks() {
        let plan = LayerPlan::from_ranges(8, &[0..3, 3..5, 4..5, 0..1, 7..8]).unwrap();
        assert_eq!(plan.to_string(), "0..5 ++ 4..5 ++ 0..1 ++ 7..8 (8 layers)");
        assert_eq!(plan.seam_jumps(), [0, 4, 7]);
        assert_eq!(plan.connection_rate(), 4.0 / 7.0);
        assert_eq!(plan.unused_layers(), [5, 6]);
    }

    #[test]
    fn a_single_layer_has_no_seam() {
        let plan = LayerPlan::from_ranges(8, std::slice::from_ref(&(7..8))).unwrap();
        assert_eq!(plan.to_string(), "7..8 (1 layer)");
        assert_eq!((plan.seam_jumps(), plan.connection_rate()), (vec![], 1.0));
    }

    #[test]
    fn only_weights_of_layers_move() {
        let plan = LayerPlan::depth_up_scaling(4, 1).unwrap();
        for id in [TensorId::EmbedTokens, TensorId::Norm, TensorId::LmHead] {
            assert_eq!(plan.source_of(id), id);
        }
        let q_proj = |layer| TensorId::Layer(layer, LayerTensor::QProj);
        assert_eq!(plan.source_of(q_proj(5)), q_proj(3));
    }
}
