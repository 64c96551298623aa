"""Writes the golden files beside this script: tiny random decoders, and what transformers and PyTorch compute from them.

Made with transformers 5.23.0, PyTorch 2.15.0 (CPU), safetensors 0.8.0, NumPy 2.4.6, Python 3.11:

    pip install transformers==5.23.0 torch==2.15.0 safetensors==0.8.0 numpy==2.4.6
    python make_golden.py            # write all; running twice gives the same bytes
    python make_golden.py --check    # write nothing: recompute with whatever transformers is installed, and compare

Per model: the folder in Hugging Face's layout is written first, then *loaded from disk* by `AutoModelForCausalLM`
(float32, eager attention and experts) to compute `golden.safetensors`, so the files themselves are what transformers reads. Before a
file is kept, three things are asserted: the float64 decoder of `reference.py` agrees, every mistake listed for the model
moves some logit by more than 0.01, and no routing decision is nearly a tie. README.md describes the contents.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

import reference
from models import MODELS, Model, config_json, draw_weights, input_ids, random_of, write

HERE = Path(__file__).resolve().parent
AGREEMENT = 2e-4
"""Largest difference allowed between float32 transformers and the float64 reference."""
OLD = transformers.__version__.startswith("4.")
NOTICED = 1e-2
"""Smallest difference that a mistake must make."""


def rounded_weights(model: Model) -> dict[str, np.ndarray]:
    """The stored weights in float64, under the names of transformers 4."""
    drawn = draw_weights(model)
    return {name: torch.from_numpy(w).to(model.dtype).double().numpy() for name, w in drawn.items()}


def load(folder: Path, config: str | None = None) -> torch.nn.Module:
    """Loads a folder in float32, optionally under another config.json; every tensor must find its place."""
    with tempfile.TemporaryDirectory() as scratch:
        if config is not None:
            folder = Path(shutil.copytree(folder, scratch, dirs_exist_ok=True))
            (folder / "config.json").write_text(config)
        plain = {"attn_implementation": "eager"} | ({} if OLD else {"experts_implementation": "eager"})
        model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True, **plain)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), (folder, info)
    return model.eval()


def run(model: Model, decoder: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Logits; for a mixture also router logits and balancing losses of each layer."""
    ids = torch.from_numpy(input_ids(model)).long()
    moe = "num_local_experts" in model.fields
    with torch.no_grad():
        out = decoder(ids, output_router_logits=True) if moe else decoder(ids)
    golden = {"input_ids": ids.int(), "logits": out.logits}
    if not moe:
        return golden
    mask = torch.ones_like(ids)
    mask[1, -9:] = 0
    golden["padding_mask"] = mask.int()
    for layer, logits in enumerate(out.router_logits):
        balance = lambda mask: load_balancing_loss_func((logits,), model.fields["num_local_experts"],
                                                        model.fields["num_experts_per_tok"], mask).reshape(1)
        golden[f"router_logits.{layer}"] = logits
        golden[f"aux_loss.{layer}"] = balance(None)
        golden[f"aux_loss_padded.{layer}"] = balance(mask)
    return golden


def gradients(model: Model, decoder: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The loss, its parts, and its gradient by every parameter, under the names of transformers 4."""
    ids = torch.from_numpy(input_ids(model)).long()
    moe = "num_local_experts" in model.fields
    out = decoder(ids, output_router_logits=True) if moe else decoder(ids)
    logits = out.logits[:, :-1].reshape(-1, out.logits.shape[-1])
    cross_entropy = torch.nn.functional.cross_entropy(logits, ids[:, 1:].reshape(-1))
    loss = cross_entropy
    if moe:
        f = model.fields
        aux = [load_balancing_loss_func((layer,), f["num_local_experts"], f["num_experts_per_tok"])
               for layer in out.router_logits]
        loss = loss + f["router_aux_loss_coef"] * torch.stack(aux).mean()
    loss.backward()
    golden = {"loss": loss.detach().reshape(1), "cross_entropy": cross_entropy.detach().reshape(1)}
    for name, parameter in decoder.named_parameters():
        old = name.replace(".mlp.", ".block_sparse_moe.") if moe else name
        if name.endswith("gate_up_proj"):
            for e, gradient in enumerate(parameter.grad):
                w1, w3 = gradient.chunk(2)
                golden[f"grad.{old.removesuffix('gate_up_proj')}{e}.w1.weight"] = w1.clone()
                golden[f"grad.{old.removesuffix('gate_up_proj')}{e}.w3.weight"] = w3.clone()
        elif name.endswith("experts.down_proj"):
            for e, gradient in enumerate(parameter.grad):
                golden[f"grad.{old.removesuffix('down_proj')}{e}.w2.weight"] = gradient.clone()
        else:
            golden[f"grad.{old}"] = parameter.grad
    return golden


def confirm(model: Model, golden: dict[str, torch.Tensor]) -> str:
    """Asserts that the reference agrees and that every listed mistake is noticed; a line of what was found."""
    f, ids, weights = model.fields, input_ids(model), rounded_weights(model)
    logits, routed = reference.forward(f, weights, ids)
    got = golden["logits"].double().numpy()
    off = np.abs(got - logits).max()
    assert off < AGREEMENT, (model.name, off)
    line = f"{model.name:22} max |logit| {np.abs(got).max():5.2f}  std {got.std():.2f}  rounding {off:.0e}"
    for layer, expected in enumerate(routed):
        ordered = -np.sort(-expected, axis=-1)
        k = f["num_experts_per_tok"]
        margin = (ordered[:, k - 1] - ordered[:, k]).min()
        assert margin > 1e-3, (model.name, "a routing decision is nearly a tie", margin)
        keep = golden["padding_mask"].numpy().reshape(-1) == 1
        plain, padded = (reference.balancing_loss(expected, k, mask) for mask in (None, keep))
        assert abs(golden[f"aux_loss.{layer}"].item() - plain) < 1e-5
        assert abs(golden[f"aux_loss_padded.{layer}"].item() - padded) < 1e-5
        assert abs(plain - padded) > 1e-3 and abs(plain - k) > 1e-2
        assert np.abs(golden[f"router_logits.{layer}"].numpy() - expected).max() < AGREEMENT
        line += f"  aux.{layer} {plain:.3f}"
    noticed = {}
    for mistake in model.mistakes:
        wrong = {n: w.astype(np.float64) for n, w in draw_weights(model).items()} if mistake == "weights_not_rounded" else weights
        noticed[mistake] = np.abs(reference.forward(f, wrong, ids, mistake)[0] - got).max()
        assert noticed[mistake] > NOTICED, (model.name, mistake, noticed[mistake])
    least = min(noticed, key=noticed.get)
    return f"{line}  least noticed: {least} {noticed[least]:.2g}"


def confirm_gradients(model: Model, golden: dict[str, torch.Tensor]) -> str:
    """Asserts that the reference's loss, moved along each parameter, changes as that parameter's gradient says."""
    f, ids, weights = model.fields, input_ids(model), rounded_weights(model)
    assert abs(reference.loss(f, weights, ids) - golden["loss"].item()) < 1e-5
    worst = 0.0
    for name, w in weights.items():
        direction = random_of("direction", name).standard_normal(w.shape)
        direction /= np.linalg.norm(direction)
        up, down = (reference.loss(f, weights | {name: w + step * direction}, ids) for step in (1e-5, -1e-5))
        gradient = golden[f"grad.{name}"].double().numpy()
        off = abs((up - down) / 2e-5 - float((gradient * direction).sum())) / np.linalg.norm(gradient)
        assert off < 1e-3, (model.name, name, off)
        worst = max(worst, off)
    assert {f"grad.{name}" for name in weights} == {name for name in golden if name.startswith("grad.")}
    return f"{model.name:22} loss {golden['loss'].item():.4f}  gradients off by at most {worst:.0e} of their norm"


def adamw() -> dict[str, torch.Tensor]:
    """Ten steps of clip_grad_norm_ (max 1 over both tensors) and AdamW, in float32 and again in float64."""
    golden = {}
    for dtype, prefix in ((torch.float32, ""), (torch.float64, "f64.")):
        parameters = {name: torch.nn.Parameter(torch.from_numpy(random_of("adamw", name).standard_normal(shape)
                                                                .astype(np.float32)).to(dtype))
                      for name, shape in (("weight", (5, 7)), ("bias", (7,)))}
        optimizer = torch.optim.AdamW(parameters.values(), lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
        for name, p in parameters.items():
            golden[f"{prefix}param.0.{name}"] = p.detach().clone()
        for step in range(1, 11):
            scale = 0.05 if step % 3 == 0 else 0.6
            for name, p in parameters.items():
                drawn = (scale * random_of("adamw", name, str(step)).standard_normal(p.shape)).astype(np.float32)
                p.grad = torch.from_numpy(drawn).to(dtype)
                golden[f"{prefix}grad.{step}.{name}"] = p.grad.clone()
            norm = torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0, foreach=False)
            assert (norm > 1.0) == (step % 3 != 0), "some steps are clipped, some are not"
            golden[f"{prefix}grad_norm.{step}"] = norm.reshape(1)
            optimizer.step()
            for name, p in parameters.items():
                golden[f"{prefix}param.{step}.{name}"] = p.detach().clone()
    off = max((golden[f"param.10.{name}"].double() - golden[f"f64.param.10.{name}"]).abs().max().item()
              for name in ("weight", "bias"))
    assert off < 1e-6
    return golden


def save(golden: dict[str, torch.Tensor], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: t.detach().clone().contiguous() for name, t in golden.items()}, folder / "golden.safetensors")


def make() -> None:
    for model in MODELS:
        folder = HERE / model.name
        write(model, folder)
        decoder = load(folder)
        golden = run(model, decoder)
        print(confirm(model, golden))
        if model.gradients:
            golden |= gradients(model, decoder)
            print(confirm_gradients(model, golden))
        other = {"v4": "v5", "v5": "v4"}[model.dialect]
        again = run(model, load(folder, config_json(model, other)))
        assert torch.equal(again["logits"], golden["logits"]), (model.name, "the dialects of config.json disagree")
        if model.weights_of:
            twin = load_file(HERE / model.weights_of / "golden.safetensors")
            assert torch.equal(twin["logits"], golden["logits"]), (model.name, "differs from its twin")
        save(golden, folder)
    save(adamw(), HERE / "adamw")


def check() -> None:
    """Recomputes the logits with the installed transformers; version 4 reads only its own dialect and layout."""
    for model in MODELS:
        if OLD and model.layout == "v5":
            print(f"{model.name:22} skipped: transformers {transformers.__version__} cannot read fused experts")
            continue
        folder = HERE / model.name
        got = run(model, load(folder, config_json(model, "v4") if OLD else None))
        golden = load_file(folder / "golden.safetensors")
        off = max((got[name].double() - golden[name].double()).abs().max().item() for name in got)
        assert off < AGREEMENT, (model.name, off)
        print(f"{model.name:22} off by {off:.0e}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare the stored files with the installed transformers")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    check() if arguments.check else make()
