//! Chat templates by name, for models whose files have none.

/// SOLAR's instruction format (Kim et al., 2023, arXiv:2312.15166, §3.2): `### User:` and `### Assistant:`.
const SOLAR: &str = "\
{%- for message in messages -%}
{%- set role = {'system': 'System', 'user': 'User', 'assistant': 'Assistant'}.get(message.role) -%}
{%- if not role -%}{{ raise_exception('found the role ' ~ message.role ~ ', expected system, user or assistant') }}{%- endif -%}
{{- '### ' ~ role ~ ':\\n' ~ message.content ~ '\\n\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '### Assistant:\\n' -}}{%- endif -%}";

/// The names of [`named_template`].
pub const TEMPLATE_NAMES: [&str; 1] = ["solar"];

/// The Jinja source of the template with this name: `solar`.
pub fn named_template(name: &str) -> Option<&'static str> {
    (name == TEMPLATE_NAMES[0]).then_some(SOLAR)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::{ChatTemplate, Message, RenderOptions};

    #[test]
    fn the_template_of_solar_has_a_heading_for_each_role() {
        let template = ChatTemplate::new("solar", named_template("solar").unwrap(), [].into()).unwrap();
        let render = |messages: &[Message], add_generation_prompt| {
            template.render(messages, &RenderOptions { add_generation_prompt, ..RenderOptions::default() })
        };
        let user = Message::new("user", "Hi");
        assert_eq!(render(std::slice::from_ref(&user), true).unwrap(), "### User:\nHi\n\n### Assistant:\n");
        let chat = [Message::new("system", "Be brief."), user, Message::new("assistant", "Yes?")];
        assert_eq!(
            render(&chat, false).unwrap(),
            "### System:\nBe brief.\n\n### User:\nHi\n\n### Assistant:\nYes?\n\n"
        );
        assert!(render(&[Message::new("tool", "1")], true).unwrap_err().to_string().contains("the role tool"));
        assert_eq!(named_template("moon"), None);
    }
}
