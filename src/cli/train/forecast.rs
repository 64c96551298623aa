//! Size and memory of a run, printed before its first update.

use crate::cli::output;
use crate::finetune::{Job, LoraSettings};
use crate::kernel::dropout;
use crate::model::AnyDecoder;
use crate::profile::flops::count_parameters;
use crate::profile::training_memory::{TrainingMemory, TrainingShape};
use crate::train::ParamNames;
use crate::weights::WeightSource;

/// Two lines. The longest sequence of a row has `longest_row` inputs; `resident` is the memory of the process before the model was loaded.
pub(super) fn forecast(job: &Job<'_>, model: &AnyDecoder, longest_row: usize, resident: u64) -> String {
    let (config, settings) = (job.growth.source.config(), job.settings);
    let parameters = count_parameters(config);
    let num_trained = ParamNames::of(model).num_trained_elements;
    let longest = settings.sequences_of_row() * longest_row;
    let num_tokens = settings.pass_size(&job.device).most_tokens(settings.batch_size, longest);
    let keeps_masks = !dropout::has_kernel(&job.device);
    let adapter_numbers = |lora: &LoraSettings| lora.config().activation_numbers(config, keeps_masks).ok();
    let memory = TrainingMemory::foresee(
        config,
        TrainingShape {
            weight_bytes: model.footprint().unshared_bytes(),
            num_trained,
            num_tokens: num_tokens as u64,
            accumulates: settings.batch_size * longest > num_tokens,
            is_mixed: settings.bf16,
            recomputes: job.gradient_checkpointing,
            adapts_experts: model.adapts_experts(),
            // A target that is not in the model was refused when the adapter was made.
            adapter_numbers: settings.lora.as_ref().and_then(adapter_numbers).unwrap_or(0),
        },
    );
    let parts = [
        ("weights", memory.weights),
        ("moments", memory.moments),
        ("gradients", memory.gradients),
        ("activations", memory.activations),
        ("scratch", memory.scratch),
        ("data and program", resident),
    ];
    // The activations of short rows are freed before the peak, which the gradients make.
    let parts = parts.into_iter().filter(|(_, bytes)| *bytes > 0);
    let parts: Vec<String> = parts.map(|(name, bytes)| format!("{name} {}", output::size(bytes))).collect();
    format!(
        "{} total parameters, {} active, {} trained; {} updates of {} rows of at most {} tokens\n\
         memory: about {} at its peak ({})",
        output::short_count(parameters.total.into()),
        output::short_count(parameters.active.into()),
        output::short_count(num_trained.into()),
        settings.schedule.num_steps,
        settings.batch_size,
        settings.max_length,
        output::size(memory.total() + resident),
        parts.join(", ")
    )
}
