//! What can be wrong with a merge config: one variant per rule, each with the place in the file.

use std::fmt;

/// A place in a text file, both counted from 1; columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Line.
    pub line: u64,
    /// Column.
    pub column: u64,
}

/// Line and column, as compilers write them: `12:5`.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// A broken rule, and where: `"solar.yml":3:11: layer_range is [24, 8], …`.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{file:?}:{at}: {fault}")]
pub struct MergeError {
    /// The file, as the caller named it.
    pub file: String,
    /// Where in the file.
    pub at: Position,
    /// What is wrong there.
    pub fault: Fault,
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

/// The rules of a merge config.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// Larger than any config that somebody wrote.
    #[error("the file has {found_bytes} bytes, expected at most {limit_bytes}")]
    TooLarge {
        /// Its size.
        found_bytes: usize,
        /// The limit.
        limit_bytes: usize,
    },
    /// YAML is text.
    #[error("byte {byte:#04x} is not UTF-8, expected YAML text")]
    NotUtf8 {
        /// The first byte that is not.
        byte: u8,
    },
    /// Not YAML.
    #[error("{}, expected YAML", cut(.message))]
    Syntax {
        /// What the parser says.
        message: String,
    },
    /// YAML is indented by spaces.
    #[error("a tab indents the line, expected spaces")]
    Tab,
    /// A key stands twice in one mapping.
    #[error("key {} is given twice, expected once", quoted(.key))]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// `mergekit-multi` is another format.
    #[error("a second document begins, expected one: several (mergekit-multi) are not supported")]
    SeveralDocuments,
    /// Tags make objects of other programs.
    #[error("tag {} is not supported, expected plain YAML without tags", quoted(.tag))]
    CustomTag {
        /// The tag.
        tag: String,
    },
    /// An alias to nothing.
    #[error("the alias names no anchor that stands before it, expected one")]
    UnknownAnchor,
    /// An alias inside of what it names.
    #[error("the alias stands inside of what it names, expected an end")]
    RecursiveAlias,
    /// `<<` takes mappings.
    #[error("<< has another value, expected a mapping or a list of mappings")]
    BadMergeKey,
    /// Lists and mappings inside each other, without end.
    #[error("lists and mappings are nested more than {limit} deep, expected fewer levels")]
    TooDeep {
        /// The limit.
        limit: usize,
    },
    /// Small to store and large to read: aliases of aliases.
    #[error(
        "with its aliases written out the file has more than {limit} values or {limit_bytes} bytes of text, expected \
         fewer: is it an alias bomb?"
    )]
    TooManyValues {
        /// The limit of scalars, lists and mappings.
        limit: usize,
        /// The limit of text in them.
        limit_bytes: usize,
    },

    /// A value of another kind.
    #[error("{field} is {found}, expected {expected}")]
    WrongType {
        /// The field.
        field: String,
        /// What was found, in words.
        found: String,
        /// What was expected, in words.
        expected: &'static str,
    },
    /// A key that the format does not have.
    #[error("{} is no key of {inside}{}", quoted(.key), did_you_mean(.suggestion))]
    UnknownKey {
        /// The key.
        key: String,
        /// The mapping that it stands in, in words.
        inside: String,
        /// The known key that is meant, perhaps.
        suggestion: Option<&'static str>,
    },
    /// A key that must be there.
    #[error("{inside} has no {key}, expected one")]
    MissingKey {
        /// The key.
        key: &'static str,
        /// The mapping that lacks it, in words.
        inside: String,
    },
    /// There are three ways to list what is merged, and each config takes one.
    #[error("the config has {found}, expected exactly one of slices, models and modules")]
    NotOneInput {
        /// Which of them it has, in words.
        found: String,
    },
    /// Two keys say the same thing.
    #[error("both {first} and {second} are given, expected one of them")]
    BothKeys {
        /// One key.
        first: &'static str,
        /// The other.
        second: &'static str,
    },
    /// Something of mergekit's that growing needs not.
    #[error("{field} is {found}, which is not supported, expected {expected}{}", did_you_mean(.suggestion))]
    Unsupported {
        /// The field.
        field: String,
        /// What was found, in words.
        found: String,
        /// What is supported.
        expected: &'static str,
        /// The supported value that is meant, perhaps.
        suggestion: Option<&'static str>,
    },
    /// No model is named like this.
    #[error("model {} is no reference, expected a path or a hub id, with @revision at most once", quoted(.found))]
    BadReference {
        /// What was found.
        found: String,
    },
    /// The range has no layer in it.
    #[error("layer_range is [{start}, {start}], which is empty, expected an end above the start")]
    EmptyRange {
        /// First layer, and end.
        start: usize,
    },
    /// The range runs backwards.
    #[error("layer_range is [{start}, {end}], which is reversed, expected an end above the start")]
    ReversedRange {
        /// First layer.
        start: usize,
        /// Layer after the last.
        end: usize,
    },

    /// A router chooses at least one expert.
    #[error("experts_per_token is 0, expected at least 1")]
    NoExpertsPerToken,
    /// A token cannot visit more experts than there are.
    #[error("experts_per_token is {chosen}, expected at most the number of experts, {available}")]
    TooFewExperts {
        /// `experts_per_token`.
        chosen: usize,
        /// Entries of `experts`.
        available: usize,
    },
    /// Routing by prompts needs a prompt with text in it.
    #[error("expert {expert} has no text in its positive_prompts, expected some for gate_mode {gate_mode}")]
    NoPrompts {
        /// Which expert, from 0.
        expert: usize,
        /// The mode.
        gate_mode: &'static str,
    },
    /// Experts with the same prompts get the same rows: nothing tells them apart.
    #[error("all experts have the same prompts, expected different ones for gate_mode {gate_mode}")]
    IdenticalPrompts {
        /// The mode.
        gate_mode: &'static str,
    },
    /// Noise so large that it drowns the weights, or below nothing.
    #[error("noise_scale is {found}, expected a number from 0 to 1")]
    BadNoise {
        /// What was found.
        found: f64,
    },

    /// A range reaches beyond the model.
    #[error("layer_range is [{start}, {end}], expected an end of at most {num_layers}, the layers of {}", quoted(.model))]
    OutOfBounds {
        /// First layer.
        start: usize,
        /// Layer after the last.
        end: usize,
        /// The model.
        model: String,
        /// Layers that it has.
        num_layers: usize,
    },
    /// More layers than any decoder: a typing error, refused before it fills the disk.
    #[error("the result has {found} layers, expected at most {limit}")]
    TooManyLayers {
        /// Layers asked for, saturating.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// Weights of different models stand side by side only in decoders of one shape.
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
    /// Modes that read prompts need the rows that were computed from them.
    #[error("gate_mode {gate_mode} needs router rows computed from the prompts, and none are given")]
    NoRouterRows {
        /// The mode.
        gate_mode: &'static str,
    },
    /// The plan breaks a rule of every plan.
    #[error(transparent)]
    Plan(#[from] crate::growth::PlanError),
}

/// What a plan does that may not be meant; the run goes on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MergeWarning {
    /// Layers that no slice has, of any model.
    #[error("no slice has layers {}: they are left out", numbers(.layers))]
    UnusedLayers {
        /// Their places in the first model, or in `base_model`.
        layers: Vec<usize>,
    },
    /// One expert is a dense MLP with a router that decides nothing.
    #[error("there is 1 expert: the router has nothing to decide")]
    OneExpert,
    /// The router cannot tell two experts apart.
    #[error("experts {first} and {second} have the same prompts: their router rows are the same")]
    SamePrompts {
        /// One expert.
        first: usize,
        /// The other.
        second: usize,
    },
}

const SHOWN_CHARS: usize = 200;

pub(super) fn quoted(name: &str) -> String {
    let shown: String = name.chars().take(SHOWN_CHARS).collect();
    let more = if shown.len() < name.len() { "…" } else { "" };
    format!("{shown:?}{more}")
}

pub(super) fn cut(text: &str) -> String {
    let escape = |c: char| if c.is_control() { c.escape_default().collect() } else { String::from(c) };
    let shown: String = text.chars().take(SHOWN_CHARS).map(escape).collect();
    let more = if text.chars().nth(SHOWN_CHARS).is_some() { "…" } else { "" };
    format!("{shown}{more}")
}

fn did_you_mean(suggestion: &Option<&'static str>) -> String {
    suggestion.map_or_else(String::new, |known| format!("; did you mean {known}?"))
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
