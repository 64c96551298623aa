//! The state of a run in a checkpoint: ours, from which it continues, and that of transformers' trainer, for scripts that read it.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Settings;
use super::log::{LogEntry, LogWindow};
use super::maker::Maker;
use super::progress::Progress;
use crate::train::RouterBias;

/// The state that a run continues from.
pub(super) const RUN_STATE: &str = "run_state.json";
/// The state with the keys of transformers' `TrainerState`, and no others: it takes no key that it does not know.
pub(super) const TRAINER_STATE: &str = "trainer_state.json";
/// How names of checkpoints begin.
pub(super) const PREFIX: &str = "checkpoint-";
/// The version of [`RunState`].
pub(super) const FORMAT: u32 = 3;

/// The name of the checkpoint after `step` updates.
pub(super) fn checkpoint_name(step: usize) -> String {
    format!("{PREFIX}{step}")
}

/// The content of [`RUN_STATE`].
#[derive(Serialize, Deserialize)]
struct RunState {
    format: u32,
    /// Earlier versions did not record it.
    #[serde(default)]
    made_by: Option<Maker>,
    step: usize,
    settings: Settings,
    num_tokens: u64,
    num_skipped: u64,
    window: LogWindow,
    history: Vec<LogEntry>,
    best: Option<(f64, usize)>,
    best_checkpoint: Option<usize>,
    num_evals_since_best: usize,
    router_bias: RouterBias,
    reference: Vec<(u64, [f32; 2])>,
}

/// The content of [`RUN_STATE`].
pub(super) fn run_state(settings: &Settings, progress: &Progress, maker: &Maker) -> Value {
    let mut reference: Vec<_> = progress.reference.iter().map(|(index, values)| (*index, *values)).collect();
    reference.sort_unstable_by_key(|(index, _)| *index);
    json!(RunState {
        format: FORMAT,
        made_by: Some(maker.clone()),
        step: progress.step,
        settings: settings.clone(),
        num_tokens: progress.num_tokens,
        num_skipped: progress.num_skipped,
        window: progress.window.clone(),
        history: progress.history.clone(),
        best: progress.best,
        best_checkpoint: progress.best_checkpoint,
        num_evals_since_best: progress.num_evals_since_best,
        router_bias: progress.router_bias.clone(),
        reference,
    })
}

/// Reads [`RUN_STATE`].
///
/// # Errors
/// Why it is not one.
pub(super) fn read_run_state(text: &[u8]) -> Result<(Option<Maker>, Settings, Progress), serde_json::Error> {
    let RunState {
        format: _,
        made_by,
        step,
        settings,
        num_tokens,
        num_skipped,
        window,
        history,
        best,
        best_checkpoint,
        num_evals_since_best,
        router_bias,
        reference,
    } = serde_json::from_slice(text)?;
    let reference = reference.into_iter().collect();
    let progress = Progress {
        step,
        num_tokens,
        num_skipped,
        window,
        history,
        best,
        best_checkpoint,
        num_evals_since_best,
        router_bias,
        reference,
    };
    Ok((made_by, settings, progress))
}

/// The content of [`TRAINER_STATE`].
pub(super) fn trainer_state(settings: &Settings, progress: &Progress) -> Value {
    json!({
        "best_global_step": progress.best.map(|(_, step)| step),
        "best_metric": progress.best.map(|(loss, _)| loss),
        "best_model_checkpoint": progress.best_checkpoint.map(checkpoint_name),
        "epoch": settings.epoch(progress.step),
        "global_step": progress.step,
        "is_hyper_param_search": false,
        "is_local_process_zero": true,
        "is_world_process_zero": true,
        "log_history": progress.history,
        "max_steps": settings.schedule.num_steps,
        "train_batch_size": settings.micro_batch_size,
    })
}
