//! Messages of a row, with the keys of chat templates (`role`, `content`) or of ShareGPT (`from`, `value`).

use serde_json::{Map, Value, json};

use super::fault::{MessageFault, RowFault};
use crate::error::type_name;
use crate::tokenizer::Message;

/// Speakers of ShareGPT and the roles that chat templates know them by.
const SPEAKERS: [(&str, &str); 11] = [
    ("human", "user"),
    ("user", "user"),
    ("gpt", "assistant"),
    ("chatgpt", "assistant"),
    ("assistant", "assistant"),
    ("model", "assistant"),
    ("system", "system"),
    ("tool", "tool"),
    ("observation", "tool"),
    ("function_response", "tool"),
    (CALL, "assistant"),
];

/// The speaker of a message whose text is the call of a function.
const CALL: &str = "function_call";

pub(super) fn messages(column: &'static str, items: Vec<Value>) -> Result<Vec<Message>, RowFault> {
    let at = |number| move |fault| RowFault::Message { column, number, fault };
    (1..).zip(items).map(|(number, item)| message(item).map_err(at(number))).collect()
}

fn message(item: Value) -> Result<Message, MessageFault> {
    let Value::Object(mut keys) = item else { return Err(MessageFault::NotAnObject { found: type_name(&item) }) };
    // Tables fill in the keys that only other messages have. A null `content` is a message's own: it has only calls.
    keys.retain(|key, value| !value.is_null() || key == "content");
    if keys.contains_key("from") && !keys.contains_key("role") {
        return of_sharegpt(&keys);
    }
    Ok(Message::try_from(keys)?)
}

fn of_sharegpt(keys: &Map<String, Value>) -> Result<Message, MessageFault> {
    let text = |key| match keys.get(key) {
        Some(Value::String(text)) => Ok(text.as_str()),
        other => Err(MessageFault::NotText { key, found: other.map_or("missing", type_name) }),
    };
    let (from, value) = (text("from")?, text("value")?);
    let Some((_, role)) = SPEAKERS.iter().find(|(speaker, _)| *speaker == from) else {
        let expected = SPEAKERS.map(|(speaker, _)| speaker).to_vec();
        return Err(MessageFault::UnknownSpeaker { found: from.to_owned(), expected });
    };
    if from != CALL {
        return Ok(Message::new(role, value));
    }
    let calls = calls(value).ok_or_else(|| MessageFault::NotACall { found: value.to_owned() })?;
    Ok(Message::new(role, "").with_tool_calls(calls))
}

/// One call, or a list of them, in the form that chat templates read.
fn calls(text: &str) -> Option<Vec<Value>> {
    let calls = match serde_json::from_str(text).ok()? {
        Value::Array(calls) => calls,
        call => vec![call],
    };
    let call = |call: Value| {
        let (name, arguments) = (call.get("name")?.as_str()?, call.get("arguments")?);
        Some(json!({"type": "function", "function": {"name": name, "arguments": arguments}}))
    };
    calls.into_iter().map(call).collect()
}
