#!/usr/bin/env python3
"""Runs the CUDA C++ of the experts' products on tensor cores on a CPU, and compares them with numpy. It needs g++ and numpy.

    experiments/tensor_cores.py FOLDER

FOLDER/sources has the sources that `experiments/nvrtc.py FOLDER` wrote. The units of a cube are coroutines that change places at
barriers, and each has whole fragments of `nvcuda::wmma`: races within a plane are not found. Pointers to fragments have to be aligned.
The exit status is 1 if a kernel does not compute exactly one of the products, or a product has no kernel.
"""

import argparse
import ctypes
import itertools
import pathlib
import re
import subprocess
import sys
import tempfile

import numpy

EMULATION = r"""
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <ucontext.h>
#include <vector>

#define __global__
#define __device__
#define __shared__
#define __grid_constant__
#define __align__(bytes)
#define __launch_bounds__(...)

struct dim3 { unsigned x, y, z; };
static dim3 threadIdx, blockIdx;

struct __nv_bfloat16 {
    uint16_t bits;
    __nv_bfloat16() = default;
    __nv_bfloat16(int value) : __nv_bfloat16(float(value)) {}
    __nv_bfloat16(float value) {
        uint32_t all;
        std::memcpy(&all, &value, 4);
        bits = (all + 0x7fff + (all >> 16 & 1)) >> 16;
    }
    operator float() const {
        uint32_t all = uint32_t(bits) << 16;
        float value;
        std::memcpy(&value, &all, 4);
        return value;
    }
};

namespace nvcuda { namespace wmma {
struct matrix_a; struct matrix_b; struct accumulator; struct row_major; struct col_major;
enum layout_t { mem_row_major, mem_col_major };
template <typename Use, int M, int N, int K, typename T, typename Layout = void> struct fragment { float at[16][16]; };
template <typename U, typename T> void fill_fragment(fragment<U, 16, 16, 16, T>& to, float value) {
    for (auto& row : to.at) for (auto& element : row) element = value;
}
static void check_alignment(const void* pointer, size_t stride_bytes) {
    if (reinterpret_cast<uintptr_t>(pointer) % 32 || stride_bytes % 16) std::abort();
}
template <typename U, typename T> void load_matrix_sync(fragment<U, 16, 16, 16, T, row_major>& to, const T* from, unsigned stride) {
    check_alignment(from, stride * sizeof(T));
    for (int i = 0; i < 16; i++) for (int j = 0; j < 16; j++) to.at[i][j] = from[i * stride + j];
}
template <typename U, typename T> void load_matrix_sync(fragment<U, 16, 16, 16, T, col_major>& to, const T* from, unsigned stride) {
    check_alignment(from, stride * sizeof(T));
    for (int i = 0; i < 16; i++) for (int j = 0; j < 16; j++) to.at[i][j] = from[j * stride + i];
}
template <typename A, typename B, typename C> void mma_sync(C& d, const A& a, const B& b, const C& c) {
    for (int i = 0; i < 16; i++) for (int j = 0; j < 16; j++) {
        float sum = c.at[i][j];
        for (int k = 0; k < 16; k++) sum += a.at[i][k] * b.at[k][j];
        d.at[i][j] = sum;
    }
}
template <typename C> void store_matrix_sync(float* to, const C& from, unsigned stride, layout_t layout) {
    check_alignment(to, stride * sizeof(float));
    for (int i = 0; i < 16; i++) for (int j = 0; j < 16; j++) {
        to[layout == mem_row_major ? i * stride + j : j * stride + i] = from.at[i][j];
    }
}
} }

static ucontext_t scheduler;
static std::vector<ucontext_t> units;
static unsigned running;
static void __syncthreads() { swapcontext(&units[running], &scheduler); }
static void __syncwarp() { __syncthreads(); }
"""

RUN = r"""
static void* const* buffers;
static const info_st* info;
static std::vector<bool> has_ended;
static void unit() {
    KERNEL(BUFFERS *info);
    has_ended[running] = true;
}

extern "C" void run(void* const* of_buffers, const void* of_info, const unsigned* grid, const unsigned* block) {
    const size_t stack = 1 << 17;
    buffers = of_buffers;
    info = static_cast<const info_st*>(of_info);
    const unsigned count = block[0] * block[1];
    std::vector<char> stacks(count * stack);
    for (blockIdx.z = 0; blockIdx.z < grid[2]; blockIdx.z++)
    for (blockIdx.y = 0; blockIdx.y < grid[1]; blockIdx.y++)
    for (blockIdx.x = 0; blockIdx.x < grid[0]; blockIdx.x++) {
        units.assign(count, ucontext_t());
        has_ended.assign(count, false);
        std::memset(unaligned, 0xff, sizeof unaligned);
        for (unsigned i = 0; i < count; i++) {
            getcontext(&units[i]);
            units[i].uc_stack.ss_sp = &stacks[i * stack];
            units[i].uc_stack.ss_size = stack;
            units[i].uc_link = &scheduler;
            makecontext(&units[i], unit, 0);
        }
        for (bool goes_on = true; goes_on;) {
            goes_on = false;
            for (running = 0; running < count; running++) {
                if (has_ended[running]) continue;
                goes_on = true;
                threadIdx = {running % block[0], running / block[0], 0};
                swapcontext(&scheduler, &units[running]);
            }
        }
    }
}
"""


def compiled(source: str, folder: pathlib.Path) -> ctypes.CDLL:
    """A library whose `run` launches the kernel."""
    source = re.sub(r"^#include .*$|^typedef (un)?signed .*;$", "", source, flags=re.MULTILINE)
    name, parameters = re.search(r"__global__.* (\w+)\((.*)\) \{", source).groups()
    shared = re.search(r"extern __shared__ .*char (\w+)\[\]", source).group(1)
    *pointers, _ = parameters.split(",")
    types = [re.sub(r"(const)? __restrict__ \w+", "", pointer).strip() for pointer in pointers]
    buffers = "".join(f"static_cast<{of}>(buffers[{at}]), " for at, of in enumerate(types))
    run = RUN.replace("KERNEL", name).replace("BUFFERS", buffers)
    alignment = re.search(r"extern __shared__ __align__\((\d+)\)", source).group(1)
    # As large as every GPU has it without being asked, and no better aligned than the kernel demands.
    memory = f"alignas(128) char unaligned[48 << 10]; extern char {shared}[];"
    place = f'asm(".globl {shared}\\n.set {shared}, unaligned + {alignment}");'
    text = f"{EMULATION}\nextern \"C\" {{ {memory} }}\n{place}\n{source}\n{run}"
    # A library of the same path would not be loaded again.
    library = folder / f"{name}_{len(list(folder.iterdir()))}.so"
    code = library.with_suffix(".cpp")
    code.write_text(text)
    command = ["g++", "-O1", "-w", "-shared", "-fPIC", "-o", library, code]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(library))


def renamed(source: str) -> str:
    """With values and functions numbered in their order: sources of one kernel differ in such names."""
    names: dict[str, str] = {}
    source = re.sub(r"\b(multiply\w*?)_[0-9a-f]{8}\b", r"\1", source)
    return re.sub(r"\bv\d+", lambda name: names.setdefault(name.group(), f"v{len(names)}"), source)


def bfloat16(x: numpy.ndarray) -> numpy.ndarray:
    """The bits of the nearest numbers."""
    bits = x.astype(numpy.float32).view(numpy.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(numpy.uint16)


def rounded(x: numpy.ndarray) -> numpy.ndarray:
    return (bfloat16(x).astype(numpy.uint32) << 16).view(numpy.float32)


class Mixture:
    """Visits of tokens to experts of odd sizes; one expert has no visit, one many."""

    K, TILE = 2, 128

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
        """A matrix in memory, and its rows at the places of the visits."""
        x = self.numbers(self.num_visits // divisor if divisor else self.num_visits, width)
        return x, rounded(x[self.order // divisor] if divisor else x)

    def ranges(self):
        return enumerate(zip(self.starts, self.starts[1:]))

    def launch(self, library: ctypes.CDLL, arrays: list[numpy.ndarray], scalars: list[int], grid: list[int]) -> None:
        buffers = (ctypes.c_void_p * len(arrays))(*[array.ctypes.data for array in arrays])
        scalars = scalars + [0] * (-len(scalars) % 2)
        info = (ctypes.c_uint32 * 16)(*scalars, *[array.size for array in arrays])
        library.run(buffers, info, (ctypes.c_uint * 3)(*grid), (ctypes.c_uint * 3)(32, 8, 1))

    def product(self, library: ctypes.CDLL, divisor: int, is_transposed: bool, is_added: bool) -> float:
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
        self.launch(library, arrays, [self.num_experts, self.inner, self.columns], [-(-self.columns // self.TILE), tiles, 1])
        return float(numpy.abs(y - expected).max())

    def outer(self, library: ctypes.CDLL, divisor_a: int, divisor_b: int) -> float:
        """The largest difference from numpy."""
        (a, rows_a), (b, rows_b) = self.rows(self.inner, divisor_a), self.rows(self.columns, divisor_b)
        y = self.numbers(self.num_experts, self.inner, self.columns)
        expected = numpy.stack([rows_a[start:end].T @ rows_b[start:end] for _, (start, end) in self.ranges()])
        grid = [-(-self.columns // self.TILE), -(-self.inner // self.TILE), self.num_experts]
        self.launch(library, [a, b, self.order, self.starts, y], [self.inner, self.columns], grid)
        return float(numpy.abs(y - expected).max())


# What the forward and backward pass launch: the divisor of rows, whether matrices are transposed, whether a sum is added to; and the
# divisors of both factors.
PRODUCTS = [(2, True, False), (0, True, False), (2, False, False), (0, False, False), (0, False, True)]
OUTERS = [(0, 2), (2, 0)]
TOLERANCE = 1e-4


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=pathlib.Path)
    files = (arguments.parse_args().folder / "sources").glob("*.expert_mlp.*_on_tensor_cores.*.cu")
    sources = sorted({renamed(file.read_text()) for file in files})
    found: dict[str, set] = {"product": set(), "outer": set()}
    unknown = 0
    with tempfile.TemporaryDirectory() as folder:
        for source in sources:
            kind = "outer" if "multiply_outer" in source else "product"
            variants = itertools.product((0, 2), (0, 2)) if kind == "outer" else itertools.product((0, 2), (False, True), (False, True))
            library = compiled(source, pathlib.Path(folder))
            differences = {variant: getattr(Mixture(), kind)(library, *variant) for variant in variants}
            close = [variant for variant, difference in differences.items() if difference <= TOLERANCE]
            unknown += len(close) != 1
            found[kind].update(close)
            others = min(difference for variant, difference in differences.items() if variant not in close)
            print(f"{kind}: {close}, off by {min(differences.values()):.1e}; other products by {others:.1f} or more")
    missing = [variant for variant in PRODUCTS if variant not in found["product"]]
    missing += [variant for variant in OUTERS if variant not in found["outer"]]
    print(f"{len(sources)} kernels, {unknown} of them do not compute one product; missing: {missing or 'none'}")
    return 1 if unknown or missing else 0


if __name__ == "__main__":
    sys.exit(main())
