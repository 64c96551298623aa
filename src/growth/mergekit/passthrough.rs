//! `mergekit-yaml` configs: layers of one or several models, one on the other.

use std::ops::Range;
use std::path::PathBuf;

use super::chat_template::ChatTemplate;
use super::document::Document;
use super::error::{MergeFault, MergeNotice, MergeRule, Position};
use super::field_fault::FieldFault;
use super::fields::Fields;
use super::model_ref::{ModelRef, Models};
use super::setting::Setting;
use super::yaml::{Node, Value};
use crate::error::{closest, quoted};
use crate::weights::Dtype;

/// A config of mergekit's `passthrough` method.
#[derive(Debug, Clone, PartialEq)]
pub struct PassthroughConfig {
    pub(super) file: PathBuf,
    pub(super) notices: Vec<MergeNotice>,
    pub(super) models: Models,
    pub(super) base_model: Option<usize>,
    pub(super) slices: Vec<Slice>,
    pub(super) dtype: Option<Dtype>,
    pub(super) out_dtype: Option<Dtype>,
    tokenizer: Option<TokenizerSource>,
    chat_template: Option<ChatTemplate>,
}

/// A run of layers of one model.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Slice {
    pub at: Position,
    pub model: usize,
    /// `None` for all layers.
    pub layers: Option<Range<usize>>,
    /// The settings of `scale`, the most specific first.
    pub scale: Vec<Setting>,
}

/// The model whose tokenizer the result takes. The rows of the embeddings stay in order; mergekit re-orders them to the
/// tokenizer, which changes nothing for the tokenizer of the model that they come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenizerSource {
    /// That of `base_model`, or of the first model without one.
    Base,
    /// That of this model, which need not be one of [`models`](PassthroughConfig::models).
    Model(ModelRef),
}

const KEYS: [&str; 12] = [
    "slices",
    "models",
    "modules",
    "merge_method",
    "base_model",
    "dtype",
    "out_dtype",
    "parameters",
    "tokenizer_source",
    "tokenizer",
    "chat_template",
    "name",
];

impl PassthroughConfig {
    /// The distinct models whose weights or config this merge reads, in the order of first mention.
    pub fn models(&self) -> &[ModelRef] {
        &self.models.0
    }

    /// Index of `base_model` in [`models`](Self::models).
    pub fn base_model(&self) -> Option<usize> {
        self.base_model
    }

    /// The model whose tokenizer the result takes, if given.
    pub fn tokenizer(&self) -> Option<&TokenizerSource> {
        self.tokenizer.as_ref()
    }

    /// The chat template of the result, if given.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.chat_template.as_ref()
    }

    pub(super) fn read(document: Document<'_>) -> Result<Self, MergeFault> {
        let (fields, notices) = document.fields(&KEYS)?;
        method(&fields)?;
        if let Some(name) = fields.get("name") {
            return name.unsupported("name", "a config without one: several merges in a file are not read");
        }
        let mut config = Self {
            file: document.file.to_owned(),
            notices,
            models: Models::default(),
            base_model: None,
            slices: Vec::new(),
            dtype: fields.get("dtype").map(|node| node.dtype("dtype")).transpose()?,
            out_dtype: fields.get("out_dtype").map(|node| node.dtype("out_dtype")).transpose()?,
            tokenizer: tokenizer(&fields)?,
            chat_template: fields.get("chat_template").map(chat_template).transpose()?,
        };
        if let Some(base) = fields.get("base_model") {
            config.base_model = Some(config.models.place(ModelRef::read("base_model", base)?));
        }
        let top = scale(&fields)?;
        match one_input(&fields)? {
            ("slices", node) => config.slices = slices(node, &[top], &mut config.models)?,
            ("models", node) => config.slices = all_layers(node, &[top], &mut config.models, config.base_model)?,
            (_, node) => {
                let modules = node.fields("modules", &["default"])?;
                let inner = modules.required("default")?;
                let inner = inner.fields("module default", &["slices", "models", "parameters"])?;
                let outer = [scale(&inner)?, top];
                config.slices = match one_input(&inner)? {
                    ("slices", node) => slices(node, &outer, &mut config.models)?,
                    (_, node) => all_layers(node, &outer, &mut config.models, config.base_model)?,
                };
            }
        }
        Ok(config)
    }
}

fn method(fields: &Fields<'_>) -> Result<(), MergeFault> {
    const EXPECTED: &str = "passthrough: growing copies layers, it does not average them";
    let node = fields.required("merge_method")?;
    match node.text("merge_method")? {
        "passthrough" => Ok(()),
        found => node.unsupported_like("merge_method", EXPECTED, closest(found, ["passthrough"].into_iter())),
    }
}

/// Which of `slices`, `models` and `modules` is given, and its value.
fn one_input<'n>(fields: &Fields<'n>) -> Result<(&'static str, &'n Node), MergeFault> {
    let is_empty = |node: &Node| matches!(&node.value, Value::List(items) if items.is_empty());
    let present = ["slices", "models", "modules"].into_iter().filter_map(|key| Some((key, fields.get(key)?)));
    let present: Vec<_> = present.filter(|(_, node)| !is_empty(node)).collect();
    match present[..] {
        [one] => Ok(one),
        [] => {
            let rule = FieldFault::NotOneInput { found: "none".to_owned() }.into();
            Err(MergeFault { at: fields.at, rule })
        }
        _ => {
            let names: Vec<&str> = present.iter().map(|(key, _)| *key).collect();
            present[1].1.refuse(FieldFault::NotOneInput { found: names.join(" and ") })
        }
    }
}

/// The `scale` of the `parameters` of a mapping.
fn scale(fields: &Fields<'_>) -> Result<Option<Setting>, MergeFault> {
    let Some(node) = fields.get("parameters") else { return Ok(None) };
    let parameters = node.fields("the parameters of passthrough", &["scale"])?;
    parameters.get("scale").map(|node| Setting::read("scale", node)).transpose()
}

fn slices(node: &Node, outer: &[Option<Setting>], models: &mut Models) -> Result<Vec<Slice>, MergeFault> {
    let mut slices = Vec::new();
    for slice in node.list("slices")? {
        let fields = slice.fields("a slice", &["sources", "base_model", "residual_weight", "parameters"])?;
        for (key, expected) in [
            ("residual_weight", "a slice without one: passthrough copies"),
            ("base_model", "one base_model, beside slices"),
        ] {
            if let Some(node) = fields.get(key) {
                return node.unsupported(key, expected);
            }
        }
        let sources = fields.required("sources")?;
        let [source] = sources.list("sources")? else {
            return sources.unsupported("sources", "a list of one source: passthrough copies");
        };
        let of_slice = scale(&fields)?;
        let fields = source.fields("a source", &["model", "layer_range", "parameters"])?;
        let model = models.place(ModelRef::read("model", fields.required("model")?)?);
        let layers = layer_range(fields.required("layer_range")?)?;
        let scale = [scale(&fields)?, of_slice].into_iter().chain(outer.iter().cloned()).flatten().collect();
        slices.push(Slice { at: fields.required("layer_range")?.at, model, layers: Some(layers), scale });
    }
    Ok(slices)
}

fn layer_range(node: &Node) -> Result<Range<usize>, MergeFault> {
    let [start, end] = node.list("layer_range")? else {
        let (field, found) = ("layer_range".to_owned(), node.found());
        return node.refuse(FieldFault::WrongType { field, found, expected: "a start and an end" });
    };
    let (start, end) = (start.integer("layer_range")?, end.integer("layer_range")?);
    let refused = |what: &str| {
        let expected = format!("which is {what}, expected an end above the start");
        node.refuse(MergeRule::BadRange { start, end, expected })
    };
    match start.cmp(&end) {
        std::cmp::Ordering::Less => Ok(start..end),
        std::cmp::Ordering::Equal => refused("empty"),
        std::cmp::Ordering::Greater => refused("reversed"),
    }
}

/// All layers of one model.
fn all_layers(
    node: &Node,
    outer: &[Option<Setting>],
    models: &mut Models,
    base_model: Option<usize>,
) -> Result<Vec<Slice>, MergeFault> {
    let [only] = node.list("models")? else {
        return node.unsupported("models", "a list of one model: passthrough copies");
    };
    let fields = only.fields("a model", &["model", "parameters"])?;
    let model = models.place(ModelRef::read("model", fields.required("model")?)?);
    if let Some(base) = base_model.filter(|&base| base != model) {
        let found = format!("{} beside base_model {}", quoted(&models.name(model)), quoted(&models.name(base)));
        let (field, expected) = ("models".to_owned(), "the base_model itself: passthrough copies one model");
        return only.refuse(FieldFault::Unsupported { field, found, expected, suggestion: None });
    }
    let scale = [scale(&fields)?].into_iter().chain(outer.iter().cloned()).flatten().collect();
    Ok(vec![Slice { at: only.at, model, layers: None, scale }])
}

fn tokenizer(fields: &Fields<'_>) -> Result<Option<TokenizerSource>, MergeFault> {
    let source = |node: &Node| match &node.value {
        Value::Text(text) if text == "base" => Ok(TokenizerSource::Base),
        Value::Text(text) if text == "union" => {
            node.unsupported("the tokenizer's source", "base or a model: growing adds no token")
        }
        _ => Ok(TokenizerSource::Model(ModelRef::read("the tokenizer's source", node)?)),
    };
    match (fields.get("tokenizer_source"), fields.get("tokenizer")) {
        (Some(_), Some(node)) => node.refuse(FieldFault::BothKeys { first: "tokenizer_source", second: "tokenizer" }),
        (Some(node), None) => source(node).map(Some),
        (None, Some(node)) => {
            let inner = node.fields("tokenizer", &["source", "tokens", "pad_to_multiple_of"])?;
            if let Some(tokens) = inner.get("tokens").filter(|node| node.value != Value::Mapping(Vec::new())) {
                return tokens.unsupported("tokens", "none: growing changes no embedding");
            }
            if let Some(multiple) = inner.get("pad_to_multiple_of") {
                return multiple.unsupported("pad_to_multiple_of", "none: growing adds no token");
            }
            // mergekit's default is `union`.
            source(inner.required("source")?).map(Some)
        }
        (None, None) => Ok(None),
    }
}

fn chat_template(node: &Node) -> Result<ChatTemplate, MergeFault> {
    let expected = "auto, the Jinja template itself, or alpaca, chatml, exaone, llama3, mistral";
    match ChatTemplate::of(node.text("chat_template")?) {
        Some(template) => Ok(template),
        None => node.unsupported("chat_template", expected),
    }
}
