"""Greedy tokens of the tiny golden models by transformers: 20 prompts of 1 to 20 tokens, 64 tokens each.

Prompts whose two largest logits come nearer than MARGIN at some step are left out: rounding decides there. Run in
tests/golden: python generation/make_generation_golden.py
"""

import json
import random
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

MODELS = ["llama_gqa_tied", "mistral_window", "mixtral_4x2", "mixtral_5x3_window"]
NUM_PROMPTS, NUM_TOKENS, MARGIN = 20, 64, 1e-3

golden = Path(__file__).parent.parent
cases = {}
for name in MODELS:
    model = AutoModelForCausalLM.from_pretrained(golden / name, dtype=torch.float32, attn_implementation="eager").eval()
    chance = random.Random(name)
    pairs = []
    while len(pairs) < NUM_PROMPTS:
        prompt = [chance.randrange(model.config.vocab_size) for _ in range(len(pairs) + 1)]
        out = model.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), max_new_tokens=NUM_TOKENS, do_sample=False, eos_token_id=None,
                             pad_token_id=0, output_logits=True, return_dict_in_generate=True)
        top = torch.stack([logits[0].topk(2).values for logits in out.logits])
        if (top[:, 0] - top[:, 1]).min() > MARGIN:
            pairs.append([prompt, out.sequences[0, len(prompt):].tolist()])
    cases[name] = pairs
text = ",\n".join(f"{json.dumps(name)}: [\n" + ",\n".join(json.dumps(pair) for pair in pairs) + "\n]" for name, pairs in cases.items())
(golden / "generation/greedy.json").write_text("{\n" + text + "\n}\n")
