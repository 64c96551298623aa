//! The texts of an answer, as news of them come.

use super::answer::{ChoiceNews, Usage};
use super::{ApiError, Update};
use crate::generate::{Chosen, Detokenizer, PromptLogprobs, TokenText};
use crate::tokenizer::{Tokenizer, TokenizerError};

/// The parts of an answer beside its texts.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Shown {
    pub(super) echo: bool,
    pub(super) logprobs: bool,
    pub(super) routing: bool,
}

/// The texts of an answer.
#[derive(Debug)]
pub(super) struct Texts {
    prompts: Vec<Vec<u32>>,
    texts: Vec<Text>,
    shown: Shown,
    num_left: usize,
    usage: Usage,
}

#[derive(Debug, Clone, Default)]
struct Text {
    has_begun: bool,
    /// Of the prompt before it.
    num_prompt_chars: usize,
    prompt_logprobs: PromptLogprobs,
}

impl Texts {
    /// `n` texts of each prompt.
    pub(super) fn new(prompts: Vec<Vec<u32>>, n: usize, shown: Shown) -> Self {
        let num_left = prompts.len() * n;
        let usage = Usage { prompt_tokens: prompts.iter().map(Vec::len).sum(), completion_tokens: 0 };
        Self { prompts, texts: vec![Text::default(); num_left], shown, num_left, usage }
    }

    /// Number of texts.
    pub(super) fn len(&self) -> usize {
        self.texts.len()
    }

    /// Whether every text has ended.
    pub(super) fn are_done(&self) -> bool {
        self.num_left == 0
    }

    pub(super) fn usage(&self) -> Usage {
        self.usage
    }

    /// The next part of a text; `None` if there is nothing to show yet.
    pub(super) fn take(&mut self, tokenizer: &Tokenizer, update: Update) -> Result<Option<ChoiceNews>, ApiError> {
        let mut news =
            ChoiceNews { logprobs: self.shown.logprobs, routing: self.shown.routing, ..ChoiceNews::default() };
        match update {
            Update::Failed(error) => return Err(error.into()),
            Update::Prompt(index, logprobs) => {
                self.texts[index].prompt_logprobs = logprobs;
                return Ok(None);
            }
            Update::Delta(index, delta) => {
                (news.index, news.text, news.tokens) = (index, delta.text, delta.tokens);
            }
            Update::Finished(index, reason, num_tokens) => {
                (news.index, news.finish) = (index, Some(reason));
                self.num_left -= 1;
                self.usage.completion_tokens += num_tokens;
            }
        }
        self.echo(tokenizer, &mut news)?;
        news.offset = self.texts[news.index].num_prompt_chars;
        let is_empty = news.text.is_empty() && news.tokens.is_empty() && news.finish.is_none();
        Ok((!is_empty).then_some(news))
    }

    /// Puts the prompt before the first part of a text.
    fn echo(&mut self, tokenizer: &Tokenizer, news: &mut ChoiceNews) -> Result<(), ApiError> {
        let prompt = &self.prompts[news.index * self.prompts.len() / self.texts.len()];
        let text = &mut self.texts[news.index];
        if self.shown.echo && !text.has_begun {
            let logprobs = std::mem::take(&mut text.prompt_logprobs);
            let tokens = echoed(tokenizer, prompt, &logprobs).map_err(|error| ApiError::field("prompt", error))?;
            let echo: String = tokens.iter().map(|token| token.text.as_str()).collect();
            text.num_prompt_chars = echo.chars().count();
            news.text.insert_str(0, &echo);
            news.prompt = if self.shown.logprobs { tokens } else { Vec::new() };
        }
        text.has_begun = true;
        Ok(())
    }
}

/// The tokens of a prompt, each with the text that it adds.
fn echoed(tokenizer: &Tokenizer, prompt: &[u32], logprobs: &PromptLogprobs) -> Result<Vec<TokenText>, TokenizerError> {
    let (mut detokenizer, mut offset) = (Detokenizer::default(), 0);
    let token = |(position, id): (usize, &u32)| {
        let logprob = logprobs.get(position).cloned().flatten();
        let token = Chosen { id: *id, logprob, experts: Vec::new() };
        let token = TokenText { text: detokenizer.push(tokenizer, *id)?, offset, token };
        offset += token.text.chars().count();
        Ok(token)
    };
    let mut tokens = prompt.iter().enumerate().map(token).collect::<Result<Vec<_>, TokenizerError>>()?;
    if let Some(last) = tokens.last_mut() {
        last.text += &detokenizer.finish(tokenizer)?;
    }
    Ok(tokens)
}

impl ChoiceNews {
    /// Appends the next part.
    pub(super) fn extend(&mut self, next: Self) {
        self.text += &next.text;
        self.tokens.extend(next.tokens);
        self.prompt.extend(next.prompt);
        self.finish = self.finish.or(next.finish);
    }
}
