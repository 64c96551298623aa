"""Loads checkpoints that deepwide wrote with transformers, and compares the logits.

    $ cargo test --test tests write_checkpoints_for_transformers -- --ignored --nocapture    # prints FOLDER
    $ python tests/golden/check_written.py FOLDER/*

Beside each checkpoint lies `answers.safetensors`: `input_ids`, and the `logits` that deepwide computed.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

TOLERANCE = 1e-4


def check(folder: Path) -> bool:
    answers = load_file(folder / "answers.safetensors")
    model, loading = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"] and not loading["mismatched_keys"], loading
    with torch.no_grad():
        logits = model.eval()(answers["input_ids"].long()).logits
    off = (logits - answers["logits"]).abs().max().item()
    print(f"{folder.name:24} {type(model).__name__:20} {model.config.num_hidden_layers} layers  logits off by {off:.1e}"
          f" of {logits.abs().max().item():.1f}")
    return off <= TOLERANCE


if __name__ == "__main__":
    folders = [Path(folder) for folder in sys.argv[1:]]
    if not folders:
        sys.exit(__doc__)
    sys.exit(0 if all([check(folder) for folder in folders]) else 1)
