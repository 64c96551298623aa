//! Messages of a chat.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::error::{listed, type_name};

/// A message of a chat: a JSON object with a `role`.
///
/// All keys are kept in their order, since a chat template may read any of them: `content` (text or a list of parts),
/// `tool_calls`, `reasoning_content`, ….
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>", into = "Map<String, Value>")]
pub struct Message(Map<String, Value>);

/// Why a JSON object is not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAMessage {
    /// There is no `role`.
    #[error("found the keys [{}], expected \"role\"", listed(&.found[..SHOWN_KEYS.min(.found.len())], .found.len()))]
    NoRole {
        /// Its keys.
        found: Vec<String>,
    },
    /// `role` is not a string.
    #[error("\"role\" is {found}, expected a string")]
    RoleNotString {
        /// The type of the value.
        found: &'static str,
    },
}

const SHOWN_KEYS: usize = 8;

impl Message {
    /// A message with nothing but text.
    pub fn new(role: &str, content: &str) -> Self {
        let keys = [("role", role), ("content", content)];
        Self(keys.into_iter().map(|(key, text)| (key.to_owned(), json!(text))).collect())
    }

    /// The message with calls of tools in addition, each as `{"type": "function", "function": {"name", "arguments"}}`.
    #[must_use]
    pub fn with_tool_calls(mut self, calls: Vec<Value>) -> Self {
        self.0.insert("tool_calls".to_owned(), Value::Array(calls));
        self
    }

    /// `user`, `assistant`, `system`, `tool`, or another role that the chat template knows.
    pub fn role(&self) -> &str {
        self.0["role"].as_str().expect("checked when the message was made")
    }

    /// The text, if `content` is text.
    pub fn text(&self) -> Option<&str> {
        self.get("content")?.as_str()
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }
}

impl TryFrom<Map<String, Value>> for Message {
    type Error = NotAMessage;

    fn try_from(keys: Map<String, Value>) -> Result<Self, NotAMessage> {
        match keys.get("role") {
            Some(Value::String(_)) => Ok(Self(keys)),
            Some(other) => Err(NotAMessage::RoleNotString { found: type_name(other) }),
            None => Err(NotAMessage::NoRole { found: keys.keys().cloned().collect() }),
        }
    }
}

impl From<Message> for Map<String, Value> {
    fn from(message: Message) -> Self {
        message.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_keeps_its_keys_and_their_order() {
        let text = r#"{"tool_calls":[{"id":1}],"content":null,"role":"assistant","x":[{"type":"text"}]}"#;
        let message: Message = serde_json::from_str(text).unwrap();
        assert_eq!((message.role(), message.text()), ("assistant", None));
        assert_eq!(serde_json::to_string(&message).unwrap(), text);
        assert_eq!(serde_json::to_string(&Message::new("user", "a")).unwrap(), r#"{"role":"user","content":"a"}"#);
    }

    #[test]
    fn an_object_without_a_role_is_no_message() {
        let refusal = |text| serde_json::from_str::<Message>(text).unwrap_err().to_string();
        assert!(
            refusal(r#"{"from":"a","value":"b"}"#).contains(r#"found the keys ["from", "value"], expected "role""#)
        );
        assert!(refusal(r#"{"role":null}"#).contains(r#""role" is null, expected a string"#));
        let many: Map<String, Value> = (0..20).map(|key| (format!("key{key}"), json!(0))).collect();
        let refusal = Message::try_from(many).unwrap_err().to_string();
        assert!(refusal.contains("\"key7\", …") && !refusal.contains("key8"), "{refusal}");
    }
}
