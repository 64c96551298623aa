"""A decoder in plain NumPy and float64, able to make mistakes.

Written from the papers and independent of transformers: it confirms each golden file (and so bounds transformers' own
rounding), and, told to make one mistake, shows that the mistake would be noticed.
"""

import numpy as np


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1.0 + np.exp(-x))


def inverse_frequencies(f: dict, mistake: str) -> np.ndarray:
    """Rotary frequencies `[head_dim / 2]`, scaled as the config says."""
    theta = 10000.0 if mistake == "rope_theta_10000" else f["rope_theta"]
    frequency = theta ** (-np.arange(0, f["head_dim"], 2) / f["head_dim"])
    scaling = f["rope_scaling"]
    if scaling is None or mistake == "no_rope_scaling":
        return frequency
    if scaling.get("type", scaling.get("rope_type")) == "linear":
        return frequency / scaling["factor"]
    if scaling["rope_type"] == "yarn":
        return frequency * (1.0 - (1.0 - 1.0 / scaling["factor"]) * yarn_ramp(f))
    turns = scaling["original_max_position_embeddings"] * frequency / (2.0 * np.pi)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return frequency * (kept + (1.0 - kept) / scaling["factor"])


def yarn_ramp(f: dict) -> np.ndarray:
    """0 for dimensions that YaRN keeps, 1 for those that it divides by the factor (arXiv:2309.00071, as in transformers)."""
    scaling, size = f["rope_scaling"], f["head_dim"]
    turning = lambda turns: size * np.log(scaling["original_max_position_embeddings"] / (2.0 * np.pi * turns)) / (2.0 * np.log(f["rope_theta"]))
    low, high = np.floor(turning(scaling["beta_fast"])), np.ceil(turning(scaling["beta_slow"]))
    low, high = max(low, 0), min(high, size - 1)
    return np.clip((np.arange(size // 2) - low) / (high - low), 0.0, 1.0)


def attention_factor(f: dict, mistake: str) -> float:
    """Factor of rotated queries and keys."""
    scaling = f["rope_scaling"]
    is_yarn = scaling is not None and scaling.get("rope_type") == "yarn" and mistake not in ("no_rope_scaling", "no_attention_factor")
    return 0.1 * np.log(scaling["factor"]) + 1.0 if is_yarn else 1.0


def rotate(x: np.ndarray, frequency: np.ndarray, mistake: str) -> np.ndarray:
    """Rotary embedding of `x` `[batch, heads, sequence, head_dim]`: coordinate `i` turns with `i + head_dim / 2`."""
    angle = np.arange(x.shape[2])[:, None] * frequency
    if mistake == "interleaved_rope":
        a, b = x[..., 0::2], x[..., 1::2]
        turned = np.stack([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], -1)
        return turned.reshape(x.shape)
    a, b = np.split(x, 2, -1)
    return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], -1)


def attention(f: dict, w, x: np.ndarray, mistake: str) -> np.ndarray:
    """Causal self-attention of `x` `[batch, sequence, hidden]`; `w(name)` is the weight of that name."""
    batch, sequence, _ = x.shape
    heads, kv_heads = f["num_attention_heads"], f["num_key_value_heads"]
    split = lambda y, n: y.reshape(batch, sequence, n, f["head_dim"]).transpose(0, 2, 1, 3)
    frequency = inverse_frequencies(f, mistake)
    factor = attention_factor(f, mistake)
    q = factor * rotate(split(x @ w("q_proj").T, heads), frequency, mistake)
    k = factor * rotate(split(x @ w("k_proj").T, kv_heads), frequency, mistake)
    v = split(x @ w("v_proj").T, kv_heads)
    served = np.arange(heads) % kv_heads if mistake == "tiled_kv_heads" else np.arange(heads) // (heads // kv_heads)
    scores = q @ k[:, served].transpose(0, 1, 3, 2) / f["head_dim"] ** 0.5
    back = np.arange(sequence)[:, None] - np.arange(sequence)
    hidden = (back < 0) & (mistake != "no_causal_mask")
    if (window := f.get("sliding_window")) is not None and mistake != "no_window":
        hidden |= back >= window + (mistake == "window_of_one_more")
    y = softmax(np.where(hidden, -np.inf, scores)) @ v[:, served]
    return y.transpose(0, 2, 1, 3).reshape(batch, sequence, -1) @ w("o_proj").T


def gated(x: np.ndarray, gate: np.ndarray, up: np.ndarray, down: np.ndarray, mistake: str) -> np.ndarray:
    """`(silu(x gateᵀ) ⊙ x upᵀ) downᵀ`."""
    if mistake == "gate_and_up_swapped":
        gate, up = up, gate
    return (silu(x @ gate.T) * (x @ up.T)) @ down.T


def sparse(f: dict, weights: dict, at: str, x: np.ndarray, mistake: str) -> tuple[np.ndarray, np.ndarray]:
    """Mixture of experts: its output, and its router logits `[batch · sequence, experts]`."""
    tokens = x.reshape(-1, x.shape[-1])
    logits = tokens @ weights[f"{at}.gate.weight"].T
    chosen = np.argsort(-logits, axis=-1)[:, :f["num_experts_per_tok"] + (mistake == "one_expert_more")]
    if mistake == "softmax_before_top_k":
        weight = np.take_along_axis(softmax(logits), chosen, -1)
    else:
        weight = softmax(np.take_along_axis(logits, chosen, -1))
    y = np.zeros_like(tokens)
    for e in range(f["num_local_experts"]):
        row, rank = np.nonzero(chosen == e)
        w1, w2, w3 = (weights[f"{at}.experts.{e}.{part}.weight"] for part in ("w1", "w2", "w3"))
        y[row] += weight[row, rank, None] * gated(tokens[row], w1, w3, w2, mistake)
    return y.reshape(x.shape), logits


def forward(f: dict, weights: dict, ids: np.ndarray, mistake: str = "") -> tuple[np.ndarray, list[np.ndarray]]:
    """Logits `[batch, sequence, vocab]` and the router logits of each layer."""
    eps = 0.0 if mistake == "no_eps" else f["rms_norm_eps"]
    first, second = "input_layernorm", "post_attention_layernorm"
    if mistake == "swapped_norms":
        first, second = second, first

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        gain = 1.0 if mistake == "unit_norm_gains" else weights[f"{name}.weight"]
        return gain * x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)

    x, routed = weights["model.embed_tokens.weight"][ids], []
    for layer in range(f["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        x = x + attention(f, lambda name: weights[f"{at}.self_attn.{name}.weight"], norm(x, f"{at}.{first}"), mistake)
        h = norm(x, f"{at}.{second}")
        if "num_local_experts" in f:
            y, logits = sparse(f, weights, f"{at}.block_sparse_moe", h, mistake)
            routed.append(logits)
        else:
            y = gated(h, *(weights[f"{at}.mlp.{part}_proj.weight"] for part in ("gate", "up", "down")), mistake)
        x = x + y
    head = weights["model.embed_tokens.weight"] if f["tie_word_embeddings"] else weights["lm_head.weight"]
    return norm(x, "model.norm") @ head.T, routed


def balancing_loss(logits: np.ndarray, top_k: int, keep: np.ndarray | None = None) -> float:
    """`E · Σ_e f_e P_e` over the kept tokens of one layer; `k` at perfect balance."""
    logits = logits if keep is None else logits[keep]
    experts = logits.shape[-1]
    chosen = np.argsort(-logits, axis=-1)[:, :top_k]
    share = np.bincount(chosen.reshape(-1), minlength=experts) / len(logits)
    return experts * float(share @ softmax(logits).mean(0))


def cross_entropy(logits: np.ndarray, ids: np.ndarray) -> float:
    """Mean over all positions but the last of −log p(next token)."""
    log_p = np.log(softmax(logits[:, :-1]))
    return -float(np.take_along_axis(log_p, ids[:, 1:, None], -1).mean())


def loss(f: dict, weights: dict, ids: np.ndarray) -> float:
    """Cross entropy, plus for a mixture the mean balancing loss of its layers times its coefficient."""
    logits, routed = forward(f, weights, ids)
    total = cross_entropy(logits, ids)
    if routed:
        aux = np.mean([balancing_loss(layer, f["num_experts_per_tok"]) for layer in routed])
        total += f["router_aux_loss_coef"] * float(aux)
    return total
