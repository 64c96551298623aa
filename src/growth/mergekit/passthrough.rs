//! `mergekit-yaml` configs: layers of one or several models, one on the other.

use std::ops::Range;

use super::chat_template::ChatTemplate;
use super::error::{Fault, MergeError, Position, quoted};
use super::fields::{Fields, Reader, closest};
use super::model_ref::{ModelRef, Models};
use super::setting::Setting;
use super::yaml::{Node, Value};
use crate::weights::Dtype;

/// A config of mergekit's `passthrough` method.
#[derive(Debug, Clone, PartialEq)]
pub struct PassthroughConfig {
    pub(super) file: String,
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
    /// `None` is the whole model.
    pub layers: Option<Range<usize>>,
    /// What `scale` is, the most particular setting first.
    pub scale: Vec<Setting>,
}

/// Whose tokenizer the result takes. Growing copies the rows of the embeddings as they are; mergekit re-orders them to
/// the tokenizer's, which is the same where the tokenizer belongs to the model that they come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenizerSource {
    /// That of `base_model`, or of the first model without one.
    Base,
    /// That of this model.
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
    /// The distinct models whose weights or config this merge reads, in the order in which it first names them.
    pub fn models(&self) -> &[ModelRef] {
        &self.models.0
    }

    /// Place in [`models`](Self::models) of the one that the config calls its base.
    pub fn base_model(&self) -> Option<usize> {
        self.base_model
    }

    /// Whose tokenizer the result takes, if the config says so.
    pub fn tokenizer(&self) -> Option<&TokenizerSource> {
        self.tokenizer.as_ref()
    }

    /// The chat template of the result, if the config says so.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.chat_template.as_ref()
    }

    pub(super) fn read(file: &str, document: &Node) -> Result<Self, MergeError> {
        let reader = Reader { file };
        let fields = reader.fields("the config", document, &KEYS)?;
        method(reader, &fields)?;
        if let Some(name) = fields.get("name") {
            return reader.unsupported("name", name, "a config without one: several merges in a file are not read");
        }
        let mut config = Self {
            file: file.to_owned(),
            models: Models::default(),
            base_model: None,
            slices: Vec::new(),
            dtype: fields.get("dtype").map(|node| reader.dtype("dtype", node)).transpose()?,
            out_dtype: fields.get("out_dtype").map(|node| reader.dtype("out_dtype", node)).transpose()?,
            tokenizer: tokenizer(reader, &fields)?,
            chat_template: fields.get("chat_template").map(|node| chat_template(reader, node)).transpose()?,
        };
        if let Some(base) = fields.get("base_model") {
            config.base_model = Some(config.models.place(ModelRef::read(reader, "base_model", base)?));
        }
        let top = scale(reader, &fields)?;
        match one_input(reader, &fields)? {
            ("slices", node) => config.slices = slices(reader, node, &[top], &mut config.models)?,
            ("models", node) => config.slices = whole(reader, node, &[top], &mut config.models, config.base_model)?,
            (_, node) => {
                let modules = reader.fields("modules", node, &["default"])?;
                let inner = modules.required(reader, "default")?;
                let inner = reader.fields("module default", inner, &["slices", "models", "parameters"])?;
                let outer = [scale(reader, &inner)?, top];
                config.slices = match one_input(reader, &inner)? {
                    ("slices", node) => slices(reader, node, &outer, &mut config.models)?,
                    (_, node) => whole(reader, node, &outer, &mut config.models, config.base_model)?,
                };
            }
        }
        Ok(config)
    }
}

fn method(reader: Reader<'_>, fields: &Fields<'_>) -> Result<(), MergeError> {
    const EXPECTED: &str = "passthrough: growing copies layers, it does not average them";
    let node = fields.required(reader, "merge_method")?;
    let found = reader.text("merge_method", node)?;
    if found == "passthrough" {
        return Ok(());
    }
    let suggestion = closest(found, ["passthrough"].into_iter());
    let (field, found) = ("merge_method".to_owned(), node.found());
    reader.refuse(node.at, Fault::Unsupported { field, found, expected: EXPECTED, suggestion })
}

/// The one of `slices`, `models` and `modules` that is there, and its value.
fn one_input<'n>(reader: Reader<'_>, fields: &Fields<'n>) -> Result<(&'static str, &'n Node), MergeError> {
    let is_empty = |node: &Node| matches!(&node.value, Value::List(items) if items.is_empty());
    let present = ["slices", "models", "modules"].into_iter().filter_map(|key| Some((key, fields.get(key)?)));
    let present: Vec<_> = present.filter(|(_, node)| !is_empty(node)).collect();
    match present[..] {
        [one] => Ok(one),
        [] => reader.refuse(fields.at, Fault::NotOneInput { found: "none".to_owned() }),
        _ => {
            let names: Vec<&str> = present.iter().map(|(key, _)| *key).collect();
            reader.refuse(present[1].1.at, Fault::NotOneInput { found: names.join(" and ") })
        }
    }
}

/// The `scale` among the `parameters` of a mapping.
fn scale(reader: Reader<'_>, fields: &Fields<'_>) -> Result<Option<Setting>, MergeError> {
    let Some(node) = fields.get("parameters") else { return Ok(None) };
    let parameters = reader.fields("the parameters of passthrough", node, &["scale"])?;
    parameters.get("scale").map(|node| Setting::read(reader, "scale", node)).transpose()
}

fn slices(
    reader: Reader<'_>,
    node: &Node,
    outer: &[Option<Setting>],
    models: &mut Models,
) -> Result<Vec<Slice>, MergeError> {
    let mut slices = Vec::new();
    for slice in reader.list("slices", node)? {
        let fields = reader.fields("a slice", slice, &["sources", "base_model", "residual_weight", "parameters"])?;
        for (key, expected) in [
            ("residual_weight", "a slice without one: passthrough copies"),
            ("base_model", "one base_model, beside slices"),
        ] {
            if let Some(node) = fields.get(key) {
                return reader.unsupported(key, node, expected);
            }
        }
        let sources = fields.required(reader, "sources")?;
        let [source] = reader.list("sources", sources)? else {
            return reader.unsupported("sources", sources, "a list of one source: passthrough copies");
        };
        let of_slice = scale(reader, &fields)?;
        let fields = reader.fields("a source", source, &["model", "layer_range", "parameters"])?;
        let model = models.place(ModelRef::read(reader, "model", fields.required(reader, "model")?)?);
        let layers = layer_range(reader, fields.required(reader, "layer_range")?)?;
        let scale = [scale(reader, &fields)?, of_slice].into_iter().chain(outer.iter().cloned()).flatten().collect();
        slices.push(Slice { at: fields.required(reader, "layer_range")?.at, model, layers: Some(layers), scale });
    }
    Ok(slices)
}

fn layer_range(reader: Reader<'_>, node: &Node) -> Result<Range<usize>, MergeError> {
    let [start, end] = reader.list("layer_range", node)? else {
        let (field, found) = ("layer_range".to_owned(), node.found());
        return reader.refuse(node.at, Fault::WrongType { field, found, expected: "a start and an end" });
    };
    let (start, end) = (reader.integer("layer_range", start)?, reader.integer("layer_range", end)?);
    match start.cmp(&end) {
        std::cmp::Ordering::Less => Ok(start..end),
        std::cmp::Ordering::Equal => reader.refuse(node.at, Fault::EmptyRange { start }),
        std::cmp::Ordering::Greater => reader.refuse(node.at, Fault::ReversedRange { start, end }),
    }
}

/// One model as a whole.
fn whole(
    reader: Reader<'_>,
    node: &Node,
    outer: &[Option<Setting>],
    models: &mut Models,
    base_model: Option<usize>,
) -> Result<Vec<Slice>, MergeError> {
    let [only] = reader.list("models", node)? else {
        return reader.unsupported("models", node, "a list of one model: passthrough copies");
    };
    let fields = reader.fields("a model", only, &["model", "parameters"])?;
    let model = models.place(ModelRef::read(reader, "model", fields.required(reader, "model")?)?);
    if let Some(base) = base_model.filter(|&base| base != model) {
        let found = format!("{} beside base_model {}", quoted(&models.name(model)), quoted(&models.name(base)));
        let (field, expected) = ("models".to_owned(), "the base_model itself: passthrough copies one model");
        return reader.refuse(only.at, Fault::Unsupported { field, found, expected, suggestion: None });
    }
    let scale = [scale(reader, &fields)?].into_iter().chain(outer.iter().cloned()).flatten().collect();
    Ok(vec![Slice { at: only.at, model, layers: None, scale }])
}

fn tokenizer(reader: Reader<'_>, fields: &Fields<'_>) -> Result<Option<TokenizerSource>, MergeError> {
    let source = |node: &Node| match &node.value {
        Value::Text(text) if text == "base" => Ok(TokenizerSource::Base),
        Value::Text(text) if text == "union" => {
            reader.unsupported("the tokenizer's source", node, "base or one of the models: growing adds no token")
        }
        _ => Ok(TokenizerSource::Model(ModelRef::read(reader, "the tokenizer's source", node)?)),
    };
    match (fields.get("tokenizer_source"), fields.get("tokenizer")) {
        (Some(_), Some(node)) => {
            reader.refuse(node.at, Fault::BothKeys { first: "tokenizer_source", second: "tokenizer" })
        }
        (Some(node), None) => source(node).map(Some),
        (None, Some(node)) => {
            let inner = reader.fields("tokenizer", node, &["source", "tokens", "pad_to_multiple_of"])?;
            if let Some(tokens) = inner.get("tokens").filter(|node| node.value != Value::Mapping(Vec::new())) {
                return reader.unsupported("tokens", tokens, "none: growing changes no embedding");
            }
            if let Some(multiple) = inner.get("pad_to_multiple_of") {
                return reader.unsupported("pad_to_multiple_of", multiple, "none: growing adds no token");
            }
            // mergekit's default is `union`.
            source(inner.required(reader, "source")?).map(Some)
        }
        (None, None) => Ok(None),
    }
}

fn chat_template(reader: Reader<'_>, node: &Node) -> Result<ChatTemplate, MergeError> {
    let expected = "auto, the Jinja template itself, or alpaca, chatml, exaone, llama3, mistral";
    match ChatTemplate::of(reader.text("chat_template", node)?) {
        Some(template) => Ok(template),
        None => reader.unsupported("chat_template", node, expected),
    }
}
