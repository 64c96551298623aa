//! The assistant's turns in a rendered chat.

use std::ops::Range;

use super::encoder_fault::EncoderFault;
use crate::tokenizer::{ChatTemplate, Message, RenderOptions};

/// The text of a chat, and the byte ranges of the assistant's turns.
///
/// These are the `{% generation %}` blocks of the template. Where a template has none, each message of the assistant is
/// what the messages up to it add to those before it and a generation prompt. That holds for templates that render a
/// message alike whatever follows.
///
/// # Errors
/// [`EncoderFault::Template`]; [`EncoderFault::NotAPrefix`].
pub(super) fn render_with_assistant_ranges(
    template: &ChatTemplate,
    messages: &[Message],
    options: &RenderOptions<'_>,
) -> Result<(String, Vec<Range<usize>>), EncoderFault> {
    if template.has_generation_blocks() {
        return Ok(template.render_with_spans(messages, options)?);
    }
    let text = template.render(messages, options)?;
    let prompting = RenderOptions { add_generation_prompt: true, ..options.clone() };
    let mut ranges = Vec::new();
    for at in (0..messages.len()).filter(|at| messages[*at].role() == "assistant") {
        let before = template.render(&messages[..at], &prompting)?;
        let up_to = template.render(&messages[..=at], options)?;
        if !up_to.starts_with(&before) || !text.starts_with(&up_to) {
            return Err(EncoderFault::NotAPrefix { path: template.path().to_owned(), number: at + 1 });
        }
        ranges.push(before.len()..up_to.len());
    }
    Ok((text, ranges))
}

/// Whether each token has text in one of the ranges.
pub(super) fn touched(tokens: &[Range<usize>], ranges: &[Range<usize>]) -> Vec<bool> {
    let touches = |token: &Range<usize>| ranges.iter().any(|range| token.start < range.end && range.start < token.end);
    tokens.iter().map(touches).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assistant_texts(source: &str, chat: &[(&str, &str)]) -> Result<Vec<String>, EncoderFault> {
        let template = ChatTemplate::new("t.jinja", source, [].into()).unwrap();
        let messages: Vec<Message> = chat.iter().map(|(role, content)| Message::new(role, content)).collect();
        let (text, ranges) = render_with_assistant_ranges(&template, &messages, &RenderOptions::default())?;
        Ok(ranges.into_iter().map(|range| text[range].to_owned()).collect())
    }

    const CHAT: [(&str, &str); 4] = [("user", "a"), ("assistant", "é"), ("user", "b"), ("assistant", "c")];

    #[test]
    fn without_generation_blocks_prefixes_tell_what_the_assistant_says() {
        let source = "{% for m in messages %}<{{ m.role }}>{{ m.content }}.{% endfor %}\
                      {% if add_generation_prompt %}<assistant>{% endif %}";
        assert_eq!(assistant_texts(source, &CHAT).unwrap(), ["é.", "c."]);
        assert_eq!(assistant_texts(source, &CHAT[..1]).unwrap(), [""; 0]);
    }

    #[test]
    fn generation_blocks_go_before_prefixes() {
        let source = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% else %}\
                      {% generation %}{{ m.content }}{% endgeneration %}.{% endif %}{% endfor %}";
        assert_eq!(assistant_texts(source, &CHAT).unwrap(), ["é", "c"]);
    }

    #[test]
    fn templates_that_render_earlier_answers_otherwise_are_refused() {
        let drops_earlier = "{% for m in messages %}<{{ m.role }}>\
                             {{ m.content if loop.last or m.role == 'user' else '' }}.{% endfor %}\
                             {% if add_generation_prompt %}<assistant>{% endif %}";
        let error = assistant_texts(drops_earlier, &CHAT).unwrap_err();
        assert!(matches!(error, EncoderFault::NotAPrefix { number: 2, .. }), "{error}");
        assert!(error.to_string().contains("\"t.jinja\""), "{error}");
        let other_prompt = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}\
                            {% if add_generation_prompt %}<bot>{% endif %}";
        assert!(matches!(assistant_texts(other_prompt, &CHAT), Err(EncoderFault::NotAPrefix { number: 2, .. })));
    }

    #[test]
    fn tokens_touch_a_range_by_a_byte_of_it() {
        let tokens = [0..2, 2..4, 4..6, 6..6, 6..8];
        assert_eq!(touched(&tokens, std::slice::from_ref(&(3..6))), [false, true, true, false, false]);
        assert_eq!(touched(&tokens, &[2..2, 7..8]), [false, false, false, false, true]);
    }
}
