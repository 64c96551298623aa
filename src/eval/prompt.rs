//! The text of prompts: description, examples, question; plain, or as a chat.

use super::tasks::{Doc, Question};
use crate::tokenizer::{ChatTemplate, ChatTemplateError, Message, RenderOptions};

/// Between question and answer of a plain prompt.
const TARGET_DELIMITER: &str = " ";
/// Between examples.
const FEWSHOT_DELIMITER: &str = "\n\n";

/// How prompts are written.
#[derive(Debug, Clone, Default)]
pub struct PromptStyle<'a> {
    /// Text of the system, before the description of the task.
    pub system_instruction: Option<&'a str>,
    /// The template of a chat, or plain text.
    pub chat: Option<Chat<'a>>,
}

/// Prompts as a chat.
#[derive(Debug, Clone, Copy)]
pub struct Chat<'a> {
    /// The template of the model.
    pub template: &'a ChatTemplate,
    /// Whether examples are turns of their own; otherwise they are in the message of the question.
    pub multiturn: bool,
}

/// A message, and the text behind it in a plain prompt.
struct Turn<'a> {
    role: &'static str,
    content: &'a str,
    delimiter: &'static str,
}

impl PromptStyle<'_> {
    /// The prompts of an item: one, or one for each context.
    ///
    /// # Errors
    /// [`ChatTemplateError`].
    pub fn prompts(&self, description: &str, examples: &[&Doc], item: &Doc) -> Result<Vec<String>, ChatTemplateError> {
        let system = delimited(self.system_instruction.unwrap_or_default(), description);
        let mut turns = Vec::new();
        if !system.is_empty() {
            turns.push(Turn { role: "system", content: &system, delimiter: "" });
        }
        for example in examples {
            let (question, answer) = example.question.example();
            turns.push(Turn { role: "user", content: question, delimiter: TARGET_DELIMITER });
            turns.push(Turn { role: "assistant", content: answer, delimiter: FEWSHOT_DELIMITER });
        }
        let questions: Vec<&String> = match &item.question {
            Question::Choices { text, .. } | Question::Open { text, .. } => vec![text],
            Question::Contexts { contexts, .. } => contexts.iter().collect(),
        };
        let prompt = |question: &String| {
            let question = Turn { role: "user", content: question, delimiter: "" };
            self.text(&turns, &question)
        };
        questions.into_iter().map(prompt).collect()
    }

    /// Whether the template refuses messages of the system, which prompts then leave out.
    pub fn drops_system(&self) -> bool {
        let Some(Chat { template, .. }) = self.chat else { return false };
        let refuses = |messages: &[Message]| template.render(messages, &RenderOptions::default()).is_err();
        let user = Message::new("user", "a");
        refuses(&[Message::new("system", "a"), user.clone()]) && !refuses(&[user])
    }

    /// The text between a prompt and its continuation.
    pub fn target_delimiter(&self) -> &'static str {
        if self.chat.is_some() { "" } else { TARGET_DELIMITER }
    }

    fn text(&self, turns: &[Turn<'_>], question: &Turn<'_>) -> Result<String, ChatTemplateError> {
        let all = || turns.iter().chain([question]);
        let Some(Chat { template, multiturn }) = self.chat else { return Ok(plain(all())) };
        let messages: Vec<Message> = if multiturn {
            all().map(|turn| Message::new(turn.role, turn.content)).collect()
        } else {
            let is_system = |turn: &&Turn| turn.role == "system";
            let system = all().filter(is_system).map(|turn| Message::new(turn.role, turn.content));
            let user = Message::new("user", &plain(all().filter(|turn| !is_system(turn))));
            system.chain([user]).collect()
        };
        let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
        template.render(&messages, &options).or_else(|error| {
            // Templates without a system role refuse it.
            let others: Vec<Message> = messages.iter().filter(|message| message.role() != "system").cloned().collect();
            if others.len() == messages.len() { Err(error) } else { template.render(&others, &options) }
        })
    }
}

fn plain<'a>(turns: impl Iterator<Item = &'a Turn<'a>>) -> String {
    turns.flat_map(|turn| [turn.content, turn.delimiter]).collect()
}

/// Two texts with an empty line between them, unless one of them has white space there.
fn delimited(first: &str, second: &str) -> String {
    let has_space = first.ends_with(char::is_whitespace) || second.starts_with(char::is_whitespace);
    let delimiter = if first.is_empty() || second.is_empty() || has_space { "" } else { FEWSHOT_DELIMITER };
    format!("{first}{delimiter}{second}")
}
