"""Times deepwide, PyTorch, llama.cpp and candle in turns, and measures the limits of the machine in the same run.

    python benches/peers/speed.py --deepwide target/release/deepwide --base smollm2 --out speed
    python benches/peers/speed.py --base smollm2 --out speed --without deepwide --only 'base decode' --rounds 2

Writes results.json (every sample) and table.md into the folder; models that it derives lie in its `models` and are kept.
README.md beside this file says what is measured, and how fair it is.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from datetime import datetime, timezone
from importlib import metadata, util
from pathlib import Path

HERE = Path(__file__).parent
PACKAGES = {"torch": "torch", "transformers": "transformers", "llama_cpp": "llama-cpp-python", "gguf": "gguf",
            "safetensors": "safetensors", "numpy": "numpy"}

SLOW_NS = 90e9


def install(folder: Path) -> None:
    """Creates an environment with the pinned peers and re-executes in it."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    subprocess.run([str(python), "-m", "pip", "install", "-r", str(HERE / "requirements.txt")], check=True)
    os.execv(python, [str(python), *sys.argv, "--installed"])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, required=True, help="Hugging Face directory of a dense Llama, in f32")
    parser.add_argument("--gguf", type=Path, help="GGUF file of it to quantize from; else one is written from --base")
    parser.add_argument("--deepwide", default="target/release/deepwide", help="the command")
    parser.add_argument("--out", type=Path, default=Path("speed"))
    parser.add_argument("--target", type=Path, help="where cargo builds the candle probe (default: OUT/target)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("--only", default="", metavar="REGEX", help="the rows whose name it is found in; --list names them")
    parser.add_argument("--without", default="", metavar="REGEX", help="contenders left out")
    parser.add_argument("--list", action="store_true", help="print the names of the rows")
    parser.add_argument("--install", type=Path, metavar="DIR", help="install the pinned peers into a venv there first")
    parser.add_argument("--installed", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def output(*command: str) -> str:
    """Output of a command; empty if it cannot run."""
    try:
        return subprocess.run(command, capture_output=True, text=True, cwd=HERE, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def run_info(options: argparse.Namespace) -> dict:
    cpu = next((line.split(":", 1)[1].strip() for line in output("cat", "/proc/cpuinfo").splitlines()
                if line.startswith("model name")), platform.processor())
    return {
        "test_time": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"), "cpu_info": cpu,
        "cpu_count": os.cpu_count(), "n_threads": options.threads, "rounds": options.rounds, "system": platform.platform(),
        "commit": output("git", "rev-parse", "HEAD"), "modified": bool(output("git", "status", "--porcelain")),
        "rustc": output("rustc", "--version"), "python": platform.python_version(),
        "versions": {package: metadata.version(package) for package in PACKAGES.values()},
    }


def measure(row, contenders: dict, limits: dict, models, options: argparse.Namespace) -> dict:
    """Runs all rounds of a row. A contender drops out after a failure, or after a sample longer than `SLOW_NS`."""
    results = {name: {"samples_ns": [], "peak_rss_bytes": []} for name in contenders}
    machine = {name: [] for name in limits}
    load = []
    for _ in range(options.rounds):
        load.append(os.getloadavg()[0])
        for name, worker in limits.items():
            machine[name].append(worker.ask()["per_second"])
        for name, contender in contenders.items():
            if "error" in results[name] or max(results[name]["samples_ns"], default=0) > SLOW_NS:
                continue
            try:
                sample = contender.measure(row, models, options.threads)
            except Exception as error:  # one contender's failure is a cell of the table, not the end of the run
                results[name]["error"] = f"{error}" if type(error).__name__ == "Failed" else f"{type(error).__name__}: {error}"
                contender.next_row()
                print(f"  {name} failed: {results[name]['error']}", file=sys.stderr)
                continue
            results[name]["samples_ns"].append(sample["sample_ns"])
            results[name]["peak_rss_bytes"].append(sample["peak_rss_bytes"])
            results[name]["about"] = sample["about"]
    for contender in contenders.values():
        contender.next_row()
    return {"contenders": results, "limits": machine, "load_average": load}


def main() -> None:
    options = arguments()
    if options.install and not options.installed:
        install(options.install)
    if missing := [package for module, package in PACKAGES.items() if not util.find_spec(module)]:
        sys.exit(f"this Python lacks {', '.join(missing)}: give --install DIR, or pip install -r {HERE / 'requirements.txt'}")
    from contenders import Deepwide, Worker, candle_probe, peers
    from models import Models
    from report import markdown
    from rows import rows

    chosen = [row for row in rows() if re.search(options.only, row.name)]
    if options.list:
        print("\n".join(row.name for row in rows()))
        return
    if not chosen:
        sys.exit(f"no row's name has {options.only!r}; see --list")
    options.out.mkdir(parents=True, exist_ok=True)
    probe = candle_probe((options.target or options.out / "target").resolve())
    everyone = {"deepwide": Deepwide(options.deepwide)} | peers(probe)
    left = {name: one for name, one in everyone.items() if not (options.without and re.search(options.without, name))}
    models = Models(options.out.resolve() / "models", options.base.resolve(), options.gguf and options.gguf.resolve())
    limits = {name: Worker([probe], {"work": work, "threads": options.threads})
              for name, work in (("flops_per_s", "fma"), ("bytes_per_s", "stream"))}
    document = {"run": run_info(options), "rows": []}
    for row in chosen:
        print(row.name, file=sys.stderr)
        entered = {name: one for name, one in left.items() if name == "deepwide" or name in row.peers}
        result = measure(row, entered, limits, models, options)
        best = {name: max(samples) for name, samples in result["limits"].items()}
        flops, bytes_ = row.cost(models)
        document["rows"].append({
            "name": row.name, "work": row.work, "model": row.model, "weights": row.weights, "n_tokens": row.tokens,
            "n_batch": row.batch, "goal": row.goal, "produced_tokens": row.produced, "flops": flops, "bytes": bytes_,
            "limit_s": row.limit_s(models, best["flops_per_s"], best["bytes_per_s"]),
            "stored_bytes_by_type": models.stored_bytes(row.model, row.weights) if row.quantized else None,
        } | result)
        (options.out / "results.json").write_text(json.dumps(document, indent=1) + "\n")
        (options.out / "table.md").write_text(markdown(document))
    for worker in limits.values():
        worker.close()
    print(markdown(document))


if __name__ == "__main__":
    main()
