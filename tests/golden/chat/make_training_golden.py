"""Prepares records for training with TRL: token ids and labels of SFT, ids of the pairs of DPO.

    python make_training_golden.py                        writes training_examples.json
    python make_training_golden.py MODEL OUT FILE…        the same for a model and the first rows of files, into OUT: for the
                                                          test `files_give_what_trl_prepares`, which has to be asked for

Made with TRL 1.16.0, transformers 5.23.0, datasets 5.2.0. Needs `tokenizer.json` and `chat_templates.json` beside it, which
make_chat_golden.py writes.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

os.environ["WANDB_DISABLED"] = "true"
from datasets import Dataset
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

HERE = Path(__file__).parent


def prepared(tokenizer, rows, **options):
    """Ids and labels (or ids of prompt, chosen, rejected) of each row, as the trainer sees them."""
    shape = LlamaConfig(vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                        num_attention_heads=1)
    is_preference = "chosen" in rows[0]
    config, trainer = (DPOConfig, DPOTrainer) if is_preference else (SFTConfig, SFTTrainer)
    models = {"model": LlamaForCausalLM(shape)} | ({"ref_model": LlamaForCausalLM(shape)} if is_preference else {})
    options = {"max_length": None, **options}
    with tempfile.TemporaryDirectory() as folder:
        if not is_preference:
            options["shuffle_dataset"] = False
        args = config(output_dir=folder, report_to=[], use_cpu=True, bf16=False, gradient_checkpointing=False, **options)
        data = trainer(**models, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer).train_dataset
        keys = ["prompt_ids", "chosen_ids", "rejected_ids"] if is_preference else ["input_ids", "labels"]
        return [{key: row[key] for key in keys} for row in data]


def main():
    chat = json.loads((HERE / "chat_templates.json").read_text())
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(HERE / "tokenizer.json"), bos_token="<|im_start|>",
                                        eos_token="<|im_end|>", pad_token="<|endoftext|>",
                                        chat_template=chat["templates"]["chatml"])
    user = lambda text: {"role": "user", "content": text}
    assistant = lambda text: {"role": "assistant", "content": text}
    texts = [{"text": "Hello, é🦊"}, {"text": "ends <|im_end|>"}, {"text": ""}]
    completions = [{"prompt": "The sky is", "completion": " blue."}, {"prompt": "a", "completion": ""},
                   {"prompt": "no space at the seam he", "completion": "llo"}, {"prompt": "", "completion": "x<|im_end|>"}]
    chats = [{"messages": [user("Hi"), assistant("Hello!"), user("Bye"), assistant("Good day 🦊")]},
             {"messages": [{"role": "system", "content": "short"}, user("a\nb"), assistant("")]}]
    chat_completions = [{"prompt": [user("Hi")], "completion": [assistant("Hello!")]},
                        {"prompt": [user("a"), assistant("b"), user("c")], "completion": [assistant("d"), user("e"), assistant("f")]}]
    pairs = [{"prompt": "The sky is", "chosen": " blue", "rejected": " green"}, {"prompt": "a", "chosen": "", "rejected": "b"},
             {"prompt": "no space he", "chosen": "llo", "rejected": "lp"}]
    implicit = [{"chosen": "The sky is blue", "rejected": "The sky is green"}, {"chosen": "one 1", "rejected": "one 2"}]
    chat_pairs = [{"prompt": [user("Hi")], "chosen": [assistant("Hello!")], "rejected": [assistant("Go away")]},
                  {"prompt": [user("a"), assistant("b"), user("c")], "chosen": [assistant("d")], "rejected": [assistant("")]}]
    implicit_chat = [{"chosen": [user("Hi"), assistant("Hello!")], "rejected": [user("Hi"), assistant("No")]}]
    sets = [
        ("text", texts, {}),
        ("completions", completions, {}),
        ("completions, all trained", completions, {"completion_only_loss": False}),
        ("completions, 6 ids", completions, {"max_length": 6}),
        ("chats", chats, {}),
        ("chats, assistant only", chats, {"assistant_only_loss": True}),
        ("chats, last 12 ids", chats, {"max_length": 12, "truncation_mode": "keep_end"}),
        ("completions of chats", chat_completions, {}),
        ("completions of chats, assistant only", chat_completions, {"assistant_only_loss": True}),
        ("pairs", pairs, {}),
        ("pairs, implicit prompt", implicit, {}),
        ("pairs of chats", chat_pairs, {}),
        ("pairs of chats, implicit prompt", implicit_chat, {}),
    ]
    golden = [{"name": name, "rows": rows, "options": options, "prepared": prepared(tokenizer, rows, **options)}
              for name, rows, options in sets]
    (HERE / "training_examples.json").write_text(json.dumps(golden, ensure_ascii=False) + "\n")


ALPACA = ("Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
          "### Instruction:\n{instruction}\n\n### Response:")
ALPACA_INPUT = ("Below is an instruction that describes a task, paired with an input that provides further context. Write a "
                "response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n"
                "### Input:\n{input}\n\n### Response:")
ROLES = {"human": "user", "gpt": "assistant", "system": "system"}


def of_trl(row):
    """A row of Alpaca or ShareGPT in a format of TRL's; None if it has calls of tools."""
    message = lambda turn: {"role": ROLES[turn["from"]], "content": turn["value"]}
    if "instruction" in row:
        prompt = (ALPACA_INPUT if row["input"] else ALPACA).format(**row)
        return {"prompt": prompt, "completion": row["output"]}
    if "conversations" not in row:
        return {key: row[key] for key in ("prompt", "chosen", "rejected")}
    if any(turn["from"] not in ROLES for turn in row["conversations"]):
        return None
    messages = [message(turn) for turn in row["conversations"]]
    if "chosen" in row:
        return {"prompt": messages, "chosen": [message(row["chosen"])], "rejected": [message(row["rejected"])]}
    return {"messages": messages}


def of_files(model, out, files, count=20):
    tokenizer = AutoTokenizer.from_pretrained(model)
    golden = []
    for file in map(Path, files):
        text = file.read_text()
        rows = json.loads(text) if file.suffix == ".json" else [json.loads(line) for line in text.splitlines()]
        rows = [row for row in rows if of_trl(row)][:count]
        golden.append({"name": file.name, "rows": rows, "options": {}, "prepared": prepared(tokenizer, list(map(of_trl, rows)))})
    Path(out).write_text(json.dumps(golden))


if len(sys.argv) > 1:
    of_files(sys.argv[1], sys.argv[2], sys.argv[3:])
else:
    main()
