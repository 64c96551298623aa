//! Why a sequence has ended.

/// Why a sequence has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended its text, or gave another token to stop at.
    StopToken(u32),
    /// A stop string is in the text.
    StopString,
    /// The requested number of tokens is reached.
    MaxTokens,
    /// Prompt and output fill the context.
    ContextFull,
}

impl FinishReason {
    /// The `finish_reason` of OpenAI's API.
    pub fn name(self) -> &'static str {
        match self {
            Self::StopToken(_) | Self::StopString => "stop",
            Self::MaxTokens | Self::ContextFull => "length",
        }
    }
}
