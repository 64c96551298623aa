//! How a run trains.

/// How a run trains, for the words of model cards and pictures.
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
    /// Its name: `supervised fine-tuning (SFT)`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pretraining => "next-token prediction",
            Self::Sft => "supervised fine-tuning (SFT)",
            Self::Dpo => "preference optimization (DPO)",
        }
    }

    /// The name and the unit of its loss: `Next-token loss`, `nats per token`.
    pub fn loss(self) -> (&'static str, &'static str) {
        match self {
            Self::Pretraining => ("Next-token loss", "nats per token"),
            Self::Sft => ("Fine-tuning loss", "nats per trained token"),
            Self::Dpo => ("Preference loss", "per pair"),
        }
    }
}
