//! Generates the answers to open questions.

use std::time::Instant;

use burn::tensor::Device;
use serde_json::{Map, Value};

use super::answer_log::AnswerLog;
use super::error::EvalError;
use super::items::Item;
use super::run::Cost;
use super::scoring::{Encoder, Limits};
use super::tasks::Generation;
use crate::config::DecoderConfig;
use crate::generate::{BatchSettings, Delta, Engine, MAX_SEQUENCES, Progress, Request, Sampling, SamplingFields};
use crate::model::CausalLm;
use crate::profile::memory::kv_cache_bytes_per_token;
use crate::tokenizer::{Tokenizer, TokenizerError};
use crate::trace::executed_flops;

/// The settings of a model that change greedy answers, as transformers takes them from `generation_config.json`.
#[derive(Debug, Clone, Default)]
pub struct GenerationDefaults {
    /// Greedy, with the model's repetition penalty.
    pub sampling: Sampling,
    /// Tokens of an answer at most, in place of a task's number.
    pub max_new_tokens: Option<usize>,
    /// Settings that transformers obeys and this crate does not.
    pub ignored: Vec<&'static str>,
}

/// Settings of `generation_config.json` that change greedy answers, and the values with which they do not.
const OTHER_SETTINGS: [(&str, &[i64]); 9] = [
    ("bad_words_ids", &[]),
    ("begin_suppress_tokens", &[]),
    ("encoder_repetition_penalty", &[1]),
    ("min_length", &[0]),
    ("min_new_tokens", &[0]),
    ("no_repeat_ngram_size", &[0]),
    ("num_beams", &[0, 1]),
    ("sequence_bias", &[]),
    ("suppress_tokens", &[]),
];

impl GenerationDefaults {
    /// Those of the keys of `generation_config.json`.
    ///
    /// # Errors
    /// [`EvalError::GenerationConfig`].
    pub fn new(keys: &Map<String, Value>) -> Result<Self, EvalError> {
        let set = |key: &str| keys.get(key).filter(|value| !value.is_null());
        let wrong = |key: &'static str, value: &Value, expected: &'static str| EvalError::GenerationConfig {
            key,
            found: value.to_string(),
            expected,
        };
        let sampling = match set("repetition_penalty") {
            None => Sampling::greedy(),
            Some(value) => {
                let fields = SamplingFields {
                    temperature: 0.0,
                    repetition_penalty: value.as_f64().unwrap_or(f64::NAN),
                    ..SamplingFields::default()
                };
                Sampling::new(fields).map_err(|_| wrong("repetition_penalty", value, "a number above 0"))?
            }
        };
        let tokens = |value: &Value| value.as_u64().filter(|count| (1..=u32::MAX.into()).contains(count));
        let max_new_tokens = set("max_new_tokens")
            .map(|value| tokens(value).ok_or_else(|| wrong("max_new_tokens", value, "a number of tokens")))
            .transpose()?;
        let acts = |(key, idle): &&(&'static str, &[i64])| {
            set(key).is_some_and(|value| !idle.iter().any(|idle| value.as_f64() == Some(*idle as f64)))
        };
        Ok(Self {
            sampling,
            max_new_tokens: max_new_tokens.map(|count| count as usize),
            ignored: OTHER_SETTINGS.iter().filter(acts).map(|(key, _)| *key).collect(),
        })
    }
}

/// A prompt to continue.
#[derive(Debug, Clone)]
pub struct OpenPrompt {
    /// The ids.
    pub ids: Vec<u32>,
    /// Ids cut off at the start, to leave room for the answer.
    pub num_cut: usize,
    key: String,
    until: &'static [&'static str],
    stop_tokens: Vec<u32>,
    max_tokens: usize,
    sampling: Sampling,
}

impl OpenPrompt {
    /// Encodes the prompt of an item. If it leaves no room for the answer in the context, it loses its start.
    ///
    /// # Errors
    /// Those of [`Encoder::encode`]; [`EvalError::NoRoomToAnswer`].
    pub fn new(
        encoder: &Encoder<'_>,
        item: &Item,
        generation: &Generation,
        defaults: &GenerationDefaults,
    ) -> Result<Self, EvalError> {
        let (max_tokens, max_length) = (generation.max_tokens, encoder.max_length());
        if max_length <= max_tokens {
            return Err(EvalError::NoRoomToAnswer { max_tokens, max_length });
        }
        let mut ids = encoder.encode(&item.prompts[0])?;
        let num_cut = ids.len().saturating_sub(max_length - max_tokens);
        ids.drain(..num_cut);
        let max_tokens = defaults.max_new_tokens.unwrap_or(max_tokens);
        let (until, sampling) = (generation.until, defaults.sampling);
        let stop_tokens = encoder.tokenizer().eos().to_vec();
        let mut hash = blake3::Hasher::new();
        let tokenizer = encoder.tokenizer_sha256();
        hash.update(format!("{until:?} {stop_tokens:?} {max_tokens} {sampling:?} {tokenizer}").as_bytes());
        ids.iter().for_each(|id| _ = hash.update(&id.to_le_bytes()));
        let key = hash.finalize().to_hex()[..32].to_owned();
        Ok(Self { ids, num_cut, key, until, stop_tokens, max_tokens, sampling })
    }

    /// A name for a log: the same only for the same ids, tokenizer and way to answer.
    pub fn key(&self) -> &str {
        &self.key
    }
}

/// Sequences of a pass: as many as the limits allow if each takes the positions of the longest.
fn max_sequences(config: &DecoderConfig, open: &[OpenPrompt], limits: Limits) -> usize {
    let positions = open.iter().map(|open| (open.ids.len() + open.max_tokens).min(config.max_position_embeddings));
    let bytes = kv_cache_bytes_per_token(config, 4) * positions.max().unwrap_or(1) as u128;
    let fitting = (u128::from(limits.max_cache_bytes) / bytes).min(MAX_SEQUENCES as u128);
    limits.max_sequences.min(fitting as usize).max(1)
}

/// Continues prompts, greedily, until a stop string, the end of a text or the largest number of tokens. As many are
/// continued at once as `limits` has sequences and bytes of keys and values for, but no more than [`MAX_SEQUENCES`]; this
/// changes no text. Texts in the log are taken from it, others are appended to it. `watch` is called with the number of
/// texts so far and of all.
///
/// # Errors
/// Those of generation, of the log and of `watch`.
///
/// # Panics
/// If an id is not below `vocab_size`.
pub fn generate_all<M: CausalLm>(
    model: &M,
    tokenizer: &Tokenizer,
    open: &[OpenPrompt],
    mut log: Option<&mut AnswerLog>,
    limits: Limits,
    device: &Device,
    watch: &mut dyn FnMut(usize, usize) -> Result<(), EvalError>,
) -> Result<(Vec<String>, Cost), EvalError> {
    let start = Instant::now();
    let mut texts: Vec<Option<String>> =
        open.iter().map(|open| log.as_ref().and_then(|log| log.text(&open.key))).collect();
    let mut cost = Cost {
        num_request_tokens: open.iter().map(|open| open.ids.len()).sum(),
        num_resumed: texts.iter().flatten().count(),
        ..Cost::default()
    };
    let settings = BatchSettings {
        max_sequences: max_sequences(model.config(), open, limits),
        context: model.config().max_position_embeddings,
    };
    let mut engine = Engine::new(model, tokenizer, settings, device);
    let asked: Vec<usize> = (0..open.len()).filter(|index| texts[*index].is_none()).collect();
    let request = |index: &usize| {
        let OpenPrompt { ids, until, stop_tokens, max_tokens, sampling, .. } = &open[*index];
        let request = Request {
            max_tokens: Some(*max_tokens),
            sampling: *sampling,
            stop_tokens: stop_tokens.clone(),
            ..Request::new(ids.clone())
        };
        (request, until.iter().map(|text| (*text).to_owned()).collect())
    };
    let requests = asked.iter().map(request).collect();
    cost.num_computed_tokens = asked.iter().map(|index| open[*index].ids.len()).sum();
    let num_all = texts.len();
    let mut num_done = num_all - asked.len();
    let (run, flops) = executed_flops(|| {
        // A new engine numbers its requests from 0.
        engine.run(requests, &mut |id, progress| {
            let index = asked[id.request as usize];
            match progress {
                Progress::Delta(delta) => {
                    let text = texts[index].get_or_insert_default();
                    text.push_str(text_alone(tokenizer, delta)?);
                }
                Progress::Finished { num_tokens, .. } => {
                    cost.num_computed_tokens += num_tokens;
                    num_done += 1;
                    let text = texts[index].get_or_insert_default().clone();
                    if let Some(log) = &mut log {
                        log.append_texts([(open[index].key.clone(), text)])?;
                    }
                    watch(num_done, num_all)?;
                }
                Progress::Prompt(_) | Progress::Failed(_) => {}
            }
            Ok::<(), EvalError>(())
        })
    });
    run?;
    (cost.flops, cost.wall_s) = (flops, start.elapsed().as_secs_f64());
    Ok((texts.into_iter().map(|text| text.expect("every sequence ends")).collect(), cost))
}

/// The text of a part as it is in the answer without its prompt, which is what lm-eval decodes: there a tokenizer with dummy
/// prefixes (SentencePiece) drops one space before the first word.
fn text_alone<'a>(tokenizer: &Tokenizer, delta: &'a Delta) -> Result<&'a str, TokenizerError> {
    let is_first = delta.tokens.first().is_some_and(|token| token.offset == 0);
    let Some(rest) = delta.text.strip_prefix(' ').filter(|_| is_first) else { return Ok(&delta.text) };
    let ids: Vec<u32> = delta.tokens.iter().map(|token| token.token.id).collect();
    let keeps_space = tokenizer.decode_text(&ids)?.starts_with(' ');
    Ok(if keeps_space { &delta.text } else { rest })
}

#[cfg(test)]
mod tests {

    use serde_json::json;

    use super::*;
    use crate::generate::{Chosen, TokenText};
    use crate::tokenizer::fixture::{byte_fallback, byte_level};

    fn defaults(keys: Value) -> Result<GenerationDefaults, EvalError> {
        GenerationDefaults::new(keys.as_object().expect("an object"))
    }

    #[test]
    fn settings_that_change_greedy_answers_are_read_or_named() {
        let found = defaults(json!({
            "do_sample": true, "temperature": 0.7, "repetition_penalty": 1.1, "max_new_tokens": 7,
            "num_beams": 1, "no_repeat_ngram_size": 3, "suppress_tokens": [5], "min_length": 0, "bad_words_ids": null,
        }))
        .unwrap();
        let penalty = SamplingFields { temperature: 0.0, repetition_penalty: 1.1, ..SamplingFields::default() };
        assert_eq!(found.sampling, Sampling::new(penalty).unwrap());
        assert_eq!((found.max_new_tokens, found.ignored), (Some(7), vec!["no_repeat_ngram_size", "suppress_tokens"]));
        let plain = defaults(json!({"eos_token_id": 2})).unwrap();
        assert!(plain.sampling == Sampling::greedy() && plain.max_new_tokens.is_none() && plain.ignored.is_empty());
    }

    #[test]
    fn texts_at_once_are_bounded_by_sequences_and_bytes() {
        let config = DecoderConfig::pico();
        let open = |num_ids: usize| OpenPrompt {
            ids: vec![0; num_ids],
            num_cut: 0,
            key: String::new(),
            until: &[],
            stop_tokens: Vec::new(),
            max_tokens: 10,
            sampling: Sampling::greedy(),
        };
        let open = [open(3), open(6)];
        let of = |max_sequences: usize, max_cache_bytes: u64| {
            super::max_sequences(&config, &open, Limits { max_sequences, max_cache_bytes, ..Limits::default() })
        };
        let bytes = 16 * kv_cache_bytes_per_token(&config, 4) as u64;
        assert_eq!([of(64, u64::MAX), of(5, u64::MAX), of(64, 3 * bytes), of(64, 1)], [MAX_SEQUENCES, 5, 3, 1]);
    }

    #[test]
    fn wrong_settings_are_refused() {
        for keys in
            [json!({"repetition_penalty": 0}), json!({"repetition_penalty": "1"}), json!({"max_new_tokens": -1})]
        {
            assert!(matches!(defaults(keys), Err(EvalError::GenerationConfig { .. })));
        }
    }

    #[test]
    fn a_space_before_an_answer_is_dropped_where_the_answer_alone_has_none() {
        let (sentencepiece, byte_level) = (byte_fallback(), byte_level());
        let delta = |ids: &[u32], text: &str, offset| {
            let token = |id| TokenText {
                text: String::new(),
                offset,
                token: Chosen { id, logprob: None, experts: Vec::new() },
            };
            Delta { text: text.into(), tokens: ids.iter().copied().map(token).collect() }
        };
        let (space, im_start) =
            (sentencepiece.token_to_id("\u{2581}").unwrap(), byte_level.token_to_id("<|im_start|>").unwrap());
        assert_eq!(text_alone(&sentencepiece, &delta(&[space], " a", 0)).unwrap(), "a");
        assert_eq!(text_alone(&sentencepiece, &delta(&[space], " a", 1)).unwrap(), " a", "a second space stays");
        let space = byte_level.token_to_id("\u{120}").unwrap();
        assert_eq!(text_alone(&byte_level, &delta(&[space], " a", 0)).unwrap(), " a");
        assert_eq!(
            text_alone(&byte_level, &delta(&[im_start, space], " a", 0)).unwrap(),
            " a",
            "a special token has no text"
        );
    }
}
