//! The settings in a SentencePiece model.

use super::SentencePieceFault as Fault;
use super::wire::{Field, Fields};

/// `TrainerSpec`, with its defaults.
pub(super) struct Trainer {
    pub model_type: i64,
    pub treat_whitespace_as_suffix: bool,
    pub byte_fallback: bool,
    pub unk_id: i64,
    pub bos_id: i64,
    pub eos_id: i64,
}

/// `NormalizerSpec`, with its defaults.
pub(super) struct Normalizer {
    pub has_charsmap: bool,
    pub add_dummy_prefix: bool,
    pub remove_extra_whitespaces: bool,
    pub escape_whitespaces: bool,
}

impl Default for Trainer {
    fn default() -> Self {
        let (unk_id, bos_id, eos_id) = (0, 1, 2);
        Self { model_type: 1, treat_whitespace_as_suffix: false, byte_fallback: false, unk_id, bos_id, eos_id }
    }
}

impl Trainer {
    /// Sets what the message states.
    pub fn merge(&mut self, mut fields: Fields<'_>) -> Result<(), Fault> {
        while let Some(field) = fields.next()? {
            match field.number {
                3 => self.model_type = field.integer("trainer_spec.model_type")?,
                24 => self.treat_whitespace_as_suffix = is_true(field, "trainer_spec.treat_whitespace_as_suffix")?,
                35 => self.byte_fallback = is_true(field, "trainer_spec.byte_fallback")?,
                40 => self.unk_id = field.integer("trainer_spec.unk_id")?,
                41 => self.bos_id = field.integer("trainer_spec.bos_id")?,
                42 => self.eos_id = field.integer("trainer_spec.eos_id")?,
                _ => {}
            }
        }
        Ok(())
    }
}

impl Default for Normalizer {
    fn default() -> Self {
        Self { has_charsmap: false, add_dummy_prefix: true, remove_extra_whitespaces: true, escape_whitespaces: true }
    }
}

impl Normalizer {
    /// Sets what the message states.
    pub fn merge(&mut self, mut fields: Fields<'_>) -> Result<(), Fault> {
        while let Some(field) = fields.next()? {
            match field.number {
                2 => self.has_charsmap = !field.bytes("normalizer_spec.precompiled_charsmap")?.is_empty(),
                3 => self.add_dummy_prefix = is_true(field, "normalizer_spec.add_dummy_prefix")?,
                4 => self.remove_extra_whitespaces = is_true(field, "normalizer_spec.remove_extra_whitespaces")?,
                5 => self.escape_whitespaces = is_true(field, "normalizer_spec.escape_whitespaces")?,
                _ => {}
            }
        }
        Ok(())
    }
}

fn is_true(field: Field<'_>, name: &'static str) -> Result<bool, Fault> {
    Ok(field.integer(name)? != 0)
}
