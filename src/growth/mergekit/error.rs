//! Why a merge config is refused: the broken rule, with its place in the file.

use std::fmt;

use super::field_fault::FieldFault;
use super::yaml_fault::YamlFault;
use crate::error::{InFile, cut, quoted};
use crate::growth::PlanError;

/// A broken rule of a merge config: `"solar.yml": line 3, column 11: layer_range is [24, 8], …`.
pub type MergeError = InFile<MergeFault>;

/// A place in a text file, both counted from 1; columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Line.
    pub line: u64,
    /// Column.
    pub column: u64,
}

/// `line 12, column 5`.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// A broken rule and its place in the file.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{at}: {rule}")]
pub struct MergeFault {
    /// The place.
    pub at: Position,
    /// The rule.
    pub rule: MergeRule,
}

/// The rules of a merge config.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum MergeRule {
    /// The file is not plain YAML.
    #[error(transparent)]
    Yaml(#[from] YamlFault),
    /// A key or a value is not what mergekit has.
    #[error(transparent)]
    Field(#[from] FieldFault),
    /// `layer_range` is empty, reversed, or ends beyond the model.
    #[error("layer_range is [{start}, {end}], {expected}")]
    BadRange {
        /// First layer.
        start: usize,
        /// Layer after the last.
        end: usize,
        /// The rule that it breaks.
        expected: String,
    },
    /// More layers than any decoder has, probably a typing error.
    #[error("the result has {found} layers, expected at most {limit}")]
    TooManyLayers {
        /// Layers of the result, saturating.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// A token visits at least one expert, and at most all.
    #[error("experts_per_token is {found}, expected {expected}")]
    ExpertsPerToken {
        /// `experts_per_token`.
        found: usize,
        /// The range.
        expected: String,
    },
    /// Routing by prompts needs a prompt with text.
    #[error("expert {expert} has no text in its positive_prompts, expected some for gate_mode {gate_mode}")]
    NoPrompts {
        /// Index of the expert.
        expert: usize,
        /// The mode.
        gate_mode: &'static str,
    },
    /// Experts with equal prompts get equal router rows.
    #[error("all experts have the same prompts, expected different ones for gate_mode {gate_mode}")]
    IdenticalPrompts {
        /// The mode.
        gate_mode: &'static str,
    },
    /// A negative or very large noise.
    #[error("noise_scale is {found}, expected a number from 0 to 1")]
    BadNoise {
        /// `noise_scale`.
        found: f64,
    },
    /// Only weights of decoders of one shape can be combined.
    #[error("{} and {} differ: {}", quoted(.first), quoted(.other), listed(.differences))]
    ModelsDiffer {
        /// One model.
        first: String,
        /// The other.
        other: String,
        /// Every field that differs.
        differences: Vec<Difference>,
    },
    /// Experts are made of dense MLPs.
    #[error("{} has {num_local_experts} experts per layer already, expected a dense decoder", quoted(.model))]
    AlreadySparse {
        /// The model.
        model: String,
        /// Its experts.
        num_local_experts: usize,
    },
    /// A mode that reads prompts needs the rows computed from them.
    #[error("gate_mode {gate_mode} needs router rows computed from the prompts, and none are given")]
    NoRouterRows {
        /// The mode.
        gate_mode: &'static str,
    },
    /// The merge breaks a rule of every growth.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

/// A field that differs between two models, with both values: `hidden_size 64 and 96`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The `config.json` key.
    pub field: String,
    /// Its value in the first model.
    pub first: String,
    /// Its value in the other.
    pub other: String,
}

/// What a config does that may not be meant; the merge goes on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MergeWarning {
    /// No slice has these layers.
    #[error("no slice has layers {}: they are left out", numbers(.layers))]
    UnusedLayers {
        /// Indices in the first model, or in `base_model`.
        layers: Vec<usize>,
    },
    /// One expert is a dense MLP behind a router without a choice.
    #[error("there is 1 expert: the router has nothing to decide")]
    OneExpert,
    /// Two experts have the same router row.
    #[error("experts {first} and {second} have the same prompts: their router rows are the same")]
    SamePrompts {
        /// One expert.
        first: usize,
        /// The other.
        second: usize,
    },
}

/// What was read otherwise than a reader of the file may think, as mergekit reads it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MergeNotice {
    /// A key at the top that only holds anchors.
    #[error("{at}: {} is not a key of mergekit; only its anchors are used", quoted(.key))]
    AnchorsOnly {
        /// The place of the key.
        at: Position,
        /// The key.
        key: String,
    },
    /// A key is given twice in one mapping; the last counts.
    #[error("{at}: key {} is given again, and replaces the one above", quoted(.key))]
    RepeatedKey {
        /// The place of the later one.
        at: Position,
        /// The key.
        key: String,
    },
}

fn listed(differences: &[Difference]) -> String {
    let each = differences.iter().map(|d| format!("{} {} and {}", d.field, cut(&d.first), cut(&d.other)));
    each.collect::<Vec<_>>().join(", ")
}

fn numbers(layers: &[usize]) -> String {
    let runs = layers.chunk_by(|below, above| *above == below + 1).map(|run| match run {
        [one] => one.to_string(),
        run => format!("{} to {}", run[0], run[run.len() - 1]),
    });
    runs.collect::<Vec<_>>().join(", ")
}
