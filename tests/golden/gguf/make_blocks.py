"""Blocks of every quantized type that is read, with finite scales, and the numbers that gguf's Python package makes of them.

    pip install gguf numpy safetensors
    python make_blocks.py [COUNT] [PATH]      # 3 blocks a type into blocks.safetensors; seeded: the same bytes each time
"""

import sys
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as Type
from gguf.quants import dequantize
from safetensors.numpy import save_file

# Where the half-precision scales of a block lie, in bytes.
SCALES = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
    "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0],
}

count = int(sys.argv[1]) if len(sys.argv) > 1 else 3
path = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).with_name("blocks.safetensors")
random = np.random.default_rng(7)
arrays = {}
for name, places in SCALES.items():
    blocks = random.integers(0, 256, (count, GGML_QUANT_SIZES[Type[name]][1]), dtype=np.uint8)
    for place in places:
        infinite = blocks[:, place + 1] & 0x7C == 0x7C
        blocks[infinite, place + 1] ^= 0x40
    arrays[f"{name}.blocks"] = blocks
    arrays[f"{name}.numbers"] = dequantize(blocks, Type[name])
    assert np.isfinite(arrays[f"{name}.numbers"]).all()
save_file(arrays, path)
