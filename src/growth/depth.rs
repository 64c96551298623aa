//! Growing deep: for each layer of the result, a layer of the source.

use std::fmt;
use std::ops::Range;

use serde::Serialize;

use super::PlanError;
use crate::config::DecoderConfig;
use crate::weights::{LayerTensor, Like, Projection, Recipe, Step, TensorId};

/// Cap on the layers of a plan: far beyond any decoder, small enough that a typing error does not fill the memory.
const MAX_LAYERS: usize = 1 << 16;

/// For each layer of the result, the layer of the source that it copies: a map `σ: 0..s → 0..n`, never empty. Some layers
/// may be identity blocks, which add nothing to the residual stream.
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
    /// Indices of the identity blocks in the result, ascending.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    identity: Vec<usize>,
}

impl LayerPlan {
    /// Depth up-scaling of `n = num_layers` layers by overlap `m`: two copies, without the last `m` layers of the
    /// first and the first `m` of the second (Kim et al., 2023, arXiv:2312.15166, §2).
    ///
    /// `B[0..n−m] ++ B[m..n]`, which has `s = 2(n − m)` layers. SOLAR is `(32, 8)`. `m = 0` stacks the source twice,
    /// `m = n/2` gives the source back, and a larger `m` omits layers.
    ///
    /// # Errors
    /// [`PlanError::NoLayers`], [`PlanError::OverlapTooLarge`], [`PlanError::TooManyLayers`].
    pub fn depth_up_scaling(num_layers: usize, overlap: usize) -> Result<Self, PlanError> {
        if num_layers == 0 {
            return Err(PlanError::NoLayers);
        }
        if overlap >= num_layers {
            return Err(PlanError::OverlapTooLarge { overlap, num_layers });
        }
        Self::from_ranges(num_layers, &[0..num_layers - overlap, overlap..num_layers])
    }

    /// Ranges of a source of `num_layers` layers, one after the other; they may overlap, repeat and omit layers.
    ///
    /// # Errors
    /// [`PlanError::NoLayers`], [`PlanError::NoRanges`], [`PlanError::BadRange`], [`PlanError::TooManyLayers`].
    pub fn from_ranges(num_layers: usize, ranges: &[Range<usize>]) -> Result<Self, PlanError> {
        if num_layers == 0 {
            return Err(PlanError::NoLayers);
        }
        if ranges.is_empty() {
            return Err(PlanError::NoRanges);
        }
        for (index, &Range { start, end }) in ranges.iter().enumerate() {
            if start >= end || end > num_layers {
                return Err(PlanError::BadRange { index, start, end, num_layers });
            }
        }
        let found = ranges.iter().fold(0usize, |sum, range| sum.saturating_add(range.len()));
        at_most_max(found)?;
        let sources = ranges.iter().cloned().flatten().collect();
        Ok(Self { num_source_layers: num_layers, sources, identity: Vec::new() })
    }

    /// The whole source `times` times, one copy on the other (Du et al., 2024, arXiv:2405.15319, `G_stack`).
    ///
    /// # Errors
    /// [`PlanError::NoLayers`], [`PlanError::NoCopies`], [`PlanError::TooManyLayers`].
    pub fn stack(num_layers: usize, times: usize) -> Result<Self, PlanError> {
        if times == 0 {
            return Err(PlanError::NoCopies);
        }
        at_most_max(num_layers.saturating_mul(times))?;
        let base = Self::identity(num_layers)?;
        Ok(Self { sources: base.sources.repeat(times), ..base })
    }

    /// Block expansion: `num_blocks` identity blocks in a source of `n = num_layers` layers. Each group of `n / num_blocks`
    /// layers is followed by a copy of its last layer whose `o_proj` and `down_proj` are zeros, so the decoder computes
    /// the function of its source (Wu et al., 2024, arXiv:2401.02415, §3.2: LLaMA Pro).
    ///
    /// ```
    /// use deepwide::growth::LayerPlan;
    /// let llama_pro = LayerPlan::identity_blocks(32, 8)?;
    /// assert_eq!(llama_pro.as_slice().len(), 40);
    /// # Ok::<(), deepwide::growth::PlanError>(())
    /// ```
    ///
    /// # Errors
    /// [`PlanError::NoLayers`], [`PlanError::BlocksDoNotDivide`] if `num_blocks` is 0 or no divisor of `num_layers`,
    /// [`PlanError::TooManyLayers`].
    pub fn identity_blocks(num_layers: usize, num_blocks: usize) -> Result<Self, PlanError> {
        let source = Self::identity(num_layers)?;
        if num_blocks == 0 || !num_layers.is_multiple_of(num_blocks) {
            return Err(PlanError::BlocksDoNotDivide { num_blocks, num_layers });
        }
        at_most_max(num_layers + num_blocks)?;
        let group = num_layers / num_blocks;
        let sources =
            source.sources.chunks(group).flat_map(|group| group.iter().chain(group.last())).copied().collect();
        let identity = (1..=num_blocks).map(|block| block * (group + 1) - 1).collect();
        Ok(Self { num_source_layers: num_layers, sources, identity })
    }

    /// Every layer of the source once, in order.
    ///
    /// # Errors
    /// [`PlanError::NoLayers`], [`PlanError::TooManyLayers`].
    pub fn identity(num_layers: usize) -> Result<Self, PlanError> {
        Self::from_ranges(num_layers, std::slice::from_ref(&(0..num_layers)))
    }

    /// This plan followed by `next`, as one plan: with `σ` of this plan and `τ` of `next`, `j ↦ σ(τ(j))`.
    ///
    /// # Errors
    /// [`PlanError::DepthsDisagree`] if `next` expects another number of layers than this plan gives.
    pub fn then(&self, next: &Self) -> Result<Self, PlanError> {
        if next.num_source_layers != self.sources.len() {
            return Err(PlanError::DepthsDisagree { expected: next.num_source_layers, found: self.sources.len() });
        }
        let is_identity = |&layer: &usize| next.is_identity(layer) || self.is_identity(next.sources[layer]);
        Ok(Self {
            num_source_layers: self.num_source_layers,
            sources: next.sources.iter().map(|&layer| self.sources[layer]).collect(),
            identity: (0..next.sources.len()).filter(is_identity).collect(),
        })
    }

    /// For each layer of the result, its layer of the source.
    pub fn as_slice(&self) -> &[usize] {
        &self.sources
    }

    /// Layers of the source that this plan is for.
    pub fn num_source_layers(&self) -> usize {
        self.num_source_layers
    }

    /// Indices of the identity blocks in the result, ascending.
    pub fn identity_layers(&self) -> &[usize] {
        &self.identity
    }

    /// Layers of the source that the result lacks, ascending.
    pub fn unused_layers(&self) -> Vec<usize> {
        let mut unused = vec![true; self.num_source_layers];
        self.sources.iter().for_each(|&layer| unused[layer] = false);
        (0..self.num_source_layers).filter(|&layer| unused[layer]).collect()
    }

    /// Whether the result computes the function of its source, whatever the weights.
    pub fn preserves_function(&self) -> bool {
        let computing = (0..self.sources.len()).filter(|&layer| !self.is_identity(layer));
        computing.map(|layer| self.sources[layer]).eq(0..self.num_source_layers)
    }

    /// At each seam, where a layer does not follow its predecessor in the source, the distance in layers that the residual
    /// stream jumps, `|σ(j+1) − σ(j)|`.
    ///
    /// Depth up-scaling with `m < n/2` has one seam, of `n − 1 − 2m`.
    pub fn seam_jumps(&self) -> Vec<usize> {
        let neighbours = self.sources.windows(2).map(|pair| (pair[0], pair[1]));
        neighbours.filter(|&(below, above)| above != below + 1).map(|(below, above)| above.abs_diff(below)).collect()
    }

    /// Fraction of neighbouring layers that are neighbours in the source too (Du et al., 2024, arXiv:2405.15319,
    /// `R_c`); 1 for a single layer, which has no neighbour.
    ///
    /// Depth up-scaling with `m ≠ n/2` has `(s − 2) / (s − 1)`.
    pub fn connection_rate(&self) -> f64 {
        match self.sources.len() - 1 {
            0 => 1.0,
            pairs => (pairs - self.seam_jumps().len()) as f64 / pairs as f64,
        }
    }

    pub(super) fn config(&self, source: &DecoderConfig) -> Result<DecoderConfig, PlanError> {
        let (expected, found) = (self.num_source_layers, source.num_hidden_layers);
        if expected != found {
            return Err(PlanError::DepthsDisagree { expected, found });
        }
        Ok(source.with(|fields| fields.num_hidden_layers = self.sources.len())?)
    }

    /// The recipe of a weight of the result; `source` and `like` describe the source.
    pub(super) fn recipe(&self, source: &DecoderConfig, like: &dyn Fn(TensorId) -> Like, id: TensorId) -> Recipe {
        let TensorId::Layer(place, tensor) = id else { return Recipe::of(id) };
        let layer = self.sources[place];
        let from = TensorId::Layer(layer, tensor);
        if self.is_identity(place) && writes_to_the_residual_stream(tensor) {
            return Recipe::created_by(Step::Zeros { shape: from.shape(source), like: like(from) });
        }
        Recipe::of(from).then(Step::Layer { layer, num_layers: self.num_source_layers })
    }

    fn is_identity(&self, layer: usize) -> bool {
        self.identity.binary_search(&layer).is_ok()
    }

    pub(super) fn runs(&self) -> impl Iterator<Item = Range<usize>> {
        self.sources.chunk_by(|below, above| *above == below + 1).map(|run| run[0]..run[0] + run.len())
    }
}

fn at_most_max(found: usize) -> Result<(), PlanError> {
    if found > MAX_LAYERS { Err(PlanError::TooManyLayers { found, limit: MAX_LAYERS }) } else { Ok(()) }
}

fn writes_to_the_residual_stream(tensor: LayerTensor) -> bool {
    matches!(tensor, LayerTensor::OProj | LayerTensor::Mlp(Projection::Down) | LayerTensor::Expert(_, Projection::Down))
}

/// Runs of consecutive layers: `0..24 ++ 8..32 (48 layers)`; `0..4 ++ 3..8 ++ 7..8 (10 layers), identity blocks 4, 9`.
impl fmt::Display for LayerPlan {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for (index, Range { start, end }) in self.runs().enumerate() {
            write!(f, "{}{start}..{end}", if index == 0 { "" } else { " ++ " })?;
        }
        match self.sources.len() {
            1 => write!(f, " (1 layer)")?,
            layers => write!(f, " ({layers} layers)")?,
        }
        if !self.identity.is_empty() {
            let blocks: Vec<String> = self.identity.iter().map(usize::to_string).collect();
            write!(f, ", identity blocks {}", blocks.join(", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::Dtype;

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

    fn recipe(plan: &LayerPlan, id: TensorId) -> Recipe {
        plan.recipe(&DecoderConfig::pico(), &|id| Like { id, dtype: Dtype::Float32 }, id)
    }

    #[test]
    fn only_weights_of_layers_move() {
        let plan = LayerPlan::depth_up_scaling(4, 1).unwrap();
        for id in [TensorId::EmbedTokens, TensorId::Norm, TensorId::LmHead] {
            assert_eq!(recipe(&plan, id), Recipe::of(id));
        }
        let q_proj = |layer| TensorId::Layer(layer, LayerTensor::QProj);
        let expected = Recipe::of(q_proj(3)).then(Step::Layer { layer: 3, num_layers: 4 });
        assert_eq!(recipe(&plan, q_proj(5)), expected);
    }

    #[test]
    fn each_group_of_layers_is_followed_by_a_copy_of_its_last() {
        let plan = LayerPlan::identity_blocks(6, 3).unwrap();
        assert_eq!(plan.as_slice(), [0, 1, 1, 2, 3, 3, 4, 5, 5]);
        assert_eq!(plan.identity_layers(), [2, 5, 8]);
        assert!(plan.preserves_function());
        let plan = LayerPlan::identity_blocks(8, 2).unwrap();
        assert_eq!(plan.to_string(), "0..4 ++ 3..8 ++ 7..8 (10 layers), identity blocks 4, 9");
    }

    #[test]
    fn blocks_divide_the_layers_evenly() {
        for num_blocks in [0, 5, 9] {
            let error = refused(LayerPlan::identity_blocks(8, num_blocks));
            let message = "identity blocks, expected a divisor of num_hidden_layers 8";
            assert_eq!(error.to_string(), format!("{num_blocks} {message}"));
        }
        assert_eq!(refused(LayerPlan::identity_blocks(0, 1)), PlanError::NoLayers);
        let plan = LayerPlan::identity_blocks(8, 8).unwrap();
        assert_eq!(plan.identity_layers(), [1, 3, 5, 7, 9, 11, 13, 15]);
    }

    #[test]
    fn only_what_an_identity_block_adds_to_the_residual_stream_is_zero() {
        let plan = LayerPlan::identity_blocks(4, 2).unwrap();
        let down = |layer| TensorId::Layer(layer, LayerTensor::Mlp(Projection::Down));
        let zeros = Step::Zeros { shape: vec![96, 336], like: Like { id: down(1), dtype: Dtype::Float32 } };
        assert_eq!(recipe(&plan, down(2)), Recipe::created_by(zeros));
        assert_eq!(recipe(&plan, down(3)).copied(), Some(down(2)));
        let gate = |layer| TensorId::Layer(layer, LayerTensor::Mlp(Projection::Gate));
        assert_eq!(recipe(&plan, gate(2)).copied(), Some(gate(1)));
    }

    #[test]
    fn identity_blocks_stay_so_when_layers_are_spliced() {
        let plan = LayerPlan::identity_blocks(2, 1).unwrap();
        let twice = plan.then(&LayerPlan::stack(3, 2).unwrap()).unwrap();
        assert_eq!(twice.identity_layers(), [2, 5]);
        assert!(!twice.preserves_function());
        assert!(LayerPlan::identity(2).unwrap().then(&plan).unwrap().preserves_function());
    }
}
