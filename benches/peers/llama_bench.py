"""Runs llama.cpp's own llama-bench and `deepwide bench` in turns on one GGUF file, and shows their JSON records side by side.

    python benches/peers/llama_bench.py --llama-bench llama-bench --deepwide target/release/deepwide --gguf smollm2-q8_0.gguf --out DIR

The source archive of llama-cpp-python has llama.cpp, whose target `llama-bench` cmake builds. Both get the same options. The exit
status is 1 if a record of deepwide lacks a field of llama-bench, has one in another place, or counts other tokens or parameters.
Writes records.json (every record of both, all rounds) and table.md into DIR.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

EQUAL = ["model_n_params", "n_prompt", "n_gen", "n_depth", "n_threads"]
"""Fields that must have the same value."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--llama-bench", default="llama-bench", help="the command")
    parser.add_argument("--deepwide", default="target/release/deepwide", help="the command")
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-t", "--threads", type=int, default=2)
    return parser.parse_args()


def records(command: list[str], args: argparse.Namespace) -> list[dict]:
    """A record for each test: a prompt of 512 tokens, 128 generated tokens, and 32 behind 1024."""
    words = [*command, "-m", args.gguf.name, "-t", str(args.threads), "-r", "1", "-o", "json"]
    tests = [["-p", "512", "-n", "128"], ["-p", "0", "-n", "32", "-d", "1024"]]
    outputs = [subprocess.run([*words, *test], cwd=args.gguf.parent, stdout=subprocess.PIPE, check=True).stdout for test in tests]
    return [record for output in outputs for record in json.loads(output)]


def faults(theirs: dict, ours: dict) -> list[str]:
    shared = [name for name in ours if name in theirs]
    lacking = [f"lacks {name}" for name in theirs if name not in ours]
    moved = ["fields in another order"] if shared != [name for name in theirs if name in ours] else []
    return lacking + moved + [f"{name}: {ours.get(name)}, expected {theirs[name]}" for name in EQUAL if ours.get(name) != theirs[name]]


def main() -> None:
    args = arguments()
    commands = {"llama-bench": [str(Path(args.llama_bench).resolve())], "deepwide": [str(Path(args.deepwide).resolve()), "bench"]}
    runs: dict[str, list[list[dict]]] = {name: [] for name in commands}
    for _ in range(args.rounds):
        for name, command in commands.items():
            runs[name].append(records(command, args))
    pairs = list(zip(runs["llama-bench"][0], runs["deepwide"][0], strict=True))
    found = {fault: None for theirs, ours in pairs for fault in faults(theirs, ours)}
    lines = ["| test | llama-bench, tokens/s | deepwide, tokens/s | ratio |", "|---|--:|--:|--:|"]
    for index, (theirs, _) in enumerate(pairs):
        speeds = [[run[index]["avg_ts"] for run in runs[name]] for name in commands]
        cells = [f"{statistics.median(each):.1f} ({min(each):.1f} to {max(each):.1f})" for each in speeds]
        test = f"pp{theirs['n_prompt']}" if theirs["n_prompt"] else f"tg{theirs['n_gen']}"
        depth = f" at depth {theirs['n_depth']}" if theirs["n_depth"] else ""
        ratio = statistics.median(speeds[1]) / statistics.median(speeds[0])
        lines.append(f"| {test}{depth} | {' | '.join(cells)} | {ratio:.2f} |")
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "records.json").write_text(json.dumps(runs, indent=1) + "\n")
    (args.out / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join([*lines, *found]))
    sys.exit(1 if found else 0)


main()
