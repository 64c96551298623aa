//! Settings that differ from those of a checkpoint, by the options that set them.

use crate::finetune::Change;

/// The option of each setting, or of all settings that begin alike.
const OPTIONS: [(&str, &str); 32] = [
    ("seed", "--seed"),
    ("max_length", "--max-length"),
    ("batch_size", "--per-device-train-batch-size × --gradient-accumulation-steps"),
    ("micro_batch_size", "--per-device-train-batch-size"),
    ("bf16", "--bf16"),
    ("adamw.beta1", "--adam-beta1"),
    ("adamw.beta2", "--adam-beta2"),
    ("adamw.epsilon", "--adam-epsilon"),
    ("adamw.weight_decay", "--weight-decay"),
    ("schedule.peak", "--learning-rate"),
    ("schedule.warmup_steps", "--warmup-steps"),
    ("schedule.num_steps", "--max-steps"),
    ("schedule.final_fraction", "--min-lr-rate"),
    ("schedule.decay.warmup_stable_decay.decay_steps", "--decay-ratio × --max-steps"),
    ("schedule.decay", "--lr-scheduler-type"),
    ("max_grad_norm", "--max-grad-norm"),
    ("router.aux_loss_coef", "--router-aux-loss-coef"),
    ("router.z_loss_coef", "--router-z-loss-coef"),
    ("router_bias_update_rate", "--router-bias-update-rate"),
    ("eval_data", "--eval-data (hash of its rows)"),
    ("groups", "--freeze, --lr-multiplier"),
    ("dpo.loss", "--loss-type"),
    ("dpo.beta", "--beta"),
    ("dpo.label_smoothing", "--label-smoothing"),
    ("dpo.router", "--router-aux-loss-coef, --router-z-loss-coef"),
    ("dpo", "the command"),
    ("lora.r", "--lora-r"),
    ("lora.lora_alpha", "--lora-alpha"),
    ("lora.use_rslora", "--use-rslora"),
    ("lora.lora_dropout", "--lora-dropout"),
    ("lora.target_modules", "--lora-target-modules"),
    ("lora", "--use-peft"),
];

/// The subjects of the hashes in the settings.
const HASHED: [(&str, &str); 3] = [
    ("num_rows", "rows"),
    ("weight", "weight"),
    ("hash", "hash of tokens, --packing, --test-split-size, --max-length"),
];

/// A line for each change: the option, its value now and that of the checkpoint.
pub(super) fn in_words(changes: &[Change]) -> String {
    let line = |Change { name, saved, now }: &Change| format!("\n  {}: found {now}, expected {saved}", option(name));
    changes.iter().map(line).collect()
}

/// The option of a setting: `--learning-rate` of `schedule.peak`.
fn option(name: &str) -> String {
    if name == "base" {
        return "BASE and its growth (hash)".to_owned();
    }
    if let Some((source, field)) = name.strip_prefix("data[").and_then(|rest| rest.split_once("].")) {
        let what = HASHED.iter().find(|(known, _)| *known == field).map_or(field, |(_, what)| what);
        let source = source.parse::<usize>().map_or(source.to_owned(), |index| (index + 1).to_string());
        return format!("--data, source {source}: {what}");
    }
    let begins =
        |known: &str| name.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
    OPTIONS.iter().find(|(known, _)| begins(known)).map_or(name, |(_, option)| option).to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn settings_are_named_by_their_options() {
        for (name, expected) in [
            ("schedule.peak", "--learning-rate"),
            ("schedule.decay", "--lr-scheduler-type"),
            ("schedule.decay.warmup_stable_decay.decay_steps", "--decay-ratio × --max-steps"),
            ("groups[0][1]", "--freeze, --lr-multiplier"),
            ("data[1].weight", "--data, source 2: weight"),
            ("lora.target_modules[0]", "--lora-target-modules"),
            ("dpo", "the command"),
        ] {
            assert_eq!(option(name), expected, "{name}");
        }
        let change = Change { name: "seed".to_owned(), saved: json!(1), now: json!(2) };
        assert_eq!(in_words(&[change]), "\n  --seed: found 2, expected 1");
    }
}
