//! Keys of TRL's and transformers' training configs that are no options here.

use self::Reading::{NoEffect, Only, Renamed};

/// The positional argument of a training command.
pub(super) const BASE: &str = "base";

/// How a key of TRL is read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Reading {
    /// As this option, or as [`BASE`].
    Renamed(&'static str),
    /// Its value changes nothing here.
    NoEffect,
    /// Accepted with these values, with which it changes nothing; others are not supported.
    Only(&'static [&'static str]),
}

/// Values of options that mean the default.
const DEFAULTS: [(&str, &str); 2] = [("max-steps", "-1"), ("dtype", "auto")];

const RENAMED: [(&str, &str); 6] = [
    ("model-name-or-path", BASE),
    ("max-seq-length", "max-length"),
    ("torch-dtype", "dtype"),
    ("min-lr-ratio", "min-lr-rate"),
    ("activation-checkpointing", "gradient-checkpointing"),
    ("overwrite-output-dir", "force"),
];

/// Devices, data loading, hubs, padding, when and where to log: nothing that an update depends on.
const NO_EFFECT: &[&str] = &[
    "activation-checkpointing-kwargs",
    "activation-offloading",
    "attn-implementation",
    "average-tokens-across-devices",
    "bnb-4bit-quant-storage",
    "bnb-4bit-quant-type",
    "dataloader-in-order",
    "dataloader-num-workers",
    "dataloader-persistent-workers",
    "dataloader-pin-memory",
    "dataloader-prefetch-factor",
    "dataset-batch-size",
    "dataset-num-proc",
    "dataset-streaming",
    "dataset-test-split",
    "ddp-backend",
    "ddp-bucket-cap-mb",
    "ddp-find-unused-parameters",
    "ddp-timeout",
    "disable-tqdm",
    "discopop-tau",
    "do-eval",
    "do-predict",
    "do-train",
    "eval-accumulation-steps",
    "eval-delay",
    "eval-on-start",
    "eval-packing",
    "eval-strategy",
    "evaluation-strategy",
    "f-alpha-divergence-coef",
    "full-determinism",
    "gradient-checkpointing-kwargs",
    "gradient-checkpointing-use-reentrant",
    "hub-always-push",
    "hub-model-id",
    "hub-model-revision",
    "hub-private-repo",
    "hub-revision",
    "hub-strategy",
    "hub-token",
    "ignore-bias-buffers",
    "include-num-input-tokens-seen",
    "include-tokens-per-second",
    "label-names",
    "local-rank",
    "log-level",
    "log-level-replica",
    "log-on-each-node",
    "logging-dir",
    "logging-first-step",
    "logging-nan-inf-filter",
    "logging-strategy",
    "no-cuda",
    "pad-to-multiple-of",
    "pad-token",
    "padding-free",
    "per-device-eval-batch-size",
    "precompute-ref-batch-size",
    "prediction-loss-only",
    "project",
    "ref-model-mixup-alpha",
    "ref-model-sync-steps",
    "remove-unused-columns",
    "run-name",
    "save-on-each-node",
    "save-safetensors",
    "save-strategy",
    "shuffle-dataset",
    "skip-memory-metrics",
    "tf32",
    "torch-compile",
    "torch-compile-backend",
    "torch-compile-mode",
    "torch-empty-cache-steps",
    "trust-remote-code",
    "use-bnb-nested-quant",
    "use-cache",
    "use-cpu",
    "use-liger-kernel",
];

const ONLY: &[(&str, &[&str])] = &[
    ("accelerator-config", &[]),
    ("auto-find-batch-size", &["false"]),
    ("bf16-full-eval", &["false"]),
    ("chat-template", &[]),
    ("chat-template-path", &[]),
    ("dataloader-drop-last", &["false"]),
    ("dataset-config", &[]),
    ("dataset-kwargs", &[]),
    ("dataset-text-field", &["text"]),
    ("dataset-train-split", &["train"]),
    ("datasets", &[]),
    ("deepspeed", &[]),
    ("env", &[]),
    ("eos-token", &[]),
    ("f-divergence-type", &["reverse_kl"]),
    ("fp16", &["false"]),
    ("fp16-full-eval", &["false"]),
    ("fsdp", &[""]),
    ("fsdp-config", &[]),
    ("generate-during-eval", &["false"]),
    ("greater-is-better", &["false"]),
    ("group-by-length", &["false"]),
    ("ignore-data-skip", &["false"]),
    ("label-smoothing-factor", &["0"]),
    ("ld-alpha", &[]),
    ("load-in-4bit", &["false"]),
    ("load-in-8bit", &["false"]),
    ("lora-modules-to-save", &[]),
    ("lora-target-parameters", &[]),
    ("lora-task-type", &["CAUSAL_LM"]),
    ("loss-type", &["nll"]),
    ("loss-weights", &[]),
    ("max-completion-length", &[]),
    ("max-prompt-length", &[]),
    ("metric-for-best-model", &["loss", "eval_loss"]),
    ("model-init-kwargs", &[]),
    ("model-revision", &["main"]),
    ("neftune-noise-alpha", &[]),
    ("optim", &["adamw_torch", "adamw_torch_fused"]),
    ("optim-args", &[]),
    ("optim-target-modules", &[]),
    ("parallelism-config", &[]),
    ("push-to-hub", &["false"]),
    ("reference-free", &["false"]),
    ("report-to", &["none", "tensorboard"]),
    ("save-only-model", &["false"]),
    ("sync-ref-model", &["false"]),
    ("train-sampling-strategy", &["random"]),
    ("truncation-mode", &["keep_start"]),
    ("use-dora", &["false"]),
    ("use-weighting", &["false"]),
];

/// How a key, with dashes, is read; `None` if TRL has no such key.
pub(super) fn reading(key: &str) -> Option<Reading> {
    let renamed = RENAMED.iter().find(|(known, _)| *known == key).map(|(_, option)| Renamed(option));
    let no_effect = || NO_EFFECT.contains(&key).then_some(NoEffect);
    let only = || ONLY.iter().find(|(known, _)| *known == key).map(|(_, values)| Only(values));
    renamed.or_else(no_effect).or_else(only)
}

/// All keys, with dashes.
pub(super) fn keys() -> impl Iterator<Item = &'static str> {
    let renamed = RENAMED.iter().map(|(key, _)| *key);
    renamed.chain(NO_EFFECT.iter().copied()).chain(ONLY.iter().map(|(key, _)| *key))
}

/// Whether a value of an option means that the default holds.
pub(super) fn is_default(option: &str, value: &str) -> bool {
    DEFAULTS.contains(&(option, value))
}

/// Checks the value of a key that is read as [`Only`].
///
/// # Errors
/// The values that it may have.
pub(super) fn check(accepted: &[&str], found: &str) -> Result<(), String> {
    let number = |text: &str| text.parse::<f64>().ok();
    let is = |accepted: &&str| *accepted == found || number(accepted).is_some_and(|value| number(found) == Some(value));
    match accepted {
        accepted if accepted.iter().any(is) => Ok(()),
        [] => Err("is not supported".to_owned()),
        _ => Err(format!("found {found:?}, expected {}", accepted.join(" or "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_in_one_way() {
        let mut all: Vec<&str> = keys().collect();
        all.sort_unstable();
        assert_eq!(all.windows(2).find(|pair| pair[0] == pair[1]), None);
        assert!(all.iter().all(|key| !key.contains('_')));
        assert_eq!(reading("torch-dtype"), Some(Renamed("dtype")));
        assert_eq!(reading("run-name"), Some(NoEffect));
        assert_eq!(reading("learning-rat"), None);
    }

    #[test]
    fn values_are_compared_as_numbers_if_they_are() {
        assert_eq!(check(&["0"], "0.0"), Ok(()));
        assert!(check(&["0"], "0.1").unwrap_err().contains("expected 0"));
        assert!(check(&["none", "tensorboard"], "wandb").unwrap_err().contains("none or tensorboard"));
        assert_eq!(check(&[], "x"), Err("is not supported".to_owned()));
    }
}
