#!/usr/bin/env python3
"""The work that a GPU counts in one forward pass, by kernel, beside the FLOPs and bytes that `deepwide profile` counts.

    counters.py count MODEL [--device cuda] [--dtype bfloat16] [-p 512] [--deepwide FILE] [GROWTH …]
    counters.py test                without a GPU: reads counters_sample.csv

Nsight Compute's `ncu` runs `deepwide bench` with one repetition and with two, and counts the launches of both; then with two again, and
measures those that come after the launches of the first: one pass, which must have the difference. It flushes the caches of the GPU before every kernel. FLOPs outside of tensor cores are those of
nvprof's `flop_count_sp` and `flop_count_hp`; tensor cores count operations, two for a multiply-add. Options of growth, such as
`--moe 8`, are those of `deepwide`. The exit status is 1, with one line, if ncu cannot measure or does not find one pass.
"""

import argparse
import csv
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

# FLOPs of an instruction of a thread. Metrics of Nsight Compute that `ncu --query-metrics --chips ga100` and `gh100` list.
PER_INSTRUCTION = {
    "float32": {"fadd": 1, "fmul": 1, "ffma": 2},
    "half": {"hadd": 1, "hmul": 1, "hfma": 2},
}
INSTRUCTIONS = "smsp__sass_thread_inst_executed_op_{}_pred_on.sum"
READ, WRITTEN = "dram__bytes_read.sum", "dram__bytes_write.sum"
# Counters of tensor cores by type of the factors, which differ among GPUs. Those by sparsity are parts of them.
TENSOR = re.compile(r"sm__ops_path_tensor_src_(?:bf16|tf32|fp\d+)(?:_\w+)?")
# A metric of a launch that needs no counter.
ANY = "launch__grid_size"
COLUMNS = [*PER_INSTRUCTION, "tensor cores", "FLOPs", "read", "written"]
PERMISSION = "ERR_NVGPUCTRPERM"


class Failure(Exception):
    """Why nothing was measured, in one line."""


def tensor_metrics(listed: str) -> list[str]:
    """The counters of tensor cores in the output of `ncu --query-metrics`, each operation in one of them."""
    names = {line.split()[0] for line in listed.splitlines() if TENSOR.match(line) and "_sparsity_" not in line.split()[0]}
    # Where a type has a counter for all results, those for one type of them are parts of it.
    return sorted(f"{name}.sum" for name in names if not any(name.startswith(f"{other}_") for other in names))


def launches(text: str) -> list[dict[str, str]]:
    """The kernels of `ncu --csv --page raw --print-units base` in their order: a row of names, one of units, one a launch."""
    rows = list(csv.reader(line for line in text.splitlines() if line.startswith('"')))
    if len(rows) < 2 or "Kernel Name" not in rows[0]:
        raise Failure(f"ncu printed no table of kernels: {last_line(text)}")
    names, units, *kernels = rows
    for name, unit in zip(names, units):
        if name in (READ, WRITTEN) and unit != "byte":
            raise Failure(f"ncu: the unit of {name} is {unit}, expected byte")
    return [dict(zip(names, kernel)) for kernel in kernels]


def number(launch: dict[str, str], metric: str) -> float:
    try:
        return float(launch[metric].replace(",", ""))
    except (KeyError, ValueError):
        raise Failure(f"ncu: {metric} of {launch['Kernel Name']} is {launch.get(metric)}, expected a number") from None


def work(launch: dict[str, str]) -> list[float]:
    """The numbers of COLUMNS."""
    of_types = [
        sum(flops * number(launch, INSTRUCTIONS.format(op)) for op, flops in ops.items()) for ops in PER_INSTRUCTION.values()
    ]
    tensor = sum(number(launch, metric) for metric in launch if TENSOR.match(metric))
    return [*of_types, tensor, sum(of_types) + tensor, number(launch, READ), number(launch, WRITTEN)]


def by_kernel(pass_: list[dict[str, str]]) -> dict[str, tuple[int, list[float]]]:
    """Launches and the sums of COLUMNS of each kernel, that of most FLOPs first."""
    sums: dict[str, tuple[int, list[float]]] = {}
    for launch in pass_:
        count, before = sums.get(launch["Kernel Name"], (0, [0.0] * len(COLUMNS)))
        sums[launch["Kernel Name"]] = count + 1, [x + y for x, y in zip(before, work(launch))]
    return dict(sorted(sums.items(), key=lambda item: -item[1][1][COLUMNS.index("FLOPs")]))


def checked(pass_: list[dict[str, str]], of_one: int, of_two: int) -> list[dict[str, str]]:
    """The measured launches, if they are as many as the second repetition adds to those of one."""
    if len(pass_) != of_two - of_one:
        counts = f"{of_two} launches with two repetitions, {of_one} with one"
        raise Failure(f"measured {len(pass_)} launches, expected those of one pass, {of_two - of_one}: {counts}")
    return pass_


def table(title: str, pass_: list[dict[str, str]], of_one: int, of_two: int, flops: float, bytes_: float) -> str:
    """The kernels of a pass and their sum, beside what the config counts and how many launches repetitions have."""
    kernels = by_kernel(pass_)
    total = [sum(each) for each in zip(*(sums for _, sums in kernels.values()))]
    of_flops, of_bytes = total[COLUMNS.index("FLOPs")], sum(total[-2:])

    def row(cells: list[str], numbers: list[float]) -> str:
        return "| " + " | ".join([*cells, *(f"{number / 1e9:.4f}" for number in numbers)]) + " |"

    def beside(counted: float, expected: float) -> str:
        difference = f"{(counted - expected) / 1e9:+.4f} G, {counted / expected:.3f} times"
        return f"{counted / 1e9:.4f} G counted by the GPU, {expected / 1e9:.4f} G by the config: {difference}"

    return "\n".join([
        f"## Counters of the GPU: {title}",
        "",
        "Billions of FLOPs and of bytes of DRAM. The config counts matrix products and scores of tokens that are seen, weights, keys and",
        "values; kernels also compute norms, softmax and masked or padded parts of tiles, and move activations.",
        "",
        row(["kernel", "launches", *COLUMNS], []),
        "|---|" + "--:|" * (len(COLUMNS) + 1),
        *(row([f"`{name}`", str(count)], sums) for name, (count, sums) in kernels.items()),
        row(["total", str(len(pass_))], total),
        "",
        f"- Launches: {len(pass_)} measured; {of_two} with two repetitions less {of_one} with one are {of_two - of_one}",
        f"- FLOPs: {beside(of_flops, flops)}",
        f"- Bytes: {beside(of_bytes, bytes_)}",
        "",
    ])


def last_line(text: str) -> str:
    """The last line that says something, an error of ncu if there is one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("==ERROR==")]
    return (errors or lines or ["nothing"])[-1]


def output_of(command: list[str]) -> str:
    """What a command prints. ncu groups digits as the locale does."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
    except OSError as error:
        raise Failure(f"{command[0]} does not start: {error.strerror}") from None
    if done.returncode:
        raise Failure(f"{command[0]} {command[1]}: exit status {done.returncode}: {last_line(done.stdout + done.stderr)}")
    return done.stdout


def measured(metrics: list[str], skipped: int, application: list[str]) -> list[dict[str, str]]:
    """The launches of an application after the first `skipped` ones."""
    with tempfile.TemporaryDirectory() as folder:
        log = pathlib.Path(folder) / "log"
        options = ["--csv", "--page", "raw", "--print-units", "base", "--clock-control", "none"]
        options += ["--metrics", ",".join(metrics), "--launch-skip", str(skipped), "--log-file", str(log)]
        failure = None
        try:
            output_of(["ncu", *options, *application])
        except Failure as error:
            failure = error
        text = log.read_text() if log.exists() else ""
    if PERMISSION in text or PERMISSION in str(failure):
        raise Failure(f"ncu may not read the counters ({PERMISSION}): run as root, or set NVreg_RestrictProfilingToAdminUsers=0")
    if failure:
        raise Failure(f"{failure}; {last_line(text)}")
    return launches(text)


def of_config(command: list[str]) -> tuple[str, float, float]:
    """The name of the model, and the FLOPs and bytes of a pass, that `deepwide profile --dry-run --json` prints."""
    printed = output_of(command)
    try:
        profile = json.loads(printed)
        total = profile["tests"][0]["total"]
        return profile["model"], float(total["flops"]), float(total["bytes"])
    except (ValueError, LookupError, TypeError):
        found = " ".join(printed.split())[:200] or "nothing"
        raise Failure(f"{' '.join(command)} printed {found}, expected a profile in JSON") from None


def counted(options: argparse.Namespace, growth: list[str]) -> str:
    model = [options.model, "-p", str(options.n_prompt), "-n", "0", "--dtype", options.dtype, *growth]
    name, flops, bytes_ = of_config([options.deepwide, "profile", *model, "--dry-run", "--json"])
    tensor = tensor_metrics(output_of(["ncu", "--query-metrics"]))
    if not tensor:
        raise Failure("ncu lists no counter of the operations of tensor cores for this GPU")
    metrics = [INSTRUCTIONS.format(op) for ops in PER_INSTRUCTION.values() for op in ops] + [*tensor, READ, WRITTEN]
    bench = [options.deepwide, "bench", *model, "--device", options.device, "--no-warmup", "-r"]
    of_one, of_two = (len(measured([ANY], 0, [*bench, repetitions])) for repetitions in ("1", "2"))
    pass_ = checked(measured(metrics, of_one, [*bench, "2"]), of_one, of_two)
    title = f"{name}, prompt of {options.n_prompt} tokens, {options.dtype}, {options.device}"
    return table(title, pass_, of_one, of_two, flops, bytes_)


def self_test() -> None:
    """Reads the sample, whose numbers are made up."""
    text = (pathlib.Path(__file__).parent / "counters_sample.csv").read_text()
    pass_ = launches(text)
    kernels = by_kernel(pass_)
    assert kernels == {
        "matmul_entry": (2, [0, 0, 9000, 9000, 3000, 300]),
        "void rms<float>(float *, int, int)": (1, [1 + 2 + 2 * 3, 4 + 5 + 2 * 6, 0, 30, 4195712, 69376]),
    }, kernels
    assert list(kernels) == ["matmul_entry", "void rms<float>(float *, int, int)"]
    shown = table("a sample", checked(pass_, 5, 8), 5, 8, 9000, 4e6)
    assert "- Launches: 3 measured; 8 with two repetitions less 5 with one are 3" in shown, shown
    assert "| `matmul_entry` | 2 | 0.0000 |" in shown and "1.003 times" in shown and "1.067 times" in shown, shown
    listed = "\n".join(
        f"sm__ops_path_tensor_{name}      Counter   # of math ops executed in Tensor path"
        for name in ["src_bf16_dst_fp32", "src_bf16_dst_fp32_sparsity_off", "src_fp16", "src_fp16_dst_fp32", "src_int8", "op_hmma_src_fp16"]
    )
    assert tensor_metrics(listed) == [f"sm__ops_path_tensor_src_{name}.sum" for name in ["bf16_dst_fp32", "fp16"]]
    for wrong, reason in [
        (lambda: by_kernel(launches(text.replace('"byte"', '"Mbyte"'))), "expected byte"),
        (lambda: by_kernel(launches(text.replace('"4195712"', '"n/a"'))), "expected a number"),
        (lambda: launches("==PROF== Connected to process 1\n==WARNING== No kernels were profiled.\n"), "No kernels were profiled"),
        (lambda: checked(pass_, 5, 9), "measured 3 launches, expected those of one pass, 4: 9 launches with two repetitions, 5 with one"),
        (lambda: checked(pass_, 5, 5), "expected those of one pass, 0"),
        (lambda: output_of(["/no/such/ncu", "--version"]), "/no/such/ncu does not start: No such file or directory"),
        (lambda: of_config(["echo", "no", "model"]), "echo no model printed no model, expected a profile in JSON"),
        (lambda: of_config(["true", ""]), "printed nothing, expected a profile in JSON"),
        (lambda: of_config(["echo", '{"tests": []}']), """printed {"tests": []}, expected a profile in JSON"""),
    ]:
        try:
            wrong()
        except Failure as failure:
            assert reason in str(failure) and "\n" not in str(failure), failure
        else:
            raise AssertionError(reason)
    print("1 passed, 0 failed")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("test")
    of_count = commands.add_parser("count")
    of_count.add_argument("model")
    of_count.add_argument("--device", default="cuda")
    of_count.add_argument("--dtype", default="bfloat16")
    of_count.add_argument("-p", "--n-prompt", type=int, default=512)
    of_count.add_argument("--deepwide", default="deepwide", metavar="FILE")
    options, growth = parser.parse_known_args()
    try:
        match options.command:
            case "test":
                self_test()
            case "count":
                print(counted(options, growth))
    except Failure as failure:
        print(failure, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
