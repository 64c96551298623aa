"""Renders the named chat templates of src/growth/mergekit/chat_template.rs and those of mergekit 0.1.5 as transformers does,
on every conversation of up to four messages, and writes chat_templates.json: the hashes of the texts that agree.

    python chat_templates.py    # mergekit 0.1.5, transformers 5.23.0
"""

import hashlib
import importlib.resources
import itertools
import json
import re
from pathlib import Path

import jinja2
from mergekit._data import chat_templates
from transformers.utils.chat_template_utils import render_jinja_template

HERE = Path(__file__).parent
SOURCE = (HERE / "../../../src/growth/mergekit/chat_template.rs").read_text()
ROLES = ["system", "user", "assistant", "user_context"]
CONTENTS = ["first", "  spaces around \n", "", "two\nlines"]


def rendered(template, messages, generate):
    try:
        return render_jinja_template(
            [messages], chat_template=template, add_generation_prompt=generate, bos_token="<s>", eos_token="</s>"
        )[0]
    except jinja2.exceptions.TemplateError:
        return "refused"


def conversations():
    for length in range(1, 5):
        for roles in itertools.product(ROLES, repeat=length):
            for step, shift in itertools.product((0, 1), range(len(CONTENTS))):
                contents = [CONTENTS[(step * i + shift) % len(CONTENTS)] for i in range(length)]
                yield [{"role": role, "content": content} for role, content in zip(roles, contents)]


proved = {}
for name, text in re.findall(r'const ([A-Z0-9]+): &str = r"(.*?)";', SOURCE, re.DOTALL):
    name, count = name.lower(), 0
    theirs = importlib.resources.files(chat_templates).joinpath(f"{name}.jinja").read_text()
    for messages in conversations():
        for generate in (False, True):
            ours, expected = rendered(text, messages, generate), rendered(theirs, messages, generate)
            assert ours == expected, (name, messages, generate, ours, expected)
            count += ours != "refused"
    proved[name] = hashlib.sha256(text.encode()).hexdigest()
    print(name, count, "conversations rendered equally")
(HERE / "chat_templates.json").write_text(json.dumps(proved, indent=1) + "\n")
