"""The models of the comparison, derived from one Hugging Face directory of a dense Llama, in a folder that is a cache.

- `base`: the directory itself;
- `dus`: its depth up-scaled child, the first and the last n - m layers with m a fifth of n (SmolLM2-135M's 30 become 48);
- `moe`: 8 experts, 2 active, all copies of the layer's MLP; a GGUF file only, others upcycle `base` in memory;
- `wide`: random weights, the intermediate size doubled: the dense model whose active FLOPs are those of `moe` but the router;
- `aligned`: random weights, all widths multiples of 256, so that every matrix can be in k-quants; those of SmolLM2's that
  have rows of 576 cannot, and llama.cpp falls back to other types for them.

Quantized files are pure, one type for every matrix where it fits.
"""

import ctypes
import functools
import json
import shutil
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors.torch import load_file, save_file

EXPERTS, ACTIVE = 8, 2


def overlap(layers: int) -> int:
    """Layers dropped from each copy."""
    return layers // 5


class Models:
    """Creates models on demand and caches them."""

    def __init__(self, folder: Path, base: Path, source: Path | None):
        """Quantizes from the GGUF file `source`, if given, instead of one written from `base`."""
        self.folder, self.base, self.source = folder, base, source
        folder.mkdir(parents=True, exist_ok=True)

    def config(self, name: str) -> dict:
        """Hugging Face's config, with the experts of `moe`."""
        experts = {"num_local_experts": EXPERTS, "num_experts_per_tok": ACTIVE} if name == "moe" else {}
        return json.loads((self.directory(name) / "config.json").read_text()) | experts

    def directory(self, name: str) -> Path:
        """Hugging Face directory of a model; for `moe`, of the model that it is upcycled from."""
        if name in ("base", "moe"):
            return self.base
        out = self.folder / name
        if not out.exists():
            part = out.with_name(f"{name}.part")
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            {"dus": self.write_dus, "wide": self.write_random, "aligned": self.write_random}[name](name, part)
            part.rename(out)
        return out

    def write_dus(self, name: str, out: Path) -> None:
        config = self.config("base")
        layers = config["num_hidden_layers"]
        kept = layers - overlap(layers)
        tensors = {}
        for key, tensor in self.base_tensors().items():
            if not key.startswith("model.layers."):
                tensors[key] = tensor
                continue
            _, _, layer, rest = key.split(".", 3)
            if int(layer) < kept:
                tensors[f"model.layers.{layer}.{rest}"] = tensor
            if int(layer) >= layers - kept:
                tensors[f"model.layers.{int(layer) + 2 * kept - layers}.{rest}"] = tensor.clone()
        save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
        (out / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2 * kept}, indent=2))
        self.copy_tokenizer(out)

    def write_random(self, name: str, out: Path) -> None:
        from transformers import LlamaConfig, LlamaForCausalLM

        config = self.config("base")
        if name == "wide":
            config["intermediate_size"] *= ACTIVE
        else:
            config |= {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 12,
                       "num_key_value_heads": 4, "head_dim": 64}
        torch.manual_seed(0)
        LlamaForCausalLM(LlamaConfig(**config)).save_pretrained(out)
        self.copy_tokenizer(out)

    def base_tensors(self) -> dict[str, torch.Tensor]:
        tensors = {}
        for file in sorted(self.base.glob("*.safetensors")):
            tensors |= load_file(file)
        return tensors

    def copy_tokenizer(self, out: Path) -> None:
        for file in ("tokenizer.json", "tokenizer_config.json"):
            if (self.base / file).exists():
                shutil.copy(self.base / file, out)

    def gguf(self, name: str, kind: str) -> Path:
        """The GGUF file of a model, `f32` or of a quantized type such as `q8_0`."""
        out = self.folder / f"{name}.{kind}.gguf"
        if out.exists():
            return out
        part = out.with_suffix(".part")
        if kind == "f32":
            write_gguf(self.directory(name), part, EXPERTS if name == "moe" else 0)
        else:
            source = self.source if self.source and name == "base" else self.gguf(name, "f32")
            quantize(source, part, kind)
        part.rename(out)
        return out

    @functools.cache
    def stored_bytes(self, name: str, kind: str) -> dict[str, int]:
        """Bytes of the weights in a GGUF file, by type."""
        by_type: dict[str, int] = {}
        for tensor in gguf.GGUFReader(self.gguf(name, kind)).tensors:
            by_type[tensor.tensor_type.name] = by_type.get(tensor.tensor_type.name, 0) + int(tensor.n_bytes)
        return by_type


def write_gguf(directory: Path, out: Path, experts: int) -> None:
    """Writes a Llama directory as f32 GGUF; with `experts`, each MLP is copied that often behind a small random router."""
    config = json.loads((directory / "config.json").read_text())
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_name(directory.name)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_freq_base((config.get("rope_parameters") or config)["rope_theta"])
    writer.add_rope_dimension_count(head_dim)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(ACTIVE)
    add_vocabulary(writer, directory, config)
    names = {
        "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    }
    random = np.random.default_rng(0)
    for file in sorted(directory.glob("*.safetensors")):
        for key, tensor in load_file(file).items():
            tensor, key = tensor.float().numpy(), key.removesuffix(".weight")
            if not key.startswith("model.layers."):
                writer.add_tensor(f"{names[key]}.weight", tensor)
                continue
            _, _, layer, rest = key.split(".", 3)
            if rest.endswith(("q_proj", "k_proj")):  # rotate-half to interleaved pairs
                shape = (-1, 2, head_dim // 2, tensor.shape[1])
                tensor = np.ascontiguousarray(tensor.reshape(shape).swapaxes(1, 2).reshape(tensor.shape))
            at = f"blk.{layer}.{names[rest]}"
            if experts and rest.startswith("mlp."):
                tensor, at = np.repeat(tensor[None], experts, axis=0), f"{at}_exps"
            writer.add_tensor(f"{at}.weight", tensor)
            if experts and rest == "mlp.gate_proj":
                router = (0.02 * random.standard_normal((experts, config["hidden_size"]))).astype(np.float32)
                writer.add_tensor(f"blk.{layer}.ffn_gate_inp.weight", router)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_vocabulary(writer: gguf.GGUFWriter, directory: Path, config: dict) -> None:
    """A byte-pair vocabulary as GGUF has it; ids that the tokenizer lacks are unused."""
    tokenizer = json.loads((directory / "tokenizer.json").read_text())
    tokens = [f"<unused{i}>" for i in range(config["vocab_size"])]
    types = [gguf.TokenType.UNUSED] * len(tokens)
    for token, at in tokenizer["model"]["vocab"].items():
        tokens[at], types[at] = token, gguf.TokenType.NORMAL
    for added in tokenizer["added_tokens"]:
        tokens[added["id"]], types[added["id"]] = added["content"], gguf.TokenType.CONTROL
    merges = [m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])


def quantize(source: Path, out: Path, kind: str) -> None:
    """Quantizes by llama.cpp, every matrix to `kind` if its row length allows."""
    import llama_cpp as llama

    quiet = llama.llama_log_callback(lambda level, text, data: None)
    llama.llama_log_set(quiet, ctypes.c_void_p(0))
    llama.llama_backend_init()
    small = {"q2_k": "Q2_K", "q3_k": "Q3_K_S", "q4_k": "Q4_K_S", "q5_k": "Q5_K_S"}
    options = llama.llama_model_quantize_default_params()
    options.ftype = getattr(llama, f"LLAMA_FTYPE_MOSTLY_{small.get(kind, kind.upper())}")
    options.allow_requantize = options.pure = True
    failed = llama.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(options))
    llama.llama_log_set(llama.llama_log_callback(0), ctypes.c_void_p(0))
    if failed:
        raise RuntimeError(f"llama.cpp cannot quantize {source.name} to {kind}")
