//! A chat template, and the text of a chat by it.

#![no_main]

use deepwide::tokenizer::{ChatTemplate, Message, RenderOptions};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|source: &str| {
    let messages = [Message::new("user", "Hello"), Message::new("assistant", "Good day")];
    let Ok(template) = ChatTemplate::new("chat_template.jinja", source, [].into()) else { return };
    let options = RenderOptions::default();
    let (Ok(text), Ok((same, spans))) =
        (template.render(&messages, &options), template.render_with_spans(&messages, &options))
    else {
        return;
    };
    assert_eq!(text, same);
    assert!(spans.into_iter().all(|span| text.get(span).is_some()));
});
