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
/// Log-probabilities of an answer at most: that of each token and those of the likely ones beside it.
const MAX_LOGPROBS: usize = 1 << 20;

/// A checked request without its prompt.
#[derive(Debug)]
pub(super) struct Body {
    /// Without a prompt.
    pub(super) request: Request,
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
        Ok(Self { request, stop, stream, include_usage })
    }

    /// A checked request for each prompt. The number of a text in the answer is that of its random numbers.
    pub(super) fn requests(&self, prompts: Vec<Vec<u32>>, served: &Served) -> Result<Vec<Request>, ApiError> {
        let n = self.request.num_sequences;
        if prompts.len() * n > MAX_CHOICES {
            let message = format!("found {} prompts with n = {n}, expected at most {MAX_CHOICES} texts", prompts.len());
            return Err(ApiError::field("prompt", message));
        }
        let mut num_logprobs = 0;
        let mut requests = Vec::with_capacity(prompts.len());
        for prompt in prompts {
            let request = Request { prompt, first_sequence: n * requests.len(), ..self.request.clone() };
            request.check(served.limits.context, served.vocab_size)?;
            num_logprobs += num_logprobs_of(&request, served.limits.context);
            requests.push(request);
        }
        if num_logprobs > MAX_LOGPROBS {
            let message = format!(
                "the answer could have {num_logprobs} log-probabilities, expected at most {MAX_LOGPROBS}: a smaller max_tokens, n or number of logprobs has fewer"
            );
            return Err(ApiError::field("logprobs", message));
        }
        Ok(requests)
    }
}

/// Log-probabilities in the answer to a request at most.
fn num_logprobs_of(request: &Request, context: usize) -> usize {
    let Some(num_top) = request.logprobs else { return 0 };
    let num_prompt = request.prompt.len();
    let num_output = request.max_tokens.unwrap_or(context).min(context - num_prompt);
    let num_echoed = if request.prompt_logprobs { num_prompt } else { 0 };
    request.num_sequences * (num_echoed + num_output) * (1 + num_top)
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
