"""Times growing against `cp` of the output and against mergekit, in turns.

    python benches/peers/grow.py BASE --deepwide target/debug/deepwide --mergekit mergekit-yaml -r 5

BASE is a Hugging Face directory. Each round runs, one after the other: deepwide writing the depth up-scaled model (with
hashes and its receipt, all synced to disk), `cp -r` of that output, the same `cp` followed by a sync of the file system,
and mergekit with the same slices. Printed are the medians, the spread, the peak of resident memory, and ratios of medians.
Outputs are written next to BASE, on the same file system, and deleted.
"""

import argparse
import json
import pathlib
import shutil
import statistics
import subprocess
import time


def run(command):
    """Seconds and peak resident MiB of a command."""
    start = time.monotonic()
    pid = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    _, errors = pid.communicate()
    seconds = time.monotonic() - start
    if pid.returncode != 0:
        raise SystemExit(f"{command}: {errors.decode()}")
    return seconds


def peak_mib(command):
    """Peak resident MiB of a command, run by a process that has no other children."""
    code = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, capture_output=True);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)"
    )
    return float(subprocess.run(["python3", "-c", code, *command], check=True, capture_output=True, text=True).stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", type=pathlib.Path)
    parser.add_argument("--deepwide", default="target/debug/deepwide")
    parser.add_argument("--mergekit", help="mergekit-yaml; left out if not given")
    parser.add_argument("--overlap", type=int, default=6, help="layers left out of each copy")
    parser.add_argument("-r", "--rounds", type=int, default=5)
    args = parser.parse_args()

    layers = json.loads((args.base / "config.json").read_text())["num_hidden_layers"]
    base = args.base.resolve()
    folder = base.parent / "grow_bench"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    slices = [[0, layers - args.overlap], [args.overlap, layers]]
    config = folder / "slices.yml"
    config.write_text(
        "slices:\n"
        + "".join(f"- sources: [{{model: {base}, layer_range: {s}}}]\n" for s in slices)
        + "merge_method: passthrough\n"
    )
    ours, copied, theirs = folder / "deepwide", folder / "cp", folder / "mergekit"
    copy_and_sync = f"cp -r '{ours}' '{copied}' && sync -f '{copied}'"
    jobs = {
        "deepwide grow": (ours, [args.deepwide, "grow", "--dus", str(args.overlap), str(base), str(ours)]),
        "cp -r": (copied, ["cp", "-r", str(ours), str(copied)]),
        "cp -r, sync": (copied, ["sh", "-c", copy_and_sync]),
    }
    if args.mergekit:
        jobs["mergekit"] = (theirs, [args.mergekit, str(config), str(theirs)])
    seconds = {name: [] for name in jobs}
    for _ in range(args.rounds + 1):  # the first round warms the page cache
        for name, (out, command) in jobs.items():
            shutil.rmtree(out, ignore_errors=True)
            subprocess.run(["sync"], check=True)
            seconds[name].append(run(command))
    size = sum(file.stat().st_size for file in ours.iterdir())
    print(f"{size / 1e6:.0f} MB written, {args.rounds} rounds\n")
    print("| job | median s | min s | max s | MB/s | peak MiB | ÷ cp |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    for name, (out, command) in jobs.items():
        times = seconds[name][1:]
        shutil.rmtree(out, ignore_errors=True)
        if name.startswith("cp"):
            run(jobs["deepwide grow"][1]) if not ours.exists() else None
        memory = peak_mib(command)
        print(
            f"| {name} | {medians[name]:.2f} | {min(times):.2f} | {max(times):.2f} | {size / 1e6 / medians[name]:.0f}"
            f" | {memory:.0f} | {medians[name] / medians['cp -r']:.2f} |"
        )
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
