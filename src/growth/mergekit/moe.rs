//! `mergekit-moe` configs: the MLPs of several models as the experts of one.

use std::path::PathBuf;

use super::document::Document;
use super::error::{MergeFault, MergeNotice, MergeRule, Position};
use super::fields::Fields;
use super::model_ref::{ModelRef, Models};
use super::yaml::Node;
use crate::error::closest;
use crate::weights::Dtype;

/// A config of `mergekit-moe` that makes a Mixtral.
#[derive(Debug, Clone, PartialEq)]
pub struct MoeMergeConfig {
    pub(super) file: PathBuf,
    pub(super) notices: Vec<MergeNotice>,
    pub(super) at: Position,
    pub(super) models: Models,
    pub(super) base_model: usize,
    pub(super) experts: Vec<ExpertSource>,
    pub(super) experts_at: Vec<Position>,
    pub(super) gate_mode: GateMode,
    pub(super) dtype: Option<Dtype>,
    pub(super) experts_per_token: usize,
}

/// An expert of a config.
#[derive(Debug, Clone, PartialEq)]
pub struct ExpertSource {
    /// Index of its model in [`MoeMergeConfig::models`].
    pub model: usize,
    /// Texts for this expert.
    pub positive_prompts: Vec<String>,
    /// Texts for other experts.
    pub negative_prompts: Vec<String>,
    /// Standard deviation of the noise added to each of its matrices.
    pub noise_scale: Option<f64>,
    /// Factor of its `down_proj`.
    pub residual_scale: Option<f64>,
}

/// The origin of the router rows.
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

    /// The name in a config.
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

    /// Whether rows are computed from prompts.
    pub fn reads_prompts(self) -> bool {
        !matches!(self, Self::Random | Self::UniformRandom)
    }
}

const KEYS: [&str; 7] =
    ["base_model", "experts", "gate_mode", "dtype", "experts_per_token", "shared_experts", "architecture"];
const EXPERT_KEYS: [&str; 5] =
    ["source_model", "positive_prompts", "negative_prompts", "noise_scale", "residual_scale"];

impl MoeMergeConfig {
    /// The distinct models that this merge reads, in the order of first mention.
    pub fn models(&self) -> &[ModelRef] {
        &self.models.0
    }

    /// Index in [`models`](Self::models) of the model that provides all but the MLPs, and the tokenizer.
    pub fn base_model(&self) -> usize {
        self.base_model
    }

    /// The experts, in order.
    pub fn experts(&self) -> &[ExpertSource] {
        &self.experts
    }

    /// The origin of the router rows.
    pub fn gate_mode(&self) -> GateMode {
        self.gate_mode
    }

    pub(super) fn read(document: Document<'_>) -> Result<Self, MergeFault> {
        let (fields, notices) = document.fields(&KEYS)?;
        if let Some(shared) = fields.get("shared_experts") {
            return shared.unsupported("shared_experts", "none: a Mixtral has no shared expert");
        }
        architecture(&fields)?;
        let gate_mode = gate_mode(&fields)?;
        let mut models = Models::default();
        let base_model = models.place(ModelRef::read("base_model", fields.required("base_model")?)?);
        let nodes = fields.required("experts")?.list("experts")?;
        let experts = nodes.iter().map(|node| expert(node, &mut models)).collect::<Result<Vec<_>, _>>()?;
        let experts_at: Vec<Position> = nodes.iter().map(|node| node.at).collect();
        let experts_per_token = experts_per_token(&fields, experts.len())?;
        if gate_mode.reads_prompts() {
            check_prompts(&experts, nodes, gate_mode.name())?;
        }
        let dtype = fields.get("dtype").map(|node| node.dtype("dtype")).transpose()?;
        let (file, at) = (document.file.to_owned(), fields.at);
        Ok(Self { file, notices, at, models, base_model, experts, experts_at, gate_mode, dtype, experts_per_token })
    }
}

fn gate_mode(fields: &Fields<'_>) -> Result<GateMode, MergeFault> {
    const EXPECTED: &str = "hidden, hidden_avg, hidden_last, cheap_embed, random or uniform_random";
    let Some(node) = fields.get("gate_mode") else { return Ok(GateMode::Hidden) };
    let text = node.text("gate_mode")?;
    match GateMode::ALL.into_iter().find(|mode| mode.name() == text) {
        Some(mode) => Ok(mode),
        None => {
            node.unsupported_like("gate_mode", EXPECTED, closest(text, GateMode::ALL.into_iter().map(GateMode::name)))
        }
    }
}

/// As mergekit reads it: a prefix of the name, in any case.
fn architecture(fields: &Fields<'_>) -> Result<(), MergeFault> {
    let Some(node) = fields.get("architecture") else { return Ok(()) };
    let text = node.text("architecture")?;
    if "mixtral".starts_with(&text.to_lowercase()) {
        return Ok(());
    }
    node.unsupported("architecture", "mixtral")
}

fn experts_per_token(fields: &Fields<'_>, available: usize) -> Result<usize, MergeFault> {
    let node = fields.get("experts_per_token");
    let found = node.map(|node| node.integer("experts_per_token")).transpose()?.unwrap_or(2);
    let expected = match found {
        0 => "at least 1".to_owned(),
        found if found > available => format!("at most the number of experts, {available}"),
        found => return Ok(found),
    };
    let at = node.map_or(fields.at, |node| node.at);
    Err(MergeFault { at, rule: MergeRule::ExpertsPerToken { found, expected } })
}

fn expert(node: &Node, models: &mut Models) -> Result<ExpertSource, MergeFault> {
    let fields = node.fields("an expert", &EXPERT_KEYS)?;
    let prompts = |key| match fields.get(key) {
        None => Ok(Vec::new()),
        Some(node) => node.list(key)?.iter().map(|item| Ok(item.text(key)?.to_owned())).collect(),
    };
    let number = |key| fields.get(key).map(|node| node.number(key)).transpose();
    let noise_scale = number("noise_scale")?;
    if let Some(found) = noise_scale.filter(|std| !(0.0..=1.0).contains(std)) {
        return fields.get("noise_scale").unwrap_or(node).refuse(MergeRule::BadNoise { found });
    }
    Ok(ExpertSource {
        model: models.place(ModelRef::read("source_model", fields.required("source_model")?)?),
        positive_prompts: prompts("positive_prompts")?,
        negative_prompts: prompts("negative_prompts")?,
        noise_scale,
        residual_scale: number("residual_scale")?,
    })
}

/// Checks that every expert has prompts with text, and that not all have the same.
fn check_prompts(experts: &[ExpertSource], nodes: &[Node], gate_mode: &'static str) -> Result<(), MergeFault> {
    let has_text = |prompts: &[String]| !prompts.is_empty() && prompts.iter().all(|prompt| !prompt.trim().is_empty());
    let lacks = |expert: &ExpertSource| {
        !has_text(&expert.positive_prompts)
            || !expert.negative_prompts.is_empty() && !has_text(&expert.negative_prompts)
    };
    if let Some(expert) = experts.iter().position(lacks) {
        return nodes[expert].refuse(MergeRule::NoPrompts { expert, gate_mode });
    }
    if experts.len() > 1 && experts.iter().all(|expert| same_prompts(expert, &experts[0])) {
        return nodes[1].refuse(MergeRule::IdenticalPrompts { gate_mode });
    }
    Ok(())
}

pub(super) fn same_prompts(one: &ExpertSource, other: &ExpertSource) -> bool {
    one.positive_prompts == other.positive_prompts && one.negative_prompts == other.negative_prompts
}
