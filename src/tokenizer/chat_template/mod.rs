//! Chat templates: from messages to the text that a model was trained on.
//!
//! Templates are Jinja, rendered as transformers renders them, to the byte. They come with the files of a model and are
//! not trusted: a template can compute a text, takes bounded time and memory, and does nothing else.

mod date;
mod environment;
mod fault;
mod generation;
mod json;
mod printing;
mod tags;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use minijinja::Environment;
use minijinja::value::{Serde, Value as JinjaValue};
use serde_json::{Map, Value};

pub use fault::{ChatTemplateError, TemplateFault};

use super::Message;
use crate::error::InFile;
use environment::{NAME, environment};

/// The longest real ones have 20 kB.
const MAX_SOURCE_BYTES: usize = 256 << 10;
/// Of a tag without its strings. Every operator may be a level of recursion in reading it.
const MAX_TAG_BYTES: usize = 8 << 10;
/// Enough for that recursion, and for a source that is one chain of `elif`.
const STACK_BYTES: usize = 128 << 20;
const MAX_CHAT_BYTES: usize = 16 << 20;

/// A chat template.
///
/// ```
/// use deepwide::tokenizer::{ChatTemplate, Message, RenderOptions};
///
/// let source = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}\
///               {% if add_generation_prompt %}<assistant>{% endif %}";
/// let tokens = [("eos_token".to_owned(), "</s>".to_owned())].into();
/// let template = ChatTemplate::new("chat_template.jinja", source, tokens)?;
/// let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
/// assert_eq!(template.render(&[Message::new("user", "Hi")], &options)?, "<user>Hi</s><assistant>");
/// # Ok::<(), deepwide::tokenizer::ChatTemplateError>(())
/// ```
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    path: PathBuf,
    source: String,
    special_tokens: BTreeMap<String, String>,
    environment: Environment<'static>,
    has_generation_blocks: bool,
}

/// What a template is given besides the messages.
#[derive(Debug, Clone, Default)]
pub struct RenderOptions<'a> {
    /// Whether the text ends with what an answer of the assistant begins with.
    pub add_generation_prompt: bool,
    /// Tools that the model may call. None at all is Jinja's `none`.
    pub tools: &'a [Value],
    /// Documents for answers that cite them. None at all is Jinja's `none`.
    pub documents: &'a [Value],
    /// Other variables that the template knows, such as `enable_thinking`.
    pub extra: Map<String, Value>,
}

impl ChatTemplate {
    /// Reads a template. `special_tokens` are variables of its: `bos_token` and so on. Errors name `path`.
    ///
    /// # Errors
    /// If the source is too large or no Jinja.
    pub fn new(
        path: impl Into<PathBuf>,
        source: &str,
        special_tokens: BTreeMap<String, String>,
    ) -> Result<Self, ChatTemplateError> {
        Self::at_time(path, source, special_tokens, None)
    }

    /// A template for which it is always the same time.
    ///
    /// # Errors
    /// Those of [`new`](Self::new).
    pub fn at_time(
        path: impl Into<PathBuf>,
        source: &str,
        special_tokens: BTreeMap<String, String>,
        time: Option<SystemTime>,
    ) -> Result<Self, ChatTemplateError> {
        let path = path.into();
        match compiled(source, time) {
            Ok((environment, has_generation_blocks)) => {
                Ok(Self { path, source: source.to_owned(), special_tokens, environment, has_generation_blocks })
            }
            Err(fault) => Err(InFile::new(path, fault)),
        }
    }

    /// The file that the template is from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The Jinja source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the template says what the model itself generates, by `{% generation %}` blocks.
    pub fn has_generation_blocks(&self) -> bool {
        self.has_generation_blocks
    }

    /// The text of a chat.
    ///
    /// # Errors
    /// If the template refuses the messages, cannot work with them, or does not come to an end.
    pub fn render(&self, messages: &[Message], options: &RenderOptions<'_>) -> Result<String, ChatTemplateError> {
        self.json_of(messages, options)?;
        self.render_marked(messages, options, None)
    }

    /// The text of a chat, and the byte ranges in it that `{% generation %}` blocks give: what the model itself says.
    ///
    /// # Errors
    /// Those of [`render`](Self::render); [`TemplateFault::AlteredGeneration`].
    pub fn render_with_spans(
        &self,
        messages: &[Message],
        options: &RenderOptions<'_>,
    ) -> Result<(String, Vec<Range<usize>>), ChatTemplateError> {
        let altered = || InFile::new(&self.path, TemplateFault::AlteredGeneration);
        let chat = self.json_of(messages, options)?;
        let marks = generation::marks([&self.source, &chat]).ok_or_else(altered)?;
        let marked = self.render_marked(messages, options, Some(marks))?;
        generation::take_marks(&marked, marks).ok_or_else(altered)
    }

    /// All that is given to the template, unless that is too much.
    fn json_of(&self, messages: &[Message], options: &RenderOptions<'_>) -> Result<String, ChatTemplateError> {
        let given = (messages, options.tools, options.documents, &options.extra);
        let json = serde_json::to_string(&given).expect("JSON values can be written");
        if json.len() > MAX_CHAT_BYTES {
            let fault = TemplateFault::ChatTooLarge { found_bytes: json.len(), limit_bytes: MAX_CHAT_BYTES };
            return Err(InFile::new(&self.path, fault));
        }
        Ok(json)
    }

    fn render_marked(
        &self,
        messages: &[Message],
        options: &RenderOptions<'_>,
        marks: Option<[char; 2]>,
    ) -> Result<String, ChatTemplateError> {
        let template = self.environment.get_template(NAME).expect("it was added");
        let text = template.render(self.variables(messages, options, marks));
        text.map_err(|error| InFile::new(&self.path, TemplateFault::of(&error)))
    }

    /// What the template reads: later ones go before earlier ones of the same name.
    fn variables(&self, messages: &[Message], options: &RenderOptions<'_>, marks: Option<[char; 2]>) -> JinjaValue {
        let or_none = |list: &[Value]| if list.is_empty() { ().into() } else { JinjaValue::from(Serde(list)) };
        let messages: Vec<Map<String, Value>> = messages.iter().cloned().map(with_reasoning).collect();
        let tokens = self.special_tokens.iter().map(|(name, token)| (name.as_str(), JinjaValue::from(token.as_str())));
        let given = [
            ("messages", JinjaValue::from(Serde(messages))),
            ("tools", or_none(options.tools)),
            ("documents", or_none(options.documents)),
            ("add_generation_prompt", options.add_generation_prompt.into()),
        ];
        let extra = options.extra.iter().map(|(name, value)| (name.as_str(), JinjaValue::from(Serde(value))));
        let marks = marks.map(|marks| (generation::MARKS, marks.map(|mark| mark.to_string()).to_vec().into()));
        JinjaValue::from_pairs(tokens.chain(given).chain(extra).chain(marks))
    }
}

/// The template with what it needs, and whether it has generation blocks. Reading happens on a stack of its own.
fn compiled(source: &str, time: Option<SystemTime>) -> Result<(Environment<'static>, bool), TemplateFault> {
    if source.len() > MAX_SOURCE_BYTES {
        return Err(TemplateFault::TooLarge { found_bytes: source.len(), limit_bytes: MAX_SOURCE_BYTES });
    }
    if let Some(tag) = tags::tags(source).iter().find(|tag| tag.size_bytes > MAX_TAG_BYTES) {
        let line = 1 + source[..tag.range.start].matches('\n').count();
        return Err(TemplateFault::TagTooLarge { line, found_bytes: tag.size_bytes, limit_bytes: MAX_TAG_BYTES });
    }
    let (source, has_generation_blocks) = generation::with_filter_blocks(source);
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
    let thread = thread.spawn(move || environment(source, time)).map_err(TemplateFault::Thread)?;
    let environment = match thread.join() {
        Ok(environment) => environment.map_err(|error| TemplateFault::of(&error))?,
        Err(_) => return Err(TemplateFault::Jinja { line: 1, reason: "the template engine panicked".to_owned() }),
    };
    Ok((environment, has_generation_blocks))
}

/// The keys of a message, with reasoning under each name that templates read it by, as transformers gives it to them.
fn with_reasoning(message: Message) -> Map<String, Value> {
    let keys = Map::from(message);
    let known = ["reasoning_content", "thinking", "reasoning"].map(|name| keys.get(name));
    let Some(reasoning) = known.into_iter().flatten().find(|value| !value.is_null()).cloned() else { return keys };
    let first = [("thinking".to_owned(), reasoning.clone())];
    let last = [("reasoning_content".to_owned(), reasoning)];
    first.into_iter().chain(keys).chain(last).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::environment::FUEL;
    use super::*;
    use crate::error::ErrorKind;

    fn template(source: &str) -> Result<ChatTemplate, ChatTemplateError> {
        ChatTemplate::new("model/chat_template.jinja", source, [].into())
    }

    fn rendered(source: &str) -> Result<String, ChatTemplateError> {
        template(source)?.render(&[Message::new("user", "x")], &RenderOptions::default())
    }

    fn refusal(source: &str) -> TemplateFault {
        let error = rendered(source).unwrap_err();
        assert!(error.to_string().starts_with("\"model/chat_template.jinja\": "), "{error}");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        error.fault
    }

    #[test]
    fn a_malformed_template_is_refused_with_its_line_and_the_reason() {
        for (source, line, reason) in [
            ("a\n{% if x %}", 2, "unexpected end of input"),
            ("a\n\n{{ x y }}", 3, "unexpected identifier"),
            ("\n{% generation %}{% endfor %}", 2, "unknown statement endfor"),
            ("{% generation %}x{% endgeneration %}{% endgeneration %}", 1, "unknown statement endgeneration"),
            ("a\n{{ messages.x.y }}", 2, "undefined value"),
            ("a\n{{ messages | nothing }}", 2, "unknown filter"),
            ("{% include 'other' %}", 1, "unknown statement"),
            ("\n{{ strftime_now('%Q') }}", 2, "%Q"),
        ] {
            let TemplateFault::Jinja { line: found, reason: said } = refusal(source) else { panic!("{source}") };
            assert!(found == line && said.contains(reason), "{source}: line {found}: {said}");
        }
    }

    #[test]
    fn what_a_template_raises_is_told() {
        let fault =
            refusal("{% macro f() %}\n{{ raise_exception('no ' ~ messages[0].role) }}{% endmacro %}\n\n{{ f() }}");
        assert!(matches!(&fault, TemplateFault::Refused { reason, .. } if reason == "no user"), "{fault}");
        assert_eq!(
            refusal("\n{{ raise_exception('no') }}").to_string(),
            "line 2 of the chat template refuses the chat: no"
        );
    }

    #[test]
    fn a_template_that_does_not_end_is_stopped() {
        for source in [
            "\n{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "{% set n = namespace(x='ab') %}\n{% for a in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
            "\n{% for a in range(99999) %}{{ 'x' * 99999 }}{% endfor %}",
            "\n{{ ('a' * 999999) | replace('a', 'b' * 999999) }}",
        ] {
            assert!(matches!(refusal(source), TemplateFault::Endless { line: 2, steps: FUEL }), "{source}");
        }
    }

    #[test]
    fn recursion_and_nesting_are_bounded() {
        let nested = "{% set n = namespace(x=[1]) %}{% for a in range(9999) %}{% set n.x = [n.x, n.x] %}{% endfor %}";
        let print = |tag: &str| format!("{nested}{tag}");
        for (source, reason) in [
            ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}".to_owned(), "recursion limit"),
            (print("{{ n.x }}"), "too large to print"),
            (print("{{ n.x | string }}"), "too large to print"),
            (print("{{ n.x | tojson }}"), "too large to print"),
            (format!("{{{{ {}", "(".repeat(4000)), "recursion limits"),
            ("{% if x %}".repeat(9999), "recursion limits"),
        ] {
            let TemplateFault::Jinja { reason: said, .. } = refusal(&source) else { panic!("{source:.60}") };
            assert!(said.contains(reason), "{source:.60}: {said}");
        }
        // Every operator and every branch is a level of the parser, on the stack of its own.
        let chain = format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}".repeat(20_000));
        assert_eq!(rendered(&chain).unwrap(), "");
        for operator in ["-", "not "] {
            assert!(rendered(&format!("{{{{ {}1 }}}}", operator.repeat(2000))).is_ok(), "{operator}");
        }
        for operation in ["+1", ".a", "|trim", " if a else b"] {
            let _either = rendered(&format!("{{{{ a{} }}}}", operation.repeat(8000 / operation.len())));
        }
    }

    #[test]
    fn sizes_are_bounded() {
        let fault = refusal(&"x".repeat(MAX_SOURCE_BYTES + 1));
        assert!(matches!(fault, TemplateFault::TooLarge { found_bytes, .. } if found_bytes == MAX_SOURCE_BYTES + 1));
        let fault = refusal(&format!("\n{{{{ 1{} }}}}", "+1".repeat(MAX_TAG_BYTES / 2)));
        assert!(matches!(fault, TemplateFault::TagTooLarge { line: 2, .. }), "{fault}");
        let chat = [Message::new("user", &"x".repeat(MAX_CHAT_BYTES))];
        let error = template("x").unwrap().render(&chat, &RenderOptions::default()).unwrap_err();
        assert!(matches!(error.fault, TemplateFault::ChatTooLarge { limit_bytes: MAX_CHAT_BYTES, .. }));
    }

    #[test]
    fn generation_spans_survive_capture_but_not_alteration() {
        let spans = |source| {
            let (text, spans) =
                template(source)?.render_with_spans(&[Message::new("user", "é\u{fdd0}")], &RenderOptions::default())?;
            Ok::<_, ChatTemplateError>(spans.into_iter().map(|span| text[span].to_owned()).collect::<Vec<_>>())
        };
        let captured = "{% set a %}<{% generation %}{{ messages[0].content }}{% endgeneration %}>{% endset %}ab{{ a }}";
        assert_eq!(spans(captured).unwrap(), ["é\u{fdd0}"]);
        let altered = "{% set a %}{% generation %}b{% endgeneration %}{% endset %}{{ a[1:] }}";
        assert!(matches!(spans(altered).unwrap_err().fault, TemplateFault::AlteredGeneration));
        assert!(template(captured).unwrap().has_generation_blocks() && !template("x").unwrap().has_generation_blocks());
    }

    #[test]
    fn variables_are_special_tokens_then_options_then_extra_ones() {
        let tokens = [("bos_token".to_owned(), "<s>".to_owned()), ("eos_token".to_owned(), "</s>".to_owned())];
        let template = ChatTemplate::new("t", "{{ bos_token }}{{ eos_token }}{{ documents }}{{ flag }}", tokens.into());
        let extra = json!({"eos_token": "<end>", "flag": false}).as_object().unwrap().clone();
        let options = RenderOptions { documents: &[json!({"a": 1})], extra, ..RenderOptions::default() };
        assert_eq!(template.unwrap().render(&[], &options).unwrap(), "<s><end>[{'a': 1}]False");
    }

    #[test]
    fn a_template_renders_on_many_threads() {
        use rayon::prelude::*;
        let template = template("{% for m in messages %}{{ m.content }}{% endfor %}").unwrap();
        let texts = (0..64).into_par_iter().map(|number: u32| {
            template.render(&[Message::new("user", &number.to_string())], &RenderOptions::default()).unwrap()
        });
        assert_eq!(texts.collect::<Vec<_>>(), (0..64).map(|number: u32| number.to_string()).collect::<Vec<_>>());
    }
}
