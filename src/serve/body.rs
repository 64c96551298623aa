//! Fields that both endpoints have.

use serde_json::json;

use super::ApiError;
use super::fields::Fields;
use crate::generate::{Request, Sampling, SamplingFields, fresh_seed};

/// Sequences of a request at most, over all of its prompts.
pub(super) const MAX_CHOICES: usize = 256;
/// Likely tokens beside each token at most.
pub(super) const MAX_TOP_LOGPROBS: usize = 20;
/// Stop strings of a request at most.
const MAX_STOPS: usize = 16;

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
        let refused =
            [("logit_bias", json!({})), ("suffix", json!("")), ("tools", json!([])), ("functions", json!([]))];
        for (name, nothing) in refused {
            fields.refuse(name, |value| *value == nothing)?;
        }
        fields.refuse("response_format", |value| value["type"] == "text")?;
        let sampling = sampling(fields)?;
        let newer = fields.count("max_completion_tokens", 0, most_tokens)?;
        let max_tokens = newer.or(fields.count("max_tokens", 0, most_tokens)?).or(default_tokens);
        let stop = fields.strings("stop")?;
        if stop.len() > MAX_STOPS {
            return Err(ApiError::field("stop", format!("found {} strings, expected at most {MAX_STOPS}", stop.len())));
        }
        let stream = fields.bool("stream")?;
        let include_usage = fields.take("stream_options").is_some_and(|options| options["include_usage"] == true);
        let request = Request {
            num_sequences: fields.count("n", 1, MAX_CHOICES)?.unwrap_or(1),
            max_tokens: Some(max_tokens.unwrap_or(most_tokens).min(most_tokens)),
            sampling,
            stop_tokens: if fields.bool("ignore_eos")? { Vec::new() } else { eos.to_vec() },
            routing: fields.bool("routing")?,
            ..Request::new(Vec::new())
        };
        Ok(Self { request, stop, stream, include_usage })
    }
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
        top_k: fields.count("top_k", 0, u32::MAX as usize)?.unwrap_or(0),
        seed: fields.seed()?.unwrap_or_else(fresh_seed),
    };
    Sampling::new(sampling).map_err(|fault| ApiError::field(fault.field, fault))
}
