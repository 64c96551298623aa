"""Makes the files that the tests of reading GGUF read, and what gguf-py and transformers read of them.

    $ pip install transformers==5.23.0 torch==2.15.0 gguf==0.19.0 safetensors==0.8.0
    $ python make_gguf_read_golden.py

- `dense.gguf`: a tiny Llama in eight number types; `dense.safetensors`: two texts and the logits that transformers computes.
- `merged.gguf`, `apart.gguf`: one tiny mixture of experts in 14 number types, its experts in one tensor a layer or in one
  a matrix.
- `tensors.json`: for every weight of these, under its name in Hugging Face's files, the type, the shape and SHA-256 of the
  bytes: F32, F16 and BF16 as they are, others as gguf-py dequantizes them, rows of q_proj and k_proj as transformers
  orders them.
"""

import hashlib
import json
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as T
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM
from transformers.modeling_gguf_pytorch_utils import LlamaTensorProcessor

HERE = Path(__file__).parent
WHOLE = {T.F32: "float32", T.F16: "float16", T.BF16: "bfloat16"}
# Where the upper bytes of the scales stand in a block of the types that gguf-py cannot quantize to.
SCALES = {T.Q2_K: [81, 83], T.Q3_K: [109], T.Q4_K: [1, 3], T.Q5_K: [1, 3], T.Q6_K: [209], T.IQ4_NL: [1], T.IQ4_XS: [1]}
OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
LAYER = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm", "ffn_gate_inp": "block_sparse_moe.gate",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
EXPERT = {"ffn_gate": "w1", "ffn_up": "w3", "ffn_down": "w2"}


class Model:
    """Tensors by their names in GGUF: type, shape, packed rows."""

    def __init__(self, seed: int, hidden: int, inner: int, heads: int, kv_heads: int, vocabulary: int):
        self.random, self.hidden, self.inner = np.random.default_rng(seed), hidden, inner
        self.heads, self.kv_heads, self.head, self.vocabulary = heads, kv_heads, 16, vocabulary
        self.tensors: dict[str, tuple[T, tuple, np.ndarray]] = {}

    def add(self, name: str, shape: tuple, ty: T, scale: float = 0.15):
        """Random numbers, or blocks of random bits with small scales."""
        if ty in SCALES:
            numbers, size = gguf.GGML_QUANT_SIZES[ty]
            packed = self.random.integers(0, 256, (*shape[:-1], shape[-1] // numbers, size), dtype=np.uint8)
            packed[..., SCALES[ty]] = packed[..., SCALES[ty]] & 0x83 | 0x08
            packed = packed.reshape(*shape[:-1], -1)
        else:
            numbers = (self.random.standard_normal(shape) * scale).astype(np.float32)
            packed = np.ascontiguousarray(gguf.quantize(numbers, ty)).view(np.uint8)
        self.tensors[f"{name}.weight"] = (ty, shape, packed)

    def norm(self, name: str):
        numbers = (1 + self.random.standard_normal(self.hidden) * 0.1).astype(np.float32)
        self.tensors[f"{name}.weight"] = (T.F32, (self.hidden,), numbers.view(np.uint8))

    def attention(self, n: int, q: T, k: T, v: T, o: T):
        self.norm(f"blk.{n}.attn_norm")
        self.add(f"blk.{n}.attn_q", (self.heads * self.head, self.hidden), q)
        self.add(f"blk.{n}.attn_k", (self.kv_heads * self.head, self.hidden), k)
        self.add(f"blk.{n}.attn_v", (self.kv_heads * self.head, self.hidden), v)
        self.add(f"blk.{n}.attn_output", (self.hidden, self.heads * self.head), o)
        self.norm(f"blk.{n}.ffn_norm")

    def mlp(self, n: int, expert: str, gate: T, up: T, down: T):
        self.add(f"blk.{n}.ffn_gate{expert}", (self.inner, self.hidden), gate)
        self.add(f"blk.{n}.ffn_up{expert}", (self.inner, self.hidden), up)
        self.add(f"blk.{n}.ffn_down{expert}", (self.hidden, self.inner), down)

    def keys(self) -> dict:
        return {
            "block_count": 2, "context_length": 64, "embedding_length": self.hidden, "feed_forward_length": self.inner,
            "attention.head_count": self.heads, "attention.head_count_kv": self.kv_heads, "attention.key_length": self.head,
            "attention.value_length": self.head, "rope.dimension_count": self.head, "rope.freq_base": 500.0,
            "attention.layer_norm_rms_epsilon": 1e-5, "vocab_size": self.vocabulary,
        }  # fmt: skip

    def expected(self) -> dict:
        """Of every weight: type, shape, SHA-256."""
        config = {"num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads}
        result = {}
        for name, (ty, shape, packed) in self.tensors.items():
            words = {T.F32: np.float32, T.F16: np.uint16, T.BF16: np.uint16}
            numbers = packed.view(words[ty]) if ty in WHOLE else gguf.dequantize(packed, ty)
            numbers = np.ascontiguousarray(LlamaTensorProcessor(config).process(numbers, name).weights)
            result[hf_name(name)] = [WHOLE.get(ty, "float32"), shape, hashlib.sha256(numbers.tobytes()).hexdigest()]
        return result


def hf_name(name: str) -> str:
    match name.split(".")[:-1]:
        case ["blk", layer, kind]:
            return f"model.layers.{layer}.{LAYER[kind]}.weight"
        case ["blk", layer, kind, expert]:
            return f"model.layers.{layer}.block_sparse_moe.experts.{expert}.{EXPERT[kind]}.weight"
        case [outer]:
            return f"{OUTER[outer]}.weight"


def write(path: Path, tensors: dict, keys: dict):
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in keys.items():
        add = writer.add_float32 if isinstance(value, float) else writer.add_uint32
        add(f"llama.{key}", value)
    for name, (ty, _, packed) in tensors.items():
        kind = {T.F32: np.float32, T.F16: np.float16}.get(ty, np.uint8)
        writer.add_tensor(name, packed.view(kind), raw_dtype=ty if kind is np.uint8 else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def dense() -> dict:
    model = Model(1, hidden=64, inner=96, heads=4, kv_heads=2, vocabulary=61)
    model.add("token_embd", (61, 64), T.Q8_0, 1.0)
    model.attention(0, q=T.Q4_1, k=T.Q5_0, v=T.F16, o=T.Q4_0)
    model.mlp(0, "", gate=T.Q5_1, up=T.Q8_0, down=T.BF16)
    model.attention(1, q=T.Q8_0, k=T.F32, v=T.Q4_1, o=T.Q5_1)
    model.mlp(1, "", gate=T.F16, up=T.Q4_0, down=T.Q5_0)
    model.norm("output_norm")
    model.add("output", (61, 64), T.Q5_0, 0.3)
    write(HERE / "dense.gguf", model.tensors, model.keys())
    reader = AutoModelForCausalLM.from_pretrained(
        HERE, gguf_file="dense.gguf", dtype=torch.float32, attn_implementation="eager"
    ).eval()
    ids = torch.from_numpy(model.random.integers(0, 61, (2, 26)))
    with torch.no_grad():
        logits = reader(ids).logits.numpy()
    save_file({"input_ids": ids.numpy().astype(np.int32), "logits": logits}, HERE / "dense.safetensors")
    return model.expected()


def mixture() -> dict:
    model = Model(2, hidden=256, inner=32, heads=2, kv_heads=1, vocabulary=16)
    model.add("token_embd", (16, 256), T.Q6_K)
    for n, (attention, mlp) in enumerate([
        ({"q": T.Q4_K, "k": T.Q6_K, "v": T.Q5_K, "o": T.Q8_0}, {"gate": T.Q2_K, "up": T.Q3_K, "down": T.IQ4_NL}),
        ({"q": T.Q3_K, "k": T.F16, "v": T.BF16, "o": T.Q4_1}, {"gate": T.IQ4_XS, "up": T.Q4_K, "down": T.Q5_1}),
    ]):  # fmt: skip
        model.attention(n, **attention)
        model.add(f"blk.{n}.ffn_gate_inp", (2, 256), T.F32)
        model.mlp(n, ".0", **mlp)
        model.mlp(n, ".1", **mlp)
    model.norm("output_norm")
    model.add("output", (16, 256), T.Q4_0)
    keys = model.keys() | {"expert_count": 2, "expert_used_count": 1}
    write(HERE / "apart.gguf", model.tensors, keys)
    merged = {}
    for name, (ty, shape, packed) in model.tensors.items():
        if ".0.weight" in name:
            second = model.tensors[name.replace(".0.weight", ".1.weight")][2]
            merged[name.replace(".0.weight", "_exps.weight")] = (ty, (2, *shape), np.stack([packed, second]))
        elif ".1.weight" not in name:
            merged[name] = (ty, shape, packed)
    write(HERE / "merged.gguf", merged, keys)
    return model.expected()


answers = {"dense": dense(), "mixture": mixture()}
(HERE / "tensors.json").write_text(json.dumps(answers, separators=(",", ":")) + "\n")
