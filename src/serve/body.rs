//! Fields that both endpoints have.

use serde_json::Value;

use super::ApiError;
use super::fields::Fields;
use super::served::Served;
use crate::generate::{Request, Sampling, SamplingFields, fresh_seed};

/// Sequences of a request at most, over all of its prompts.
pub(super) const MAX_CHOICES: usize = 256;
/// Likely tokens beside each token at most.
pub(super) const MAX_TOP_LOGPROBS: usize = 20;
/// Stop strings of a request at most.
const MAX_STOPS: usize = 16;
/// Numbers beside the tokens of an answer at most: the log-probability of each token and those of the likely ones beside it; its
/// expert in each layer.
const MAX_NUMBERS: usize = 1 << 20;

/// A checked request without its prompt.
#[derive(Debug)]
pub(super) struct Body {
    /// Without a prompt.
    pub(super) request: Request,
    /// Whether the client or the endpoint bounds the tokens of a text, not only the server.
    has_max_tokens: bool,
    pub(super) stop: Vec<String>,
    pub(super) stream: bool,
    /// Whether the last part of a stream has the usage.
    pub(super) include_usage: bool,
}

impl Body {
    /// Takes the fields. `max_tokens` of a request are at most `most_tokens`, and `default_tokens` if it has none.
    pub(super) fn take(
        fields: &mut Fields,
        eos: &[u32],
        default_tokens: Option<usize>,
        most_tokens: usize,
    ) -> Result<Self, ApiError> {
        let sampling = sampling(fields)?;
        let newer = fields.limit("max_completion_tokens", most_tokens)?;
        let max_tokens = newer.or(fields.limit("max_tokens", most_tokens)?).or(default_tokens);
        let stop = fields.strings("stop")?;
        if stop.len() > MAX_STOPS {
            return Err(ApiError::field("stop", format!("found {} strings, expected at most {MAX_STOPS}", stop.len())));
        }
        let stream = fields.bool("stream")?;
        let include_usage = match fields.take("stream_options") {
            None => false,
            Some(options) => match options.get("include_usage") {
                Some(Value::Bool(include_usage)) => *include_usage,
                None | Some(Value::Null) if options.is_object() => false,
                _ => {
                    return Err(ApiError::field(
                        "stream_options",
                        "expected an object with include_usage true or false",
                    ));
                }
            },
        };
        let request = Request {
            num_sequences: fields.count("n", 1, MAX_CHOICES)?.unwrap_or(1),
            max_tokens: Some(max_tokens.unwrap_or(most_tokens).min(most_tokens)),
            sampling,
            stop_tokens: if fields.bool("ignore_eos")? { Vec::new() } else { eos.to_vec() },
            routing: fields.bool("routing")?,
            cache_prompt: fields.bool_or("cache_prompt", true)?,
            ..Request::new(Vec::new())
        };
        Ok(Self { request, has_max_tokens: max_tokens.is_some(), stop, stream, include_usage })
    }

    /// A checked request for each prompt. The number of a text in the answer is that of its random numbers.
    pub(super) fn requests(&self, prompts: Vec<Vec<u32>>, served: &Served) -> Result<Vec<Request>, ApiError> {
        let n = self.request.num_sequences;
        if prompts.len() * n > MAX_CHOICES {
            let message = format!("found {} prompts with n = {n}, expected at most {MAX_CHOICES} texts", prompts.len());
            return Err(ApiError::field("prompt", message));
        }
        let max_tokens = self.max_tokens(prompts.len() * n, served.num_sparse_layers);
        let mut num_numbers = 0;
        let mut requests = Vec::with_capacity(prompts.len());
        for prompt in prompts {
            let request = Request { prompt, first_sequence: n * requests.len(), max_tokens, ..self.request.clone() };
            request.check(served.limits.context, served.vocab_size)?;
            num_numbers += num_numbers_of(&request, served);
            requests.push(request);
        }
        if num_numbers > MAX_NUMBERS {
            let name = if self.request.logprobs.is_some() { "logprobs" } else { "routing" };
            let message = format!(
                "the answer could have {num_numbers} log-probabilities and experts, expected at most {MAX_NUMBERS}: a smaller max_tokens, n or number of logprobs has fewer"
            );
            return Err(ApiError::field(name, message));
        }
        Ok(requests)
    }

    /// The token limit of each of `num_texts` texts. Without `max_tokens`, it is reduced so that the answer has at most
    /// [`MAX_NUMBERS`]: with a long context, every such request would be refused otherwise.
    fn max_tokens(&self, num_texts: usize, num_sparse_layers: usize) -> Option<usize> {
        let num_beside = num_token_logprobs(&self.request) + num_token_experts(&self.request, num_sparse_layers);
        match MAX_NUMBERS.checked_div(num_texts * num_beside) {
            Some(most) if !self.has_max_tokens => self.request.max_tokens.map(|max_tokens| max_tokens.min(most)),
            _ => self.request.max_tokens,
        }
    }
}

/// Log-probabilities of a token.
fn num_token_logprobs(request: &Request) -> usize {
    request.logprobs.map_or(0, |num_top| 1 + num_top)
}

/// Experts of a token: the one with the highest weight in each layer.
fn num_token_experts(request: &Request, num_sparse_layers: usize) -> usize {
    if request.routing { num_sparse_layers } else { 0 }
}

/// Log-probabilities and experts in the answer to a request at most.
fn num_numbers_of(request: &Request, served: &Served) -> usize {
    let (context, num_prompt) = (served.limits.context, request.prompt.len());
    let num_output = request.max_tokens.unwrap_or(context).min(context - num_prompt);
    let num_echoed = if request.prompt_logprobs { num_prompt } else { 0 };
    let num_logprobs = (num_echoed + num_output) * num_token_logprobs(request);
    request.num_sequences * (num_logprobs + num_output * num_token_experts(request, served.num_sparse_layers))
}

fn sampling(fields: &mut Fields) -> Result<Sampling, ApiError> {
    let default = SamplingFields { temperature: 1.0, ..SamplingFields::default() };
    let mut or = |name, default: f64| Ok::<_, ApiError>(fields.number(name)?.unwrap_or(default));
    let sampling = SamplingFields {
        temperature: or("temperature", default.temperature)?,
        top_p: or("top_p", default.top_p)?,
        min_p: or("min_p", default.min_p)?,
        repetition_penalty: or("repetition_penalty", default.repetition_penalty)?,
        frequency_penalty: or("frequency_penalty", default.frequency_penalty)?,
        presence_penalty: or("presence_penalty", default.presence_penalty)?,
        top_k: fields.limit("top_k", u32::MAX as usize)?.unwrap_or(0),
        seed: fields.seed()?.unwrap_or_else(fresh_seed),
    };
    Sampling::new(sampling).map_err(|fault| ApiError::field(fault.field, fault))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::serve::Limits;
    use crate::tokenizer::Tokenizer;

    const CONTEXT: usize = 1 << 17;

    fn served() -> Served {
        let limits = Limits {
            parallel: 1,
            queue: 0,
            context: CONTEXT,
            max_tokens: CONTEXT,
            body_bytes: 0,
            timeout: Duration::from_secs(1),
        };
        Served {
            name: String::new(),
            tokenizer: Tokenizer::word_level(&["red".to_owned()]),
            template: None,
            vocab_size: 1,
            num_sparse_layers: 32,
            num_experts: 8,
            limits,
            api_key: None,
            created: 0,
        }
    }

    /// Tokens of a text behind a prompt of ten tokens, of which each has 20 likely ones beside it.
    fn max_tokens(fields: &str, echo: bool) -> Result<Option<usize>, ApiError> {
        let mut fields = Fields::parse(fields.as_bytes())?;
        let mut body = Body::take(&mut fields, &[], None, CONTEXT)?;
        (body.request.logprobs, body.request.prompt_logprobs) = (Some(20), echo);
        Ok(body.requests(vec![vec![0; 10]], &served())?[0].max_tokens)
    }

    #[test]
    fn the_newer_name_of_max_tokens_counts_alone_or_beside_it() {
        for (body, expected) in [
            (r#"{"max_completion_tokens": 3}"#, 3),
            (r#"{"max_completion_tokens": 3, "max_tokens": 5}"#, 3),
            (r#"{"max_completion_tokens": null, "max_tokens": 5}"#, 5),
        ] {
            assert_eq!(max_tokens(body, false), Ok(Some(expected)), "{body}");
        }
    }

    #[test]
    fn log_probabilities_are_counted_by_the_tokens_that_a_request_can_have() {
        let most = MAX_NUMBERS / 21;
        let field = |number: usize| format!(r#"{{"max_tokens": {number}}}"#);
        assert_eq!(max_tokens(&field(most), false), Ok(Some(most)));
        assert_eq!(max_tokens(&field(most - 10), true), Ok(Some(most - 10)));
        for refused in [max_tokens(&field(most + 1), false), max_tokens(&field(most - 9), true)] {
            assert_eq!(refused.unwrap_err().param.as_deref(), Some("logprobs"));
        }
        // Without a number, texts are as long as the answer can be.
        assert_eq!(max_tokens("{}", false), Ok(Some(most)));
        assert_eq!(max_tokens(r#"{"n": 8}"#, false), Ok(Some(most / 8)));
    }

    #[test]
    fn experts_are_counted_by_the_layers_that_have_some() {
        let max_tokens = |fields: &str| {
            let mut fields = Fields::parse(fields.as_bytes())?;
            let body = Body::take(&mut fields, &[], None, CONTEXT)?;
            Ok::<_, ApiError>(body.requests(vec![vec![0; 10]], &served())?[0].max_tokens)
        };
        let most = MAX_NUMBERS / 32;
        assert_eq!(max_tokens(&format!(r#"{{"routing": true, "max_tokens": {most}}}"#)), Ok(Some(most)));
        let refused = max_tokens(&format!(r#"{{"routing": true, "max_tokens": {}}}"#, most + 1)).unwrap_err();
        assert_eq!(refused.param.as_deref(), Some("routing"));
        assert!(refused.message.contains("1048608 log-probabilities and experts"), "{}", refused.message);
        assert_eq!(max_tokens(r#"{"routing": true, "n": 2}"#), Ok(Some(most / 2)));
        assert_eq!(max_tokens("{}"), Ok(Some(CONTEXT)), "without either there is no such limit");
    }
}
