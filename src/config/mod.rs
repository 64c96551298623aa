//! The checked shape of a decoder.
//!
//! [`DecoderFields`] can hold any values. [`DecoderConfig`] is made from them by one constructor, which refuses each
//! broken rule with a [`ConfigError`] of its own. Field names are those of Hugging Face's `config.json`; reading that
//! file belongs to [`crate::formats`].

mod checks;
mod decoder;
mod error;
mod fields;
mod presets;
mod rope_frequencies;
mod rope_scaling;

pub use decoder::DecoderConfig;
pub use error::ConfigError;
pub use fields::{DecoderFields, ModelType, MoeConfig};
pub use rope_frequencies::{attention_factor, inverse_frequencies};
pub use rope_scaling::RopeScaling;
