"""CUDA C++ on a CPU: the sources that `nvrtc.py` wrote, compiled by g++ with an emulation of what they use of CUDA.

The units of a cube are coroutines. Which of them runs next is random, so that a missing barrier is likely to show. A barrier that
some units of a plane or cube do not reach ends the process. A fragment of `nvcuda::wmma` is loaded, multiplied and stored by one
unit of its plane. Pointers to fragments have to be aligned as CUDA demands.
"""

import ctypes
import pathlib
import re
import subprocess

import numpy

EMULATION = r"""
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <random>
#include <ucontext.h>
#include <vector>

#define __global__
#define __device__
#define __shared__
#define __grid_constant__
#define __align__(bytes)
#define __launch_bounds__(...)

struct dim3 { unsigned x, y, z; };
static dim3 threadIdx, blockIdx, blockDim, gridDim;
const unsigned PLANE = 32, warpSize = PLANE;

// Of a number and none, the number, as CUDA's.
static float max(float a, float b) { return std::fmax(a, b); }
static float min(float a, float b) { return std::fmin(a, b); }
template <typename T> T max(T a, T b) { return a < b ? b : a; }
template <typename T> T min(T a, T b) { return b < a ? b : a; }

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
// Any one of a plane.
static bool has_fragments() { return threadIdx.x % PLANE == 13; }
static void check_alignment(const void* pointer, size_t stride_bytes) {
    if (reinterpret_cast<uintptr_t>(pointer) % 32 || stride_bytes % 16) std::abort();
}
template <typename U, typename T> void load_matrix_sync(fragment<U, 16, 16, 16, T>& to, const T* from, unsigned stride, layout_t layout) {
    check_alignment(from, stride * sizeof(T));
    if (!has_fragments()) return;
    for (int i = 0; i < 16; i++) for (int j = 0; j < 16; j++) {
        to.at[i][j] = from[layout == mem_row_major ? i * stride + j : j * stride + i];
    }
}
template <typename U, typename T> void load_matrix_sync(fragment<U, 16, 16, 16, T, row_major>& to, const T* from, unsigned stride) {
    check_alignment(from, stride * sizeof(T));
    if (!has_fragments()) return;
    for (int i = 0; i < 16; i++) for (int j = 0; j < 16; j++) to.at[i][j] = from[i * stride + j];
}
template <typename U, typename T> void load_matrix_sync(fragment<U, 16, 16, 16, T, col_major>& to, const T* from, unsigned stride) {
    check_alignment(from, stride * sizeof(T));
    if (!has_fragments()) return;
    for (int i = 0; i < 16; i++) for (int j = 0; j < 16; j++) to.at[i][j] = from[j * stride + i];
}
template <typename A, typename B, typename C> void mma_sync(C& d, const A& a, const B& b, const C& c) {
    if (!has_fragments()) return;
    for (int i = 0; i < 16; i++) for (int j = 0; j < 16; j++) {
        float sum = c.at[i][j];
        for (int k = 0; k < 16; k++) sum += a.at[i][k] * b.at[k][j];
        d.at[i][j] = sum;
    }
}
template <typename C> void store_matrix_sync(float* to, const C& from, unsigned stride, layout_t layout) {
    check_alignment(to, stride * sizeof(float));
    if (!has_fragments()) return;
    for (int i = 0; i < 16; i++) for (int j = 0; j < 16; j++) {
        to[layout == mem_row_major ? i * stride + j : j * stride + i] = from.at[i][j];
    }
}
} }

enum State { RUNS, AT_PLANE, AT_CUBE, ENDED };
static ucontext_t scheduler;
static std::vector<ucontext_t> units;
static std::vector<State> states;
static unsigned running;
static void wait(State barrier) {
    states[running] = barrier;
    swapcontext(&units[running], &scheduler);
}
static void __syncthreads() { wait(AT_CUBE); }
static void __syncwarp() { wait(AT_PLANE); }

static uint32_t exchanged[1024];
static unsigned __activemask() { return ~0u; }
template <typename T> T __shfl_xor_sync(unsigned, T value, unsigned mask) {
    static_assert(sizeof(T) == 4);
    std::memcpy(&exchanged[running], &value, 4);
    __syncwarp();
    std::memcpy(&value, &exchanged[running ^ mask], 4);
    __syncwarp();
    return value;
}
static bool __any_sync(unsigned, bool value) {
    exchanged[running] = value;
    __syncwarp();
    bool any = false;
    for (unsigned i = 0; i < PLANE; i++) any |= exchanged[running / PLANE * PLANE + i];
    __syncwarp();
    return any;
}
"""

RUN = r"""
static void* const* buffers;
static const info_st* info;
static void unit() {
    KERNEL(BUFFERS *info);
    states[running] = ENDED;
}

// Whether all units from `first` to `end` that go on are at this barrier, which they then leave.
static bool leave(unsigned first, unsigned end, State barrier) {
    bool any = false;
    for (unsigned i = first; i < end; i++) {
        if (states[i] != barrier && states[i] != ENDED) return false;
        any |= states[i] == barrier;
    }
    for (unsigned i = first; i < end; i++) if (states[i] == barrier) states[i] = RUNS;
    return any;
}

extern "C" void run(void* const* of_buffers, const void* of_info, const unsigned* grid, const unsigned* block) {
    const size_t stack = 1 << 19;
    buffers = of_buffers;
    info = static_cast<const info_st*>(of_info);
    const unsigned count = block[0] * block[1];
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], 1};
    std::vector<char> stacks(count * stack);
    std::minstd_rand random;
    std::vector<unsigned> order(count);
    for (unsigned i = 0; i < count; i++) order[i] = i;
    for (blockIdx.z = 0; blockIdx.z < grid[2]; blockIdx.z++)
    for (blockIdx.y = 0; blockIdx.y < grid[1]; blockIdx.y++)
    for (blockIdx.x = 0; blockIdx.x < grid[0]; blockIdx.x++) {
        units.assign(count, ucontext_t());
        states.assign(count, RUNS);
        std::memset(unaligned, 0xff, sizeof unaligned);
        for (unsigned i = 0; i < count; i++) {
            getcontext(&units[i]);
            units[i].uc_stack.ss_sp = &stacks[i * stack];
            units[i].uc_stack.ss_size = stack;
            units[i].uc_link = &scheduler;
            makecontext(&units[i], unit, 0);
        }
        for (bool goes_on = true; goes_on;) {
            std::shuffle(order.begin(), order.end(), random);
            for (unsigned i : order) {
                if (states[i] != RUNS) continue;
                running = i;
                threadIdx = {i % block[0], i / block[0], 0};
                swapcontext(&scheduler, &units[i]);
            }
            goes_on = false;
            for (unsigned first = 0; first < count; first += PLANE) {
                goes_on |= leave(first, std::min(first + PLANE, count), AT_PLANE);
            }
            goes_on |= leave(0, count, AT_CUBE);
            for (State state : states) if (!goes_on && state != ENDED) std::abort();
        }
    }
}
"""


class Kernel:
    """A kernel that can be launched on the CPU."""

    def __init__(self, source: str, folder: pathlib.Path):
        source = re.sub(r"^#include .*$|^typedef (un)?signed .*;$", "", source, flags=re.MULTILINE)
        name, parameters = re.search(r"__global__.* (\w+)\((.*)\) \{", source).groups()
        *pointers, _ = parameters.split(",")
        types = [re.sub(r"(const)? __restrict__ \w+", "", pointer).strip() for pointer in pointers]
        buffers = "".join(f"static_cast<{of}>(buffers[{at}]), " for at, of in enumerate(types))
        run = RUN.replace("KERNEL", name).replace("BUFFERS", buffers)
        shared = re.search(r"extern __shared__ __align__\((\d+)\) char (\w+)\[\]", source)
        alignment, shared = shared.groups() if shared else (16, "none")
        # The largest that a cube has, and no better aligned than the kernel demands.
        memory = f"alignas(128) char unaligned[227 << 10]; extern char {shared}[];"
        place = f'asm(".globl {shared}\\n.set {shared}, unaligned + {alignment}");'
        text = f"{EMULATION}\nextern \"C\" {{ {memory} }}\n{place}\n{source}\n{run}"
        # A library of the same path would not be loaded again.
        library = folder / f"{name}_{len(list(folder.iterdir()))}.so"
        code = library.with_suffix(".cpp")
        code.write_text(text)
        subprocess.run(["g++", "-O1", "-w", "-shared", "-fPIC", "-o", library, code], check=True)
        self.library = ctypes.CDLL(str(library))
        fields = re.search(r"struct info_st \{(.*?)\}", source, flags=re.DOTALL).group(1)
        self.fields = re.findall(r"(\w+)\[(\d+)\];", fields)

    def launch(self, arrays: list[numpy.ndarray], scalars: list[int | float], grid: list[int], block: list[int]) -> None:
        """Scalars are in the order of the kernel's parameters; floats are apart from the rest in its struct."""
        info = []
        for name, size in self.fields:
            kind = float if name == "scalars_f32" else int
            values = [array.size for array in arrays] if name == "static_meta" else [x for x in scalars if type(x) is kind]
            values = numpy.array(values, numpy.float32 if kind is float else numpy.uint32).view(numpy.uint32)
            info.append(numpy.concatenate([values, numpy.zeros(int(size) - len(values), numpy.uint32)]))
        info = numpy.concatenate(info)
        assert all(array.flags.c_contiguous for array in arrays)
        buffers = (ctypes.c_void_p * len(arrays))(*[array.ctypes.data for array in arrays])
        grid, block = ((ctypes.c_uint * 3)(*counts, *[1] * (3 - len(counts))) for counts in (grid, block))
        self.library.run(buffers, info.ctypes.data_as(ctypes.c_void_p), grid, block)


def renamed(source: str) -> str:
    """With values and functions numbered in their order: sources of one kernel differ in such names."""
    names: dict[str, str] = {}
    source = re.sub(r"\b([a-z]\w*?)_[0-9a-f]{8}\b", r"\1", source)
    return re.sub(r"\bv\d+", lambda name: names.setdefault(name.group(), f"v{len(names)}"), source)


def bfloat16(x: numpy.ndarray) -> numpy.ndarray:
    """The bits of the nearest numbers."""
    bits = x.astype(numpy.float32).view(numpy.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(numpy.uint16)


def widened(bits: numpy.ndarray) -> numpy.ndarray:
    """The numbers of such bits."""
    return (bits.astype(numpy.uint32) << 16).view(numpy.float32)


def rounded(x: numpy.ndarray) -> numpy.ndarray:
    return widened(bfloat16(x))
