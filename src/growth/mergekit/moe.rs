//! `mergekit-moe` configs: the MLPs of several models as the experts of one.

use super::error::{Fault, MergeError, Position};
use super::fields::{Fields, Reader, closest};
use super::model_ref::{ModelRef, Models};
use super::yaml::{Node, Value};
use crate::weights::Dtype;

/// A config of `mergekit-moe` that makes a Mixtral.
#[derive(Debug, Clone, PartialEq)]
pub struct MoeMergeConfig {
    pub(super) file: String,
    pub(super) at: Position,
    pub(super) models: Models,
    pub(super) base_model: usize,
    pub(super) experts: Vec<ExpertSource>,
    pub(super) experts_at: Vec<Position>,
    pub(super) gate_mode: GateMode,
    pub(super) dtype: Option<Dtype>,
    pub(super) experts_per_token: usize,
}

/// Where an expert comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct ExpertSource {
    /// Place of its model in [`MoeMergeConfig::models`].
    pub model: usize,
    /// What it should be good at.
    pub positive_prompts: Vec<String>,
    /// What it should be left alone with.
    pub negative_prompts: Vec<String>,
    /// Standard deviation of the noise that is added to each of its matrices.
    pub noise_scale: Option<f64>,
    /// What its `down_proj` is multiplied by.
    pub residual_scale: Option<f64>,
}

/// Where the rows of the routers come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateMode {
    /// The hidden state of each prompt's last token, mean over prompts; mergekit's default.
    Hidden,
    /// The hidden states of all tokens, mean over tokens and prompts.
    HiddenAvg,
    /// As [`GateMode::Hidden`], under its longer name.
    HiddenLast,
    /// The embeddings of the prompts' tokens, the same for every layer.
    CheapEmbed,
    /// Normal numbers.
    Random,
    /// Numbers uniform on `±1/√hidden_size`.
    UniformRandom,
}

impl GateMode {
    const ALL: [Self; 6] =
        [Self::Hidden, Self::HiddenAvg, Self::HiddenLast, Self::CheapEmbed, Self::Random, Self::UniformRandom];

    /// As the config spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hidden => "hidden",
            Self::HiddenAvg => "hidden_avg",
            Self::HiddenLast => "hidden_last",
            Self::CheapEmbed => "cheap_embed",
            Self::Random => "random",
            Self::UniformRandom => "uniform_random",
        }
    }

    /// Whether the rows are computed from prompts.
    pub fn reads_prompts(self) -> bool {
        !matches!(self, Self::Random | Self::UniformRandom)
    }
}

const KEYS: [&str; 7] =
    ["base_model", "experts", "gate_mode", "dtype", "experts_per_token", "shared_experts", "architecture"];
const EXPERT_KEYS: [&str; 5] =
    ["source_model", "positive_prompts", "negative_prompts", "noise_scale", "residual_scale"];

impl MoeMergeConfig {
    /// The distinct models that this merge reads, in the order in which it first names them.
    pub fn models(&self) -> &[ModelRef] {
        &self.models.0
    }

    /// The same with the weights of its models as they are.
    pub fn without_noise(&self) -> Self {
        let still = |expert: &ExpertSource| ExpertSource { noise_scale: None, ..expert.clone() };
        Self { experts: self.experts.iter().map(still).collect(), ..self.clone() }
    }

    /// Place in [`models`](Self::models) of the one that gives all but the MLPs, and the tokenizer.
    pub fn base_model(&self) -> usize {
        self.base_model
    }

    /// The experts, in order.
    pub fn experts(&self) -> &[ExpertSource] {
        &self.experts
    }

    /// Where the rows of the routers come from.
    pub fn gate_mode(&self) -> GateMode {
        self.gate_mode
    }

    pub(super) fn read(file: &str, document: &Node) -> Result<Self, MergeError> {
        let reader = Reader { file };
        let fields = reader.fields("the config", document, &KEYS)?;
        if let Some(shared) = fields.get("shared_experts") {
            return reader.unsupported("shared_experts", shared, "none: a Mixtral has no shared expert");
        }
        architecture(reader, &fields)?;
        let gate_mode = gate_mode(reader, &fields)?;
        let mut models = Models::default();
        let base_model = models.place(ModelRef::read(reader, "base_model", fields.required(reader, "base_model")?)?);
        let nodes = reader.list("experts", fields.required(reader, "experts")?)?;
        let experts = nodes.iter().map(|node| expert(reader, node, &mut models)).collect::<Result<Vec<_>, _>>()?;
        let experts_at: Vec<Position> = nodes.iter().map(|node| node.at).collect();
        let experts_per_token = experts_per_token(reader, &fields, experts.len())?;
        if gate_mode.reads_prompts() {
            prompts_tell_apart(reader, &experts, &experts_at, gate_mode.name())?;
        }
        let dtype = fields.get("dtype").map(|node| reader.dtype("dtype", node)).transpose()?;
        let (file, at) = (file.to_owned(), fields.at);
        Ok(Self { file, at, models, base_model, experts, experts_at, gate_mode, dtype, experts_per_token })
    }
}

fn gate_mode(reader: Reader<'_>, fields: &Fields<'_>) -> Result<GateMode, MergeError> {
    const EXPECTED: &str = "hidden, hidden_avg, hidden_last, cheap_embed, random or uniform_random";
    let Some(node) = fields.get("gate_mode") else { return Ok(GateMode::Hidden) };
    let text = reader.text("gate_mode", node)?;
    if let Some(mode) = GateMode::ALL.into_iter().find(|mode| mode.name() == text) {
        return Ok(mode);
    }
    let suggestion = closest(text, GateMode::ALL.into_iter().map(GateMode::name));
    let (field, found) = ("gate_mode".to_owned(), node.found());
    reader.refuse(node.at, Fault::Unsupported { field, found, expected: EXPECTED, suggestion })
}

/// As mergekit reads it: the beginning of the name, in letters of any size.
fn architecture(reader: Reader<'_>, fields: &Fields<'_>) -> Result<(), MergeError> {
    let Some(node) = fields.get("architecture") else { return Ok(()) };
    let text = reader.text("architecture", node)?;
    if "mixtral".starts_with(&text.to_lowercase()) {
        return Ok(());
    }
    reader.unsupported("architecture", node, "mixtral")
}

fn experts_per_token(reader: Reader<'_>, fields: &Fields<'_>, available: usize) -> Result<usize, MergeError> {
    let node = fields.get("experts_per_token");
    let at = node.map_or(fields.at, |node| node.at);
    match node.map(|node| reader.integer("experts_per_token", node)).transpose()?.unwrap_or(2) {
        0 => reader.refuse(at, Fault::NoExpertsPerToken),
        chosen if chosen > available => reader.refuse(at, Fault::TooFewExperts { chosen, available }),
        chosen => Ok(chosen),
    }
}

fn expert(reader: Reader<'_>, node: &Node, models: &mut Models) -> Result<ExpertSource, MergeError> {
    let fields = reader.fields("an expert", node, &EXPERT_KEYS)?;
    let prompts = |key| match fields.get(key) {
        None => Ok(Vec::new()),
        Some(node) => reader.list(key, node)?.iter().map(|item| Ok(reader.text(key, item)?.to_owned())).collect(),
    };
    let number = |key| fields.get(key).map(|node| reader.number(key, node)).transpose();
    let noise_scale = number("noise_scale")?;
    if let Some(found) = noise_scale.filter(|std| !(0.0..=1.0).contains(std)) {
        let at = fields.get("noise_scale").map_or(node.at, |node| node.at);
        return reader.refuse(at, Fault::BadNoise { found });
    }
    Ok(ExpertSource {
        model: models.place(ModelRef::read(reader, "source_model", fields.required(reader, "source_model")?)?),
        positive_prompts: prompts("positive_prompts")?,
        negative_prompts: prompts("negative_prompts")?,
        noise_scale,
        residual_scale: number("residual_scale")?,
    })
}

/// Every expert has text to be told by, and not all have the same.
fn prompts_tell_apart(
    reader: Reader<'_>,
    experts: &[ExpertSource],
    at: &[Position],
    gate_mode: &'static str,
) -> Result<(), MergeError> {
    let has_text = |prompts: &[String]| !prompts.is_empty() && prompts.iter().all(|prompt| !prompt.trim().is_empty());
    let lacks = |expert: &ExpertSource| {
        !has_text(&expert.positive_prompts)
            || !expert.negative_prompts.is_empty() && !has_text(&expert.negative_prompts)
    };
    if let Some(expert) = experts.iter().position(lacks) {
        return reader.refuse(at[expert], Fault::NoPrompts { expert, gate_mode });
    }
    if experts.len() > 1 && experts.iter().all(|expert| same_prompts(expert, &experts[0])) {
        return reader.refuse(at[1], Fault::IdenticalPrompts { gate_mode });
    }
    Ok(())
}

pub(super) fn same_prompts(one: &ExpertSource, other: &ExpertSource) -> bool {
    one.positive_prompts == other.positive_prompts && one.negative_prompts == other.negative_prompts
}

/// Whether a config is one of `mergekit-moe`'s: it has a key that only these have.
pub(super) fn is_moe(document: &Node) -> bool {
    let Value::Mapping(pairs) = &document.value else { return false };
    pairs.iter().any(|(key, _)| matches!(&key.value, Value::Text(name) if name == "experts"))
}
