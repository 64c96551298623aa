"""Rounds numbers to blocks by ggml's reference implementation.

    pip install llama-cpp-python==0.3.36 numpy
    python make_quantize_golden.py

Writes `values.f32` (blocks of 32 numbers: random ones, and such as are hard to round), `q8_0.blocks` and `q4_0.blocks`.
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
for name, size in [("q8_0", 34), ("q4_0", 18)]:
    out = numpy.zeros(len(values) // 32 * size, dtype=numpy.uint8)
    quantize = getattr(ggml, f"quantize_row_{name}_ref")
    quantize.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    quantize(values.ctypes.data, out.ctypes.data, len(values))
    out.tofile(HERE / f"{name}.blocks")
