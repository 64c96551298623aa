"""Checks by hand that gguf-py reads every mutated file that deepwide reads, and alike.

    $ mkdir FOLDER && DEEPWIDE_TEST_FOLDER=FOLDER cargo test --test tests write_accepted_files -- --ignored
    $ python check_accepted_gguf.py FOLDER    # gguf==0.19.0

Beside each file lies what deepwide says of its tensors: name, type, shape (slowest first), bytes.
"""

import json
import sys
from pathlib import Path

import gguf

files, wrong = sorted(Path(sys.argv[1]).glob("*.json")), 0
for answers in files:
    try:
        tensors = gguf.GGUFReader(answers.with_suffix(".gguf")).tensors
        found = [[t.name, t.tensor_type.name, t.shape.tolist()[::-1], int(t.n_bytes)] for t in tensors]
        if found != json.loads(answers.read_text()):
            raise ValueError("other tensors")
        for tensor in tensors:
            gguf.dequantize(tensor.data, tensor.tensor_type)
    except Exception as error:
        wrong += 1
        print(f"{answers.stem}: {type(error).__name__}: {error}")
print(f"{len(files)} files, {wrong} read otherwise")
sys.exit(wrong > 0 or not files)
