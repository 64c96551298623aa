"""Compares `deepwide eval` with lm-eval itself, item by item: prompts by their hashes, log-likelihoods, metrics, scores.

    pip install "lm-eval[hf]==0.4.13"
    python experiments/eval_parity.py MODEL --data-dir DATA --deepwide target/debug/deepwide --limit 60

MODEL is a directory that transformers loads (float32, CPU). DATA has the layout that `docs/evaluation.md` describes. Exits with 1
if a hash or a metric differs, or a log-likelihood by more than the tolerance.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests/golden/eval"))
import local_lm_eval

TASKS = ["arc_challenge", "hellaswag", "mmlu_anatomy", "mmlu_us_foreign_policy", "truthfulqa_mc2", "winogrande"]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--deepwide", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--num_fewshot", type=int)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--batch_size", default="1")
    parser.add_argument("--apply_chat_template", action="store_true")
    parser.add_argument("--tolerance", type=float, default=1e-3)
    return parser.parse_args()


def lm_eval_run(args: argparse.Namespace) -> tuple[dict, float]:
    """Results with samples, and the seconds that answering took."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    local_lm_eval.use(args.data_dir)
    model = HFLM(pretrained=args.model, dtype="float32", batch_size=int(args.batch_size), device="cpu")
    start = time.perf_counter()
    results = lm_eval.simple_evaluate(
        model=model,
        tasks=args.tasks,
        num_fewshot=args.num_fewshot,
        limit=args.limit,
        apply_chat_template=args.apply_chat_template,
        fewshot_as_multiturn=args.apply_chat_template,
        bootstrap_iters=1000,
    )
    return results, time.perf_counter() - start


def deepwide_run(args: argparse.Namespace) -> tuple[dict, float]:
    """The same from `deepwide eval`."""
    with tempfile.TemporaryDirectory() as folder:
        words = [args.deepwide, "eval", args.model, "--data-dir", args.data_dir, "--tasks", ",".join(args.tasks)]
        words += ["--output_path", folder, "--log_samples"]
        words += ["--num_fewshot", str(args.num_fewshot)] if args.num_fewshot is not None else []
        words += ["--limit", str(args.limit)] if args.limit is not None else []
        words += ["--apply_chat_template"] if args.apply_chat_template else []
        subprocess.run([str(word) for word in words], check=True, stdout=subprocess.DEVNULL)
        results = json.loads(next(Path(folder).rglob("results_*.json")).read_text())
        samples = {}
        for path in Path(folder).rglob("samples_*.jsonl"):
            samples[path.name.removeprefix("samples_").rsplit("_", 1)[0]] = [
                json.loads(line) for line in path.read_text().splitlines()
            ]
    return results | {"samples": samples}, results["deepwide"]["cost"]["wall_s"]


def compare(theirs: dict, ours: dict, tolerance: float) -> bool:
    """Prints a line for each task, and whether all agree."""
    agree = True
    for task, expected in theirs["samples"].items():
        found = {(sample["doc_id"], sample["filter"]): sample for sample in ours["samples"][task]}
        worst, hashes, metrics, greedy = 0.0, 0, 0, 0
        for sample in expected:
            other = found.pop((sample["doc_id"], sample["filter"]))
            names = ("doc_hash", "prompt_hash", "target_hash")
            hashes += any(sample[name] != other[name] for name in names)
            pairs = [(list(map(str, pair)), list(other["arguments"][f"gen_args_{i}"].values())) for i, pair in enumerate(sample["arguments"])]
            hashes += any(a[0] != b[0] for a, b in pairs)
            for metric in sample["metrics"]:
                near = 1e-4 if task == "truthfulqa_mc2" else 0.0
                metrics += abs(float(sample[metric]) - float(other[metric])) > near
            for a, b in zip(sample["filtered_resps"], other["filtered_resps"], strict=True):
                if isinstance(b, str):
                    metrics += a != b
                else:
                    worst = max(worst, abs(float(a[0]) - float(b[0])))
                    greedy += str(a[1]) != b[1]
        scores = {
            key: (value, ours["results"][task][key])
            for key, value in theirs["results"][task].items()
            if "," in key and isinstance(value, float)
        }
        equal = all(abs(a - b) <= 1e-4 for a, b in scores.values())
        good = not (found or hashes or metrics) and worst <= tolerance and equal
        agree &= good
        shown = ", ".join(f"{key} {a:.4f} {b:.4f}" for key, (a, b) in scores.items() if "stderr" not in key)
        print(
            f"{'ok  ' if good else 'FAIL'} {task}: {len(expected)} items, max |Δ log-likelihood| {worst:.1e}, "
            f"other hashes {hashes}, other metrics {metrics}, other greedy flags {greedy}; {shown}",
            flush=True,
        )
    return agree


def main() -> None:
    args = arguments()
    ours, our_s = deepwide_run(args)
    theirs, their_s = lm_eval_run(args)
    agree = compare(theirs, ours, args.tolerance)
    print(f"lm-eval {their_s:.1f} s, deepwide {our_s:.1f} s: {their_s / our_s:.1f} times as fast")
    sys.exit(0 if agree else 1)


main()
