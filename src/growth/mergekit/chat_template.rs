//! The chat template of a merge, and the ones that mergekit has names for.
//!
//! These are our own texts that render like mergekit's, odd spaces included: `tests/golden/mergekit/chat_templates.py`
//! compares them.

/// The chat template of the result of a merge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChatTemplate {
    /// The most frequent one among the models.
    Auto,
    /// A Jinja template.
    Jinja(String),
}

impl ChatTemplate {
    /// mergekit's names and their templates.
    pub const NAMED: [(&'static str, &'static str); 5] =
        [("alpaca", ALPACA), ("chatml", CHATML), ("exaone", EXAONE), ("llama3", LLAMA3), ("mistral", MISTRAL)];

    /// The template meant by a text: `auto`, a name, or Jinja.
    pub(super) fn of(text: &str) -> Option<Self> {
        let named = || Self::NAMED.iter().find(|(name, _)| *name == text).map(|(_, template)| *template);
        match text {
            "auto" => Some(Self::Auto),
            text if text.contains('{') => Some(Self::Jinja(text.to_owned())),
            _ => named().map(|template| Self::Jinja(template.to_owned())),
        }
    }
}

const CHATML: &str = r"{%- for m in messages -%}
{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}";

const ALPACA: &str = r"{%- set headings = {'user': 'Instruction', 'assistant': 'Response', 'user_context': 'Input'} -%}
{%- set system = messages | selectattr('role', 'equalto', 'system') | map(attribute='content') | list -%}
{{- (system[-1] | trim if system else '') + '\n\n' -}}
{%- for m in messages -%}
{%- if m.role in headings -%}
{{- '### ' + headings[m.role] + ':\n' + m.content | trim + ('' if loop.last else '\n\n') -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt and messages[-1].role != 'assistant' -%}{{- '### Response:\n' -}}{%- endif -%}";

const EXAONE: &str = r"{%- for m in messages -%}
{%- if loop.first and m.role != 'system' -%}{{- '        [|system|][|endofturn|]\n\n' -}}{%- endif -%}
{{- '    [|' + m.role + '|]' + m.content + '\n        ' -}}
{{- '\n\n' if m.role == 'user' else '[|endofturn|]\n\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '    [|assistant|]\n' -}}{%- endif -%}";

const LLAMA3: &str = r"{%- for m in messages -%}
{%- if loop.first -%}{{- bos_token -}}{%- endif -%}
{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}{%- endif -%}";

const MISTRAL: &str = r"{%- set begins = messages[0].role == 'system' -%}
{{- bos_token -}}
{%- for m in (messages[1:] if begins else messages) -%}
{%- if (m.role == 'user') != (loop.index is odd) -%}
{{- raise_exception('expected user and assistant by turns, after at most one system message') -}}
{%- elif m.role == 'user' -%}
{{- ' [INST] ' + (messages[0].content + '\n\n' if begins and loop.first else '') + m.content + ' [/INST]' -}}
{%- elif m.role == 'assistant' -%}
{{- ' ' + m.content + eos_token -}}
{%- else -%}
{{- raise_exception('expected the roles user and assistant, after at most one system message') -}}
{%- endif -%}
{%- endfor -%}";

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    /// The texts that were proved equal.
    #[test]
    fn the_named_templates_are_those_that_were_held_against_mergekits() {
        let proved = include_str!("../../../tests/golden/mergekit/chat_templates.json");
        let proved: serde_json::Value = serde_json::from_str(proved).unwrap();
        for (name, template) in ChatTemplate::NAMED {
            let hash: String = Sha256::digest(template).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(proved[name], hash, "{name}: chat_templates.py has to be run again");
        }
        assert_eq!(proved.as_object().unwrap().len(), ChatTemplate::NAMED.len());
    }

    #[test]
    fn a_text_is_auto_a_name_or_jinja() {
        assert_eq!(ChatTemplate::of("auto"), Some(ChatTemplate::Auto));
        assert_eq!(ChatTemplate::of("chatml"), Some(ChatTemplate::Jinja(CHATML.to_owned())));
        assert_eq!(ChatTemplate::of("{{ x }}"), Some(ChatTemplate::Jinja("{{ x }}".to_owned())));
        assert_eq!(ChatTemplate::of("vicuna"), None);
    }
}
