//! The description of a run in its results.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use super::record::LM_EVAL_VERSION;
use super::sample::sha256;
use crate::eval::items::Limit;
use crate::report::RunInfo;

/// Seeds, as lm-eval takes them. Only that of the examples changes a result here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seeds {
    /// Of Python's `random`.
    pub python: Option<u64>,
    /// Of NumPy.
    pub numpy: Option<u64>,
    /// Of PyTorch.
    pub torch: Option<u64>,
    /// Of the examples in prompts.
    pub fewshot: u64,
}

/// A run, its model and its machine.
#[derive(Debug, Clone)]
pub struct RunMetadata {
    /// The model as the run names it: `pretrained`, and `growth` if it was grown.
    pub model_args: Map<String, Value>,
    /// The name of the model.
    pub model_name: String,
    /// All its parameters.
    pub num_parameters: u64,
    /// The batch size that was asked for.
    pub batch_size: String,
    /// The device.
    pub device: String,
    /// The log of answers that was asked for.
    pub use_cache: Option<PathBuf>,
    /// The limit of items.
    pub limit: Option<Limit>,
    /// The seeds.
    pub seeds: Seeds,
    /// The context length of the model.
    pub max_length: usize,
    /// The token that begins a text, and its id.
    pub bos: Option<(String, u32)>,
    /// The token that ends a text, and its id.
    pub eos: Option<(String, u32)>,
    /// Text of the system before each prompt.
    pub system_instruction: Option<String>,
    /// The chat template, if prompts are chats.
    pub chat_template: Option<String>,
    /// Whether examples are turns of their own, if prompts are chats.
    pub fewshot_as_multiturn: Option<bool>,
    /// The build and the machine.
    pub run: RunInfo,
    /// The start of the run.
    pub start: SystemTime,
    /// Seconds that it took.
    pub evaluation_s: f64,
}

impl RunMetadata {
    /// Adds lm-eval's keys to the sections of [`results`](super::results).
    pub fn add_to(&self, record: &mut Map<String, Value>) {
        let limit = self.limit.map(|limit| match limit {
            Limit::Count(count) => count as f64,
            Limit::Share(share) => share,
        });
        let token = |token: &Option<(String, u32)>| {
            token.as_ref().map_or(json!([null, "None"]), |(text, id)| json!([text, id.to_string()]))
        };
        let hash = |text: &Option<String>| text.as_deref().map(sha256);
        let RunInfo { version, cpu, os, num_threads, .. } = &self.run;
        let sections = json!({
            "config": {
                "model": "deepwide",
                "model_args": self.model_args,
                "model_num_parameters": self.num_parameters,
                "batch_size": self.batch_size,
                "batch_sizes": [],
                "device": self.device,
                "use_cache": self.use_cache,
                "limit": limit,
                "bootstrap_iters": 100_000,
                "gen_kwargs": null,
                "random_seed": self.seeds.python,
                "numpy_seed": self.seeds.numpy,
                "torch_seed": self.seeds.torch,
                "fewshot_seed": self.seeds.fewshot,
            },
            "git_hash": self.run.commit,
            "date": self.start.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()),
            "pretty_env_info": format!("deepwide {version} on {cpu}, {num_threads} threads, {os}"),
            "transformers_version": null,
            "lm_eval_version": LM_EVAL_VERSION,
            "upper_git_hash": null,
            "tokenizer_pad_token": token(&None),
            "tokenizer_eos_token": token(&self.eos),
            "tokenizer_bos_token": token(&self.bos),
            "eot_token_id": self.eos.as_ref().map(|(_, id)| id),
            "max_length": self.max_length,
            "model_source": "deepwide",
            "model_name": self.model_name,
            "model_name_sanitized": sanitized(&self.model_name),
            "system_instruction": self.system_instruction,
            "system_instruction_sha": hash(&self.system_instruction),
            "fewshot_as_multiturn": self.fewshot_as_multiturn,
            "chat_template": self.chat_template,
            "chat_template_sha": hash(&self.chat_template),
            "total_evaluation_time_seconds": format!("{:?}", self.evaluation_s),
        });
        record.extend(sections.as_object().cloned().unwrap_or_default());
    }
}

/// A model's name as the name of a folder: each run of characters that some file system refuses becomes `__`.
pub fn sanitized(name: &str) -> String {
    let is_refused = |c: char| "\"<>:/|\\?*[]".contains(c);
    let mut text = String::new();
    let mut was_refused = false;
    for c in name.chars() {
        match (is_refused(c), was_refused) {
            (true, false) => text += "__",
            (true, true) => {}
            (false, _) => text.push(c),
        }
        was_refused = is_refused(c);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_folders_are_those_of_lm_eval() {
        assert_eq!(sanitized("org/name"), "org__name");
        assert_eq!(sanitized("./a::b[c]"), ".__a__b__c__");
    }
}
