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
    NoEffect {
        /// Whether it is true or false, so that the command line may leave its value out.
        is_flag: bool,
    },
    /// Accepted with these values, with which it changes nothing; others are not supported.
    Only(&'static [&'static str]),
}

impl Reading {
    /// Whether its value is true or false.
    pub(super) fn is_flag(self) -> bool {
        matches!(self, NoEffect { is_flag: true } | Only(["false"]))
    }
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
    "attn-implementation",
    "bnb-4bit-quant-storage",
    "bnb-4bit-quant-type",
    "dataloader-num-workers",
    "dataloader-prefetch-factor",
    "dataset-batch-size",
    "dataset-num-proc",
    "dataset-test-split",
    "ddp-backend",
    "ddp-bucket-cap-mb",
    "ddp-timeout",
    "discopop-tau",
    "eval-accumulation-steps",
    "eval-delay",
    "f-alpha-divergence-coef",
    "gradient-checkpointing-kwargs",
    "hub-model-id",
    "hub-model-revision",
    "hub-revision",
    "hub-strategy",
    "hub-token",
    "include-num-input-tokens-seen",
    "label-names",
    "local-rank",
    "log-level",
    "log-level-replica",
    "logging-dir",
    "logging-strategy",
    "pad-to-multiple-of",
    "pad-token",
    "per-device-eval-batch-size",
    "precompute-ref-batch-size",
    "project",
    "ref-model-mixup-alpha",
    "ref-model-sync-steps",
    "run-name",
    "save-strategy",
    "torch-compile-backend",
    "torch-compile-mode",
    "torch-empty-cache-steps",
];

/// The same, of keys that are true or false.
const FLAGS_WITHOUT_EFFECT: &[&str] = &[
    "activation-offloading",
    "average-tokens-across-devices",
    "dataloader-in-order",
    "dataloader-persistent-workers",
    "dataloader-pin-memory",
    "dataset-streaming",
    "ddp-find-unused-parameters",
    "disable-tqdm",
    "do-eval",
    "do-predict",
    "do-train",
    "eval-on-start",
    "eval-packing",
    "full-determinism",
    "gradient-checkpointing-use-reentrant",
    "hub-always-push",
    "hub-private-repo",
    "ignore-bias-buffers",
    "include-tokens-per-second",
    "log-on-each-node",
    "logging-first-step",
    "logging-nan-inf-filter",
    "no-cuda",
    "padding-free",
    "prediction-loss-only",
    "remove-unused-columns",
    "save-on-each-node",
    "save-safetensors",
    "shuffle-dataset",
    "skip-memory-metrics",
    "tf32",
    "torch-compile",
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
    let in_list = |keys: &[&str], is_flag| keys.contains(&key).then_some(NoEffect { is_flag });
    let no_effect = || in_list(NO_EFFECT, false).or_else(|| in_list(FLAGS_WITHOUT_EFFECT, true));
    let only = || ONLY.iter().find(|(known, _)| *known == key).map(|(_, values)| Only(values));
    renamed.or_else(no_effect).or_else(only)
}

/// All keys, with dashes.
pub(super) fn keys() -> impl Iterator<Item = &'static str> {
    let renamed = RENAMED.iter().map(|(key, _)| *key);
    let no_effect = [NO_EFFECT, FLAGS_WITHOUT_EFFECT].concat();
    renamed.chain(no_effect).chain(ONLY.iter().map(|(key, _)| *key))
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
    let is = |accepted: &&str| {
        accepted.eq_ignore_ascii_case(found) || number(accepted).is_some_and(|value| number(found) == Some(value))
    };
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
        assert_eq!(reading("run-name"), Some(NoEffect { is_flag: false }));
        assert_eq!(reading("learning-rat"), None);
        let flags = ["trust-remote-code", "push-to-hub", "report-to"].map(|key| reading(key).unwrap().is_flag());
        assert_eq!(flags, [true, true, false]);
    }

    #[test]
    fn values_are_compared_as_numbers_if_they_are() {
        assert_eq!(check(&["0"], "0.0"), Ok(()));
        assert!(check(&["0"], "0.1").unwrap_err().contains("expected 0"));
        assert_eq!(check(&["false"], "False"), Ok(()));
        assert!(check(&["none", "tensorboard"], "wandb").unwrap_err().contains("none or tensorboard"));
        assert_eq!(check(&[], "x"), Err("is not supported".to_owned()));
    }
}
