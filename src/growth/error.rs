//! Why a decoder cannot be grown by a plan.

use crate::config::ConfigError;
use crate::error::ErrorKind;
use crate::lora::LoraError;

/// A broken rule of a growth plan.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The source has no layer.
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
    /// The list of layer ranges is empty.
    #[error("the list of layer ranges is empty, expected at least one range")]
    NoRanges,
    /// A range is empty, reversed, or ends beyond the source.
    #[error("layer range {index} is {start}..{end}, {}", range_rule(*.start, *.end, *.num_layers))]
    BadRange {
        /// Index in the list.
        index: usize,
        /// First layer.
        start: usize,
        /// Layer after the last.
        end: usize,
        /// Layers of the source.
        num_layers: usize,
    },
    /// More layers than any decoder has, probably a typing error.
    #[error("the plan has {found} layers, expected at most {limit}")]
    TooManyLayers {
        /// Layers of the plan, saturating.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// The plan is for a source of another depth.
    #[error("the plan is for {expected} layers, but its source has {found}")]
    DepthsDisagree {
        /// Layers that the plan expects.
        expected: usize,
        /// Layers of the source.
        found: usize,
    },
    /// Identity blocks follow groups of equally many layers.
    #[error("{num_blocks} identity blocks, expected a divisor of num_hidden_layers {num_layers}")]
    BlocksDoNotDivide {
        /// Blocks to insert.
        num_blocks: usize,
        /// Layers of the source.
        num_layers: usize,
    },
    /// Upcycling needs dense MLPs.
    #[error("the source has {num_local_experts} experts per layer already, expected a dense decoder")]
    AlreadySparse {
        /// Experts of the source.
        num_local_experts: usize,
    },
    /// The plan changes experts or routers.
    #[error("the source is dense, expected a mixture of experts")]
    Dense,
    /// A number lies outside its range.
    #[error("{field} is {found}, expected a number {expected}")]
    OutOfRange {
        /// What the number is.
        field: &'static str,
        /// Its value.
        found: f64,
        /// The range.
        expected: &'static str,
    },
    /// At most `hidden_size` rows can be orthogonal.
    #[error(
        "num_local_experts is {num_local_experts}, expected at most hidden_size {hidden_size} for orthogonal router rows"
    )]
    TooManyOrthogonalRows {
        /// Rows.
        num_local_experts: usize,
        /// Length of a row.
        hidden_size: usize,
    },
    /// The parts of an expert have equal sizes.
    #[error("granularity is {parts}, expected a divisor of intermediate_size {intermediate_size}")]
    UnevenParts {
        /// Intermediate size of an expert.
        intermediate_size: usize,
        /// Parts.
        parts: usize,
    },
    /// Router rows are given per layer.
    #[error("router rows are given for {found} layers, expected num_hidden_layers {expected}")]
    RouterLayers {
        /// Layers with rows.
        found: usize,
        /// Layers of the decoder.
        expected: usize,
    },
    /// The rows of a router fill its shape.
    #[error(
        "the router rows of layer {layer} have {found} numbers, expected num_local_experts · hidden_size {expected}"
    )]
    RouterNumbers {
        /// Index of the layer.
        layer: usize,
        /// Numbers given.
        found: usize,
        /// Numbers of the router.
        expected: usize,
    },
    /// A router entry is NaN or infinite.
    #[error("number {place} of the router rows of layer {layer} is {found}, expected a finite number")]
    RouterNotFinite {
        /// Index of the layer.
        layer: usize,
        /// Index in the rows of the layer.
        place: usize,
        /// Its value.
        found: f32,
    },
    /// Decoders do not compute in this type.
    #[error("weights cannot be rounded to {found}, expected float32, float16 or bfloat16")]
    BadType {
        /// The type.
        found: crate::weights::Dtype,
    },
    /// A merge reads a source per model, every other plan one.
    #[error("{found} models are given for a plan that reads {expected}")]
    ModelCount {
        /// Models given.
        found: usize,
        /// Models that the plan reads.
        expected: usize,
    },
    /// A merge starts from models, not from a growth.
    #[error("the merge of models follows another growth, expected it to be the first")]
    LateMerge,
    /// The adapter does not fit the source.
    #[error(transparent)]
    Lora(#[from] LoraError),
    /// The config after growth breaks a rule of every config.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl PlanError {
    /// Always [`ErrorKind::Invalid`].
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

fn range_rule(start: usize, end: usize, num_layers: usize) -> String {
    match start.cmp(&end) {
        std::cmp::Ordering::Equal => "which is empty, expected an end above the start".to_owned(),
        std::cmp::Ordering::Greater => "which is reversed, expected an end above the start".to_owned(),
        std::cmp::Ordering::Less => format!("expected an end of at most num_hidden_layers {num_layers}"),
    }
}
