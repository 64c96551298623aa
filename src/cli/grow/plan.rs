//! What would be written, and what it costs to run: from headers alone.

use serde_json::{Value, json};

use super::super::output::{aligned, short_count, size};
use super::growth::Growth;
use super::layers::LayerRun;
use crate::config::DecoderConfig;
use crate::output::receipt::RECORD_FORMAT;
use crate::profile::{flops, memory};
use crate::weights::WeightSource;

/// Tokens of context at which operations are counted, or fewer if the model knows fewer positions.
const CONTEXT: u64 = 4096;

/// Keys and values in 16 bits.
const KV_BYTES_PER_NUMBER: u64 = 2;

/// A growth, its files and its place.
pub(super) struct Plan {
    title: String,
    growth: Vec<Value>,
    layers: Vec<LayerRun>,
    warnings: Vec<String>,
    base: DecoderConfig,
    grown: DecoderConfig,
    files: Vec<(String, u64)>,
    free_bytes: u64,
}

impl Plan {
    pub fn new(
        base: &DecoderConfig,
        growth: &Growth<'_>,
        files: Vec<(String, u64)>,
        free_bytes: u64,
        warnings: Vec<String>,
    ) -> Self {
        Self {
            title: growth.title(),
            growth: growth.record(),
            layers: LayerRun::all(&growth.source),
            warnings,
            base: base.clone(),
            grown: growth.source.config().clone(),
            files,
            free_bytes,
        }
    }

    /// Bytes of all weight files.
    pub fn bytes_to_write(&self) -> u64 {
        self.files.iter().map(|(_, bytes)| bytes).sum()
    }

    /// Operations of a token at the context, and bytes of keys and values of a token.
    fn cost(config: &DecoderConfig) -> (u128, u128) {
        let context = CONTEXT.min(config.max_position_embeddings as u64);
        let per_token = flops::forward_flops_per_token(config, context);
        (per_token, memory::kv_cache_bytes_per_token(config, KV_BYTES_PER_NUMBER))
    }

    pub fn to_text(&self) -> String {
        let context = CONTEXT.min(self.base.max_position_embeddings as u64);
        let row =
            |name: &str, of: &dyn Fn(&DecoderConfig) -> String| vec![name.to_owned(), of(&self.base), of(&self.grown)];
        let rows = [
            vec![String::new(), "base".to_owned(), "grown".to_owned()],
            row("layers", &|c| c.num_hidden_layers.to_string()),
            row("experts per layer", &|c| {
                c.moe.map_or("-".to_owned(), |moe| format!("{} of {}", moe.num_experts_per_tok, moe.num_local_experts))
            }),
            row("total parameters", &|c| short_count(flops::count_parameters(c).total.into())),
            row("active parameters", &|c| short_count(flops::count_parameters(c).active.into())),
            row(&format!("FLOPs per token at {context}"), &|c| short_count(Self::cost(c).0)),
            row("KV cache per token, 16 bit", &|c| size(Self::cost(c).1 as u64)),
        ];
        let warnings: String = self.warnings.iter().map(|warning| format!("warning: {warning}\n")).collect();
        let files = match self.files.len() {
            1 => format!("{}, {}", self.files[0].0, size(self.bytes_to_write())),
            count => format!("{count} files of weights, {}", size(self.bytes_to_write())),
        };
        format!(
            "plan: {}\n{}{}{files}; {} free\n{warnings}",
            self.title,
            self.layers.iter().map(|line| format!("  {line}\n")).collect::<String>(),
            aligned(&rows),
            size(self.free_bytes),
        )
    }

    pub fn to_json(&self) -> Value {
        let side = |config: &DecoderConfig| {
            let (parameters, (flops, kv)) = (flops::count_parameters(config), Self::cost(config));
            json!({
                "config": config,
                "total_parameters": parameters.total,
                "active_parameters": parameters.active,
                "forward_flops_per_token": flops as u64,
                "kv_bytes_per_token": kv as u64,
            })
        };
        let files: Vec<Value> =
            self.files.iter().map(|(name, bytes)| json!({"name": name, "size_bytes": bytes})).collect();
        json!({
            "format": RECORD_FORMAT,
            "growth": self.growth,
            "layers": self.layers,
            "base": side(&self.base),
            "grown": side(&self.grown),
            "files": files,
            "bytes_to_write": self.bytes_to_write(),
            "free_bytes": self.free_bytes,
            "warnings": self.warnings,
        })
    }
}
