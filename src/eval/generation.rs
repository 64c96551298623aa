//! Generates the answers to open questions.

use std::time::Instant;

use burn::tensor::Device;

use super::answer_log::AnswerLog;
use super::error::EvalError;
use super::run::Cost;
use super::scoring::Encoder;
use super::suite::Suite;
use super::tasks::Generation;
use crate::generate::{BatchSettings, Engine, MAX_SEQUENCES, Progress, Request};
use crate::model::CausalLm;
use crate::tokenizer::Tokenizer;
use crate::trace::executed_flops;

/// A prompt to continue.
struct Open<'a> {
    ids: Vec<u32>,
    key: String,
    generation: &'a Generation,
}

/// Continues the prompt of each open question of a suite, greedily, until a stop string, the end of a text or the largest number of
/// tokens. A prompt that leaves no room for that number loses its start. Texts in the log are taken from it, others are appended to
/// it. `watch` is called with the number of texts so far and of all.
///
/// # Errors
/// Those of the encoder, of generation, of the log and of `watch`.
///
/// # Panics
/// If an id is not below `vocab_size`.
pub fn generate_all<M: CausalLm>(
    model: &M,
    tokenizer: &Tokenizer,
    suite: &Suite,
    mut log: Option<&mut AnswerLog>,
    device: &Device,
    watch: &mut dyn FnMut(usize, usize) -> Result<(), EvalError>,
) -> Result<(Vec<String>, Cost), EvalError> {
    let start = Instant::now();
    let open = open(model, tokenizer, suite)?;
    let mut texts: Vec<Option<String>> =
        open.iter().map(|open| log.as_ref().and_then(|log| log.text(&open.key))).collect();
    let mut cost = Cost { num_resumed: texts.iter().flatten().count(), ..Cost::default() };
    let context = model.config().max_position_embeddings;
    let mut engine = Engine::new(model, tokenizer, BatchSettings { max_sequences: MAX_SEQUENCES, context }, device);
    let asked: Vec<usize> = (0..open.len()).filter(|index| texts[*index].is_none()).collect();
    let request = |index: &usize| {
        let Open { ids, generation, .. } = &open[*index];
        let mut request = Request::new(ids.clone());
        request.max_tokens = Some(generation.max_tokens);
        request.stop_tokens = tokenizer.eos().to_vec();
        (request, generation.until.iter().map(|text| (*text).to_owned()).collect())
    };
    let requests = asked.iter().map(request).collect();
    cost.num_request_tokens = asked.iter().map(|index| open[*index].ids.len()).sum();
    let num_all = texts.len();
    let mut num_done = num_all - asked.len();
    let (run, flops) = executed_flops(|| {
        // A new engine numbers its requests from 0.
        engine.run(requests, &mut |id, progress| {
            let index = asked[id.request as usize];
            match progress {
                Progress::Delta(delta) => texts[index].get_or_insert_default().push_str(&delta.text),
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
    cost.num_computed_tokens += cost.num_request_tokens;
    Ok((texts.into_iter().map(|text| text.expect("every sequence ends")).collect(), cost))
}

/// The prompts of the open questions, task by task, item by item.
fn open<'a, M: CausalLm>(model: &M, tokenizer: &Tokenizer, suite: &'a Suite) -> Result<Vec<Open<'a>>, EvalError> {
    let config = model.config();
    let encoder = Encoder::new(tokenizer, config.max_position_embeddings, config.vocab_size)?;
    let mut open = Vec::new();
    for task in &suite.tasks {
        let Some(generation) = &task.chosen.task.generation else { continue };
        let room = config.max_position_embeddings.saturating_sub(generation.max_tokens);
        if room == 0 {
            let (num_tokens, max_length) = (generation.max_tokens, config.max_position_embeddings);
            return Err(EvalError::LongContinuation { num_tokens, max_length });
        }
        for item in &task.items {
            let mut ids = encoder.encode(&item.prompts[0])?;
            ids.drain(..ids.len().saturating_sub(room));
            let key = generation.key(&ids);
            open.push(Open { ids, key, generation });
        }
    }
    Ok(open)
}
