"""The rows of the comparison, with a lower bound on the FLOPs and bytes of each."""

from dataclasses import dataclass

from models import Models

DENSE_PEERS = ("llama.cpp", "PyTorch", "candle")
QUANTIZED = ("q8_0", "q4_0", "q4_1", "q4_k", "q6_k", "q2_k")
DECODED = 32
"""Decoding steps per sample."""


@dataclass(frozen=True)
class Row:
    """One workload on one model, the same for every contender."""

    name: str
    work: str
    """`prefill` | `decode` | `train`"""
    model: str
    """A name of models.py."""
    weights: str
    """`float32` | `bfloat16` | a type of GGUF"""
    tokens: int
    """Tokens of each sequence's prompt."""
    batch: int = 1
    peers: tuple[str, ...] = DENSE_PEERS
    goal: str = ""

    @property
    def quantized(self) -> bool:
        return self.weights not in ("float32", "bfloat16")

    @property
    def experts(self) -> int:
        return 8 if self.model == "moe" else 0

    @property
    def produced(self) -> int:
        """Tokens produced per sample."""
        return self.batch * (DECODED if self.work == "decode" else self.tokens)

    def request(self, path: str, vocabulary: int, threads: int) -> dict:
        """Request for a worker. A prime stride spreads the ids over the vocabulary."""
        ids = [[(at * 7919 + row * 104729) % vocabulary for at in range(self.tokens)] for row in range(self.batch)]
        steps = [[(at * 7907 + row * 104723) % vocabulary for row in range(self.batch)] for at in range(DECODED)]
        return {"work": self.work, "model": path, "dtype": self.weights, "ids": ids, "moe": self.experts,
                "steps": steps if self.work == "decode" else [], "threads": threads}

    def cost(self, models: Models) -> tuple[float, float]:
        """Lower bound on the FLOPs and bytes of one sample.

        Matrices: two FLOPs a weight and token, the head only where logits are needed. Attention: 4 · heads · head_dim for
        each pair of a query and a key that it sees. Bytes: every weight that a pass uses once, as stored, and the keys and
        values read (in f32 for float32, else in 16 bits); activations are taken to stay in the caches. Training is three
        forward passes with all logits, and AdamW's reading of four and writing of three numbers a parameter.
        """
        c = models.config(self.model)
        layers, hidden, inner, vocabulary = (
            c[key] for key in ("num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size"))
        head_dim = c.get("head_dim") or hidden // c["num_attention_heads"]
        wide, kv = c["num_attention_heads"] * head_dim, c["num_key_value_heads"] * head_dim
        experts, active = c.get("num_local_experts", 1), c.get("num_experts_per_tok", 1)
        mlp, attention, head = 3 * hidden * inner, hidden * (2 * wide + 2 * kv), vocabulary * hidden
        router = hidden * experts if experts > 1 else 0
        number = {"float32": 4, "bfloat16": 2}.get(self.weights)
        all_weights = layers * (attention + experts * mlp + router) + head * (1 if c["tie_word_embeddings"] else 2)

        def passed(tokens: int, seen: int, logits: int) -> float:
            """FLOPs of a forward pass of `tokens` that attend to `seen` keys in total."""
            matrices = layers * (attention + active * mlp + router)
            return 2 * matrices * tokens + 4 * layers * wide * seen + 2 * head * logits

        def read(tokens: int) -> float:
            """Bytes of the weights that a pass reads, with the expected number of distinct experts."""
            met = experts * (1 - (1 - active / experts) ** tokens) if experts > 1 else 1
            if number is None:
                return sum(models.stored_bytes(self.model, self.weights).values())
            return number * (layers * (attention + met * mlp + router) + head)

        triangle = self.tokens * (self.tokens + 1) // 2 * self.batch
        if self.work == "prefill":
            return passed(self.tokens * self.batch, triangle, self.batch), read(self.tokens * self.batch)
        if self.work == "train":
            tokens = self.tokens * self.batch
            return 3 * passed(tokens, triangle, tokens), 7 * 4 * all_weights
        flops = bytes_read = 0.0
        for step in range(DECODED):
            seen = (self.tokens + step + 1) * self.batch
            flops += passed(self.batch, seen, self.batch)
            bytes_read += read(self.batch) + 2 * layers * kv * seen * (number or 2)
        return flops, bytes_read

    def limit_s(self, models: Models, flops_per_s: float, bytes_per_s: float) -> float:
        """Lower bound on the seconds of a sample. Passes overlap compute and reads; the optimizer follows them."""
        flops, bytes_ = self.cost(models)
        both = (flops / flops_per_s, bytes_ / bytes_per_s)
        return sum(both) if self.work == "train" else max(both)


def rows() -> list[Row]:
    """All rows, in the order of the table."""
    out = []
    for model in ("base", "dus"):
        out += [
            Row(f"{model} prefill 512 f32", "prefill", model, "float32", 512, goal="≥ 1.3 × the best peer"),
            Row(f"{model} prefill 512 bf16", "prefill", model, "bfloat16", 512),
            Row(f"{model} decode f32", "decode", model, "float32", 128, goal="≥ 0.95 of the limit"),
            Row(f"{model} decode bf16", "decode", model, "bfloat16", 128, goal="≥ 0.90 of the limit"),
        ]
    for model, kinds in (("base", QUANTIZED), ("aligned", ("q4_k", "q6_k", "q2_k")), ("dus", ("q8_0", "q4_0"))):
        for kind in kinds:
            for work, tokens, goal in (("decode", 128, "≥ 1.5 × llama.cpp"), ("prefill", 512, "≥ 1.3 × llama.cpp")):
                name = f"{model} {work} {'512 ' if work == 'prefill' else ''}{kind}"
                out.append(Row(name, work, model, kind, tokens, peers=("llama.cpp", "candle"), goal=goal))
    for model in ("moe", "wide"):
        peers = ("llama.cpp", "PyTorch") + (("candle",) if model == "wide" else ())
        goal = "≤ 1.10 × the time of `wide`" if model == "moe" else ""
        out += [
            Row(f"{model} prefill 512 f32", "prefill", model, "float32", 512, peers=peers, goal=goal),
            Row(f"{model} decode f32", "decode", model, "float32", 128, peers=peers, goal=goal),
        ]
    for model in ("base", "dus", "moe", "wide"):
        goal = "≥ 1.3 × PyTorch" + (", ≤ 1.10 × the time of `wide`" if model == "moe" else "")
        out.append(Row(f"{model} train 4×256 f32", "train", model, "float32", 256, 4, ("PyTorch",), goal))
    for model in ("base", "moe"):
        for batch in (1, 2, 4, 8, 16, 32):
            out.append(Row(f"{model} batched decode ×{batch} f32", "decode", model, "float32", 64, batch,
                           ("llama.cpp", "PyTorch")))
    for tokens in (128, 512, 2048, 8192):
        out.append(Row(f"base context {tokens} prefill f32", "prefill", "base", "float32", tokens,
                       peers=("llama.cpp", "PyTorch")))
    for tokens in (128, 512, 2048, 8192 - DECODED):
        out.append(Row(f"base context {tokens} decode f32", "decode", "base", "float32", tokens,
                       peers=("llama.cpp", "PyTorch")))
    return out
