//! The checked shape of a decoder.

use std::ops::Deref;

use serde::{Deserialize, Serialize};

use super::checks;
use super::error::ConfigError;
use super::fields::{DecoderFields, ModelType, MoeConfig};

/// The checked shape of a decoder. Read its fields directly: `config.hidden_size`.
///
/// ```
/// use deepwide::config::DecoderConfig;
/// let solar = DecoderConfig::mistral_7b().with(|f| f.num_hidden_layers = 48)?;
/// assert_eq!(solar.num_hidden_layers, 48);
/// # Ok::<(), deepwide::config::ConfigError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "DecoderFields", into = "DecoderFields")]
pub struct DecoderConfig(DecoderFields);

impl DecoderConfig {
    /// Checks the fields.
    ///
    /// # Errors
    /// The first broken rule.
    pub fn new(fields: DecoderFields) -> Result<Self, ConfigError> {
        checks::check(&fields)?;
        Ok(Self(fields))
    }

    /// The same decoder with some fields changed, checked again.
    ///
    /// # Errors
    /// The first broken rule.
    pub fn with(&self, change: impl FnOnce(&mut DecoderFields)) -> Result<Self, ConfigError> {
        let mut fields = self.0.clone();
        change(&mut fields);
        Self::new(fields)
    }

    /// The same decoder with each MLP replaced by a mixture of experts.
    ///
    /// # Errors
    /// [`ConfigError::TooFewExperts`], [`ConfigError::Zero`] or [`ConfigError::BadAuxLossCoef`].
    pub fn with_experts(&self, moe: MoeConfig) -> Result<Self, ConfigError> {
        self.with(|fields| {
            fields.model_type = ModelType::Mixtral;
            fields.moe = Some(moe);
        })
    }

    /// Checks that the decoder can run, not only be copied.
    ///
    /// # Errors
    /// [`ConfigError::Unmodelled`].
    pub fn computable(&self) -> Result<(), ConfigError> {
        match self.unmodelled.iter().next() {
            Some((key, found)) => Err(ConfigError::Unmodelled { key: key.clone(), found: found.to_string() }),
            None => Ok(()),
        }
    }
}

impl Deref for DecoderConfig {
    type Target = DecoderFields;

    fn deref(&self) -> &DecoderFields {
        &self.0
    }
}

impl TryFrom<DecoderFields> for DecoderConfig {
    type Error = ConfigError;

    fn try_from(fields: DecoderFields) -> Result<Self, ConfigError> {
        Self::new(fields)
    }
}

impl From<DecoderConfig> for DecoderFields {
    fn from(config: DecoderConfig) -> Self {
        config.0
    }
}
