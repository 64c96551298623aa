//! The texts of an answer, as news of them come.

use super::answer::{ChoiceNews, Usage};
use super::echo::Echo;
use super::{ApiError, Update};
use crate::generate::{PromptLogprobs, Request};

/// The texts of an answer.
#[derive(Debug)]
pub(super) struct Texts {
    /// Of each prompt, if the texts begin with it.
    echoes: Vec<Echo>,
    texts: Vec<Text>,
    /// Texts of each prompt.
    num_sequences: usize,
    logprobs: bool,
    routing: bool,
    num_left: usize,
    usage: Usage,
}

#[derive(Debug, Clone, Default)]
struct Text {
    has_begun: bool,
    /// Of the prompt before it.
    prompt_logprobs: PromptLogprobs,
}

impl Texts {
    /// The texts of requests that differ in their prompts.
    ///
    /// # Panics
    /// If there are none.
    pub(super) fn new(requests: &[Request], echoes: Vec<Echo>) -> Self {
        let Request { num_sequences, logprobs, routing, .. } = requests[0];
        let num_left = requests.len() * num_sequences;
        let prompt_tokens = requests.iter().map(|request| request.prompt.len()).sum();
        Self {
            echoes,
            texts: vec![Text::default(); num_left],
            num_sequences,
            logprobs: logprobs.is_some(),
            routing,
            num_left,
            usage: Usage { prompt_tokens, ..Usage::default() },
        }
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
    pub(super) fn take(&mut self, update: Update) -> Result<Option<ChoiceNews>, ApiError> {
        let mut news = ChoiceNews { logprobs: self.logprobs, routing: self.routing, ..ChoiceNews::default() };
        match update {
            Update::Failed(error) => return Err(error.into()),
            Update::Prompt(index, prompt) => {
                // The texts of a prompt share what was computed of it.
                self.usage.cached_tokens +=
                    if index.is_multiple_of(self.num_sequences) { prompt.num_cached } else { 0 };
                self.texts[index].prompt_logprobs = prompt.logprobs.unwrap_or_default();
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
        self.echo(&mut news);
        // A prompt of special tokens has no text, but log-probabilities.
        let has_tokens = !news.tokens.is_empty() || !news.prompt.is_empty();
        Ok((has_tokens || !news.text.is_empty() || news.finish.is_some()).then_some(news))
    }

    /// Puts the prompt before the first part of a text.
    fn echo(&mut self, news: &mut ChoiceNews) {
        let Some(echo) = self.echoes.get(news.index / self.num_sequences) else { return };
        news.offset = echo.num_chars;
        let text = &mut self.texts[news.index];
        if std::mem::replace(&mut text.has_begun, true) {
            return;
        }
        news.text.insert_str(0, &echo.text);
        if self.logprobs {
            news.prompt = echo.tokens(&std::mem::take(&mut text.prompt_logprobs));
        }
    }
}

impl ChoiceNews {
    /// Appends the next part.
    pub(super) fn extend(&mut self, next: Self) {
        self.text += &next.text;
        self.tokens.extend(next.tokens);
        self.prompt.extend(next.prompt);
        self.finish = self.finish.or(next.finish);
    }

    /// Tokens whose log-probabilities are in it.
    pub(super) fn num_logprobs(&self) -> usize {
        if self.logprobs { self.prompt.len() + self.tokens.len() } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::generate::{ComputedPrompt, Delta};
    use crate::tokenizer::fixture::byte_level;

    #[test]
    fn a_prompt_without_text_keeps_its_log_probabilities() {
        let tokenizer = byte_level();
        let request = Request { logprobs: Some(0), ..Request::new(vec![0]) };
        let echo = Echo::new(&tokenizer, &request.prompt).unwrap();
        assert_eq!(echo.text, "", "a special token");
        let mut texts = Texts::new(&[request], vec![echo]);
        let prompt = ComputedPrompt { logprobs: Some(Arc::new(vec![None])), ..ComputedPrompt::default() };
        assert!(texts.take(Update::Prompt(0, prompt)).unwrap().is_none());
        let news = texts.take(Update::Delta(0, Delta::default())).unwrap().expect("the tokens of the prompt");
        assert_eq!((news.text.as_str(), news.prompt.len()), ("", 1));
        assert!(texts.take(Update::Delta(0, Delta::default())).unwrap().is_none());
    }
}
