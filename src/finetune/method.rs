//! How a run trains.

use super::Settings;

/// What the rows of a run are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowKind {
    /// Text, of which every token is trained.
    Text,
    /// Examples, of which what is to be learned is trained, such as completions.
    Examples,
}

/// How a run trains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Continued pretraining: every token of text is predicted from those before it.
    Pretraining,
    /// Supervised fine-tuning: of examples, what is to be learned is predicted, such as completions.
    Sft,
    /// Direct preference optimization: of two completions, one is preferred.
    Dpo,
}

impl Method {
    /// The method of a run: by preference if its settings have such a loss, else by that of its rows.
    pub fn of(settings: &Settings, rows: RowKind) -> Self {
        match (settings.dpo, rows) {
            (Some(_), _) => Self::Dpo,
            (None, RowKind::Text) => Self::Pretraining,
            (None, RowKind::Examples) => Self::Sft,
        }
    }

    /// Its name: `supervised fine-tuning (SFT)`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pretraining => "next-token prediction",
            Self::Sft => "supervised fine-tuning (SFT)",
            Self::Dpo => "preference optimization (DPO)",
        }
    }
}
