"""Runs mergekit on the configs of this folder and stores a hash of every tensor that it writes.

    python make_golden.py          # with mergekit 0.1.5 installed; the commands run in this process

Sources are tiny random models, made by the formula in `numbers`, which the Rust test repeats; only hashes are stored.
"""

import hashlib
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent

# vocabulary, hidden, intermediate, layers, query heads, key/value heads
SHAPE = dict(vocab_size=29, hidden_size=16, intermediate_size=20, num_attention_heads=4, num_key_value_heads=2)
MODELS = {
    "llama_a": dict(model_type="llama", num_hidden_layers=6, seed=1, dtype="float32"),
    "llama_b": dict(model_type="llama", num_hidden_layers=6, seed=2, dtype="float32"),
    "llama_half": dict(model_type="llama", num_hidden_layers=6, seed=3, dtype="bfloat16"),
    "llama_tied": dict(model_type="llama", num_hidden_layers=4, seed=4, dtype="float16", tied=True),
    "llama_deep": dict(model_type="llama", num_hidden_layers=9, seed=5, dtype="bfloat16"),
    "mistral_a": dict(model_type="mistral", num_hidden_layers=4, seed=6, dtype="bfloat16"),
    "mistral_b": dict(model_type="mistral", num_hidden_layers=4, seed=7, dtype="float16"),
}


def numbers(seed, name, count):
    """`count` numbers from -1 to 1 in steps of 2^-23: the high bits of a 64-bit LCG keyed by the tensor's name."""
    state = int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "little")
    out = np.empty(count, dtype=np.float32)
    for i in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        out[i] = (state >> 40) / 2**23 - 1
    return torch.from_numpy(out)


def tensors(spec):
    v, h, f = SHAPE["vocab_size"], SHAPE["hidden_size"], SHAPE["intermediate_size"]
    kv = h // SHAPE["num_attention_heads"] * SHAPE["num_key_value_heads"]
    shapes = {"model.embed_tokens.weight": (v, h), "model.norm.weight": (h,)}
    if not spec.get("tied"):
        shapes["lm_head.weight"] = (v, h)
    for n in range(spec["num_hidden_layers"]):
        layer = {
            "input_layernorm": (h,), "post_attention_layernorm": (h,),
            "self_attn.q_proj": (h, h), "self_attn.k_proj": (kv, h), "self_attn.v_proj": (kv, h),
            "self_attn.o_proj": (h, h), "mlp.gate_proj": (f, h), "mlp.up_proj": (f, h), "mlp.down_proj": (h, f),
        }
        shapes |= {f"model.layers.{n}.{key}.weight": shape for key, shape in layer.items()}
    dtype = getattr(torch, spec["dtype"])
    return {
        name: numbers(spec["seed"], name, int(np.prod(shape))).reshape(shape).to(dtype) for name, shape in shapes.items()
    }


def write_model(folder, spec):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, MistralConfig, PreTrainedTokenizerFast

    folder.mkdir(parents=True)
    make = LlamaConfig if spec["model_type"] == "llama" else MistralConfig
    extra = {} if spec["model_type"] == "llama" else dict(sliding_window=None)
    config = make(
        **SHAPE, **extra, num_hidden_layers=spec["num_hidden_layers"], tie_word_embeddings=bool(spec.get("tied")),
        max_position_embeddings=64, torch_dtype=spec["dtype"],
    )
    config.architectures = [{"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM"}[spec["model_type"]]]
    config.save_pretrained(folder)
    save_file(tensors(spec), folder / "model.safetensors", metadata={"format": "pt"})
    words = ["<s>", "</s>", "<unk>"] + [chr(ord("a") + i) for i in range(26)]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>").save_pretrained(
        folder
    )


def sha256(tensor):
    """The first 16 digits."""
    return hashlib.sha256(tensor.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()[:16]


def split_experts(written):
    """Each expert's matrices under the names that Mixtral's have had since transformers 4."""
    out = {}
    for name, tensor in written.items():
        layer = name.rsplit(".mlp.", 1)[0]
        if name.endswith("mlp.experts.gate_up_proj"):
            for k, both in enumerate(tensor):
                gate, up = both.chunk(2)
                out[f"{layer}.block_sparse_moe.experts.{k}.w1.weight"] = gate
                out[f"{layer}.block_sparse_moe.experts.{k}.w3.weight"] = up
        elif name.endswith("mlp.experts.down_proj"):
            for k, down in enumerate(tensor):
                out[f"{layer}.block_sparse_moe.experts.{k}.w2.weight"] = down
        elif name.endswith("mlp.gate.weight"):
            out[f"{layer}.block_sparse_moe.gate.weight"] = tensor
        else:
            out[name] = tensor
    return out


def run(config, out):
    """What the command says in the end, if it fails; every run in the folder with the models, without a network."""
    from click.testing import CliRunner
    from mergekit.scripts.moe import main as mergekit_moe
    from mergekit.scripts.run_yaml import main as mergekit_yaml

    is_moe = "experts:" in config.read_text()
    command = [str(config), str(out), "--quiet", "--no-write-model-card", "--device", "cpu"]
    if is_moe:
        command.append("--i-understand-this-is-not-useful-without-training")
    result = CliRunner().invoke(mergekit_moe if is_moe else mergekit_yaml, command)
    if result.exit_code == 0:
        return None
    return f"{type(result.exception).__name__}: {result.exception}".splitlines()[0][:200]


KEYS = [
    "model_type", "num_hidden_layers", "hidden_size", "vocab_size", "num_local_experts", "num_experts_per_tok",
    "tie_word_embeddings", "dtype",
]


def main():
    golden = {"models": MODELS, "shape": SHAPE, "merges": {}, "refused": {}}
    with tempfile.TemporaryDirectory() as work:
        models = Path(work) / "models"
        models.mkdir()
        os.chdir(models)
        for name, spec in MODELS.items():
            write_model(models / name, spec)
        for config in sorted(HERE.glob("*.yml")) + sorted(HERE.glob("refused/*.yml")):
            out = Path(work) / "out" / config.stem
            refusal = run(config, out)
            shards = sorted(out.glob("*.safetensors")) if out.exists() else []
            written = {}
            for shard in shards:
                written |= load_file(shard)
            if config.parent.name == "refused":
                golden["refused"][config.stem] = refusal or f"writes {len(written)} tensors"
                continue
            assert refusal is None, (config.stem, refusal)
            written = split_experts(written)
            found = json.loads((out / "config.json").read_text())
            golden["merges"][config.stem] = {
                "config": {key: found[key] for key in KEYS if key in found},
                "tensors": {
                    # Routers are drawn or averaged: `routers`, below.
                    name: [str(t.dtype).removeprefix("torch."), sha256(t)]
                    for name, t in sorted(written.items())
                    if not name.endswith("moe.gate.weight")
                },
            }
            if "cheap_embed" in config.stem:
                routers = {n: t for n, t in written.items() if n.endswith("moe.gate.weight")}
                golden["merges"][config.stem]["routers"] = {
                    n: [round(x, 6) for x in t.float().flatten().tolist()] for n, t in routers.items()
                }
    (HERE / "golden.json").write_text(json.dumps(golden, separators=(",", ":")).replace('"tensors"', '\n"tensors"') + "\n")


if __name__ == "__main__":
    main()
