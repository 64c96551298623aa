"""Greedy text of a real model by deepwide against transformers: 20 prompts, 64 tokens, float32.

    python tests/golden/generation/check_generation.py DEEPWIDE MODEL

Compares the text of each token, too, where it is not a part of a character. Prints each prompt that differs, with the margin of
the two largest logits at the first difference.
"""

import json
import subprocess
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPTS = [
    "The capital of France is", "def fibonacci(n):", "Once upon a time", "Water boils at", "The three laws of motion",
    "Dear Sir or Madam,", "1, 2, 3, 5, 8,", "My favourite recipe needs", "In 1969,", "The mitochondria is",
    "She opened the door and", "import numpy as np", "To be or not to be", "The price of gold", "Les enfants jouent",
    "Photosynthesis converts", "The quick brown fox", "If it rains tomorrow,", "A list of prime numbers:", "Hello! How are",
]

deepwide, path = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(path)
model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()
same = 0
for prompt in PROMPTS:
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=64, do_sample=False, eos_token_id=None, pad_token_id=0, output_logits=True,
                         return_dict_in_generate=True)
    expected = out.sequences[0, ids.shape[1]:].tolist()
    words = [deepwide, "generate", path, "-p", prompt, "-n", "64", "--ignore-eos", "--dtype", "float32", "--json", "--logprobs", "0", "-q"]
    choice = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)["choices"][0]
    names = [tokenizer.decode([id]) for id in expected]
    found = choice["logprobs"]["tokens"]
    at = next((i for i, (a, b) in enumerate(zip(names, found, strict=True)) if a != b and not b.startswith("bytes:")), None)
    if at is None and choice["text"] == tokenizer.decode(expected, skip_special_tokens=True):
        same += 1
        continue
    if at is None:
        print(f"{prompt!r}: the text differs, its tokens do not")
        continue
    top = out.logits[at][0].topk(2).values
    print(f"{prompt!r}: differs at token {at}, margin {top[0] - top[1]:.2e}")
print(f"{same} of {len(PROMPTS)} outputs are equal")
sys.exit(same != len(PROMPTS))
