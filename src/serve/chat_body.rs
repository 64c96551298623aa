//! The body of `/v1/chat/completions`.

use serde_json::{Map, Value, json};

use super::ApiError;
use super::body::{Body, MAX_TOP_LOGPROBS};
use super::fields::Fields;
use super::served::Served;
use crate::generate::Request;
use crate::tokenizer::{Message, RenderOptions};

/// A checked request of `/v1/chat/completions`.
#[derive(Debug)]
pub(super) struct ChatBody {
    pub(super) body: Body,
    /// The request for the rendered chat.
    pub(super) requests: Vec<Request>,
}

impl ChatBody {
    /// Reads and checks a body, and renders the chat with the template of the model.
    pub(super) fn parse(bytes: &[u8], served: &Served) -> Result<Self, ApiError> {
        let mut fields = Fields::parse(bytes)?;
        let mut body = Body::take(&mut fields, served.tokenizer.eos(), None, served.limits.max_tokens)?;
        let top = fields.count("top_logprobs", 0, MAX_TOP_LOGPROBS)?;
        body.request.logprobs = fields.bool("logprobs")?.then(|| top.unwrap_or(0));
        if top.is_some_and(|top| top > 0) && body.request.logprobs.is_none() {
            return Err(ApiError::field("top_logprobs", "found top_logprobs, expected logprobs to be true beside it"));
        }
        let messages = messages(fields.take("messages"))?;
        fields.finish()?;
        let Some(template) = &served.template else {
            let message = "the model has no chat template (deepwide serve --chat-template gives it one)";
            return Err(ApiError::field("messages", message));
        };
        let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
        let text = template.render(&messages, &options).map_err(|error| ApiError::field("messages", error.fault))?;
        let prompt = served.tokenizer.encode(&text).map_err(|error| ApiError::field("messages", error))?;
        let requests = body.requests(vec![prompt], served).map_err(|error| match error.param.as_deref() {
            Some("prompt") => ApiError { param: Some("messages".to_owned()), ..error },
            _ => error,
        })?;
        Ok(Self { requests, body })
    }
}

fn messages(value: Option<Value>) -> Result<Vec<Message>, ApiError> {
    let Some(Value::Array(messages)) = value else {
        return Err(ApiError::field("messages", "found no messages, expected an array of them"));
    };
    if messages.is_empty() {
        return Err(ApiError::field("messages", "found no message, expected at least one"));
    }
    let message = |(index, value): (usize, Value)| {
        let refused = |reason: String| ApiError::field(&format!("messages[{index}]"), reason);
        let Value::Object(mut keys) = value else {
            return Err(refused("found a message of another type, expected an object".to_owned()));
        };
        flatten(&mut keys).map_err(refused)?;
        Message::try_from(keys).map_err(|error| refused(error.to_string()))
    };
    messages.into_iter().enumerate().map(message).collect()
}

/// Joins a list of texts, as some clients send it, to one with a line for each, as vLLM and llama-server do: most templates know
/// nothing else.
fn flatten(keys: &mut Map<String, Value>) -> Result<(), String> {
    let Some(Value::Array(parts)) = keys.get("content") else { return Ok(()) };
    let text = |part: &Value| match (part["type"].as_str(), part["text"].as_str()) {
        (Some("text"), Some(text)) => Ok(text.to_owned()),
        (kind, _) => Err(format!("found content of type {kind:?}, expected \"text\"")),
    };
    let text = parts.iter().map(text).collect::<Result<Vec<_>, _>>()?.join("\n");
    keys.insert("content".to_owned(), json!(text));
    Ok(())
}
