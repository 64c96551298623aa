//! What can be wrong with a growth plan: one variant per rule.

use crate::config::ConfigError;

/// Why a decoder cannot be grown like this.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// There is no layer to plan with.
    #[error("num_hidden_layers is 0, expected at least 1")]
    NoLayers,
    /// Depth up-scaling would drop every layer of both copies.
    #[error("overlap m = {overlap} leaves no layer: expected less than num_hidden_layers {num_layers}")]
    OverlapTooLarge {
        /// Layers dropped from each copy.
        overlap: usize,
        /// Layers of the source.
        num_layers: usize,
    },
    /// A stack of nothing.
    #[error("the stack has 0 copies, expected at least 1")]
    NoCopies,
    /// The list of layer ranges has no entry.
    #[error("the list of layer ranges is empty, expected at least one range")]
    NoRanges,
    /// A range without a layer in it.
    #[error("layer range {index} is {start}..{start}, which is empty, expected an end above the start")]
    EmptyRange {
        /// Place in the list, from 0.
        index: usize,
        /// First layer, and end.
        start: usize,
    },
    /// A range that runs backwards.
    #[error("layer range {index} is {start}..{end}, which is reversed, expected an end above the start")]
    ReversedRange {
        /// Place in the list, from 0.
        index: usize,
        /// First layer.
        start: usize,
        /// Layer after the last.
        end: usize,
    },
    /// A range reaches beyond the source.
    #[error("layer range {index} is {start}..{end}, expected an end of at most num_hidden_layers {num_layers}")]
    OutOfBounds {
        /// Place in the list, from 0.
        index: usize,
        /// First layer.
        start: usize,
        /// Layer after the last.
        end: usize,
        /// Layers of the source.
        num_layers: usize,
    },
    /// More layers than any decoder: a typing error, refused before it fills the memory.
    #[error("the plan has {found} layers, expected at most {limit}")]
    TooManyLayers {
        /// Layers asked for, saturating.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// A plan was made for a source of another depth.
    #[error("the plan is for {expected} layers, but its source has {found}")]
    DepthsDisagree {
        /// Layers that the plan counts on.
        expected: usize,
        /// Layers of the source, or of the plan applied before.
        found: usize,
    },
    /// Identity blocks stand after groups of equally many layers.
    #[error("{num_blocks} identity blocks, expected a divisor of num_hidden_layers {num_layers}")]
    BlocksDoNotDivide {
        /// Blocks to insert.
        num_blocks: usize,
        /// Layers of the source.
        num_layers: usize,
    },
    /// Upcycling starts from dense MLPs.
    #[error("the source has {num_local_experts} experts per layer already, expected a dense decoder")]
    AlreadySparse {
        /// Experts found.
        num_local_experts: usize,
    },
    /// Noise so large that it drowns the weights, or no number.
    #[error("relative_std is {found}, expected a number from 0 to 1")]
    BadNoise {
        /// What was found.
        found: f64,
    },
    /// A part of an MLP is between nothing and all of it.
    #[error("drop ratio is {found}, expected a number from 0 to 1")]
    BadDropRatio {
        /// What was found.
        found: f64,
    },
    /// A router starts small.
    #[error("router std is {found}, expected a number above 0, at most 1")]
    BadRouterStd {
        /// What was found.
        found: f64,
    },
    /// There are no more orthogonal rows than dimensions.
    #[error(
        "num_local_experts is {num_local_experts}, expected at most hidden_size {hidden_size} for orthogonal router rows"
    )]
    TooManyOrthogonalRows {
        /// Experts, a row each.
        num_local_experts: usize,
        /// Width of a row.
        hidden_size: usize,
    },
    /// Rows are given for a router in a decoder that has none.
    #[error("router rows are given for a dense decoder, expected a mixture of experts")]
    NoRouters,
    /// Only experts are cut finer.
    #[error("granularity is {parts}, but the source is dense, expected a mixture of experts")]
    NoExperts {
        /// Parts asked for.
        parts: usize,
    },
    /// Experts are cut into parts of one size.
    #[error("granularity is {parts}, expected a divisor of intermediate_size {intermediate_size}")]
    UnevenParts {
        /// Intermediate size of an expert.
        intermediate_size: usize,
        /// Parts asked for.
        parts: usize,
    },
    /// There is a list of router rows for each layer.
    #[error("router rows are given for {found} layers, expected num_hidden_layers {expected}")]
    RouterLayers {
        /// Lists given.
        found: usize,
        /// Layers of the decoder.
        expected: usize,
    },
    /// The rows of a router fill its shape.
    #[error(
        "the router rows of layer {layer} have {found} numbers, expected num_local_experts · hidden_size {expected}"
    )]
    RouterNumbers {
        /// The layer.
        layer: usize,
        /// Numbers given.
        found: usize,
        /// Numbers of the router.
        expected: usize,
    },
    /// A router of NaN or infinity routes nothing.
    #[error("number {place} of the router rows of layer {layer} is {found}, expected a finite number")]
    RouterNotFinite {
        /// The layer.
        layer: usize,
        /// Place in the layer's list.
        place: usize,
        /// What was found.
        found: f32,
    },
    /// The grown decoder would break a rule of every decoder.
    #[error(transparent)]
    Config(#[from] ConfigError),
}
