"""Writes training.safetensors into llama_gradients and mixtral_gradients: twenty updates of language modeling and of DPO.

Made with transformers 5.23.0, PyTorch 2.15.0 (CPU) and TRL 1.16.0:

    python make_training_golden.py

Documents run through the model one by one, so that packing and padding have nothing to be wrong in. Per update:
language modeling takes the mean cross entropy over the trained tokens of all documents; DPO takes the sigmoid loss of TRL over
pairs, with log-probabilities summed over completions and the initial weights as reference. The losses ipo, hinge and robust (with a
label smoothing of 0.2) are computed by TRL's `DPOTrainer` from these log-probabilities; only losses are kept of their updates. Mixtures add the balancing loss,
per layer over all tokens of the update. Then `clip_grad_norm_` and `AdamW`, with decay of matrices only.
"""

from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy, logsigmoid
from transformers import AutoModelForCausalLM
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func
from trl import DPOTrainer

HERE = Path(__file__).resolve().parent
NUM_STEPS, WARMUP, PEAK, BETA, AUX, SMOOTHING = 20, 4, 2e-3, 0.1, 0.02, 0.2


def ids(length: int, salt: int, vocab: int) -> list[int]:
    return [(at * at * 7 + at * 3 + salt * 11) % vocab for at in range(length)]


def documents(step: int, vocab: int) -> list[tuple[list[int], list[bool]]]:
    """Three documents of an update, and which tokens are trained: all, all behind the fifth, every other."""
    lengths = [9 + step % 4, 12, 7 + step % 3]
    marks = [lambda at: True, lambda at: at >= 5, lambda at: at % 2 == 1]
    return [(ids(n, step * 3 + i, vocab), [marks[i](at) for at in range(n)]) for i, n in enumerate(lengths)]


def pairs(step: int, vocab: int) -> list[tuple[list[int], list[int], list[int]]]:
    """Prompt, chosen and rejected completion of the two pairs of an update."""
    return [(ids(4 + i, step + i, vocab), ids(5 + step % 3, step * 5 + i + 1, vocab), ids(3 + i, step * 7 + i + 2, vocab))
            for i in range(2)]


def forward(model, tokens: list[int], routed: list):
    moe = hasattr(model.config, "num_local_experts")
    out = model(torch.tensor([tokens]), **({"output_router_logits": True} if moe else {}))
    if moe:
        routed.append([layer.reshape(-1, model.config.num_local_experts) for layer in out.router_logits])
    return out.logits[0]


def balance(model, routed: list) -> torch.Tensor:
    layers = [torch.cat(layer) for layer in zip(*routed)]
    c = model.config
    terms = [load_balancing_loss_func((layer,), c.num_local_experts, c.num_experts_per_tok) for layer in layers]
    return torch.stack(terms).mean()


def language_modeling(model, step: int, _reference) -> tuple[torch.Tensor, list]:
    routed, losses = [], []
    for tokens, trained in documents(step, model.config.vocab_size):
        logits = forward(model, tokens[:-1], routed)
        each = cross_entropy(logits, torch.tensor(tokens[1:]), reduction="none")
        losses.append(each[torch.tensor(trained[1:])])
    return torch.cat(losses).mean(), routed


def log_probability(model, prompt: list[int], completion: list[int], routed: list) -> torch.Tensor:
    logits = forward(model, (prompt + completion)[:-1], routed)[len(prompt) - 1:]
    return -cross_entropy(logits, torch.tensor(completion), reduction="sum")


def dpo(model, step: int, reference) -> tuple[torch.Tensor, list]:
    routed, losses = [], []
    for prompt, chosen, rejected in pairs(step, model.config.vocab_size):
        policy = [log_probability(model, prompt, side, routed) for side in (chosen, rejected)]
        with torch.no_grad():
            base = [log_probability(reference, prompt, side, []) for side in (chosen, rejected)]
        margin = (policy[0] - base[0]) - (policy[1] - base[1])
        losses.append(-logsigmoid(BETA * margin))
    return torch.stack(losses).mean(), routed


def of_trl(loss_type: str):
    """An objective whose loss is computed by TRL's trainer, from log-probabilities that are handed to it token by token."""

    def objective(model, step: int, reference) -> tuple[torch.Tensor, list]:
        routed, sides = [], list(zip(*[(chosen, rejected) for _, chosen, rejected in pairs(step, model.config.vocab_size)]))
        prompts = [prompt for prompt, _, _ in pairs(step, model.config.vocab_size)]
        rows = [(prompt, completion) for side in sides for prompt, completion in zip(prompts, side)]
        length = max(len(prompt) + len(completion) for prompt, completion in rows)
        mask = torch.zeros(len(rows), length, dtype=torch.long)
        for row, (prompt, completion) in enumerate(rows):
            mask[row, len(prompt):len(prompt) + len(completion)] = 1
        # TRL sums the log-probabilities of the tokens of a completion: here the first has them all.
        first = torch.zeros(len(rows), length - 1)
        place = torch.tensor([len(prompt) - 1 for prompt, _ in rows])
        policy = torch.stack([log_probability(model, *row, routed) for row in rows])
        with torch.no_grad():
            base = torch.stack([log_probability(reference, *row, []) for row in rows])
        log_probs = first.index_put((torch.arange(len(rows)), place), policy)
        zeros = torch.zeros_like(first)
        outputs = SimpleNamespace(log_probs=log_probs, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())
        accelerator = SimpleNamespace(device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x)
        trainer = SimpleNamespace(
            model=model, accelerator=accelerator, aux_loss_enabled=False, ld_alpha=None, precompute_ref_logps=True,
            f_divergence_type="reverse_kl", loss_types=[loss_type], loss_weights=[1.0], label_smoothing=SMOOTHING,
            beta=BETA, use_weighting=False, _metrics={"train": defaultdict(list)}, _total_train_tokens=0, _tp_size=1)
        chosen, rejected = base.chunk(2)
        inputs = {"input_ids": torch.zeros_like(mask), "attention_mask": torch.ones_like(mask), "completion_mask": mask,
                  "ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
        return DPOTrainer._compute_loss(trainer, lambda **_: outputs, inputs, False), routed

    return objective


def load(folder: Path):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager",
                                                experts_implementation="eager").train()


def train(folder: Path, objective) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model, reference = load(folder), load(folder)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
                                  lr=PEAK, betas=(0.9, 0.999), eps=1e-8)
    losses = []
    for step in range(NUM_STEPS):
        rate = (step + 1) / WARMUP if step < WARMUP else 1 - (step - WARMUP) / (NUM_STEPS - WARMUP)
        for group in optimizer.param_groups:
            group["lr"] = PEAK * rate
        optimizer.zero_grad()
        loss, routed = objective(model, step, reference)
        losses.append(loss.item())
        (loss + AUX * balance(model, routed) if routed else loss).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return torch.tensor(losses), model.state_dict()


def named(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights under the names of transformers 4, an expert each."""
    old = {}
    for name, weight in weights.items():
        moe = name.replace(".mlp.", ".block_sparse_moe.")
        if name.endswith("gate_up_proj"):
            for e, both in enumerate(weight):
                w1, w3 = both.chunk(2)
                old[f"{moe.removesuffix('gate_up_proj')}{e}.w1.weight"] = w1.clone()
                old[f"{moe.removesuffix('gate_up_proj')}{e}.w3.weight"] = w3.clone()
        elif name.endswith("experts.down_proj"):
            for e, w2 in enumerate(weight):
                old[f"{moe.removesuffix('down_proj')}{e}.w2.weight"] = w2.clone()
        else:
            old[moe if name.endswith("gate.weight") else name] = weight.clone()
    return old


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for folder in (HERE / "llama_gradients", HERE / "mixtral_gradients"):
        golden = {}
        for name, objective in (("lm", language_modeling), ("dpo", dpo)):
            losses, weights = train(folder, objective)
            golden[f"{name}.losses"] = losses
            golden |= {f"{name}.{key}": value for key, value in named(weights).items()}
            print(folder.name, name, losses[0].item(), losses[-1].item())
        for name in ("ipo", "hinge", "robust"):
            golden[f"{name}.losses"], _ = train(folder, of_trl(name))
            print(folder.name, name, golden[f"{name}.losses"][0].item(), golden[f"{name}.losses"][-1].item())
        save_file(golden, folder / "training.safetensors")


if __name__ == "__main__":
    main()
