//! Answers as OpenAI's API has them.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::logprobs::{chat_logprobs, completion_logprobs};
use crate::generate::{FinishReason, TokenText, fresh_seed};
use crate::tokenizer::Tokenizer;

/// Which of the two APIs an answer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// `/v1/completions`.
    Completion,
    /// `/v1/chat/completions`.
    Chat,
}

/// The fields that all parts of an answer have.
#[derive(Debug, Clone)]
pub struct AnswerHeader {
    /// Which API.
    pub endpoint: Endpoint,
    /// Name of the answer.
    pub id: String,
    /// Seconds since the epoch.
    pub created: u64,
    /// Name of the model.
    pub model: String,
}

impl AnswerHeader {
    /// The header of an answer that begins now, with a random name.
    pub fn new(endpoint: Endpoint, model: String) -> Self {
        let kind = if endpoint == Endpoint::Chat { "chatcmpl" } else { "cmpl" };
        Self { endpoint, id: format!("{kind}-{:016x}", fresh_seed()), created: unix_time_s(), model }
    }
}

/// Seconds since the epoch.
pub fn unix_time_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// Counts of tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Of all prompts.
    pub prompt_tokens: usize,
    /// Of these, tokens that were not computed: their keys and values are those of earlier prompts.
    pub cached_tokens: usize,
    /// Of all outputs, stop tokens included.
    pub completion_tokens: usize,
}

/// A text, whole or the next part of it.
#[derive(Debug, Clone, Default)]
pub struct ChoiceNews {
    /// Its place among the texts of the answer.
    pub index: usize,
    /// The text.
    pub text: String,
    /// Its tokens.
    pub tokens: Vec<TokenText>,
    /// Tokens of the prompt, if the text begins with it and log-probabilities were asked for.
    pub prompt: Vec<TokenText>,
    /// Characters of the prompt with which the whole text begins.
    pub offset: usize,
    /// Why it has ended, if it has.
    pub finish: Option<FinishReason>,
    /// Whether log-probabilities were asked for.
    pub logprobs: bool,
    /// Whether the experts of tokens were asked for.
    pub routing: bool,
}

impl Usage {
    /// As JSON.
    pub fn to_json(self) -> Value {
        let Self { prompt_tokens, cached_tokens, completion_tokens } = self;
        json!({
            "prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
            "prompt_tokens_details": {"cached_tokens": cached_tokens},
        })
    }
}

impl AnswerHeader {
    /// The first part of a chat's stream, which says whose text it is.
    pub fn role_chunk(&self, index: usize) -> Value {
        let delta = json!({"role": "assistant", "content": ""});
        self.chunk(vec![json!({"index": index, "delta": delta, "logprobs": null, "finish_reason": null})])
    }

    /// A part of a stream.
    pub fn chunk(&self, choices: Vec<Value>) -> Value {
        let object = match self.endpoint {
            Endpoint::Completion => "text_completion",
            Endpoint::Chat => "chat.completion.chunk",
        };
        self.object(object, choices)
    }

    /// A whole answer.
    pub fn whole(&self, choices: Vec<Value>, usage: Usage) -> Value {
        let object = match self.endpoint {
            Endpoint::Completion => "text_completion",
            Endpoint::Chat => "chat.completion",
        };
        let mut answer = self.object(object, choices);
        answer["usage"] = usage.to_json();
        answer
    }

    /// The end of a stream.
    pub fn usage_chunk(&self, usage: Usage) -> Value {
        let mut chunk = self.chunk(Vec::new());
        chunk["usage"] = usage.to_json();
        chunk
    }

    fn object(&self, object: &str, choices: Vec<Value>) -> Value {
        json!({"id": self.id, "object": object, "created": self.created, "model": self.model, "choices": choices})
    }

    /// A text of a whole answer, or of a part of a stream.
    pub fn choice(&self, tokenizer: &Tokenizer, news: &ChoiceNews, is_chunk: bool) -> Value {
        let logprobs = match (news.logprobs, self.endpoint) {
            (false, _) => Value::Null,
            (true, Endpoint::Chat) => chat_logprobs(tokenizer, &news.tokens),
            (true, Endpoint::Completion) => completion_logprobs(tokenizer, &news.prompt, &news.tokens, news.offset),
        };
        let mut choice = json!({"index": news.index});
        match (self.endpoint, is_chunk) {
            (Endpoint::Completion, _) => choice["text"] = json!(news.text),
            (Endpoint::Chat, false) => choice["message"] = json!({"role": "assistant", "content": news.text}),
            (Endpoint::Chat, true) if news.text.is_empty() => choice["delta"] = json!({}),
            (Endpoint::Chat, true) => choice["delta"] = json!({"content": news.text}),
        }
        choice["logprobs"] = logprobs;
        choice["finish_reason"] = json!(news.finish.map(FinishReason::name));
        if news.routing {
            let token = |token: &TokenText| json!({"text": token.text, "experts": token.token.experts});
            choice["routing"] = news.tokens.iter().map(token).collect();
        }
        choice
    }
}
