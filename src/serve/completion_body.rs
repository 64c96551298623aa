//! The body of `/v1/completions`.

use serde_json::Value;

use super::ApiError;
use super::body::{Body, MAX_TOP_LOGPROBS};
use super::echo::Echo;
use super::fields::Fields;
use super::served::Served;
use crate::generate::{Request, prompt_ids, prompt_ids_with_starts};
use crate::tokenizer::Tokenizer;

/// Tokens of a completion, unless the request says otherwise.
const DEFAULT_TOKENS: usize = 16;

/// A checked request of `/v1/completions`.
#[derive(Debug)]
pub(super) struct CompletionBody {
    pub(super) body: Body,
    /// A request for each prompt.
    pub(super) requests: Vec<Request>,
    /// Of each prompt, if the texts begin with it.
    pub(super) echoes: Vec<Echo>,
}

impl CompletionBody {
    /// Reads and checks a body.
    pub(super) fn parse(bytes: &[u8], served: &Served) -> Result<Self, ApiError> {
        let mut fields = Fields::parse(bytes)?;
        let most = served.limits.max_tokens;
        let mut body = Body::take(&mut fields, served.tokenizer.eos(), Some(DEFAULT_TOKENS), most)?;
        let n = body.request.num_sequences;
        fields.refuse("best_of", |value| *value == n)?;
        let echo = fields.bool("echo")?;
        // In chats the field is true or false.
        body.request.logprobs = fields.count_or_false("logprobs", MAX_TOP_LOGPROBS)?;
        body.request.prompt_logprobs = echo && body.request.logprobs.is_some();
        let prompt = fields.take("prompt").ok_or_else(|| ApiError::field("prompt", "found no prompt, expected one"))?;
        let prompts = prompts(&served.tokenizer, prompt, echo)?;
        fields.finish()?;
        let (prompts, texts): (Vec<_>, Vec<_>) = prompts.into_iter().unzip();
        let requests = body.requests(prompts, served)?;
        let echo_of = |(request, text): (&Request, Option<PromptText>)| match text {
            Some(PromptText { text, starts }) => Ok(Echo::of_text(&text, &request.prompt, &starts)),
            None => Echo::new(&served.tokenizer, &request.prompt),
        };
        let echoes = if echo { requests.iter().zip(texts).map(echo_of).collect() } else { Ok(Vec::new()) };
        let echoes = echoes.map_err(|error| ApiError::field("prompt", error))?;
        Ok(Self { body, requests, echoes })
    }
}

/// The text of a prompt, and the byte at which each of its tokens begins.
struct PromptText {
    text: String,
    starts: Vec<usize>,
}

/// The ids of a prompt. With `echo`, also its text, if it was given as a text.
type Prompt = (Vec<u32>, Option<PromptText>);

/// A string, an array of strings, an array of token ids, or an array of such arrays.
fn prompts(tokenizer: &Tokenizer, prompt: Value, echo: bool) -> Result<Vec<Prompt>, ApiError> {
    let expected = "expected a string, an array of strings, an array of token ids, or an array of such arrays";
    let refused = || ApiError::field("prompt", format!("found a prompt of another type, {expected}"));
    let text = |value: &Value| match value.as_str() {
        Some(text) => text_prompt(tokenizer, text, echo),
        None => Err(refused()),
    };
    let ids = |value: &Value| -> Result<Prompt, ApiError> {
        let ids = value.as_array().ok_or_else(refused)?.iter();
        let ids: Option<_> = ids.map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok())).collect();
        Ok((ids.ok_or_else(refused)?, None))
    };
    let Value::Array(parts) = &prompt else { return Ok(vec![text(&prompt)?]) };
    match parts.first() {
        None => Err(ApiError::field("prompt", format!("found an empty array, {expected}"))),
        Some(Value::String(_)) => parts.iter().map(text).collect(),
        Some(Value::Array(_)) => parts.iter().map(ids).collect(),
        Some(_) => Ok(vec![ids(&prompt)?]),
    }
}

/// The prompt of a text, with the tokens that the tokenizer puts around one; of an empty text the one that begins a text.
fn text_prompt(tokenizer: &Tokenizer, text: &str, echo: bool) -> Result<Prompt, ApiError> {
    let prompt = if echo {
        let with_text = |(ids, starts)| (ids, Some(PromptText { text: text.to_owned(), starts }));
        prompt_ids_with_starts(tokenizer, text).map(with_text)
    } else {
        prompt_ids(tokenizer, text).map(|ids| (ids, None))
    };
    prompt.map_err(|error| ApiError::field("prompt", error))
}
