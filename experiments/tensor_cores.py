#!/usr/bin/env python3
"""Runs the CUDA C++ of the experts' products on tensor cores, and of attention, on a CPU, and compares them with numpy. It needs
g++ and numpy.

    experiments/tensor_cores.py FOLDER

FOLDER/sources has the sources that `experiments/nvrtc.py FOLDER` wrote; `cuda_emulation.py` says how they run. The exit status is 1
if a kernel does not compute its operation and nothing else, or an operation has no kernel.
"""

import argparse
import itertools
import pathlib
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy

import attention_cases
from cuda_emulation import Kernel, bfloat16, renamed, rounded


class Mixture:
    """Visits of tokens to experts of odd sizes; one expert has no visit, one many."""

    K, TILE, UNITS = 2, 128, [32, 8]

    def __init__(self):
        self.random = numpy.random.default_rng(0)
        counts = [150, 0, 7, 129]
        self.num_experts, self.inner, self.columns = len(counts), 70, 150
        self.num_visits = sum(counts)
        self.order = self.random.permutation(self.num_visits).astype(numpy.int32)
        self.starts = numpy.concatenate([[0], numpy.cumsum(counts)]).astype(numpy.int32)

    def numbers(self, *shape: int) -> numpy.ndarray:
        return self.random.uniform(-1, 1, shape).astype(numpy.float32)

    def rows(self, width: int, divisor: int) -> tuple[numpy.ndarray, numpy.ndarray]:
        """A matrix in memory, and its rows at the places of the visits. Kernels with another divisor find rows in it too."""
        x = self.numbers(self.num_visits, width)
        return x, rounded(x[self.order // divisor] if divisor else x)

    def ranges(self):
        return enumerate(zip(self.starts, self.starts[1:]))

    def product(self, kernel: Kernel, divisor: int, is_transposed: bool, is_added: bool) -> float:
        """The largest difference from numpy."""
        x, rows = self.rows(self.inner, divisor)
        stack = self.numbers(self.num_experts, *((self.columns, self.inner) if is_transposed else (self.inner, self.columns)))
        y = self.numbers(self.num_visits, self.columns)
        expected = y.copy() if is_added else numpy.zeros_like(y)
        for expert, (start, end) in self.ranges():
            matrix = rounded(stack[expert])
            expected[start:end] += rows[start:end] @ (matrix.T if is_transposed else matrix)
        tiles = self.num_visits // self.TILE + self.num_experts
        arrays = [x, bfloat16(stack), self.order, self.starts, y]
        kernel.launch(arrays, [self.num_experts, self.inner, self.columns], [-(-self.columns // self.TILE), tiles], self.UNITS)
        return float(numpy.abs(y - expected).max())

    def outer(self, kernel: Kernel, divisor_a: int, divisor_b: int) -> float:
        """The largest difference from numpy."""
        (a, rows_a), (b, rows_b) = self.rows(self.inner, divisor_a), self.rows(self.columns, divisor_b)
        y = self.numbers(self.num_experts, self.inner, self.columns)
        expected = numpy.stack([rows_a[start:end].T @ rows_b[start:end] for _, (start, end) in self.ranges()])
        grid = [-(-self.columns // self.TILE), -(-self.inner // self.TILE), self.num_experts]
        kernel.launch([a, b, self.order, self.starts, y], [self.inner, self.columns], grid, self.UNITS)
        return float(numpy.abs(y - expected).max())


# What the forward and backward pass launch: the divisor of rows, whether matrices are transposed, whether a sum is added to; and the
# divisors of both factors.
PRODUCTS = [(2, True, False), (0, True, False), (2, False, False), (0, False, False), (0, False, True)]
OUTERS = [(0, 2), (2, 0)]
TOLERANCE = 1e-4


def distinct(sources: pathlib.Path, pattern: str) -> list[tuple[str, str]]:
    """The names of kernels and their sources."""
    found = {(file.name.split(".")[3], renamed(file.read_text())) for file in sources.glob(pattern)}
    return sorted(found)


def isolated(check: Callable, *arguments):
    """What a check returns, or none if it ends the process, as a kernel that misses a barrier does."""
    with ProcessPoolExecutor(1) as process:
        try:
            return process.submit(check, *arguments).result()
        except BrokenProcessPool:
            return None


def differences(kind: str, variants: list[tuple], source: str, folder: pathlib.Path) -> dict[tuple, float]:
    kernel = Kernel(source, folder)
    return {variant: getattr(Mixture(), kind)(kernel, *variant) for variant in variants}


def check_experts(sources: pathlib.Path, folder: pathlib.Path) -> bool:
    found: dict[str, set] = {"product": set(), "outer": set()}
    unknown = 0
    kernels = distinct(sources, "*.expert_mlp.*_on_tensor_cores.*.cu")
    for _, source in kernels:
        kind = "outer" if "multiply_outer" in source else "product"
        variants = itertools.product((0, 2), (0, 2)) if kind == "outer" else itertools.product((0, 2), (False, True), (False, True))
        of_variants = isolated(differences, kind, list(variants), source, folder) or {None: numpy.inf}
        close = [variant for variant, difference in of_variants.items() if difference <= TOLERANCE]
        unknown += len(close) != 1
        found[kind].update(close)
        others = min((difference for variant, difference in of_variants.items() if variant not in close), default=0)
        print(f"{kind}: {close}, off by {min(of_variants.values()):.1e}; other products by {others:.1f} or more", flush=True)
    missing = [variant for variant in PRODUCTS if variant not in found["product"]]
    missing += [variant for variant in OUTERS if variant not in found["outer"]]
    print(f"{len(kernels)} kernels, {unknown} of them do not compute one product; missing: {missing or 'none'}")
    return not unknown and not missing


def ratios(name: str, source: str, heads: tuple[int, int], dtype: str, folder: pathlib.Path) -> tuple[float, float]:
    return attention_cases.ratios(name, Kernel(source, folder), heads, dtype)


def check_attention(sources: pathlib.Path, folder: pathlib.Path) -> bool:
    missing = set(attention_cases.EXPECTED)
    wrong = 0
    names = attention_cases.ON_TENSOR_CORES + attention_cases.OTHERS
    kernels = [(name, source) for name, source in distinct(sources, "*.attention.*.cu") if name in names]
    for name, source in kernels:
        dtype, heads = "bfloat16" if "__nv_bfloat16" in source else "float32", attention_cases.heads_of(name, source)
        kernel = f"{name}, {dtype}, {heads}"
        if (name, dtype, heads) not in attention_cases.EXPECTED:
            wrong += 1
            print(f"{kernel}: no such kernel is known", flush=True)
            continue
        missing.discard((name, dtype, heads))
        off, off_from_others = isolated(ratios, name, source, heads, dtype, folder) or (numpy.inf, 0)
        wrong += not off <= 1 < off_from_others
        print(f"{kernel}: off by {off:.2f} of the bound, from wrong functions by {off_from_others:.1f} or more", flush=True)
    print(f"{len(kernels)} kernels, {wrong} of them wrong or not told apart; missing: {sorted(missing) or 'none'}")
    return not wrong and not missing


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=pathlib.Path)
    sources = arguments.parse_args().folder / "sources"
    with tempfile.TemporaryDirectory() as folder:
        checks = [check(sources, pathlib.Path(folder)) for check in (check_experts, check_attention)]
    return 0 if all(checks) else 1


if __name__ == "__main__":
    sys.exit(main())
