//! The rules for the sizes of a decoder.

use super::error::ConfigError;
use super::fields::{DecoderFields, ModelType};
use super::rope_scaling::RopeScaling;

/// Checks every rule.
///
/// # Errors
/// The first broken rule.
pub(super) fn check(fields: &DecoderFields) -> Result<(), ConfigError> {
    sizes_are_positive(fields)?;
    attention_is_sound(fields)?;
    rope_is_sound(fields)?;
    experts_are_sound(fields)?;
    if upper_bound_of_parameters(fields) > i64::MAX as u128 { Err(ConfigError::TooLarge) } else { Ok(()) }
}

fn sizes_are_positive(f: &DecoderFields) -> Result<(), ConfigError> {
    let sizes = [
        ("vocab_size", f.vocab_size),
        ("hidden_size", f.hidden_size),
        ("intermediate_size", f.intermediate_size),
        ("num_hidden_layers", f.num_hidden_layers),
        ("num_attention_heads", f.num_attention_heads),
        ("num_key_value_heads", f.num_key_value_heads),
        ("head_dim", f.head_dim),
        ("max_position_embeddings", f.max_position_embeddings),
        ("sliding_window", f.sliding_window.unwrap_or(1)),
    ];
    match sizes.into_iter().find(|(_, size)| *size == 0) {
        Some((field, _)) => Err(ConfigError::Zero { field }),
        None => positive("rms_norm_eps", f.rms_norm_eps),
    }
}

fn attention_is_sound(f: &DecoderFields) -> Result<(), ConfigError> {
    if !f.num_attention_heads.is_multiple_of(f.num_key_value_heads) {
        return Err(ConfigError::HeadsDoNotDivide {
            num_attention_heads: f.num_attention_heads,
            num_key_value_heads: f.num_key_value_heads,
        });
    }
    match (f.model_type, f.sliding_window) {
        (ModelType::Llama, Some(sliding_window)) => Err(ConfigError::LlamaWithWindow { sliding_window }),
        _ => Ok(()),
    }
}

fn rope_is_sound(f: &DecoderFields) -> Result<(), ConfigError> {
    if !f.head_dim.is_multiple_of(2) {
        return Err(ConfigError::OddHeadDim { head_dim: f.head_dim });
    }
    positive("rope_theta", f.rope_theta)?;
    match f.rope_scaling {
        RopeScaling::Default => Ok(()),
        RopeScaling::Linear { factor } | RopeScaling::Dynamic { factor } => positive("factor", factor),
        RopeScaling::Yarn {
            factor, original_max_position_embeddings, beta_fast, beta_slow, attention_factor, ..
        } => {
            for (field, value) in [
                ("factor", factor),
                ("beta_fast", beta_fast),
                ("beta_slow", beta_slow),
                ("attention_factor", attention_factor),
            ] {
                positive(field, value)?;
            }
            match original_max_position_embeddings {
                0 => Err(ConfigError::Zero { field: "original_max_position_embeddings" }),
                _ => Ok(()),
            }
        }
        RopeScaling::Llama3 {
            factor,
            low_freq_factor: low,
            high_freq_factor: high,
            original_max_position_embeddings,
        } => {
            positive("factor", factor)?;
            positive("low_freq_factor", low)?;
            positive("high_freq_factor", high)?;
            if low >= high {
                return Err(ConfigError::FrequencyFactorsOutOfOrder { low, high });
            }
            if original_max_position_embeddings == 0 {
                return Err(ConfigError::Zero { field: "original_max_position_embeddings" });
            }
            Ok(())
        }
    }
}

fn experts_are_sound(f: &DecoderFields) -> Result<(), ConfigError> {
    if (f.model_type == ModelType::Mixtral) != f.moe.is_some() {
        return Err(ConfigError::ExpertsDisagree {
            model_type: f.model_type,
            num_local_experts: f.moe.map_or(0, |moe| moe.num_local_experts),
        });
    }
    let Some(moe) = f.moe else { return Ok(()) };
    if moe.num_local_experts == 0 {
        return Err(ConfigError::Zero { field: "num_local_experts" });
    }
    if moe.num_experts_per_tok == 0 {
        return Err(ConfigError::Zero { field: "num_experts_per_tok" });
    }
    if moe.num_experts_per_tok > moe.num_local_experts {
        return Err(ConfigError::TooFewExperts { chosen: moe.num_experts_per_tok, available: moe.num_local_experts });
    }
    if !moe.router_aux_loss_coef.is_finite() || moe.router_aux_loss_coef < 0.0 {
        return Err(ConfigError::BadAuxLossCoef { value: moe.router_aux_loss_coef });
    }
    Ok(())
}

fn positive(field: &'static str, value: f64) -> Result<(), ConfigError> {
    if value.is_finite() && value > 0.0 { Ok(()) } else { Err(ConfigError::NotPositive { field, value }) }
}

/// An upper bound of the number of parameters, saturating.
fn upper_bound_of_parameters(f: &DecoderFields) -> u128 {
    let product = |sizes: &[usize]| sizes.iter().fold(1u128, |p, &s| p.saturating_mul(s as u128));
    let experts = f.moe.map_or(1, |moe| moe.num_local_experts);
    let heads = f.num_attention_heads.saturating_add(f.num_key_value_heads);
    let mlp = product(&[3, experts, f.intermediate_size, f.hidden_size]);
    let attention = product(&[2, f.hidden_size, heads, f.head_dim]);
    let layer = mlp.saturating_add(attention).saturating_add(product(&[experts.saturating_add(2), f.hidden_size]));
    layer.saturating_mul(f.num_hidden_layers as u128).saturating_add(product(&[
        2,
        f.vocab_size.saturating_add(1),
        f.hidden_size,
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DecoderConfig, MoeConfig};

    fn refused(change: impl FnOnce(&mut DecoderFields)) -> ConfigError {
        DecoderConfig::pico().with(change).unwrap_err()
    }

    fn moe(num_local_experts: usize, num_experts_per_tok: usize) -> MoeConfig {
        MoeConfig { num_local_experts, num_experts_per_tok, router_aux_loss_coef: 0.02 }
    }

    #[test]
    fn every_size_is_at_least_one() {
        type Change = fn(&mut DecoderFields);
        let zeroed: [(&str, Change); 9] = [
            ("vocab_size", |f| f.vocab_size = 0),
            ("hidden_size", |f| f.hidden_size = 0),
            ("intermediate_size", |f| f.intermediate_size = 0),
            ("num_hidden_layers", |f| f.num_hidden_layers = 0),
            ("num_attention_heads", |f| f.num_attention_heads = 0),
            ("num_key_value_heads", |f| f.num_key_value_heads = 0),
            ("head_dim", |f| f.head_dim = 0),
            ("max_position_embeddings", |f| f.max_position_embeddings = 0),
            ("sliding_window", |f| {
                f.model_type = ModelType::Mistral;
                f.sliding_window = Some(0);
            }),
        ];
        for (field, change) in zeroed {
            assert_eq!(refused(change), ConfigError::Zero { field });
        }
    }

    #[test]
    fn query_heads_divide_evenly_among_key_value_heads() {
        assert_eq!(
            refused(|f| f.num_key_value_heads = 3),
            ConfigError::HeadsDoNotDivide { num_attention_heads: 4, num_key_value_heads: 3 }
        );
    }

    #[test]
    fn rotary_embedding_needs_an_even_head() {
        assert_eq!(refused(|f| f.head_dim = 23), ConfigError::OddHeadDim { head_dim: 23 });
    }

    #[test]
    fn real_numbers_are_finite_and_positive() {
        assert_eq!(refused(|f| f.rope_theta = 0.0), ConfigError::NotPositive { field: "rope_theta", value: 0.0 });
        assert_eq!(
            refused(|f| f.rms_norm_eps = -1e-5),
            ConfigError::NotPositive { field: "rms_norm_eps", value: -1e-5 }
        );
        assert!(matches!(
            refused(|f| f.rope_scaling = RopeScaling::Linear { factor: f64::NAN }),
            ConfigError::NotPositive { field: "factor", .. }
        ));
    }

    #[test]
    fn llama3_scaling_ramps_from_low_to_high() {
        let scaling = |low, high, original| RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: low,
            high_freq_factor: high,
            original_max_position_embeddings: original,
        };
        assert_eq!(
            refused(|f| f.rope_scaling = scaling(4.0, 1.0, 128)),
            ConfigError::FrequencyFactorsOutOfOrder { low: 4.0, high: 1.0 }
        );
        assert_eq!(
            refused(|f| f.rope_scaling = scaling(1.0, 4.0, 0)),
            ConfigError::Zero { field: "original_max_position_embeddings" }
        );
    }

    #[test]
    fn llama_has_no_sliding_window() {
        assert_eq!(refused(|f| f.sliding_window = Some(8)), ConfigError::LlamaWithWindow { sliding_window: 8 });
    }

    #[test]
    fn exactly_mixtral_has_experts() {
        assert_eq!(
            refused(|f| f.moe = Some(moe(8, 2))),
            ConfigError::ExpertsDisagree { model_type: ModelType::Llama, num_local_experts: 8 }
        );
        assert_eq!(
            refused(|f| f.model_type = ModelType::Mixtral),
            ConfigError::ExpertsDisagree { model_type: ModelType::Mixtral, num_local_experts: 0 }
        );
    }

    #[test]
    fn a_token_cannot_choose_more_experts_than_there_are() {
        let error = DecoderConfig::pico().with_experts(moe(8, 9)).unwrap_err();
        assert_eq!(error, ConfigError::TooFewExperts { chosen: 9, available: 8 });
        let error = DecoderConfig::pico().with_experts(moe(0, 0)).unwrap_err();
        assert_eq!(error, ConfigError::Zero { field: "num_local_experts" });
        let error = DecoderConfig::pico().with_experts(moe(8, 0)).unwrap_err();
        assert_eq!(error, ConfigError::Zero { field: "num_experts_per_tok" });
    }

    #[test]
    fn the_balancing_loss_is_not_negative() {
        let bad = MoeConfig { router_aux_loss_coef: -0.1, ..moe(8, 2) };
        let error = DecoderConfig::pico().with_experts(bad).unwrap_err();
        assert_eq!(error, ConfigError::BadAuxLossCoef { value: -0.1 });
    }

    #[test]
    fn a_model_with_more_parameters_than_63_bits_count_is_refused() {
        assert_eq!(refused(|f| f.hidden_size = 1 << 62), ConfigError::TooLarge);
    }

    #[test]
    fn a_config_survives_json_and_is_checked_on_the_way_in() {
        let config = DecoderConfig::mixtral_8x7b();
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<DecoderConfig>(&json).unwrap(), config);
        let broken = json.replace("\"num_experts_per_tok\":2", "\"num_experts_per_tok\":9");
        assert!(serde_json::from_str::<DecoderConfig>(&broken).is_err());
    }
}
