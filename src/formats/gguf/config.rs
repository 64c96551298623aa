//! The keys `llama.*` as the sizes of a decoder. What is absent has llama.cpp's default.

use super::GgufFault;
use super::failure::Failure;
use super::metadata::Metadata;
use super::write::rope_factors;
use crate::config::{DecoderConfig, DecoderFields, ModelType, MoeConfig, RopeScaling};

/// Keys that would change what a decoder computes.
const UNSUPPORTED: [&str; 9] = [
    "llama.attention.scale",
    "llama.attention.clamp_kqv",
    "llama.attention.max_alibi_bias",
    "llama.attention.sliding_window",
    "llama.logit_scale",
    "llama.embedding_scale",
    "llama.residual_scale",
    "llama.expert_shared_count",
    "llama.rope.scaling.attn_factor",
];
/// More experts than any model has: their list is held in memory.
const EXPERT_LIMIT: usize = 1 << 16;
/// Weight of the balancing loss, of which GGUF says nothing: what transformers takes where none is given.
const ROUTER_AUX_LOSS_COEF: f64 = 0.001;

/// The sizes, unchecked. `embeddings` are the rows of the embedding table, if the file has one.
pub(super) fn fields(keys: &Metadata<'_>, embeddings: Option<usize>, tied: bool) -> Result<DecoderFields, Failure> {
    refuse_others(keys)?;
    let tokens = keys.array_length("tokenizer.ggml.tokens")?;
    let missing = |key: &str| GgufFault::MissingKey { key: key.to_owned() };
    let (hidden_size, heads) =
        (keys.needed_count("llama.embedding_length")?, keys.needed_count("llama.attention.head_count")?);
    // No heads at all are the config's to refuse.
    let even_head_dim = hidden_size.is_multiple_of(heads.max(1)).then_some(hidden_size / heads.max(1));
    let head_dim = match keys.count("llama.attention.key_length")?.or(even_head_dim) {
        Some(head_dim) => head_dim,
        None => return Err(missing("llama.attention.key_length").into()),
    };
    for key in ["llama.attention.value_length", "llama.rope.dimension_count"] {
        if let Some(found) = keys.count(key)?.filter(|found| *found != head_dim) {
            return Err(unsupported(key, found, format!("the width of a head, {head_dim}")));
        }
    }
    let moe = experts(keys)?;
    let vocab_size = keys.count("llama.vocab_size")?.or(tokens).or(embeddings);
    Ok(DecoderFields {
        model_type: if moe.is_some() { ModelType::Mixtral } else { ModelType::Llama },
        vocab_size: vocab_size.ok_or_else(|| missing("llama.vocab_size"))?,
        hidden_size,
        intermediate_size: keys.needed_count("llama.feed_forward_length")?,
        num_hidden_layers: keys.needed_count("llama.block_count")?,
        num_attention_heads: heads,
        num_key_value_heads: keys.count("llama.attention.head_count_kv")?.unwrap_or(heads),
        head_dim,
        max_position_embeddings: keys.needed_count("llama.context_length")?,
        rms_norm_eps: keys
            .float("llama.attention.layer_norm_rms_epsilon")?
            .ok_or_else(|| missing("llama.attention.layer_norm_rms_epsilon"))?,
        rope_theta: keys.float("llama.rope.freq_base")?.unwrap_or(10_000.0),
        rope_scaling: scaling(keys)?,
        sliding_window: None,
        tie_word_embeddings: tied,
        moe,
        unmodelled: serde_json::Map::new(),
    })
}

fn refuse_others(keys: &Metadata<'_>) -> Result<(), Failure> {
    match keys.text("general.architecture")? {
        None => return Err(GgufFault::MissingKey { key: "general.architecture".to_owned() }.into()),
        Some(found) if found != "llama" => return Err(GgufFault::Architecture { found }.into()),
        Some(_) => {}
    }
    if let Some((key, entry)) = UNSUPPORTED.iter().find_map(|key| keys.entries.get_key_value(*key)) {
        return Err(unsupported(key, format!("there as {}", entry.kind()), "none".to_owned()));
    }
    match keys.bool("llama.attention.causal")? {
        Some(false) => Err(unsupported("llama.attention.causal", false, "true".to_owned())),
        _ => Ok(()),
    }
}

fn experts(keys: &Metadata<'_>) -> Result<Option<MoeConfig>, Failure> {
    let key = "llama.expert_count";
    match keys.count(key)?.unwrap_or(0) {
        0 => Ok(None),
        found if found > EXPERT_LIMIT => Err(unsupported(key, found, format!("at most {EXPERT_LIMIT}"))),
        num_local_experts => Ok(Some(MoeConfig {
            num_local_experts,
            num_experts_per_tok: keys.needed_count("llama.expert_used_count")?,
            router_aux_loss_coef: ROUTER_AUX_LOSS_COEF,
        })),
    }
}

fn scaling(keys: &Metadata<'_>) -> Result<RopeScaling, Failure> {
    let key = "llama.rope.scaling.type";
    let legacy = keys.float("llama.rope.scale_linear")?;
    let factor = keys.float("llama.rope.scaling.factor")?.or(legacy).filter(|factor| *factor != 0.0 && *factor != 1.0);
    // A factor without a type is linear, as in llama.cpp.
    match (keys.text(key)?.as_deref(), factor) {
        (Some("none"), _) | (None | Some("linear"), None) => Ok(RopeScaling::Default),
        (None | Some("linear"), Some(factor)) => Ok(RopeScaling::Linear { factor }),
        (Some(found), _) => Err(unsupported(key, found, "none or linear".to_owned())),
    }
}

fn unsupported(key: &str, found: impl ToString, expected: String) -> Failure {
    GgufFault::Unsupported { key: key.to_owned(), found: found.to_string(), expected }.into()
}

/// The decoder whose frequencies are divided by these factors: those of Llama 3.1 and after, whatever the factor of the
/// longest waves, or none where all are 1.
pub(super) fn with_rope_factors(config: &DecoderConfig, factors: &[f32]) -> Result<DecoderConfig, GgufFault> {
    let longest = factors.last().copied().unwrap_or(1.0);
    if factors.iter().all(|factor| *factor == 1.0) {
        return Ok(config.clone());
    }
    if config.rope_scaling != RopeScaling::Default {
        return Err(GgufFault::UnknownRopeFactors);
    }
    let llama3 = RopeScaling::Llama3 {
        factor: f64::from(longest),
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    let config = config.with(|fields| fields.rope_scaling = llama3).map_err(|_| GgufFault::UnknownRopeFactors)?;
    // Converters compute in single precision, not all of them in the same order.
    let close = |(a, b): (&f32, f32)| (a - b).abs() <= 1e-4 * b;
    if factors.iter().zip(rope_factors(&config)).all(close) { Ok(config) } else { Err(GgufFault::UnknownRopeFactors) }
}
