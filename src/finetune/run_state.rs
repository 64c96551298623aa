//! The state of a run in a checkpoint: ours, from which it continues, and that of transformers' trainer, for scripts that read it.

use serde::Deserialize;
use serde_json::{Value, json};

use super::Settings;
use super::maker::Maker;
use super::progress::Progress;

/// The state that a run continues from.
pub(super) const RUN_STATE: &str = "run_state.json";
/// The state with the keys of transformers' `TrainerState`, and no others: it takes no key that it does not know.
pub(super) const TRAINER_STATE: &str = "trainer_state.json";
/// How names of checkpoints begin.
pub(super) const PREFIX: &str = "checkpoint-";
/// The version of the content of [`RUN_STATE`].
pub(super) const FORMAT: u32 = 4;

/// The name of the checkpoint after `step` updates.
pub(super) fn checkpoint_name(step: usize) -> String {
    format!("{PREFIX}{step}")
}

/// The state of a run, as read from [`RUN_STATE`].
#[derive(Deserialize)]
pub(super) struct RunState {
    /// A state without it can be resumed; nothing is then compared.
    #[serde(default)]
    pub made_by: Option<Maker>,
    pub settings: Settings,
    pub progress: Progress,
}

/// The state of a run, as written to [`RUN_STATE`].
pub(super) fn run_state(settings: &Settings, progress: &Progress, maker: &Maker) -> Value {
    json!({"format": FORMAT, "made_by": maker, "settings": settings, "progress": progress})
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
