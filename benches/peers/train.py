"""Trains beside TRL and PEFT: the losses of the first updates, and speed and memory in turns.

    python benches/peers/train.py --deepwide target/release/deepwide --base smollm2 \\
        --instruct alpaca.json --preference ultrafeedback.jsonl --out beside

needs torch, transformers, trl, peft and datasets. Every update takes all rows, so that both see the same batch in whatever order:
`--rows` records of at most `--max-length` tokens, in passes of `--batch` records (DPO: pairs), float32, AdamW, a linear decay. Losses
are compared update by update. Speed counts the tokens that the model reads and the time of the updates behind the second: both touch
new memory before that. Peak memory is that of the whole process. Prints a table and writes results.json into the folder. Say how loaded the machine was:
the load average is recorded.
"""

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

UPDATES = 10
WARMUP = 2
RATES = {"sft": 2e-5, "dpo": 1e-6, "lora": 2e-4}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, required=True, help="Hugging Face directory with a chat template, in float32")
    parser.add_argument("--instruct", type=Path, help="JSON list of instruction, input, output")
    parser.add_argument("--preference", type=Path, help="JSON lines of prompt, chosen, rejected")
    parser.add_argument("--deepwide", default="target/release/deepwide", help="the command")
    parser.add_argument("--out", type=Path, default=Path("beside"))
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--min-length", type=int, default=0, help="tokens of the shortest record")
    parser.add_argument("--batch", type=int, default=1, help="records a pass")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("--only", default="", help="sft, dpo or lora")
    parser.add_argument("--peer", nargs=2, metavar=("WAY", "FILE"), help=argparse.SUPPRESS)
    return parser.parse_args()


def records(args: argparse.Namespace) -> dict[str, Path]:
    """The files that both train on, of records that are not cut."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(args.base)
    args.out.mkdir(parents=True, exist_ok=True)

    def fits(*turns: str) -> bool:
        return args.min_length <= sum(len(tokenizer(turn)["input_ids"]) for turn in turns) < args.max_length - 40

    def message(role: str, content: str) -> list[dict]:
        return [{"role": role, "content": content}]

    files = {}
    if args.instruct:
        rows = json.loads(args.instruct.read_text())
        rows = [(f"{r['instruction']}\n{r['input']}".strip(), r["output"]) for r in rows if r["output"].strip()]
        rows = [{"prompt": message("user", p), "completion": message("assistant", c)} for p, c in rows if fits(p, c)]
        files["sft"] = files["lora"] = args.out / "instruct.jsonl"
        files["sft"].write_text("".join(json.dumps(row) + "\n" for row in rows[:args.rows]))
    if args.preference:
        rows = [json.loads(line) for line in args.preference.read_text().splitlines()]
        rows = [(r["prompt"], r["chosen"], r["rejected"]) for r in rows]
        rows = [{"prompt": message("user", p), "chosen": message("assistant", c), "rejected": message("assistant", r)}
                for p, c, r in rows if c.strip() and r.strip() and c != r and fits(p, c) and fits(p, r)]
        files["dpo"] = args.out / "preference.jsonl"
        files["dpo"].write_text("".join(json.dumps(row) + "\n" for row in rows[:args.rows]))
    return {way: file for way, file in files.items() if args.only in way}


def num_tokens(args: argparse.Namespace, way: str, file: Path) -> int:
    """Tokens that the model reads in an update: the last of a sequence is a target only."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(args.base)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    keys = ["chosen", "rejected"] if way == "dpo" else ["completion"]
    texts = [tokenizer.apply_chat_template(row["prompt"] + row[key], tokenize=False) for row in rows for key in keys]
    return sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) - 1 for text in texts)


def deepwide(args: argparse.Namespace, way: str, file: Path) -> dict:
    out = args.out / f"deepwide-{way}"
    subprocess.run(["rm", "-rf", str(out), f"{out}-checkpoints"], check=True)
    command = [args.deepwide, "dpo" if way == "dpo" else "sft", str(args.base), "--data", str(file), "-o", str(out),
               "--max-length", str(args.max_length), "--per-device-train-batch-size", str(args.batch),
               "--gradient-accumulation-steps", str(args.rows // args.batch),
               "--num-train-epochs", str(UPDATES), "--learning-rate", str(RATES[way]), "--test-split-size", "0",
               "--logging-steps", "1", "--save-steps", "1000", "--json", *(["--use-peft", "--lora-dropout", "0"] if way == "lora" else [])]
    environment = {**os.environ, "RAYON_NUM_THREADS": str(args.threads)}
    child = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert child.returncode == 0, child.stderr
    summary = json.loads(child.stdout)
    # A line an update, of the time since the last line.
    rates = [float(rate) for rate in re.findall(r"^step .* ([0-9.]+) tok/s", child.stderr, re.MULTILINE)]
    assert len(rates) == UPDATES, child.stderr
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return {"losses": [line["loss"] for line in log if "loss" in line],
            "tokens_per_s": statistics.harmonic_mean(rates[WARMUP:]),
            "peak_bytes": summary.get("peak_memory_bytes") or resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10}


def peer(args: argparse.Namespace, way: str, file: Path) -> dict:
    """Runs TRL in a process of its own."""
    command = [sys.executable, __file__, "--base", str(args.base), "--out", str(args.out), "--rows", str(args.rows),
               "--batch", str(args.batch), "--max-length", str(args.max_length), "-t", str(args.threads), "--peer", way, str(file)]
    child = subprocess.run(command, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout.splitlines()[-1])


def train_peer(args: argparse.Namespace, way: str, file: Path) -> dict:
    import torch
    from datasets import load_dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    torch.set_num_threads(args.threads)

    class Clock(TrainerCallback):
        """Times the updates, and keeps their losses."""

        def __init__(self):
            self.losses, self.updates_s, self.start = [], [], 0.0

        def on_step_begin(self, *_, **__):
            self.start = time.perf_counter()

        def on_step_end(self, *_, **__):
            self.updates_s.append(time.perf_counter() - self.start)

        def on_log(self, _, __, ___, logs=None, **____):
            if "loss" in logs:
                self.losses.append(float(logs["loss"]))

    clock = Clock()
    model = AutoModelForCausalLM.from_pretrained(args.base, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(args.base)
    dataset = load_dataset("json", data_files=str(file), split="train", cache_dir=str(args.out / "cache"))
    shared = dict(output_dir=str(args.out / "trl"), per_device_train_batch_size=args.batch,
                  gradient_accumulation_steps=args.rows // args.batch,
                  num_train_epochs=UPDATES, learning_rate=RATES[way], lr_scheduler_type="linear", warmup_steps=0,
                  weight_decay=0.0, max_grad_norm=1.0, logging_steps=1, save_strategy="no", report_to="none", use_cpu=True,
                  bf16=False, gradient_checkpointing=False, max_length=args.max_length, disable_tqdm=True)
    made = dict(model=model, train_dataset=dataset, processing_class=tokenizer, callbacks=[clock])
    if way == "dpo":
        trainer = DPOTrainer(args=DPOConfig(beta=0.1, precompute_ref_log_probs=True, **shared), **made)
    else:
        adapter = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
        lora = dict(peft_config=adapter) if way == "lora" else {}
        trainer = SFTTrainer(args=SFTConfig(completion_only_loss=True, **shared), **made, **lora)
    trainer.train()
    behind = clock.updates_s[WARMUP:]
    return {"losses": clock.losses, "update_s": sum(behind) / len(behind),
            "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10}


def main() -> None:
    args = arguments()
    if args.peer:
        way, file = args.peer
        print(json.dumps(train_peer(args, way, Path(file))))
        return
    results = []
    for way, file in records(args).items():
        tokens = num_tokens(args, way, file)
        runs = {"deepwide": [], "trl": []}
        for round_ in range(args.rounds):
            turns = [("deepwide", deepwide), ("trl", peer)]
            for name, run in turns if round_ % 2 == 0 else reversed(turns):
                load = os.getloadavg()[0]
                found = run(args, way, file)
                found.setdefault("tokens_per_s", tokens / found.get("update_s", float("nan")))
                runs[name].append(found | {"load": load})
        best = {name: max(run["tokens_per_s"] for run in found) for name, found in runs.items()}
        ours, theirs = (runs[name][0]["losses"] for name in ("deepwide", "trl"))
        off = max(abs(a - b) for a, b in zip(ours, theirs))
        peak = {name: min(run["peak_bytes"] for run in found) / 2**20 for name, found in runs.items()}
        loads = [f"{run['load']:.1f}" for found in runs.values() for run in found]
        print(f"{way}: {tokens} tokens an update; losses differ by {off:.1e} of {theirs[0]:.4f} in {len(theirs)} updates\n"
              f"  tokens/s {best['deepwide']:.1f}, TRL {best['trl']:.1f}: {best['deepwide'] / best['trl']:.2f} times\n"
              f"  peak {peak['deepwide']:.0f} MiB, TRL {peak['trl']:.0f} MiB; load {', '.join(loads)}", flush=True)
        results.append({"way": way, "num_tokens": tokens, "loss_difference": off, **runs})
    (args.out / "results.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
