"""Compares `deepwide eval` with lm-eval itself, item by item: prompts by their hashes, log-likelihoods, metrics, scores.

    pip install "lm-eval[hf]==0.4.13"
    python experiments/eval_parity.py MODEL --data-dir DATA --deepwide target/debug/deepwide --limit 60

MODEL is a directory that transformers loads (float32, CPU). DATA has the layout that `docs/evaluation.md` describes. Exits with 1
if a hash or a metric differs, or a log-likelihood by more than the tolerance.

`--record FILE` adds the seconds of both programs and what they ran on to FILE, as `figures/speed/evaluation.json` has them.

`--save FILE` adds lm-eval's answers to FILE. `--against FILE` compares with all answers in FILE instead of running lm-eval, which is
several times slower than deepwide; FILE determines tasks, examples and items. `tests/golden/eval/parity/` has such files for
SmolLM2-135M-Instruct, for its mixture (`deepwide grow smollm2 moe --moe 8 --noise 0.1`), and for its deep child (`--dus 6`).
"""

import argparse
import hashlib
import importlib.metadata
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests/golden/eval"))

TASKS = ["arc_challenge", "hellaswag", "mmlu_anatomy", "mmlu_us_foreign_policy", "truthfulqa_mc2", "winogrande", "gsm8k"]
HASHES = ("doc_hash", "prompt_hash", "target_hash")
SETTINGS = ("num_fewshot", "limit", "apply_chat_template")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--deepwide", type=Path, help="the program; not needed if answers are only saved")
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--num_fewshot", type=int)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--batch_size", default="1")
    parser.add_argument("--apply_chat_template", action="store_true")
    parser.add_argument("--tolerance", type=float, default=1e-3)
    parser.add_argument("--record", type=Path, metavar="FILE", help="add the seconds of both programs to FILE")
    parser.add_argument("--save", type=Path, metavar="FILE", help="add lm-eval's answers to FILE")
    parser.add_argument("--against", type=Path, metavar="FILE", help="compare with the answers in FILE; --tasks, --num_fewshot and --limit are ignored")
    args = parser.parse_args()
    if args.record and (args.against or not args.deepwide):
        parser.error("--record takes a run of both programs")
    if (args.against and (args.save or not args.deepwide)) or not (args.deepwide or args.save):
        parser.error("expected --deepwide, --save or both, or --against with --deepwide")
    return args


def lm_eval_run(args: argparse.Namespace) -> dict:
    """Answers of lm-eval by task, with the seconds that answering all took."""
    import lm_eval
    import local_lm_eval
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
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "tasks": answers(args, results, lambda argument: list(map(str, argument)))}


def deepwide_run(args: argparse.Namespace) -> dict:
    """The same of `deepwide eval`."""
    with tempfile.TemporaryDirectory() as folder:
        words = [args.deepwide, "eval", args.model, "--data-dir", args.data_dir, "--tasks", ",".join(args.tasks)]
        words += ["--output_path", folder, "--log_samples"]
        words += ["--num_fewshot", str(args.num_fewshot)] if args.num_fewshot is not None else []
        words += ["--limit", str(args.limit)] if args.limit is not None else []
        words += ["--apply_chat_template"] if args.apply_chat_template else []
        subprocess.run([str(word) for word in words], check=True, stdout=subprocess.DEVNULL)
        results = json.loads(next(Path(folder).rglob("results_*.json")).read_text())
        results["samples"] = {}
        for path in Path(folder).rglob("samples_*.jsonl"):
            task = path.name.removeprefix("samples_").rsplit("_", 1)[0]
            results["samples"][task] = [json.loads(line) for line in path.read_text().splitlines()]
        seconds = results["deepwide"]["cost"]["wall_s"]
    tasks = answers(args, results, lambda argument: list(map(str, argument.values())))
    run = {"deepwide": results["git_hash"], "on": results["pretty_env_info"], "date": int(results["date"])}
    return {"seconds": seconds, "tasks": tasks, "run": run}


def answers(args: argparse.Namespace, results: dict, as_words) -> dict:
    """What is compared, by task: the scores, and of each sample hashes, metrics and responses."""
    settings = {name: getattr(args, name) for name in SETTINGS}
    tasks = {}
    for task, samples in results["samples"].items():
        scores = {key: value for key, value in results["results"][task].items() if "," in key and isinstance(value, float)}
        kept = []
        for sample in samples:
            requests = sample["arguments"]
            requests = [as_words(each) for each in (requests.values() if isinstance(requests, dict) else requests)]
            kept.append(
                {
                    "doc_id": sample["doc_id"],
                    "filter": sample["filter"],
                    "hash": digest([sample[name] for name in HASHES] + [words[0] for words in requests]),
                    "metrics": {name: float(sample[name]) for name in sample["metrics"]},
                    "responses": [each if isinstance(each, str) else [float(each[0]), str(each[1])] for each in sample["filtered_resps"]],
                }
            )
        tasks[task] = {"settings": settings, "scores": scores, "samples": kept}
    return tasks


def digest(words: list[str]) -> str:
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:16]


def save(run: dict, path: Path) -> None:
    """Adds the answers to a file of answers: a line for each sample."""
    tasks = (json.loads(path.read_text()) if path.exists() else {}) | run["tasks"]
    lines = []
    for task, kept in sorted(tasks.items()):
        samples = ",\n".join(json.dumps(sample, ensure_ascii=False) for sample in kept["samples"])
        head = "".join(f'"{name}": {json.dumps(kept[name])}, ' for name in ("settings", "scores"))
        lines.append(f'{json.dumps(task)}: {{{head}"samples": [\n{samples}]}}')
    path.write_text("{" + ",\n".join(lines) + "}\n", encoding="utf-8")


def record(args: argparse.Namespace, theirs: dict, ours: dict, worst: float) -> None:
    """Adds a round, whose answers agree, to a file of rounds. Both clocks start with the model loaded: that of lm-eval covers
    `simple_evaluate`, that of deepwide the answering."""
    rounds = json.loads(args.record.read_text()) if args.record.exists() else []
    settings = ("tasks", "num_fewshot", "limit", "batch_size")
    rounds.append(
        {"model": Path(args.model).name, "dtype": "float32"}
        | {name: getattr(args, name) for name in settings}
        | {"lm_eval_s": round(theirs["seconds"], 2), "deepwide_s": round(ours["seconds"], 2)}
        | {"max_difference_of_log_likelihoods": worst}
        | ours["run"]
        | {name: importlib.metadata.version(name) for name in ("lm_eval", "torch", "transformers")}
    )
    args.record.write_text(json.dumps(rounds, indent=1) + "\n", encoding="utf-8")


def compare(theirs: dict, ours: dict, tolerance: float) -> tuple[bool, float]:
    """Prints a line for each task; whether all agree, and the largest difference of log-likelihoods."""
    agree, largest = True, 0.0
    for task, expected in theirs.items():
        found = {(sample["doc_id"], sample["filter"]): sample for sample in ours[task]["samples"]}
        hashes, metrics, greedy, differences = 0, 0, 0, {}
        for sample in expected["samples"]:
            other = found.pop((sample["doc_id"], sample["filter"]))
            hashes += sample["hash"] != other["hash"]
            near = 1e-4 if task == "truthfulqa_mc2" else 0.0
            metrics += sum(not abs(value - other["metrics"][name]) <= near for name, value in sample["metrics"].items())
            for a, b in zip(sample["responses"], other["responses"], strict=True):
                if isinstance(b, str):
                    metrics += a != b
                else:
                    difference = abs(a[0] - b[0])
                    difference = difference if math.isfinite(difference) else math.inf
                    differences[sample["doc_id"]] = max(differences.get(sample["doc_id"], 0.0), difference)
                    greedy += a[1] != b[1]
        scores = {key: (value, ours[task]["scores"][key]) for key, value in expected["scores"].items()}
        equal = all(abs(a - b) <= 1e-4 for a, b in scores.values())
        worst = max(differences.values(), default=0.0)
        largest = max(largest, worst)
        apart = {item: difference for item, difference in differences.items() if difference > tolerance}
        good = not (found or hashes or metrics) and worst <= tolerance and equal
        agree &= good
        shown = ", ".join(f"{key} {a:.4f} {b:.4f}" for key, (a, b) in scores.items() if "stderr" not in key)
        print(
            f"{'ok  ' if good else 'FAIL'} {task}: {len(expected['samples'])} samples, max |Δ log-likelihood| {worst:.1e}, "
            f"other hashes {hashes}, other metrics {metrics}, other greedy flags {greedy}; {shown}",
            flush=True,
        )
        if apart:
            print(f"     beyond {tolerance}: " + ", ".join(f"item {item} {difference:.1e}" for item, difference in apart.items()))
    return agree, largest


def against(args: argparse.Namespace) -> bool:
    """Compares with the answers in a file: one run of deepwide for all tasks of the same settings."""
    groups: dict[str, dict] = {}
    for task, kept in json.loads(args.against.read_text()).items():
        groups.setdefault(json.dumps(kept["settings"]), {})[task] = kept
    agree = True
    for settings, theirs in groups.items():
        given = argparse.Namespace(**vars(args) | json.loads(settings) | {"tasks": list(theirs)})
        agree &= compare(theirs, deepwide_run(given)["tasks"], args.tolerance)[0]
    return agree


def main() -> None:
    args = arguments()
    if args.against:
        sys.exit(0 if against(args) else 1)
    theirs = lm_eval_run(args)
    print(f"lm-eval {theirs['seconds']:.1f} s", flush=True)
    if args.save:
        save(theirs, args.save)
    if args.deepwide:
        ours = deepwide_run(args)
        agree, worst = compare(theirs["tasks"], ours["tasks"], args.tolerance)
        if args.record and agree:
            record(args, theirs, ours, worst)
        print(f"deepwide {ours['seconds']:.1f} s: {theirs['seconds'] / ours['seconds']:.1f} times as fast")
        sys.exit(0 if agree else 1)


main()
