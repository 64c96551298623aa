"""The tiny models: their shapes, their seeded weights, and how each lies on disk.

Weights are drawn with NumPy, one generator per tensor, seeded by the model's and the tensor's names, so that a file does
not change when another model is added. They are larger than a fresh initialisation (logits of magnitude 1 to 10, sharp
attention, RMSNorm gains in [0.5, 1.5]): a small mistake anywhere shows in the logits.
"""

import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

VOCAB_SIZE = 61


@dataclass(frozen=True)
class Model:
    """One golden model. `fields` are config.json's, with `rope_theta` and `rope_scaling` as transformers 4 spells them."""

    name: str
    proves: str
    fields: dict
    mistakes: tuple[str, ...]
    """What the logits must betray; see `reference.py`."""
    dialect: str = "v4"
    """Spelling of config.json: "v4" (rope_theta, rope_scaling, torch_dtype) or "v5" (rope_parameters, dtype)."""
    layout: str = "v4"
    """Experts on disk: "v4" (block_sparse_moe.experts.N.w1) or "v5" (mlp.experts.gate_up_proj)."""
    dtype: torch.dtype = torch.float32
    shards: int = 1
    sequence: int = 26
    weights_of: str | None = None
    """Take the weights and input of the model of this name."""
    gradients: bool = False
    omit: tuple[str, ...] = field(default=())
    """Keys left out of config.json: old files do not have them."""


def llama(**fields) -> dict:
    return dict(model_type="llama", hidden_act="silu", rms_norm_eps=1e-5, max_position_embeddings=128, vocab_size=VOCAB_SIZE,
                num_hidden_layers=2, rope_theta=10000.0, rope_scaling=None, tie_word_embeddings=False, attention_bias=False,
                mlp_bias=False) | fields


def mistral(**fields) -> dict:
    fields = llama(model_type="mistral", sliding_window=None) | fields
    return {key: value for key, value in fields.items() if key not in ("attention_bias", "mlp_bias")}


def mixtral(experts: int, top_k: int, **fields) -> dict:
    return mistral(model_type="mixtral", num_local_experts=experts, num_experts_per_tok=top_k, output_router_logits=False,
                   router_aux_loss_coef=0.02, router_jitter_noise=0.0) | fields


def sizes(hidden: int, intermediate: int, heads: int, kv_heads: int, head_dim: int) -> dict:
    return dict(hidden_size=hidden, intermediate_size=intermediate, num_attention_heads=heads, num_key_value_heads=kv_heads,
                head_dim=head_dim)


LLAMA3_SCALING = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                      original_max_position_embeddings=32)
YARN_SCALING = dict(rope_type="yarn", factor=8.0, original_max_position_embeddings=16, beta_fast=1.0, beta_slow=0.05)
ALWAYS = ("interleaved_rope", "unit_norm_gains", "swapped_norms", "gate_and_up_swapped", "no_causal_mask")
GROUPED = ALWAYS + ("tiled_kv_heads",)
ROUTED = GROUPED + ("softmax_before_top_k", "one_expert_more")

MIXTRAL_8X2 = mixtral(8, 2, rope_theta=1000.0, tie_word_embeddings=True) | sizes(24, 18, 4, 2, 6)

MODELS = [
    Model("llama_mha", "multi-head attention, untied head; an old config.json without `num_key_value_heads` and `head_dim`",
          llama() | sizes(32, 44, 4, 4, 8), ALWAYS, omit=("num_key_value_heads", "head_dim")),
    Model("llama_gqa_tied", "grouped queries (6 heads on 2), tied embeddings: no `lm_head.weight` on disk",
          llama(tie_word_embeddings=True, rope_theta=500.0) | sizes(48, 40, 6, 2, 8), GROUPED + ("rope_theta_10000",),
          dialect="v5"),
    Model("llama_head_dim", "`head_dim` 14 beside hidden 40 / 4 heads = 10; three layers",
          llama(rope_theta=700.0, num_hidden_layers=3) | sizes(40, 30, 4, 2, 14), GROUPED + ("rope_theta_10000",)),
    Model("llama_llama3_rope", "multi-query; Llama 3 rope scaling with kept, ramped and divided frequencies; text of 40 beyond 32",
          llama(rope_scaling=LLAMA3_SCALING) | sizes(32, 40, 2, 1, 16), ALWAYS + ("no_rope_scaling",), sequence=40),
    Model("llama_llama3_rope_v5", "the same model, its config.json as transformers 5 writes it",
          llama(rope_scaling=LLAMA3_SCALING) | sizes(32, 40, 2, 1, 16), ALWAYS + ("no_rope_scaling",), sequence=40,
          dialect="v5", weights_of="llama_llama3_rope"),
    Model("llama_linear_rope", "linear rope scaling, under its old key `type`",
          llama(rope_scaling=dict(type="linear", factor=4.0), rope_theta=300.0) | sizes(32, 40, 4, 2, 8),
          GROUPED + ("no_rope_scaling", "rope_theta_10000"), sequence=32),
    Model("llama_yarn", "YaRN with kept, ramped and divided dimensions and its factor of queries and keys; text of 40 beyond 16",
          llama(rope_scaling=YARN_SCALING) | sizes(32, 40, 4, 2, 16), GROUPED + ("no_rope_scaling", "no_attention_factor"),
          sequence=40),
    Model("llama_bfloat16", "weights stored as BF16, computed in float32",
          llama() | sizes(32, 40, 4, 2, 8), GROUPED + ("weights_not_rounded",), dtype=torch.bfloat16, dialect="v5"),
    Model("llama_float16_shards", "weights stored as F16 in three shards with an index",
          llama() | sizes(32, 40, 4, 2, 8), GROUPED + ("weights_not_rounded",), dtype=torch.float16, shards=3),
    Model("mistral_window", "sliding window of 7 (itself and 6 before) under a text of 26",
          mistral(sliding_window=7) | sizes(32, 40, 4, 2, 8), GROUPED + ("no_window", "window_of_one_more")),
    Model("mistral_full", "no window, grouped queries (8 on 2), a large `rms_norm_eps`",
          mistral(rope_theta=1000.0, rms_norm_eps=0.02) | sizes(40, 30, 8, 2, 6), GROUPED + ("rope_theta_10000", "no_eps"),
          dialect="v5"),
    Model("mixtral_4x2", "4 experts, top-2; router logits and balancing loss of each layer, with and without padding",
          mixtral(4, 2) | sizes(24, 20, 4, 2, 6), ROUTED),
    Model("mixtral_8x2_fused", "8 experts, top-2, tied, window null; fused experts and config.json of transformers 5",
          MIXTRAL_8X2, ROUTED + ("rope_theta_10000",), dialect="v5", layout="v5"),
    Model("mixtral_8x2", "the same model, experts apart and config.json as transformers 4 wrote them",
          MIXTRAL_8X2, ROUTED + ("rope_theta_10000",), weights_of="mixtral_8x2_fused"),
    Model("mixtral_4x1", "top-1: the chosen expert has weight 1, not its probability",
          mixtral(4, 1) | sizes(24, 16, 4, 2, 6), ROUTED),
    Model("mixtral_5x3_window", "top-3 of 5 experts, sliding window of 9",
          mixtral(5, 3, sliding_window=9) | sizes(24, 16, 4, 2, 6), ROUTED + ("no_window", "window_of_one_more"), dialect="v5"),
    Model("llama_gradients", "gradients of next-token cross entropy; tied, so the embedding's is a sum of two",
          llama(tie_word_embeddings=True) | sizes(16, 20, 4, 2, 4), GROUPED, gradients=True),
    Model("mixtral_gradients", "gradients of cross entropy + 0.02 × mean over layers of the balancing loss",
          mixtral(4, 2) | sizes(16, 12, 4, 2, 4), ROUTED, gradients=True),
]


def random_of(*names: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32("/".join(names).encode()))


def input_ids(model: Model) -> np.ndarray:
    """Two random texts, `[2, sequence]`."""
    return random_of(model.weights_of or model.name, "input_ids").integers(0, VOCAB_SIZE, (2, model.sequence), dtype=np.int32)


def draw_weights(model: Model) -> dict[str, np.ndarray]:
    """The weights in float32, before rounding to the stored type, under the names of transformers 4."""
    f = model.fields
    hidden, intermediate = f["hidden_size"], f["intermediate_size"]
    queries, keys = f["num_attention_heads"] * f["head_dim"], f["num_key_value_heads"] * f["head_dim"]
    shapes = {"model.embed_tokens.weight": (VOCAB_SIZE, hidden), "model.norm.weight": (hidden,)}
    if not f["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (VOCAB_SIZE, hidden)
    for layer in range(f["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        shapes |= {f"{at}.input_layernorm.weight": (hidden,), f"{at}.post_attention_layernorm.weight": (hidden,),
                   f"{at}.self_attn.q_proj.weight": (queries, hidden), f"{at}.self_attn.k_proj.weight": (keys, hidden),
                   f"{at}.self_attn.v_proj.weight": (keys, hidden), f"{at}.self_attn.o_proj.weight": (hidden, queries)}
        if experts := f.get("num_local_experts"):
            shapes[f"{at}.block_sparse_moe.gate.weight"] = (experts, hidden)
            for e in range(experts):
                expert = f"{at}.block_sparse_moe.experts.{e}"
                shapes |= {f"{expert}.w1.weight": (intermediate, hidden), f"{expert}.w2.weight": (hidden, intermediate),
                           f"{expert}.w3.weight": (intermediate, hidden)}
        else:
            shapes |= {f"{at}.mlp.gate_proj.weight": (intermediate, hidden), f"{at}.mlp.up_proj.weight": (intermediate, hidden),
                       f"{at}.mlp.down_proj.weight": (hidden, intermediate)}

    def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
        random = random_of(model.weights_of or model.name, name)
        if len(shape) == 1:
            return random.uniform(0.5, 1.5, shape).astype(np.float32)
        std = 0.5 if "embed_tokens" in name or "lm_head" in name else 1.6 / shape[1] ** 0.5
        return (std * random.standard_normal(shape)).astype(np.float32)

    return {name: draw(name, shape) for name, shape in shapes.items()}


def stored_weights(model: Model) -> dict[str, torch.Tensor]:
    """The weights as the file holds them: rounded, and fused where the layout says so."""
    weights = {name: torch.from_numpy(w).to(model.dtype) for name, w in draw_weights(model).items()}
    if model.layout == "v4":
        return weights
    fused = {name: w for name, w in weights.items() if ".block_sparse_moe." not in name}
    for layer in range(model.fields["num_hidden_layers"]):
        old, new = f"model.layers.{layer}.block_sparse_moe", f"model.layers.{layer}.mlp"
        w = [[weights[f"{old}.experts.{e}.{part}.weight"] for e in range(model.fields["num_local_experts"])]
             for part in ("w1", "w2", "w3")]
        fused[f"{new}.gate.weight"] = weights[f"{old}.gate.weight"]
        fused[f"{new}.experts.gate_up_proj"] = torch.stack([torch.cat(pair) for pair in zip(w[0], w[2])])
        fused[f"{new}.experts.down_proj"] = torch.stack(w[1])
    return fused


def config_json(model: Model, dialect: str) -> str:
    """config.json in the spelling of transformers 4 or 5."""
    config = {key: value for key, value in model.fields.items() if key not in model.omit}
    architecture = {"llama": "Llama", "mistral": "Mistral", "mixtral": "Mixtral"}[config["model_type"]]
    config |= {"architectures": [f"{architecture}ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 1,
               "eos_token_id": 2, "initializer_range": 0.02, "use_cache": True}
    dtype = str(model.dtype).removeprefix("torch.")
    if dialect == "v4":
        config |= {"torch_dtype": dtype, "transformers_version": "4.46.0"}
    else:
        scaling = dict(config.pop("rope_scaling") or {"rope_type": "default"})
        if "type" in scaling:
            scaling["rope_type"] = scaling.pop("type")
        config["rope_parameters"] = scaling | {"rope_theta": config.pop("rope_theta")}
        config |= {"dtype": dtype, "transformers_version": "5.23.0"}
    return json.dumps(config, indent=2, sort_keys=True) + "\n"


def write(model: Model, folder: Path) -> None:
    """Writes the model's folder: config.json, the other dialect beside it, and the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    other = {"v4": "v5", "v5": "v4"}[model.dialect]
    (folder / "config.json").write_text(config_json(model, model.dialect))
    (folder / f"config_{other}.json").write_text(config_json(model, other))
    weights = stored_weights(model)
    if model.shards == 1:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names, weight_map = sorted(weights), {}
    for shard in range(model.shards):
        file = f"model-{shard + 1:05}-of-{model.shards:05}.safetensors"
        held = names[shard * len(names) // model.shards:(shard + 1) * len(names) // model.shards]
        save_file({name: weights[name] for name in held}, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(held, file)
    total_size = sum(w.numel() * w.element_size() for w in weights.values())
    index = {"metadata": {"total_size": total_size}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
