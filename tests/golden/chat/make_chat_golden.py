"""Renders chats with transformers: text, spans of `generation` blocks, token ids, assistant masks.

    python make_chat_golden.py

Made with transformers 5.23.0, jinja2 3.1.6, tokenizers 0.23.3. Writes `tokenizer.json`, a byte-level BPE of 320 tokens trained on
the texts below, and `chat_templates.json`. The clock of `strftime_now` is 2025-07-10 12:20:00 UTC.
"""

import datetime
import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

HERE = Path(__file__).parent


class Clock(datetime.datetime):
    @classmethod
    def now(cls):
        return datetime.datetime.fromtimestamp(1752150000, datetime.timezone.utc)


chat_template_utils.datetime = Clock

TEMPLATES = {
    "chatml": """\
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
{{- '<|im_start|>assistant\\n' }}
        {%- generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}
    {%- else %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
""",
    # Lines and spaces around every kind of tag, with text that only white-space control takes away.
    "white space": """\
Head
{# a comment
   of two lines #}
  {% for message in messages %}
    {% if loop.first %}
  first
    {% endif %}
    {% if message.role == 'assistant' %}
    A: {% generation %}
        {{ message.content }}
      {% endgeneration %}
      tail
    {%- else +%}
    U: {{ message.content }}
    {% endif %}
  {%+ endfor %}
{{ 'x' }}
{{- 'y' -}}
  z {%- raw %} {{ raw }} {% endraw %}

""",
    "generation in macros": """\
{%- macro say(message, last) -%}
    {{- '[' + message.role + ']' -}}
    {%- if message.role == 'assistant' -%}
        {%- generation -%}
            {%- set ns.count = ns.count + 1 -%}
            {%- set word = 'inner' -%}
            {{- message.content | trim ~ word ~ ns.count -}}
        {%- endgeneration -%}
    {%- else -%}
        {{- message.content -}}
    {%- endif -%}
    {{- '.' if not last -}}
{%- endmacro -%}
{%- set ns = namespace(count=0) -%}
{%- set word = 'outer' -%}
{%- for message in messages -%}
    {%- if message.content == 'skip' -%}{%- continue -%}{%- endif -%}
    {%- if message.content == 'stop' -%}{%- break -%}{%- endif -%}
    {%- if message.role == 'assistant' -%}
        {{- '[assistant]' -}}
        {%- generation -%}
            {%- set ns.count = ns.count + 1 -%}
            {%- set word = 'inner' -%}
            {{- message.content | trim ~ word ~ ns.count ~ loop.index -}}
        {%- endgeneration -%}
        {{- word -}}
    {%- else -%}
        {{- say(message, loop.last) -}}
    {%- endif -%}
{%- endfor -%}
""",
    "values": """\
{{ none }}|{{ true }}|{{ 1.0 }}|{{ 1e20 }}|{{ 0.00001 }}|{{ 7 // 2 }}|{{ 7 / 2 }}|{{ -7 % 3 }}|{{ undefined_name }}|
{{ {'b': 1, 'a': [none, true, 'it\\'s', "q\\"'", 'é', '\\n']} }}
{{ {'b': 1, 'a': {'d': [], 'c': {}}} | tojson }}
{{ [1e-7, 1.5e300, -0.0, 123456789012345680.0, 0.1] | tojson }}
{{ {'b': 1.5, 'a': [1, 2], 'c': [], 'é<>&\\'': 'ü\\t\\x1f'} | tojson(indent=2) }}
{{ {'b': 1, 'a': 'é🦊'} | tojson(ensure_ascii=true, sort_keys=true, separators=(',', ':')) }}
{{ tools | tojson }}
{{ tools | string }}
{{ messages[0] | tojson }}
{{ messages | length }} {{ messages[-1].content | upper | replace('A', 'b') }} {{ messages[1:] | map(attribute='role') | join(', ') }}
{{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ 'a,b,,c'.split(',') }} {{ ' a  b '.split() }}
{{ 'x-y'.title() }} {{ 'abc'.startswith('ab') }} {{ '  ab '.lstrip() + '|' + 'xxabxx'.strip('x') + '|' + 'a\\x1c'.strip() + '|' }}
{{ 'content' in messages[0] }} {{ messages[0].get('nothing') }} {{ messages[0].nothing is defined }} {{ tools is iterable }}
{{ messages[0].content is string }} {{ 'abc' is sequence }} {{ {} is mapping }} {{ none is iterable }} {{ 3 is number }}
{% for key, value in {'b': 1, 'a': 2}.items() %}{{ key }}={{ value }}{{ ', ' if not loop.last }}{% endfor %}
{% for key, value in {'b': 1, 'a': 2} | dictsort %}{{ key }}={{ value }};{% endfor %}
{{ 'abcdef'[::-1] }} {{ 'abcdef'[1:-1] }} {{ [1, 2, 3][::2] }} {{ (1, 2) }} {{ 'ab' * 2 }} {{ 'a' ~ 1 ~ none ~ true }}
{{ "%s-%d" | format('a', 3) }} {{ 'x' if false }}|{{ namespace(a=1).a }} {{ dict(a=1, b=2) }} {{ range(3) | list }}
{{ strftime_now('%d %b %Y, %A %H:%M') }}
""",
    "refuses": """\
{%- for message in messages %}
{%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('roles must alternate: ' + message.role) }}
{%- endif %}
{{- bos_token if loop.first }}{{ message.role }}:{{ message.content }}{{ eos_token }}
{%- endfor %}""",
    "reasoning": """\
{%- for message in messages -%}
<{{ message.role }}>{% if message.reasoning_content %}({{ message.reasoning_content }}){% endif %}
{%- if message.thinking is defined %}[{{ message.thinking }}]{% endif %}{{ message.content }}{{ message | tojson }}
{% endfor %}""",
    "tools": """\
{%- if tools %}{% for tool in tools %}{{ tool.function.name }}: {{ tool.function.parameters | tojson(indent=4) }}
{% endfor %}{% endif %}
{%- for message in messages %}
{%- if message.tool_calls is defined and message.tool_calls %}
{%- generation %}
{%- for call in message.tool_calls %}
<call>{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}</call>
{%- endfor %}
{%- endgeneration %}
{%- elif message.content is string %}
<{{ message.role }}>{{ message.content }}
{%- else %}
<{{ message.role }}>{% for part in message.content %}{{ part.text if part.type == 'text' else '<' + part.type + '>' }}{% endfor %}
{%- endif %}
{%- endfor %}""",
}

TOOLS = [{"type": "function", "function": {"name": "weather", "description": "Wie's \"ist\" <é>", "parameters": {
    "type": "object", "properties": {"place": {"type": "string"}, "days": {"type": "integer", "default": 2.5}},
    "required": ["place"]}}}]
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"place": "Zürich", "days": 2, "x": None}}}


def said(*texts, **keys):
    roles = ["user", "assistant"] * len(texts)
    return dict(messages=[{"role": role, "content": text} for role, text in zip(roles, texts)], **keys)


CHATS = {
    "short": said("Hello", "Good day.", bos_token="<s>", eos_token="</s>"),
    "prompt": said("Hello", add_generation_prompt=True),
    "odd texts": said(" a\tb \n", "\n é🦊 ", "日本 <|im_end|>", "{{ x }} \x1c"),
    "long": said("a", "b", "skip", "c", "d", "e", "stop", "f"),
    "out of turn": dict(messages=[{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]),
    "thinking": dict(messages=[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "reasoning": "why"},
                               {"role": "assistant", "thinking": "t", "content": "c"}]),
    "tools": dict(messages=[{"role": "user", "content": [{"type": "text", "text": "Rain?"}, {"type": "image"}]},
                            {"role": "assistant", "content": "", "tool_calls": [CALL, CALL]},
                            {"role": "tool", "content": "{\"rain\": true}"}, {"role": "assistant", "content": "Yes"}],
                  tools=TOOLS),
}


def rendered(source, chat):
    chat = dict(chat)
    messages, tools = chat.pop("messages"), chat.pop("tools", None)
    marked = not chat.get("add_generation_prompt") and "generation %}" in source or "generation -%}" in source
    try:
        texts, spans = chat_template_utils.render_jinja_template(
            [messages], tools=tools, chat_template=source, return_assistant_tokens_mask=marked, **chat)
    except Exception as error:
        return {"error": str(error)}
    text, spans = texts[0], spans[0] if spans else []
    in_bytes = lambda index: len(text[:index].encode())
    return {"text": text, "spans": [[in_bytes(start), in_bytes(end)] for start, end in spans]}


def trained_tokenizer(texts):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


cases = [{"template": name, "chat": chat, **rendered(TEMPLATES[name], CHATS[chat])} for name in TEMPLATES for chat in CHATS]
tokenizer = trained_tokenizer([case["text"] for case in cases if "text" in case])
(HERE / "tokenizer.json").write_text(tokenizer.to_str() + "\n")
(HERE / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}) + "\n")
fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", bos_token="<|im_start|>")
masks = []
for chat in ["short", "odd texts", "long"]:
    out = fast.apply_chat_template(CHATS[chat]["messages"], chat_template=TEMPLATES["chatml"], tokenize=True,
                                   return_dict=True, return_assistant_tokens_mask=True)
    masks.append({"chat": chat, "ids": out["input_ids"], "assistant": out["assistant_masks"]})
golden = {"templates": TEMPLATES, "chats": CHATS, "cases": cases, "masks": masks}
(HERE / "chat_templates.json").write_text(json.dumps(golden, ensure_ascii=False, indent=1) + "\n")
print(len(cases), "cases,", sum("error" in case for case in cases), "refused")
