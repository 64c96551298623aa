"""Times PyTorch (transformers) on a Hugging Face directory: the peer that ours is compared with.

    pip install transformers==5.23.0 torch==2.15.0
    python benches/peers/pytorch.py smollm2 --threads 2 -p 512 -n 32 -r 5 > pytorch.json
    python benches/peers/pytorch.py smollm2 --train 4x256 -p 0 -n 0
    python benches/peers/pytorch.py smollm2 --dtype bfloat16 --moe 8 --top-k 2

Each test runs with eager and with sdpa attention (and, for a mixture, with each of transformers' expert loops), in turns
after two warm-ups each; the fastest combination by best sample is the one reported, and the others stand beside it. So
the peer is as fast as its user can have it without compiling.

- prefill: one forward pass over `-p` random tokens with an empty cache, logits of the last position only;
- decode: `-n` greedy steps at batch 1 with the cache, after a prompt of one token; time of the steps only;
- training: one step on `BxL` random tokens: forward, next-token loss, backward, AdamW, gradients freed. Speed in tokens/s.

`--moe E --top-k K` upcycles in memory: every expert is a copy of the layer's MLP, routers are normal with std 0.02, so
the function is the dense model's. Tokens are random: speed does not depend on them, but for the routing.

Standard output is one JSON document in llama-bench's words (`n_prompt`, `n_gen`, `avg_ns`, `avg_ts`, `samples_ns`,
`samples_ts`); progress goes to standard error.
"""

import argparse
import itertools
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, DynamicCache, MixtralConfig, MixtralForCausalLM

EXPERT_LOOPS = ("eager", "batched_mm", "grouped_mm")
HOPELESS = 4.0
"""An implementation this many times slower than the fastest when warming up is not timed further."""


def upcycle(dense: torch.nn.Module, experts: int, top_k: int, attention: str) -> torch.nn.Module:
    """The Mixtral whose experts are copies of `dense`'s MLPs."""
    config = dense.config.to_dict()
    keys = ("vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim rms_norm_eps "
            "max_position_embeddings rope_parameters tie_word_embeddings bos_token_id eos_token_id").split()
    config = MixtralConfig(**{key: config[key] for key in keys}, num_local_experts=experts, num_experts_per_tok=top_k,
                           sliding_window=config.get("sliding_window"), attn_implementation=attention)
    with torch.device("meta"):
        model = MixtralForCausalLM(config)
    weights = {}
    for name, w in dense.state_dict().items():
        if ".mlp." not in name:
            weights[name] = w
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


def load(arguments: argparse.Namespace) -> torch.nn.Module:
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=getattr(torch, arguments.dtype))
    if not arguments.moe:
        return model.eval()
    ids = torch.randint(model.config.vocab_size, (1, 16))
    with torch.no_grad():
        before = model(ids).logits
        model = upcycle(model, arguments.moe, arguments.top_k, "sdpa").eval()
        off = (model(ids).logits - before).abs().max() / before.abs().max()
    assert off < (1e-4 if arguments.dtype == "float32" else 0.1), f"upcycling changed the function by {off}"
    return model


def prefill(model: torch.nn.Module, tokens: int) -> Callable[[], int]:
    """Nanoseconds of one forward pass."""
    ids = torch.randint(model.config.vocab_size, (1, tokens))

    def once() -> int:
        start = time.perf_counter_ns()
        with torch.inference_mode():
            model(ids, use_cache=True, past_key_values=DynamicCache(config=model.config), logits_to_keep=1)
        return time.perf_counter_ns() - start

    return once


def decode(model: torch.nn.Module, steps: int) -> Callable[[], int]:
    """Nanoseconds of `steps` greedy steps."""
    def once() -> int:
        cache = DynamicCache(config=model.config)
        with torch.inference_mode():
            next_id = model(torch.tensor([[1]]), past_key_values=cache, use_cache=True).logits[:, -1:].argmax(-1)
            start = time.perf_counter_ns()
            for _ in range(steps):
                next_id = model(next_id, past_key_values=cache, use_cache=True).logits[:, -1:].argmax(-1)
            return time.perf_counter_ns() - start

    return once


def train(model: torch.nn.Module, batch: int, length: int) -> Callable[[], int]:
    """Nanoseconds of one training step; the weights stay where they were (learning rate 0)."""
    ids = torch.randint(model.config.vocab_size, (batch, length))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, betas=(0.9, 0.95), weight_decay=0.0)

    def once() -> int:
        start = time.perf_counter_ns()
        model(ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter_ns() - start

    return once


def measure(model: torch.nn.Module, once: Callable[[], int], tokens: int, repetitions: int) -> dict:
    """Times the implementations in turns; the fields of the fastest, and the best sample of each."""
    loops = EXPERT_LOOPS if hasattr(model.config, "num_local_experts") else (None,)
    warm_up, samples = {}, {}

    def timed(attention: str, loop: str | None) -> int:
        model.set_attn_implementation(attention)
        if loop is not None:
            model.set_experts_implementation(loop)
        return once()

    for way in itertools.product(("eager", "sdpa"), loops):
        try:
            timed(*way)
            warm_up[way] = timed(*way)
        except (RuntimeError, NotImplementedError, ValueError) as error:
            print(f"  {way}: not supported here ({str(error).splitlines()[0]})", file=sys.stderr)
    for _ in range(repetitions):
        for way, duration in warm_up.items():
            if duration < HOPELESS * min(warm_up.values()):
                samples.setdefault(way, []).append(timed(*way))
    best = min(samples, key=lambda way: min(samples[way]))
    ns = samples[best]
    ts = [tokens / sample * 1e9 for sample in ns]
    spread = (lambda x: statistics.stdev(x) if len(x) > 1 else 0.0)
    name = lambda way: "+".join(part for part in way if part)
    all_ts = {name(way): tokens / min(samples.get(way, [warm])) * 1e9 for way, warm in warm_up.items()}
    print("  " + "  ".join(f"{way} {speed:.2f}" for way, speed in all_ts.items()) + "  tokens/s", file=sys.stderr)
    return {"implementation": name(best), "avg_ns": statistics.mean(ns), "stddev_ns": spread(ns),
            "avg_ts": statistics.mean(ts), "stddev_ts": spread(ts), "samples_ns": ns, "samples_ts": ts,
            "best_ts_by_implementation": all_ts}


def cpu_info() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="Hugging Face directory of a dense Llama or Mistral")
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("-p", "--n-prompt", type=int, default=512, help="tokens of the prefill; 0 skips it")
    parser.add_argument("-n", "--n-gen", type=int, default=32, help="steps of the decoding; 0 skips it")
    parser.add_argument("--train", default="", metavar="BxL", help="training step of B sequences of L tokens, such as 4x256")
    parser.add_argument("-r", "--repetitions", type=int, default=5)
    parser.add_argument("--moe", type=int, default=0, metavar="E", help="upcycle to E experts first")
    parser.add_argument("--top-k", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model = load(arguments)
    about = {"test_time": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"), "backends": "PyTorch CPU",
             "torch_version": torch.__version__, "transformers_version": transformers.__version__, "cpu_info": cpu_info(),
             "load_average": os.getloadavg()[0], "model_filename": arguments.model.name, "model_type": model.config.model_type,
             "model_n_params": sum(p.numel() for p in model.parameters()), "dtype": arguments.dtype,
             "n_threads": arguments.threads, "num_local_experts": arguments.moe,
             "num_experts_per_tok": arguments.top_k if arguments.moe else 0}
    results = []

    def add(label: str, sizes: dict, once: Callable[[], int], tokens: int) -> None:
        print(label, file=sys.stderr)
        results.append(about | {"n_prompt": 0, "n_gen": 0, "n_train_batch": 0, "n_train_length": 0} | sizes
                       | measure(model, once, tokens, arguments.repetitions))

    if p := arguments.n_prompt:
        add(f"prefill {p}", {"n_prompt": p}, prefill(model, p), p)
    if n := arguments.n_gen:
        add(f"decode {n}", {"n_gen": n}, decode(model, n), n)
    if arguments.train:
        batch, length = map(int, arguments.train.split("x"))
        model.train()
        add(f"train {arguments.train}", {"n_train_batch": batch, "n_train_length": length},
            train(model, batch, length), batch * length)
    json.dump(results, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
