"""The worker of speed.py that runs PyTorch through transformers.

Every work is warmed up with eager and with sdpa attention and, for a mixture, with each of transformers' expert loops; the
fastest is the one that is measured. So the peer is as fast as its user can have it without compiling.

- prefill: one forward pass, logits of the last position only;
- decode: steps of one token a sequence with the cache, after the prompt, which is not timed;
- train: forward, next-token loss, backward, gradients clipped to a global norm of 1, fused AdamW, gradients freed.

A mixture is upcycled in memory: every expert is a copy of the layer's MLP and routers are normal with std 0.02, so that its
function is the dense model's, which is checked. Its training adds transformers' balancing loss.
"""

import copy
import itertools
import time
from collections.abc import Callable

import torch
import transformers
from transformers import AutoModelForCausalLM, DynamicCache, MixtralConfig, MixtralForCausalLM

from worker import serve

EXPERT_LOOPS = ("grouped_mm", "eager", "batched_mm")
HOPELESS = 3.0
TRIED_STEPS = 4
LONG_NS = 5e9
BATCHED_TOKENS = 32
"""Cap on the tokens of a pass for which `batched_mm` is tried."""


def upcycle(dense: torch.nn.Module, experts: int, top_k: int) -> torch.nn.Module:
    """Mixtral whose experts are copies of the MLPs of `dense`, which are freed."""
    config = dense.config.to_dict()
    keys = ("vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim rms_norm_eps "
            "max_position_embeddings rope_parameters tie_word_embeddings bos_token_id eos_token_id").split()
    config = MixtralConfig(**{key: config[key] for key in keys}, num_local_experts=experts, num_experts_per_tok=top_k,
                           sliding_window=config.get("sliding_window"), attn_implementation="sdpa")
    with torch.device("meta"):
        model = MixtralForCausalLM(config)
    weights = {name: w for name, w in dense.state_dict().items() if ".mlp." not in name}
    for layer in range(config.num_hidden_layers):
        mlp, at = dense.model.layers[layer].mlp, f"model.layers.{layer}.mlp"
        gate_up = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]).detach()
        weights[f"{at}.experts.gate_up_proj"] = gate_up.repeat(experts, 1, 1)
        weights[f"{at}.experts.down_proj"] = mlp.down_proj.weight.detach().repeat(experts, 1, 1)
        weights[f"{at}.gate.weight"] = (0.02 * torch.randn(experts, config.hidden_size)).to(gate_up.dtype)
        del dense.model.layers[layer].mlp
    model.load_state_dict(weights, assign=True)
    model.tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    return model


def load(request: dict) -> torch.nn.Module:
    model = AutoModelForCausalLM.from_pretrained(request["model"], dtype=getattr(torch, request["dtype"])).eval()
    if not request["moe"]:
        return model
    ids = torch.arange(16)[None]
    with torch.no_grad():
        before = model(ids).logits
        model = upcycle(model, request["moe"], 2).eval()
        off = (model(ids).logits - before).abs().max() / before.abs().max()
    if not off < (1e-4 if request["dtype"] == "float32" else 0.1):
        raise RuntimeError(f"upcycling changed the function by {off}")
    return model


def prefill(model: torch.nn.Module, request: dict) -> Callable[[], int]:
    ids = torch.tensor(request["ids"])

    def once() -> int:
        start = time.perf_counter_ns()
        with torch.inference_mode():
            model(ids, use_cache=True, past_key_values=DynamicCache(config=model.config), logits_to_keep=1)
        return time.perf_counter_ns() - start

    return once


def decode(model: torch.nn.Module, request: dict) -> Callable[[], int]:
    steps = [torch.tensor(step)[:, None] for step in request["steps"]]
    prompt = DynamicCache(config=model.config)
    choose(model, "sdpa+eager" if request["moe"] else "sdpa")  # the prompt is not timed, and may be too long for batched_mm
    with torch.inference_mode():
        model(torch.tensor(request["ids"]), past_key_values=prompt, use_cache=True, logits_to_keep=1)

    def once() -> int:
        with torch.inference_mode():
            cache = copy.deepcopy(prompt)
            start = time.perf_counter_ns()
            for step in steps:
                model(step, past_key_values=cache, use_cache=True)
            return time.perf_counter_ns() - start

    return once


def train(model: torch.nn.Module, request: dict) -> Callable[[], int]:
    ids = torch.tensor(request["ids"])
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    balance = {"output_router_logits": True} if request["moe"] else {}

    def once() -> int:
        start = time.perf_counter_ns()
        model(ids, labels=ids, use_cache=False, **balance).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter_ns() - start

    return once


def choose(model: torch.nn.Module, way: str) -> None:
    """Sets `attention` or `attention+expert_loop`."""
    attention, _, loop = way.partition("+")
    model.set_attn_implementation(attention)
    if loop:
        model.set_experts_implementation(loop)


def fastest(model: torch.nn.Module, request: dict) -> str:
    """The fastest implementation, after warmup, of those that run here.

    Decoding is tried on a few of its steps. One that warms up `HOPELESS` times slower than another ran is not tried again,
    and `batched_mm`, which copies the experts' weights for every token, not where a pass has many.
    """
    tokens = len(request["ids"]) * (1 if request["work"] == "decode" else len(request["ids"][0]))
    loops = [loop for loop in EXPERT_LOOPS if loop != "batched_mm" or tokens <= BATCHED_TOKENS] if request["moe"] else [""]
    times: dict[str, int] = {}
    once = WORKS[request["work"]](model, request | {"steps": request["steps"][:TRIED_STEPS]})
    for way in itertools.product(("sdpa", "eager"), loops):
        way = "+".join(part for part in way if part)
        try:
            choose(model, way)
            warm_up = once()
            if not times or warm_up < HOPELESS * min(times.values()):
                times[way] = min(once() for _ in range(1 if warm_up > LONG_NS else 2))
        except (RuntimeError, NotImplementedError, ValueError):
            continue
    if not times:
        raise RuntimeError("no implementation works here")
    return min(times, key=times.get)


WORKS = {"prefill": prefill, "decode": decode, "train": train}


def prepare(request: dict) -> tuple[dict, Callable[[], int]]:
    torch.set_num_threads(request["threads"])
    torch.manual_seed(0)
    model = load(request)
    with torch.inference_mode():
        next_id = model(torch.tensor(request["ids"]), use_cache=False, logits_to_keep=1).logits[-1, -1].argmax().item()
    way = request.get("implementation") or fastest(model, request)
    once = WORKS[request["work"]](model, request)
    choose(model, way)
    once()
    about = {"torch": torch.__version__, "transformers": transformers.__version__, "implementation": way, "next_id": next_id}
    return about, once


if __name__ == "__main__":
    serve(prepare)
