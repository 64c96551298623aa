//! Training examples as files state them: TRL's formats, Alpaca, ShareGPT.

mod alpaca;
mod fault;
mod format;
mod messages;
mod passage;
mod row;

use serde_json::{Map, Value};

pub use fault::{MessageFault, RowFault};
pub use format::{RecordFormat, UnknownFormat};
pub use passage::Passage;

use crate::tokenizer::Message;
use passage::{alike, split_prompt};
use row::Row;

/// A training example as text and messages.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// A text, all of which is to be learned.
    Text(String),
    /// A prompt and the completion to be learned.
    PromptCompletion {
        /// The prompt. Text if the completion is.
        prompt: Passage,
        /// The completion.
        completion: Passage,
        /// Tools for the chat template.
        tools: Vec<Value>,
    },
    /// A chat.
    Messages {
        /// Its messages.
        messages: Vec<Message>,
        /// Tools for the chat template.
        tools: Vec<Value>,
    },
    /// Two completions of a prompt, of which the first is preferred. All three are text, or none is.
    ///
    /// Either may be empty, or both the same: such pairs teach nothing, see [`is_informative`](Self::is_informative).
    Preference {
        /// The prompt.
        prompt: Passage,
        /// The better completion.
        chosen: Passage,
        /// The worse completion.
        rejected: Passage,
        /// Tools for the chat template.
        tools: Vec<Value>,
    },
}

impl Record {
    /// Reads a row of a file. Columns that the format does not name are ignored, null values count as absent.
    ///
    /// ```
    /// use deepwide::data::{Passage, Record, RecordFormat};
    ///
    /// let row = serde_json::json!({"instruction": "Add.", "input": "1 2", "output": "3"});
    /// let row = row.as_object().unwrap();
    /// let format = RecordFormat::recognize([row])?;
    /// assert_eq!(format.to_string(), "Alpaca (instruction, input, output)");
    /// let Record::PromptCompletion { completion, .. } = Record::from_row(format, row.clone())? else { panic!() };
    /// assert_eq!(completion, Passage::Text("3".to_owned()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// The first reason why the row is not of the format.
    pub fn from_row(format: RecordFormat, row: Map<String, Value>) -> Result<Self, RowFault> {
        let mut row = Row::new(row, format);
        match format {
            RecordFormat::Text => row.text("text").map(Self::Text),
            RecordFormat::Alpaca => {
                let prompt = alpaca::prompt(&row.text("instruction")?, &row.optional_text("input")?);
                let (prompt, completion) = (Passage::Text(prompt), Passage::Text(row.text("output")?));
                Ok(Self::PromptCompletion { prompt, completion, tools: Vec::new() })
            }
            RecordFormat::PromptCompletion => {
                let [prompt, completion] = row.passages(["prompt", "completion"])?;
                Ok(Self::PromptCompletion { prompt, completion, tools: row.tools()? })
            }
            RecordFormat::Messages | RecordFormat::ShareGpt => {
                Ok(Self::Messages { messages: row.messages(format.columns()[0])?, tools: row.tools()? })
            }
            RecordFormat::ImplicitPrompt => {
                let (prompt, [chosen, rejected]) = split_prompt(row.passages(["chosen", "rejected"])?);
                Ok(Self::Preference { prompt, chosen, rejected, tools: row.tools()? })
            }
            RecordFormat::Preference | RecordFormat::ShareGptPreference => Self::preference(row, format.columns()[0]),
        }
    }

    fn preference(mut row: Row, prompt_column: &'static str) -> Result<Self, RowFault> {
        let mut prompt = row.passage(prompt_column)?;
        let mut sides = row.passages(["chosen", "rejected"])?;
        if let (Passage::Text(text), [Passage::Messages(_), _]) = (&prompt, &sides) {
            // Such files state the prompt again, as the first messages of both sides.
            let (shared, rest) = split_prompt(sides);
            let stated = || Passage::Messages(vec![Message::new("user", text)]);
            (prompt, sides) = (if shared.is_empty() { stated() } else { shared }, rest);
        }
        alike((prompt_column, &prompt), ("chosen", &sides[0]))?;
        let [chosen, rejected] = sides;
        Ok(Self::Preference { prompt, chosen, rejected, tools: row.tools()? })
    }

    /// Whether there is something to learn: text, a completion or a message that is not empty; of a preference two
    /// completions that differ and are not empty.
    pub fn is_informative(&self) -> bool {
        match self {
            Self::Text(text) => !text.is_empty(),
            Self::PromptCompletion { completion, .. } => !completion.is_empty(),
            Self::Messages { messages, .. } => !messages.is_empty(),
            Self::Preference { chosen, rejected, .. } => {
                chosen != rejected && !chosen.is_empty() && !rejected.is_empty()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(row) => row,
            other => panic!("{other}"),
        }
    }

    /// The record of a row that is a file by itself, and the format of that file.
    fn read(value: Value) -> (RecordFormat, Record) {
        let row = row(value);
        let format = RecordFormat::recognize([&row]).unwrap();
        (format, Record::from_row(format, row).unwrap())
    }

    fn refusal(format: RecordFormat, value: Value) -> String {
        Record::from_row(format, row(value)).unwrap_err().to_string()
    }

    fn text(text: &str) -> Passage {
        Passage::Text(text.to_owned())
    }

    fn chat(messages: &[(&str, &str)]) -> Vec<Message> {
        messages.iter().map(|(role, content)| Message::new(role, content)).collect()
    }

    #[test]
    fn standard_rows_of_trl_are_records_of_text() {
        assert_eq!(read(json!({"text": "a", "id": 1})), (RecordFormat::Text, Record::Text("a".to_owned())));
        let (format, record) = read(json!({"prompt": "a", "completion": "b"}));
        assert_eq!(format, RecordFormat::PromptCompletion);
        let expected = Record::PromptCompletion { prompt: text("a"), completion: text("b"), tools: vec![] };
        assert_eq!(record, expected);
        let (format, record) = read(json!({"prompt": "a", "chosen": "b", "rejected": "c", "completion": null}));
        assert_eq!(format, RecordFormat::Preference);
        let expected = Record::Preference { prompt: text("a"), chosen: text("b"), rejected: text("c"), tools: vec![] };
        assert_eq!(record, expected);
        let (format, record) = read(json!({"chosen": "a b", "rejected": "a c"}));
        assert_eq!(format, RecordFormat::ImplicitPrompt);
        let expected =
            Record::Preference { prompt: text("a"), chosen: text(" b"), rejected: text(" c"), tools: vec![] };
        assert_eq!(record, expected);
    }

    #[test]
    fn conversational_rows_of_trl_are_records_of_messages() {
        let (user, assistant) = (json!({"role": "user", "content": "a"}), json!({"role": "assistant", "content": "b"}));
        let tools = json!([{"type": "function"}]);
        let (format, record) = read(json!({"messages": [user, assistant], "tools": tools, "text": "x"}));
        assert_eq!(format, RecordFormat::Messages);
        let messages = chat(&[("user", "a"), ("assistant", "b")]);
        assert_eq!(record, Record::Messages { messages, tools: vec![json!({"type": "function"})] });
        let expected = |tools| Record::Preference {
            prompt: Passage::Messages(chat(&[("user", "a")])),
            chosen: Passage::Messages(chat(&[("assistant", "b")])),
            rejected: Passage::Messages(chat(&[("assistant", "c")])),
            tools,
        };
        let other = json!({"role": "assistant", "content": "c"});
        let explicit =
            json!({"prompt": [user], "chosen": [assistant], "rejected": [other], "tools": tools.to_string()});
        assert_eq!(read(explicit).1, expected(vec![json!({"type": "function"})]));
        let implicit = json!({"chosen": [user, assistant], "rejected": [user, other]});
        assert_eq!(read(implicit.clone()).1, expected(vec![]));
        for (stated, sides) in [("ignored", implicit), ("a", json!({"chosen": [assistant], "rejected": [other]}))] {
            let mut both = row(sides);
            both.insert("prompt".to_owned(), json!(stated));
            assert_eq!(read(Value::Object(both)), (RecordFormat::Preference, expected(vec![])));
        }
        let completion = json!({"prompt": [user], "completion": assistant});
        let Record::PromptCompletion { completion, .. } = read(completion).1 else { panic!() };
        assert_eq!(completion, Passage::Messages(chat(&[("assistant", "b")])));
    }

    #[test]
    fn rows_of_alpaca_get_its_published_prompt() {
        let (format, record) = read(json!({"instruction": "I", "input": "", "output": "O", "text": "whole"}));
        assert_eq!(format, RecordFormat::Alpaca);
        let prompt = "Below is an instruction that describes a task. Write a response that appropriately completes the \
                      request.\n\n### Instruction:\nI\n\n### Response:";
        assert_eq!(record, Record::PromptCompletion { prompt: text(prompt), completion: text("O"), tools: vec![] });
        let (_, record) = read(json!({"instruction": "I", "input": "X", "output": "O"}));
        let prompt = "Below is an instruction that describes a task, paired with an input that provides further \
                      context. Write a response that appropriately completes the request.\n\n### Instruction:\nI\n\n\
                      ### Input:\nX\n\n### Response:";
        assert_eq!(record, Record::PromptCompletion { prompt: text(prompt), completion: text("O"), tools: vec![] });
        assert_eq!(read(json!({"instruction": "I", "output": "O"})).0, RecordFormat::Alpaca);
    }

    #[test]
    fn rows_of_sharegpt_are_chats_with_the_roles_of_chat_templates() {
        let call = r#"{"name": "f", "arguments": {"x": 1}}"#;
        let turns = [("system", "s"), ("human", "a"), ("function_call", call), ("observation", "1"), ("gpt", "b")];
        let turns: Vec<Value> = turns.map(|(from, value)| json!({"from": from, "value": value})).into();
        let (format, record) = read(json!({"id": "x", "conversations": turns, "tools": "[{\"name\": \"f\"}]"}));
        assert_eq!(format, RecordFormat::ShareGpt);
        let mut messages =
            chat(&[("system", "s"), ("user", "a"), ("assistant", ""), ("tool", "1"), ("assistant", "b")]);
        let calls = vec![json!({"type": "function", "function": {"name": "f", "arguments": {"x": 1}}})];
        messages[2] = Message::new("assistant", "").with_tool_calls(calls);
        assert_eq!(record, Record::Messages { messages, tools: vec![json!({"name": "f"})] });
        let side = |value| json!({"from": "gpt", "value": value});
        let pair = json!({"conversations": turns[..2], "chosen": side("b"), "rejected": side("c")});
        let (format, record) = read(pair);
        assert_eq!(format, RecordFormat::ShareGptPreference);
        let Record::Preference { prompt, rejected, .. } = record else { panic!() };
        assert_eq!(prompt, Passage::Messages(chat(&[("system", "s"), ("user", "a")])));
        assert_eq!(rejected, Passage::Messages(chat(&[("assistant", "c")])));
        let (_, record) = read(json!({"conversations": [{"role": "user", "content": "a", "tool_calls": null}]}));
        assert_eq!(record, Record::Messages { messages: chat(&[("user", "a")]), tools: vec![] });
    }

    #[test]
    fn rows_that_do_not_fit_are_refused_with_what_was_found() {
        use RecordFormat::{Messages, Preference, PromptCompletion, ShareGpt, Text};
        let said = refusal(Text, json!({"txt": "a", "text": null, "id": 1}));
        assert_eq!(said, r#"found the columns ["txt", "id"] and no "text", expected those of text (text)"#);
        assert_eq!(refusal(Text, json!({"text": 3})), r#""text" is a number, expected a string"#);
        let said = refusal(PromptCompletion, json!({"prompt": "a", "completion": []}));
        assert_eq!(said, r#""prompt" is text and "completion" is a list of messages, expected both alike"#);
        let said = refusal(Preference, json!({"prompt": [], "chosen": "a", "rejected": "b"}));
        assert_eq!(said, r#""prompt" is a list of messages and "chosen" is text, expected both alike"#);
        let said = refusal(Preference, json!({"prompt": "a", "chosen": "b", "rejected": null}));
        assert!(said.starts_with(r#"found the columns ["prompt", "chosen"] and no "rejected", expected"#), "{said}");
        let said = refusal(Messages, json!({"messages": "a"}));
        assert_eq!(said, r#""messages" is a string, expected a list of messages"#);
        let said = refusal(Messages, json!({"messages": [], "tools": "x"}));
        assert_eq!(said, r#""tools" is a string, expected a list, or one in JSON"#);
        let message = |value| refusal(ShareGpt, json!({"conversations": [{"role": "user"}, value]}));
        let behind = |said: &str| format!("message 2 of \"conversations\": {said}");
        assert_eq!(message(json!(3)), behind("found a number, expected an object"));
        assert_eq!(message(json!({"content": ""})), behind(r#"found the keys ["content"], expected "role""#));
        assert_eq!(message(json!({"from": "gpt"})), behind(r#""value" is missing, expected a string"#));
        let said = message(json!({"from": "bot", "value": ""}));
        assert!(said.starts_with(&behind(r#""from" is "bot", expected one of human, user, gpt"#)), "{said}");
        let said = message(json!({"from": "function_call", "value": "f(1)"}));
        assert!(said.contains(r#"found "f(1)", expected the call of a function as JSON"#), "{said}");
    }

    #[test]
    fn records_without_anything_to_learn_are_recognized() {
        let informative = |value| read(value).1.is_informative();
        assert!(informative(json!({"prompt": "", "chosen": "a", "rejected": "b"})));
        for (chosen, rejected) in [("a", "a"), ("", "b"), ("a", "")] {
            assert!(!informative(json!({"prompt": "p", "chosen": chosen, "rejected": rejected})), "{chosen:?}");
        }
        assert!(!informative(json!({"prompt": "p", "completion": ""})));
        assert!(!informative(json!({"messages": []})) && !informative(json!({"text": ""})));
        assert!(informative(json!({"text": "a"})));
    }
}
