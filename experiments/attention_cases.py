"""Attention in numpy, with bounds of the rounding of each kernel, and the launches of these kernels."""

import re

import numpy

from cuda_emulation import Kernel, bfloat16, rounded, widened

# Query heads of a key/value head, and their width, of the sources.
HEADS = [(3, 64), (4, 128), (1, 96)]
NUM_KV_HEADS = 2
CHUNK = 128
ON_TENSOR_CORES = ("forward_on_tensor_cores", "of_queries_on_tensor_cores", "of_keys_on_tensor_cores")
OTHERS = ("forward", "of_chunks", "of_queries", "of_keys")
# In float32 heads are those of the models, and no kernel uses tensor cores.
EXPECTED = [(name, "bfloat16", heads) for name in ON_TENSOR_CORES + OTHERS for heads in HEADS]
EXPECTED += [(name, "float32", heads) for name in OTHERS for heads in HEADS[:2]]
# The largest relative errors of a rounding.
BFLOAT16, FLOAT32 = 2.0**-8, 2.0**-24


def heads_of(name: str, source: str) -> tuple[int, int] | None:
    """Query heads of a key/value head, and their width, that a kernel was generated for; none if its source does not say."""
    # Its largest shared array is a tile of vectors, with padding.
    tile, padding = (64, 8) if name in ON_TENSOR_CORES else (16, 1)
    shared = re.findall(r"reinterpret_cast<array<\w+, (\d+)> \*>\(&\w+\[\d+\]\)", source)
    # It multiplies the number of queries by that of heads, unless this is 1.
    num_queries = re.search(rf"(\w+) = \w+\.scalars_usize\[{int(name == 'of_chunks')}\];", source)
    if not shared or not num_queries:
        return None
    factors = set(re.findall(rf"= {num_queries.group(1)} \* (\w+);", source))
    groups = {int(group) for factor in factors for group in re.findall(rf" {factor} = (\d+);", source)} or {1}
    width, rest = divmod(max(map(int, shared)), tile)
    return None if rest or len(groups) != 1 else (groups.pop(), width - padding)


def keys_after(past: int, num_queries: int, window: int) -> list[tuple[int, int]]:
    """The first key that each query sees, and one past the last."""
    return [(max(0, end - window), end) for end in range(past + 1, past + num_queries + 1)]


class Case:
    """Queries, keys and values in float32, and the keys that each query sees; keys that none sees are no numbers."""

    def __init__(self, sequences: list[list[tuple[int, int]]], heads: tuple[int, int], dtype: str):
        self.group, self.head_dim = heads
        self.is_bfloat16 = dtype == "bfloat16"
        self.batch, self.num_queries = len(sequences), max(map(len, sequences))
        # Odd, and more than are seen.
        self.capacity = max(end for sequence in sequences for _, end in sequence) + 2
        self.bounds = numpy.zeros((self.batch, self.num_queries, 2), numpy.int32)
        for bounds, sequence in zip(self.bounds, sequences):
            bounds[: len(sequence)] = sequence
        random = numpy.random.default_rng(0)

        def numbers(*shape: int) -> numpy.ndarray:
            x = random.uniform(-1, 1, shape).astype(numpy.float32)
            return rounded(x) if self.is_bfloat16 else x

        of_queries = (self.batch, self.num_queries, NUM_KV_HEADS * self.group, self.head_dim)
        of_keys = (self.batch, self.capacity, NUM_KV_HEADS, self.head_dim)
        self.q, self.grad = 4 * numbers(*of_queries), numbers(*of_queries)
        self.k, self.v = numbers(*of_keys), numbers(*of_keys)
        # In the last sequence all scores are about 0, but that of a late key about 9: what came before it is rescaled, and of
        # large values enough remains.
        self.q[-1], self.k[-1] = numbers(*of_queries[1:]) / 8 + 1, numbers(*of_keys[1:]) / 8
        self.k[-1, 70] += 9 / self.head_dim**0.5
        self.v[-1, :70] *= 32
        if self.is_bfloat16:
            self.q, self.k, self.v = map(rounded, (self.q, self.k, self.v))

    def array(self, x: numpy.ndarray) -> numpy.ndarray:
        """In memory, as a kernel reads it."""
        return bfloat16(x) if self.is_bfloat16 else numpy.ascontiguousarray(x)

    def spoilt(self, x: numpy.ndarray) -> numpy.ndarray:
        """Keys or values, in memory."""
        x = x.copy()
        for of_sequence, bounds in zip(x, self.bounds):
            of_sequence[bounds.max() :] = numpy.nan
        return self.array(x)

    def empty(self, x: numpy.ndarray) -> numpy.ndarray:
        return self.array(numpy.full_like(x, numpy.nan))

    def reference(
        self, rounds_weights: bool, before: int = 0, after: int = 0, scale: float = 1.0, shift: int = 0
    ) -> dict[str, list[numpy.ndarray]]:
        """Results, and bounds of the errors of each before it is rounded; with more keys before and after those that are seen, a
        factor of the scale, and heads of the keys that are shifted, another function."""
        scale /= self.head_dim**0.5
        of_weight = BFLOAT16 if rounds_weights else 0.0
        # Terms of a sum, with some more for exponentials and quotients.
        exact = FLOAT32 * (self.head_dim + self.capacity + 8)
        shapes = {"y": self.q, "dq": self.q, "dk": self.k, "dv": self.v, "logsumexp": self.q[..., 0], "along": self.q[..., 0]}
        found = {name: [numpy.zeros(x.shape), numpy.zeros(x.shape)] for name, x in shapes.items()}
        keys = numpy.arange(self.capacity)
        for b in range(self.batch):
            for head in range(NUM_KV_HEADS * self.group):
                kv_head = (head // self.group + shift) % NUM_KV_HEADS
                q, grad = (x[b, :, head].astype(float) for x in (self.q, self.grad))
                k, v = (x[b, :, kv_head].astype(float) for x in (self.k, self.v))
                first, end = self.bounds[b].T[..., None]
                is_seen = (keys >= first - before) & (keys < end + after * (end > 0))
                scores = numpy.where(is_seen, q @ k.T * scale, -numpy.inf)
                has_keys = is_seen.any(1)
                logsumexp = numpy.where(has_keys, numpy.log(numpy.exp(scores).sum(1) + ~has_keys), 0)
                p = numpy.exp(scores - logsumexp[:, None])
                noise = exact * (abs(q) @ abs(k).T * scale + abs(logsumexp)[:, None] + 1)
                of_p = p * (of_weight + noise)
                y = p @ v
                along, dp = (grad * y).sum(1)[:, None], grad @ v.T
                ds = p * (dp - along)
                of_ds = of_weight * abs(ds) + noise * abs(ds) + exact * p * (abs(grad) @ abs(v).T + abs(along))
                results = {
                    "y": (y, of_p @ abs(v)),
                    "dq": (scale * ds @ k, scale * of_ds @ abs(k)),
                    "dk": (scale * ds.T @ q, scale * of_ds.T @ abs(q)),
                    "dv": (p.T @ grad, of_p.T @ abs(grad)),
                    "logsumexp": (logsumexp, noise.max(1) * has_keys),
                    "along": (along[:, 0], exact * (abs(grad) * abs(y)).sum(1)),
                }
                for name, pair in results.items():
                    at = (b, slice(None), kv_head if name in ("dk", "dv") else head)
                    for sums, x in zip(found[name], pair):
                        sums[at] += x
        return found

    def sizes(self, has_tensor_cores: bool, bounds_stride: int) -> list[int | float]:
        units = 0 if has_tensor_cores else 256
        return [self.num_queries, self.capacity, NUM_KV_HEADS, bounds_stride, units, self.head_dim**-0.5]

    def combined(self, parts: numpy.ndarray, totals: numpy.ndarray, tile: int, num_chunks: int) -> numpy.ndarray:
        """The result from those of chunks of keys."""
        y = numpy.zeros(self.q.shape)
        tiles = -(-self.num_queries * self.group // tile)
        for b, query, head in numpy.ndindex(self.q.shape[:3]):
            first, end = self.bounds[b, query]
            row = query * self.group + head % self.group
            of_tile = (b * NUM_KV_HEADS + head // self.group) * tiles + row // tile
            chunks = numpy.arange(first // CHUNK, -(-end // CHUNK))
            if len(chunks):
                at = (of_tile * num_chunks + chunks % num_chunks) * tile + row % tile
                weights = numpy.exp(totals[at, 0] - totals[at, 0].max())
                y[b, query, head] = weights @ parts[at] / (weights @ totals[at, 1])
        return y

    def grid(self, count: int, tile: int) -> list[int]:
        return [-(-count // tile), NUM_KV_HEADS, self.batch]


def launched(name: str, kernel: Kernel, case: Case, has_one_mask: bool) -> dict[str, numpy.ndarray]:
    """The results of a kernel, of which those in bfloat16 are bits."""
    has_tensor_cores = name in ON_TENSOR_CORES
    tile, units = (64, [32, 4]) if has_tensor_cores else (16, [16, 16])
    sizes = case.sizes(has_tensor_cores, 0 if has_one_mask else 2 * case.num_queries)
    q, grad, k, v = case.array(case.q), case.array(case.grad), case.spoilt(case.k), case.spoilt(case.v)
    num_rows, of_rows = case.num_queries * case.group, case.q.shape[:3]
    if name == "of_chunks":
        num_chunks, grid = -(-case.capacity // CHUNK), case.grid(num_rows, tile)
        count = grid[0] * grid[1] * grid[2] * num_chunks * tile
        parts, totals = (numpy.full((count, width), numpy.nan, numpy.float32) for width in (case.head_dim, 2))
        grid[0] *= num_chunks
        kernel.launch([q, k, v, case.bounds, parts, totals], [num_chunks, *sizes], grid, units)
        return {"y": case.combined(parts.astype(float), totals.astype(float), tile, num_chunks)}
    if name.startswith(("of_queries", "of_keys")):
        exact = case.reference(False)
        rows = numpy.stack([exact[which][0] for which in ("logsumexp", "along")], -1).astype(numpy.float32)
        inputs = [grad, q, k, v, case.bounds, rows]
        gradients = {"dq": case.empty(case.q)} if "queries" in name else {"dk": case.empty(case.k), "dv": case.empty(case.v)}
        count = num_rows if "queries" in name else case.capacity
        kernel.launch([*inputs, *gradients.values()], sizes, case.grid(count, tile), units)
        return gradients
    y, logsumexp = case.empty(case.q), numpy.full(of_rows, numpy.nan, numpy.float32)
    kernel.launch([q, k, v, case.bounds, y, logsumexp], sizes, case.grid(num_rows, tile), units)
    return {"y": y, "logsumexp": logsumexp}


def ratios(name: str, kernel: Kernel, heads: tuple[int, int], dtype: str) -> tuple[float, float]:
    """The largest error of a kernel, and the same from the nearest of some wrong functions, in units of the bounds."""
    documents = keys_after(0, 20, 99) + [(20, end) for end in range(21, 46)]
    cases = [
        # Two documents in a row; a window after cached keys; fewer queries than the others, after cached keys.
        (Case([documents, keys_after(84, 45, 50), keys_after(101, 13, 999)], heads, dtype), False),
        (Case([keys_after(0, 77, 999)] * 2, heads, dtype), True),
    ]
    rounds_weights = name in ON_TENSOR_CORES
    all_results = [launched(name, kernel, *case) for case in cases]

    def largest(**wrong: float) -> float:
        found = 0.0
        for (case, _), results in zip(cases, all_results):
            reference = case.reference(rounds_weights, **wrong)
            for which, result in results.items():
                expected, bound = reference[which]
                is_bfloat16 = result.dtype == numpy.uint16
                # The bounds are of first order.
                bound = 1.05 * (bound + (BFLOAT16 if is_bfloat16 else FLOAT32) * abs(expected)) + 1e-30
                result = widened(result) if is_bfloat16 else result
                ratio = numpy.nan_to_num(abs(result - expected) / bound, nan=numpy.inf)
                found = max(found, float(ratio.max()))
        return found

    return largest(), min(largest(before=1), largest(after=1), largest(scale=1.02), largest(shift=1))
