//! Adapter directories of PEFT: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! The factors of `model.layers.0.self_attn.q_proj` are `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`,
//! `[rank, in]`, and `….lora_B.weight`, `[out, rank]`. Experts have the names of Mixtral in transformers 4, one module per matrix;
//! PEFT converts them for transformers 5 when it loads them. What it saves of those adapts stacked parameters, which are read.

mod config;
mod directory;
mod fault;
mod stacked;
mod write;

pub use directory::PeftDirectory;
pub use fault::{PeftError, PeftFault};
pub use write::{write_peft, write_peft_directory};

/// The file with the hyperparameters.
pub(super) const CONFIG: &str = "adapter_config.json";
/// The file with the factors.
const MODEL: &str = "adapter_model.safetensors";

/// Prefix that PEFT adds to module names.
const PREFIX: &str = "base_model.model.";

/// The names of the factors `A` and `B` of a linear map.
fn factor_names(module: &str) -> [String; 2] {
    ["lora_A", "lora_B"].map(|factor| format!("{PREFIX}{module}.{factor}.weight"))
}
