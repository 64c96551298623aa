"""Adapters that PEFT wrote for golden models, and what PEFT computes with them.

Per case a folder of `peft/` as `PeftModel.save_pretrained` writes it, with `golden.safetensors` beside it: the logits under
the adapter, loss and gradients of both factors, and the weights after `merge_and_unload`. Factors are drawn with NumPy, one
generator per tensor, seeded by its name; `B` is not zero, or half of the gradients would be.

    python make_peft_golden.py             writes the folders
    python make_peft_golden.py check DIR   loads every adapter in DIR with PEFT and compares `answers.safetensors` beside it
"""

import json
import shutil
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

HERE = Path(__file__).parent
HALF_RANKS = dict(rank_pattern={"layers.1.self_attn.q_proj": 6, "down_proj": 2}, alpha_pattern={"[kv]_proj": 5})

# name: (golden model, PEFT's config)
CASES = {
    "llama_all_linear": ("llama_gqa_tied", dict(r=4, lora_alpha=8, target_modules="all-linear", **HALF_RANKS)),
    "llama_pattern": ("llama_mha", dict(r=3, lora_alpha=7, use_rslora=True, target_modules=r".*\.1\..*(q|o|up)_proj|lm_head")),
    "llama_layers": ("llama_head_dim", dict(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj", "down_proj"],
                                            layers_to_transform=[0, 2])),
    "mixtral_stacked": ("mixtral_4x2", dict(r=2, lora_alpha=6, target_modules=["q_proj"], rank_pattern={r".*\.down_proj": 3},
                                            target_parameters=["mlp.experts.gate_up_proj", "experts.down_proj", "gate.weight"])),
    "llama_bfloat16": ("llama_bfloat16", dict(r=4, lora_alpha=8, target_modules=["o_proj", "gate_proj", "up_proj"])),
}


def load(name: str) -> torch.nn.Module:
    eager = dict(attn_implementation="eager") | (dict(experts_implementation="eager") if "mixtral" in name else {})
    return AutoModelForCausalLM.from_pretrained(HERE / name, dtype=torch.float32, **eager).eval()


def draw(name: str, tensor: torch.Tensor) -> None:
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    values = generator.standard_normal(tuple(tensor.shape)) * (0.3 / np.sqrt(tensor.shape[1]))
    tensor.data.copy_(torch.from_numpy(values.astype(np.float32)))


def factors(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    named = {name.replace(".default.", "."): p for name, p in model.named_parameters() if "lora_" in name}
    assert all(p.requires_grad for p in named.values())
    return named


def matrices(named: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Stacked experts as the matrices of transformers 4."""
    apart = {}
    for name, tensor in named.items():
        before, _, kind = name.rpartition(".mlp.")
        if kind == "experts.gate_up_proj":
            for expert, (gate, up) in enumerate(matrix.chunk(2) for matrix in tensor):
                apart |= {f"{before}.block_sparse_moe.experts.{expert}.{w}.weight": m for w, m in (("w1", gate), ("w3", up))}
        elif kind == "experts.down_proj":
            apart |= {f"{before}.block_sparse_moe.experts.{expert}.w2.weight": m for expert, m in enumerate(tensor)}
        else:
            apart[name.replace(".mlp.gate.", ".block_sparse_moe.gate.")] = tensor
    return apart


def compute(model: torch.nn.Module, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    logits = model(input_ids=ids, use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    model.zero_grad()
    loss.backward()
    trained = [name for name, p in model.named_parameters() if p.grad is not None]
    assert all("lora_" in name for name in trained), trained
    return {"logits": logits.detach(), "loss": loss.detach().reshape(1)} | {
        # Gate and up of an expert share a factor here, and have one each there.
        f"grad.{name}": p.grad.clone() for name, p in factors(model).items() if ".mlp.experts." not in name and ".mlp.gate." not in name}


def make() -> None:
    for case, (base, settings) in CASES.items():
        folder = HERE / "peft" / case
        shutil.rmtree(folder, ignore_errors=True)
        ids = load_file(HERE / base / "golden.safetensors")["input_ids"].long()
        model = get_peft_model(load(base), LoraConfig(task_type="CAUSAL_LM", **settings))
        for name, parameter in factors(model).items():
            draw(name, parameter)
        golden = compute(model, ids)
        model.save_pretrained(folder)
        (folder / "README.md").unlink()
        config = json.loads((folder / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = base
        for key in ("target_modules", "target_parameters", "layers_to_transform"):
            if isinstance(config[key], list):
                config[key].sort()
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        unadapted = load(base)(input_ids=ids, use_cache=False).logits
        merged = model.merge_and_unload()
        changed = {name: p for name, p in merged.state_dict().items() if not torch.equal(p, load(base).state_dict()[name])}
        golden |= {"merged_logits": merged(input_ids=ids, use_cache=False).logits.detach()}
        golden |= {f"merged.{name}": p.detach() for name, p in matrices(changed).items()}
        off = (golden["merged_logits"] - golden["logits"]).abs().max().item()
        moved = (unadapted - golden["logits"]).abs().max().item()
        assert off < 5e-5 < 0.1 < moved, (case, off, moved)
        save_file({name: tensor.contiguous() for name, tensor in golden.items()}, folder / "golden.safetensors")
        print(f"{case}: {len(changed)} matrices, merging moves logits by {off:.1e}, the adapter by {moved:.2f}")


def check(written: Path) -> None:
    for folder in sorted(path for path in written.iterdir() if (path / "adapter_config.json").exists()):
        answers = load_file(folder / "answers.safetensors")
        base = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = PeftModel.from_pretrained(load(base), folder)
        loaded = [str(w.message) for w in caught if "missing adapter keys" in str(w.message)]
        assert not loaded, loaded
        logits = model(input_ids=answers["input_ids"].long(), use_cache=False).logits
        off = ((logits - answers["logits"]).abs().max() / answers["logits"].abs().max()).item()
        assert off < 1e-5, (folder.name, off)
        print(f"{folder.name}: PEFT's logits are off by {off:.1e} of the largest")


if __name__ == "__main__":
    torch.manual_seed(0)
    make() if len(sys.argv) == 1 else check(Path(sys.argv[2]))
