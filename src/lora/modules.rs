//! Which linear maps of a decoder: by the end of their name, by a pattern, or all.

use std::fmt;

use fancy_regex::Regex;

use super::LoraError;
use crate::config::DecoderConfig;
use crate::weights::{LayerTensor, TensorId};

/// A choice of linear maps, as PEFT's `target_modules` and `exclude_modules`.
#[derive(Debug, Clone)]
pub enum Modules {
    /// `"all-linear"`: every linear map of the layers, and not the head.
    AllLinear,
    /// Those whose name is one of these, or ends in one after a dot: `q_proj`, `self_attn.q_proj`.
    Named(Vec<String>),
    /// Those whose whole name matches a pattern.
    Matching(Pattern),
}

/// A regular expression for a whole name.
#[derive(Debug, Clone)]
pub struct Pattern {
    text: String,
    regex: Regex,
}

impl Pattern {
    /// Compiles an expression that `before` and `after` surround.
    pub(super) fn new(key: &'static str, text: &str, [before, after]: [&str; 2]) -> Result<Self, LoraError> {
        let error =
            |error: fancy_regex::Error| LoraError::Pattern { key, pattern: text.to_owned(), error: error.to_string() };
        let regex = Regex::new(&format!("{before}{text}{after}")).map_err(error)?;
        Ok(Self { text: text.to_owned(), regex })
    }

    /// The expression.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether a name matches. An expression that takes too long to match does not.
    pub(super) fn matches(&self, name: &str) -> bool {
        self.regex.is_match(name).unwrap_or(false)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.regex.as_str() == other.regex.as_str()
    }
}

impl Modules {
    /// Those that a pattern matches, or all for `all-linear`: the meaning of a string in PEFT.
    ///
    /// # Errors
    /// [`LoraError::Pattern`].
    pub fn matching(key: &'static str, pattern: &str) -> Result<Self, LoraError> {
        if pattern.eq_ignore_ascii_case("all-linear") {
            return Ok(Self::AllLinear);
        }
        Ok(Self::Matching(Pattern::new(key, pattern, ["^(?:", ")$"])?))
    }

    /// The first of several names that no linear map of a decoder has.
    pub(super) fn unknown(&self, decoder: &DecoderConfig) -> Option<&str> {
        let Self::Named(names) = self else { return None };
        let modules: Vec<String> = TensorId::in_order(decoder).filter_map(module_name).collect();
        names.iter().map(String::as_str).find(|end| !modules.iter().any(|name| ends_in(name, end)))
    }

    /// Whether they include the linear map `id` of this name.
    pub(super) fn contain(&self, id: TensorId, name: &str) -> bool {
        match self {
            Self::AllLinear => id != TensorId::LmHead,
            Self::Named(names) => names.iter().any(|end| ends_in(name, end)),
            Self::Matching(pattern) => pattern.matches(name),
        }
    }
}

/// Whether a name is `end`, or ends in it after a dot.
fn ends_in(name: &str, end: &str) -> bool {
    name.strip_suffix(end).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

impl PartialEq for Modules {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::AllLinear, Self::AllLinear) => true,
            (Self::Named(one), Self::Named(other)) => one == other,
            (Self::Matching(one), Self::Matching(other)) => one == other,
            _ => false,
        }
    }
}

/// `all-linear`, `q_proj, v_proj`, or the pattern.
impl fmt::Display for Modules {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::AllLinear => f.write_str("all-linear"),
            Self::Named(names) => {
                write!(f, "{}", names.iter().map(crate::error::cut).collect::<Vec<_>>().join(", "))
            }
            Self::Matching(pattern) => f.write_str(&crate::error::cut(&pattern.text)),
        }
    }
}

/// The name of a linear map in transformers, `model.layers.0.self_attn.q_proj`; `None` for norms and embeddings.
pub fn module_name(id: TensorId) -> Option<String> {
    let is_linear = match id {
        TensorId::EmbedTokens | TensorId::Norm => false,
        TensorId::Layer(_, tensor) => {
            !matches!(tensor, LayerTensor::InputLayernorm | LayerTensor::PostAttentionLayernorm)
        }
        TensorId::LmHead => true,
    };
    is_linear.then(|| id.to_string().strip_suffix(".weight").expect("the name of a weight").to_owned())
}

/// The last part of the name of each linear map of a decoder.
pub fn linear_names(config: &DecoderConfig) -> Vec<&'static str> {
    let attention = ["q_proj", "k_proj", "v_proj", "o_proj"].into_iter();
    let mlp: &[&str] =
        if config.moe.is_some() { &["gate", "w1", "w3", "w2"] } else { &["gate_proj", "up_proj", "down_proj"] };
    attention.chain(mlp.iter().copied()).chain((!config.tie_word_embeddings).then_some("lm_head")).collect()
}
