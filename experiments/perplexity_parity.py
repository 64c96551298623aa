"""Compares `deepwide perplexity` with transformers' guide, llama.cpp's convention and a divergence computed by torch.

    pip install torch transformers llama-cpp-python
    python experiments/perplexity_parity.py MODEL TEXT --deepwide target/debug/deepwide --gguf FILE.gguf

MODEL is a directory that transformers loads (float32, CPU); of TEXT, so many characters are taken (--chars) that a run takes
minutes. Checks: the guide's strided perplexity; `--kl` of MODEL with some layers left out against MODEL; chunks of 512 tokens of
the GGUF file with llama.cpp's logits, the second half scored, as `llama-perplexity` does. Exits with 1 if a number differs by more
than its tolerance.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("text", type=Path)
parser.add_argument("--deepwide", required=True)
parser.add_argument("--gguf", type=Path, nargs="*", default=[])
parser.add_argument("--chars", type=int, default=80_000)
parser.add_argument("--context", type=int, default=1024)
parser.add_argument("--stride", type=int, default=512)
parser.add_argument("--overlap", type=int, default=12, help="overlap of the child that --kl compares")
parser.add_argument("--kl-chunks", type=int, default=8)
args = parser.parse_args()

failed = False


def deepwide(*words: object) -> dict:
    command = [args.deepwide, "perplexity", *map(str, words), "--json", "-q"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def check(name: str, ours: float, theirs: float, tolerance: float, relative: bool = True) -> None:
    global failed
    off = abs(ours - theirs) / (abs(theirs) if relative else 1)
    failed |= not off <= tolerance
    print(f"{name:46} ours {ours:12.6f}  theirs {theirs:12.6f}  {'relative' if relative else 'absolute'} difference {off:.1e}", flush=True)


def guide(model, ids) -> float:
    """https://huggingface.co/docs/transformers/perplexity, line by line."""
    import torch

    nll_sum, n_tokens, prev_end_loc, seq_len = 0.0, 0, 0, ids.size(1)
    for begin_loc in range(0, seq_len, args.stride):
        end_loc = min(begin_loc + args.context, seq_len)
        trg_len = end_loc - prev_end_loc
        input_ids = ids[:, begin_loc:end_loc]
        target_ids = input_ids.clone()
        target_ids[:, :-trg_len] = -100
        with torch.no_grad():
            neg_log_likelihood = model(input_ids, labels=target_ids).loss
        num_loss_tokens = (target_ids != -100).sum().item() - target_ids.size(0)
        nll_sum += neg_log_likelihood.double().item() * num_loss_tokens
        n_tokens += num_loss_tokens
        prev_end_loc = end_loc
        if end_loc == seq_len:
            break
    return float(np.exp(nll_sum / n_tokens))


def divergences(model, child, ids, chunks: int) -> tuple[np.ndarray, float]:
    """KL(base || child) at the scored positions of chunks of 512, and the share of equal most likely tokens."""
    import torch

    found, same = [], []
    for start in range(0, 512 * chunks, 512):
        window = ids[:, start:start + 512]
        with torch.no_grad():
            p, q = (m(window).logits[0, 256:511].double().log_softmax(-1) for m in (model, child))
        found.append((p.exp() * (p - q)).sum(-1))
        same.append(p.argmax(-1) == q.argmax(-1))
    return torch.cat(found).numpy(), torch.cat(same).double().mean().item()


def with_transformers(text: Path) -> None:
    import copy

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32, attn_implementation="eager").eval()
    model.config.use_cache = False
    ids = tokenizer(text.read_text(), return_tensors="pt").input_ids
    print(f"{ids.size(1)} tokens")
    ours = deepwide(args.model, "-f", text, "-c", args.context, "--stride", args.stride)
    check(f"transformers' guide, {args.context} by {args.stride}", ours["perplexity"], guide(model, ids), 1e-4)

    child = copy.deepcopy(model)
    layers = child.model.layers
    n, m = len(layers), args.overlap
    child.model.layers = torch.nn.ModuleList(copy.deepcopy(layers[i]) for i in [*range(n - m), *range(m, n)])
    child.config.num_hidden_layers = len(child.model.layers)
    theirs, same = divergences(model, child, ids, args.kl_chunks)
    ours = deepwide(args.model, "-f", text, "--dus", m, "--chunks", args.kl_chunks, "--kl", args.model)["divergence"]
    check(f"mean KL of --dus {m}, nats", ours["mean_kl_nats"], theirs.mean(), 1e-4)
    check("  its standard error", ours["stderr"], theirs.std(ddof=1) / len(theirs) ** 0.5, 1e-3)
    check("  largest", ours["max_kl_nats"], theirs.max(), 1e-3)
    check("  99 %", ours["p99_kl_nats"], np.sort(theirs)[int(0.99 * len(theirs))], 1e-3)
    check("  share of equal most likely tokens", ours["same_top_1"], same, 2 / len(theirs), relative=False)


def with_llama_cpp(text: Path, gguf: Path) -> None:
    import llama_cpp

    model = llama_cpp.Llama(str(gguf), n_ctx=512, n_batch=512, logits_all=True, verbose=False)
    ids = model.tokenize(text.read_bytes(), add_bos=True, special=False)
    losses = []
    for start in range(0, len(ids) // 512 * 512, 512):
        chunk = list(ids[start:start + 512])
        if model._model.add_bos_token():
            chunk[0] = model.token_bos()
        model.reset()
        model.eval(chunk)
        logits = model.scores[256:511].astype(np.float64)
        targets = np.array(chunk[257:512])
        largest = logits.max(-1)
        losses.append(np.log(np.exp(logits - largest[:, None]).sum(-1)) + largest - logits[np.arange(255), targets])
    losses = np.concatenate(losses)
    ours = deepwide(gguf, "-f", text)
    assert ours["num_tokens"] == len(losses), (ours["num_tokens"], len(losses))
    theirs = float(np.exp(losses.mean()))
    # llama.cpp multiplies quantized weights by activations that it has quantized, too.
    check(f"llama.cpp, {gguf.name}", ours["perplexity"], theirs, 1e-2)
    error = theirs * (np.mean(losses**2) - losses.mean() ** 2) ** 0.5 / (len(losses) - 1) ** 0.5
    check("  its error", ours["stderr"], error, 2e-2)


with tempfile.TemporaryDirectory() as folder:
    cut = Path(folder) / "text.txt"
    cut.write_text(args.text.read_text()[: args.chars])
    try:
        import torch  # noqa: F401
        with_transformers(cut)
    except ImportError as missing:
        print(f"not compared with transformers: {missing}")
    for gguf in args.gguf:
        with_llama_cpp(cut, gguf)
sys.exit(failed)
