"""Rounds numbers to blocks by ggml's reference implementation.

    pip install llama-cpp-python==0.3.36 numpy
    python make_quantize_golden.py

Writes `values.f32` (blocks of 32 numbers: random ones, and such as are hard to round) with `q8_0.blocks`, `q4_0.blocks` and
`q5_0.blocks`, and `k_values.f32` (blocks of 256) with `q2_k.blocks`, `q4_k.blocks` and `q6_k.blocks`.
"""

import ctypes
from pathlib import Path

import llama_cpp
import numpy

HERE = Path(__file__).parent
ggml = ctypes.CDLL(str(Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so"))

random = numpy.random.default_rng(20_231_223)
blocks = [random.normal(0.0, 10.0 ** random.integers(-4, 3), 32) for _ in range(48)]
blocks += [
    numpy.zeros(32),
    numpy.arange(-16, 16) / 2.0,  # halves
    numpy.arange(32) - 15.5,
    numpy.where(numpy.arange(32) % 2, 1.0, -1.0),  # two largest of either sign
    numpy.where(numpy.arange(32) % 2, -1.0, 1.0),
    (numpy.arange(32) - 16) * 1e-7,  # a scale that is subnormal in half precision
    (numpy.arange(32) - 16) * 1e-10,  # one that is zero
    (numpy.arange(32) - 12) * 1e5,  # one that is large
    (numpy.arange(32) - 127) * 1.0,
    numpy.full(32, -3.0),
]
values = numpy.concatenate(blocks).astype("<f4")
values.tofile(HERE / "values.f32")


def quantize(name, values, block, size):
    out = numpy.zeros(len(values) // block * size, dtype=numpy.uint8)
    function = getattr(ggml, f"quantize_row_{name}_ref")
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    function(values.ctypes.data, out.ctypes.data, len(values))
    out.tofile(HERE / f"{name.lower()}.blocks")


for name, size in [("q8_0", 34), ("q4_0", 18), ("q5_0", 22)]:
    quantize(name, values, 32, size)

# After the draws above, so that those stay what they were.
blocks = [random.normal(random.normal(0.0, 0.5), 10.0 ** random.integers(-3, 2), 256) for _ in range(20)]
blocks += [
    numpy.zeros(256),
    numpy.repeat(random.normal(0.0, 1.0, 16), 16),  # runs of one number
    numpy.abs(random.normal(0.0, 1.0, 256)),  # no negative number
    numpy.where(numpy.arange(256) % 64 < 32, 0.0, random.normal(0.0, 1.0, 256)),  # runs of zeros
]
k_values = numpy.concatenate(blocks).astype("<f4")
k_values.tofile(HERE / "k_values.f32")
for name, size in [("q2_K", 84), ("q4_K", 144), ("q6_K", 210)]:
    quantize(name, k_values, 256, size)
