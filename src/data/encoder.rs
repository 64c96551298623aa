//! Records of training data as token ids, as TRL makes them.

use serde_json::Value;

use super::assistant::{render_with_assistant_ranges, touched};
use super::encoder_fault::EncoderFault;
use super::example::{Example, PreferencePair};
use super::record::{Passage, Record};
use crate::tokenizer::{ChatTemplate, Message, RenderOptions, Tokenizer};

/// Makes token ids of records.
///
/// Text gets the ids that the tokenizer adds around one, and the token that ends a text unless it is there. Messages get
/// what the chat template says, and nothing else.
#[derive(Debug, Clone, Copy)]
pub struct RecordEncoder<'a> {
    /// The tokenizer of the model.
    pub tokenizer: &'a Tokenizer,
    /// Its chat template, if it has one.
    pub template: Option<&'a ChatTemplate>,
    /// Whether only completions are trained, where a record has a prompt and a completion.
    pub completion_only: bool,
    /// Whether only what the assistant says is trained, where a record has messages.
    pub assistant_only: bool,
}

impl<'a> RecordEncoder<'a> {
    /// An encoder that trains completions, and all of a chat.
    pub fn new(tokenizer: &'a Tokenizer, template: Option<&'a ChatTemplate>) -> Self {
        Self { tokenizer, template, completion_only: true, assistant_only: false }
    }

    /// The example that a record gives.
    ///
    /// A completion starts where the ids of prompt and completion differ from those of the prompt alone, which ends with
    /// a generation prompt if it has messages. That is before its end where a token spans both.
    ///
    /// # Errors
    /// The reason why there is none.
    pub fn example(&self, record: &Record) -> Result<Example, EncoderFault> {
        match record {
            Record::Text(text) => Ok(Example::trained_whole(self.text_ids(text)?)),
            Record::Messages { messages, tools } => self.chat(messages, tools),
            Record::PromptCompletion { prompt, completion, tools } => {
                let mut example = match (prompt, completion) {
                    (Passage::Messages(prompt), Passage::Messages(completion)) => {
                        self.chat(&[prompt.as_slice(), completion].concat(), tools)?
                    }
                    _ => Example::trained_whole(self.completed(prompt, completion, tools)?),
                };
                if self.completion_only {
                    let start = shared_start(&self.prompt_ids(prompt, tools)?, &example.ids);
                    example.trained[..start].fill(false);
                }
                Ok(example)
            }
            Record::Preference { .. } => {
                Err(EncoderFault::OtherRecord { found: "a preference", expected: "text, a completion or messages" })
            }
        }
    }

    /// The pair that a preference gives. Both completions start where the first of them differs from the prompt.
    ///
    /// # Errors
    /// The reason why there is none.
    pub fn preference_pair(&self, record: &Record) -> Result<PreferencePair, EncoderFault> {
        let Record::Preference { prompt, chosen, rejected, tools } = record else {
            return Err(EncoderFault::OtherRecord { found: "one text", expected: "a preference" });
        };
        let mut prompt_ids = self.prompt_ids(prompt, tools)?;
        let mut sides = [self.completed(prompt, chosen, tools)?, self.completed(prompt, rejected, tools)?];
        for side in &sides {
            prompt_ids.truncate(shared_start(&prompt_ids, side));
        }
        let [chosen, rejected] = sides.each_mut().map(|side| side.split_off(prompt_ids.len()));
        Ok(PreferencePair { prompt: prompt_ids, chosen, rejected })
    }

    fn text_ids(&self, text: &str) -> Result<Vec<u32>, EncoderFault> {
        let eos = *self.tokenizer.eos().first().ok_or(EncoderFault::NoEos)?;
        Ok(self.tokenizer.encode_ended(text, Some(eos))?)
    }

    fn prompt_ids(&self, prompt: &Passage, tools: &[Value]) -> Result<Vec<u32>, EncoderFault> {
        match prompt {
            Passage::Text(text) => Ok(self.tokenizer.encode_with_special_tokens(text)?),
            Passage::Messages(messages) => {
                let options = RenderOptions { add_generation_prompt: true, tools, ..RenderOptions::default() };
                let text = self.template_for(messages)?.render(messages, &options)?;
                Ok(self.tokenizer.encode(&text)?)
            }
        }
    }

    fn completed(&self, prompt: &Passage, completion: &Passage, tools: &[Value]) -> Result<Vec<u32>, EncoderFault> {
        match (prompt, completion) {
            (Passage::Text(prompt), Passage::Text(completion)) => self.text_ids(&format!("{prompt}{completion}")),
            (Passage::Messages(prompt), Passage::Messages(completion)) => {
                let messages = [prompt.as_slice(), completion].concat();
                let options = RenderOptions { tools, ..RenderOptions::default() };
                let text = self.template_for(&messages)?.render(&messages, &options)?;
                Ok(self.tokenizer.encode(&text)?)
            }
            _ => Err(EncoderFault::OtherRecord { found: "text beside messages", expected: "both alike" }),
        }
    }

    fn chat(&self, messages: &[Message], tools: &[Value]) -> Result<Example, EncoderFault> {
        let template = self.template_for(messages)?;
        let options = RenderOptions { tools, ..RenderOptions::default() };
        if !self.assistant_only {
            return Ok(Example::trained_whole(self.tokenizer.encode(&template.render(messages, &options)?)?));
        }
        let (text, assistant) = render_with_assistant_ranges(template, messages, &options)?;
        let (ids, tokens) = self.tokenizer.encode_with_ranges(&text)?;
        Ok(Example { ids, trained: touched(&tokens, &assistant) })
    }

    /// The template, if it renders all that these messages say.
    fn template_for(&self, messages: &[Message]) -> Result<&'a ChatTemplate, EncoderFault> {
        let template = self.template.ok_or(EncoderFault::NoTemplate)?;
        let has_calls = |message: &Message| message.get("tool_calls").is_some_and(|calls| !calls.is_null());
        match messages.iter().position(has_calls).filter(|_| !template.source().contains("tool_calls")) {
            Some(at) => Err(EncoderFault::CallsNotRendered { path: template.path().to_owned(), number: at + 1 }),
            None => Ok(template),
        }
    }
}

/// How many ids two sequences begin with alike.
fn shared_start(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
