#!/usr/bin/env python3
"""Models of random weights, their loss and speed in PyTorch, and the tables of `run.sh`.

    peer.py make SHAPE FOLDER       a Hugging Face directory, in bfloat16, whose tokens are bytes
    peer.py layers SHAPE
    peer.py nats FOLDER TEXT        the loss that `deepwide perplexity --stride 512 -c 512 --chunks 2` computes
    peer.py bench SHAPE CHILD …     the tests of `deepwide bench`, by transformers; one JSON object a line
    peer.py working OUT DEVICE…     those devices in which `deepwide doctor` found no fault
    peer.py table OUT               all records of a folder, as tables
"""

import argparse
import ctypes
import inspect
import json
import pathlib
import re
import statistics
import time

# Llama's sizes: SmolLM2-135M, TinyLlama-1.1B, and one for rehearsals.
SHAPES = {
    "135m": dict(layers=30, hidden=576, intermediate=1536, heads=9, kv_heads=3, vocab=49152),
    "1.1b": dict(layers=22, hidden=2048, intermediate=5632, heads=32, kv_heads=4, vocab=32000),
    "pico": dict(layers=4, hidden=64, intermediate=160, heads=4, kv_heads=2, vocab=512),
}

BYTES_PER_PARAMETER = {"float32": 4, "float16": 2, "bfloat16": 2}


def config(shape: str, child: str = "dense"):
    from transformers import LlamaConfig, MixtralConfig

    size = SHAPES[shape]
    layers = size["layers"]
    common = dict(
        hidden_size=size["hidden"],
        intermediate_size=size["intermediate"],
        num_hidden_layers=2 * (layers - layers // 4) if child == "deep" else layers,
        num_attention_heads=size["heads"],
        num_key_value_heads=size["kv_heads"],
        vocab_size=size["vocab"],
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
    )
    if child == "wide":
        return MixtralConfig(**common, num_local_experts=8, num_experts_per_tok=2, sliding_window=None)
    return LlamaConfig(**common)


def model(shape: str, child: str, dtype, device: str):
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config(shape, child), dtype=dtype, attn_implementation="sdpa")


def make(shape: str, folder: pathlib.Path) -> None:
    import torch

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from tokenizers.pre_tokenizers import ByteLevel

    model(shape, "dense", torch.bfloat16, "cpu").save_pretrained(folder)
    vocabulary = {token: index for index, token in enumerate(["<unk>", "<s>", "</s>", *sorted(ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    print(f"{shape} in {folder}")


def nats(folder: pathlib.Path, text: pathlib.Path, device: str) -> None:
    """Mean loss of two windows of 512 tokens, in float32."""
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM

    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text.read_text()).ids[: 2 * 512]
    net = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device).eval()
    windows = torch.tensor(ids, device=device).view(2, 512)
    with torch.inference_mode():
        loss = net(windows, labels=windows).loss.item()
    print(json.dumps(dict(nats_per_token=loss, device=device, backend=f"torch {torch.__version__}")))


class Nvml:
    """Counters of the GPU on which PyTorch computes; `None` where they cannot be read."""

    class Memory(ctypes.Structure):
        _fields_ = [
            ("version", ctypes.c_uint),
            *((name, ctypes.c_ulonglong) for name in ["total", "reserved", "free", "used"]),
        ]

    def __init__(self):
        import torch

        self.gpu = ctypes.c_void_p()
        try:
            self.library = ctypes.CDLL("libnvidia-ml.so.1")
        except OSError:
            self.library = None
        uuid = f"GPU-{torch.cuda.get_device_properties(0).uuid}".encode()
        self.is_open = self.call("nvmlInit_v2") and self.call("nvmlDeviceGetHandleByUUID", uuid, ctypes.byref(self.gpu))

    def call(self, function: str, *arguments) -> bool:
        return self.library is not None and getattr(self.library, function)(*arguments) == 0

    def energy_j(self) -> float | None:
        millijoules = ctypes.c_ulonglong()
        is_read = self.is_open and self.call("nvmlDeviceGetTotalEnergyConsumption", self.gpu, ctypes.byref(millijoules))
        return millijoules.value / 1e3 if is_read else None

    def used_bytes(self) -> int | None:
        memory = self.Memory(version=ctypes.sizeof(self.Memory) | 2 << 24)
        is_read = self.is_open and self.call("nvmlDeviceGetMemoryInfo_v2", self.gpu, ctypes.byref(memory))
        return memory.used if is_read else None


class Timer:
    def __init__(self, device: str, repetitions: int):
        self.device, self.repetitions, self.energy_j = device, repetitions, None
        self.nvml = Nvml() if device == "cuda" else None

    def synchronize(self) -> None:
        import torch

        if self.device == "cuda":
            torch.cuda.synchronize()

    def seconds(self, run, warmups: int) -> list[float]:
        for _ in range(warmups):
            run()
        seconds = []
        self.synchronize()
        before = self.nvml and self.nvml.energy_j()
        for _ in range(self.repetitions):
            self.synchronize()
            start = time.perf_counter()
            run()
            self.synchronize()
            seconds.append(time.perf_counter() - start)
        after = self.nvml and self.nvml.energy_j()
        # The counter is renewed ten times a second.
        self.energy_j = None if before is None or after is None or sum(seconds) < 1 else after - before
        return seconds


class Decoder:
    """Greedy decoding: eager with a cache that grows, or compiled with CUDA graphs and a cache of fixed size."""

    def __init__(self, net, is_static: bool, timer: Timer):
        import torch

        self.net, self.is_static, self.timer = net, is_static, timer
        self.forward = torch.compile(net, mode="reduce-overhead", dynamic=False) if is_static else net
        # Names differ among the versions of transformers.
        self.parameters = inspect.signature(net.forward).parameters

    def step(self, forward, tokens, cache, positions):
        options = {"cache" if "cache" in self.parameters else "past_key_values": cache}
        if "cache_position" in self.parameters:
            options["cache_position"] = positions
        return forward(tokens, use_cache=True, **options).logits[:, -1:].argmax(-1)

    def run_of(self, start, count: int):
        """A function that decodes `count` tokens after those of `start`, and waits for each as its reader would."""
        import torch
        from transformers import DynamicCache, StaticCache

        positions = torch.arange(count, device=start.device)
        static = StaticCache(config=self.net.config, max_cache_len=count) if self.is_static else None
        if static is not None:
            # The cache is allocated by a step that is not compiled, so that graphs know where it is.
            self.step(self.net, start, static, positions[:1])

        def run():
            cache, last = static, start
            if cache is None:
                cache = DynamicCache(config=self.net.config)
            else:
                cache.reset()
            for index in range(count):
                last = self.step(self.forward, last, cache, positions[index : index + 1])
                self.timer.synchronize()

        return run


def bench(options: argparse.Namespace) -> None:
    import torch

    device, vocab = options.device, SHAPES[options.shape]["vocab"]
    dtype = getattr(torch, options.dtype)
    timer = Timer(device, options.repetitions)

    def tokens(rows: int, length: int):
        return torch.randint(0, vocab, (rows, length), device=device)

    def report(test: str, tokens: int, seconds: list[float]) -> None:
        record = dict(
            test=test,
            avg_ts=statistics.mean(tokens / each for each in seconds),
            stddev_ts=statistics.stdev(tokens / each for each in seconds) if len(seconds) > 1 else 0.0,
            n_tokens=tokens,
            samples_ns=[round(each * 1e9) for each in seconds],
            gpu_memory=timer.nvml and timer.nvml.used_bytes(),
            energy_j=timer.energy_j,
            backend=f"torch {torch.__version__} {options.mode}",
            device=device,
        )
        print(json.dumps(record), flush=True)

    if options.train:
        rows, length = map(int, options.train.split("x"))
        net = model(options.shape, options.child, torch.float32, device).train()
        step_of = torch.compile(net) if options.mode == "compiled" else net
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, fused=device == "cuda")

        def step():
            batch = tokens(rows, length)
            with torch.autocast(device, torch.bfloat16, enabled=dtype == torch.bfloat16):
                loss = step_of(batch, labels=batch, use_cache=False).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        report(f"train{rows}x{length}", rows * length, timer.seconds(step, 2))
        return

    net = model(options.shape, options.child, dtype, device).eval()
    forward = torch.compile(net) if options.mode == "compiled" else net
    decoder = Decoder(net, options.mode == "static", timer)
    # As `generate` of transformers does where it compiles, which changes the cache in place.
    with torch.no_grad() if decoder.is_static else torch.inference_mode():
        for length in map(int, options.n_prompt.split(",")):
            if length:
                run = lambda: forward(tokens(1, length), logits_to_keep=1, use_cache=True)
                report(f"pp{length}", length, timer.seconds(run, 1))
        for rows in map(int, options.sequences.split(",")):
            count = options.n_gen
            if count:
                # A graph is recorded in the second run of its shape.
                run = decoder.run_of(tokens(rows, 1), count)
                report(f"tg{count}" + (f"x{rows}" if rows > 1 else ""), rows * count, timer.seconds(run, 2))


def table(out: pathlib.Path) -> None:
    print("# Measurements\n")
    if (out / "gpu.csv").exists():
        print(f"```text\n{(out / 'gpu.csv').read_text()}```\n")
    parity_table(out)
    speed_table(out)
    cost_table(out)
    for file in sorted(out.glob("compare*/results.md")):
        print(f"## {file.parent.name}\n\n{file.read_text()}")
    for file in sorted(out.glob("counters.*.md")):
        print(file.read_text())


def parity_table(out: pathlib.Path) -> None:
    """The loss of each model on every device, as a difference from that of the CPU."""
    found: dict[tuple[str, str], dict[str, float | None]] = {}
    for file in sorted(out.glob("parity.*.json")):
        shape, child, device = file.name.removeprefix("parity.").removesuffix(".json").rsplit(".", 2)
        found.setdefault((shape, child), {})[device] = json.loads(file.read_text())["nats_per_token"]
    devices = sorted({device for row in found.values() for device in row if device != "flex"})
    print("## Loss of 1,022 tokens in float32, and its difference on other devices, in nats per token\n")
    print("| model | child | flex |" + "".join(f" {device} |" for device in devices))
    print("|---|---|--:|" + "--:|" * len(devices))
    for (shape, child), row in found.items():
        here = row.get("flex")

        def difference(device: str) -> str:
            if device not in row or here is None:
                return ""
            return "NaN" if row[device] is None else f"{row[device] - here:+.1e}"

        cells = [shape, child, "" if here is None else f"{here:.6f}", *map(difference, devices)]
        print("| " + " | ".join(cells) + " |")
    print()


Rows = dict[tuple[str, str, str], dict[str, dict]]


def bench_records(out: pathlib.Path) -> tuple[Rows, list[str]]:
    """The records of all tests by model, child and test, then by device or peer; and those devices and peers."""
    rows: Rows = {}
    columns: list[str] = []
    # Steps that were stopped have what they measured in a part.
    files = [*out.glob("bench.*.jsonl.part"), *out.glob("bench.*.jsonl")]
    for name, file in sorted({file.name.removesuffix(".part"): file for file in files}.items()):
        shape, child, _, column = name.removeprefix("bench.").removesuffix(".jsonl").rsplit(".", 3)
        records = whole_records(file)
        if records and column not in columns:
            columns.append(column)
        for record in records:
            test = record["test"]
            if record.get("batch_size", 1) > 1 and test.startswith("tg"):
                test = f"tg{record['n_gen']}x{record['batch_size']}"
            rows.setdefault((shape, child, test), {})[column] = record
    return dict(sorted(rows.items())), columns


def whole_records(file: pathlib.Path) -> list[dict]:
    """The records of a file, which may end with a failure or in the middle of a line."""
    records = []
    for line in file.read_text().splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if "avg_ts" in record:
            records.append(record)
    return records


def print_tests(rows: Rows, columns: list[str], cell) -> None:
    print("| model | child | test |" + "".join(f" {column} |" for column in columns))
    print("|---|---|---|" + "--:|" * len(columns))
    for names, found in rows.items():
        cells = (cell(found[column], column) if column in found else "" for column in columns)
        print("| " + " | ".join([*names, *cells]) + " |")
    print()


def speed_table(out: pathlib.Path) -> None:
    """Tokens per second of each test, and of those of deepwide the shares of the device's peaks."""
    rows, columns = bench_records(out)
    peaks = device_peaks(out)
    print("## Tokens per second\n")
    print(
        "Mean and standard deviation of repetitions; each decoded token is waited for. `torch-static` has a cache of fixed "
        "size and CUDA graphs. In parentheses: TFLOP/s, and the share of the peak that `doctor` measured on the device, for "
        "products with weights of this type, or in float32 where it widens them. For decoding one sequence, it is the share of "
        "the peak of reading.\n"
    )
    print_tests(rows, columns, lambda record, column: speed(record, peaks.get(column, {})))


def cost_table(out: pathlib.Path) -> None:
    """Energy and memory of each test, where the driver of the GPU reported them."""
    rows, columns = bench_records(out)
    measured = {names: found for names, found in rows.items() if any(each.get("gpu_memory") for each in found.values())}
    if not measured:
        return

    def cost(record: dict, _: str) -> str:
        lengths = [record.get(length, 0) for length in ["n_prompt", "n_gen", "n_train"]]
        tokens = record.get("n_tokens") or sum(lengths) * record["batch_size"]
        tokens *= len(record["samples_ns"])
        energy, memory = record.get("energy_j"), record.get("gpu_memory")
        of_energy = [] if energy is None else [f"{1e3 * energy / tokens:.3g} mJ"]
        return ", ".join(of_energy + ([] if memory is None else [f"{memory / 2**30:.2f} GiB"]))

    print("## Energy per token, and memory in use on the GPU after the test\n")
    print_tests(measured, columns, cost)


def speed(record: dict, peaks: dict) -> str:
    """The speed of a test, with its FLOP/s and share of a peak where the record has FLOPs."""
    rate = record["avg_ts"]
    shown = f"{rate:.1f} ± {record['stddev_ts']:.1f}"
    if not record.get("flops"):
        return shown
    flops_per_s = record["flops"] / record["avg_ns"] * 1e9
    peak = peaks.get(f"peak_{record['dtype']}_flops_per_s") or peaks.get("peak_flops_per_s")
    share = flops_per_s / peak if peak else None
    if record["test"].startswith("tg"):
        # `model_size` counts layers that share memory once, but each is read.
        active = record["model_n_params_active"] * BYTES_PER_PARAMETER[record["dtype"]]
        peak = peaks.get("peak_bytes_per_s") if record["batch_size"] == 1 else None
        share = active * rate / peak if peak else None
    return f"{shown} ({flops_per_s / 1e12:.3g}{'' if share is None else f', {share:.0%}'})"


def found_devices(out: pathlib.Path) -> list[dict] | None:
    """The devices that `deepwide doctor` found, if it ended."""
    file = out / "doctor.json"
    return json.loads(file.read_text())["devices"] if file.exists() else None


def device_peaks(out: pathlib.Path) -> dict[str, dict]:
    """The peaks that `deepwide doctor` measured, by the kind of device as columns name it."""
    return {found["device"].replace(":", "-"): found for found in found_devices(out) or [] if not found["fault"]}


def working(out: pathlib.Path, devices: list[str]) -> list[str]:
    """Those of the devices that have no fault, or all of them where that is not known."""
    found = found_devices(out)
    if found is None:
        return devices
    kinds = {each["device"] for each in found if not each["fault"]}
    return [device for device in devices if re.sub(r":\d+$", "", device) in kinds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ["make", "layers", "bench"]:
        commands.add_parser(name).add_argument("shape", choices=SHAPES)
    commands.choices["make"].add_argument("folder", type=pathlib.Path)
    commands.add_parser("table").add_argument("out", type=pathlib.Path)
    of_working = commands.add_parser("working")
    of_working.add_argument("out", type=pathlib.Path)
    of_working.add_argument("devices", nargs="*")
    of_nats = commands.add_parser("nats")
    of_nats.add_argument("folder", type=pathlib.Path)
    of_nats.add_argument("text", type=pathlib.Path)
    of_nats.add_argument("--device", default="cuda")
    of_bench = commands.choices["bench"]
    of_bench.add_argument("child", choices=["dense", "deep", "wide"])
    of_bench.add_argument("--device", default="cuda")
    of_bench.add_argument("--dtype", default="bfloat16")
    # static: decoding with a cache of fixed size, compiled with CUDA graphs.
    of_bench.add_argument("--mode", choices=["eager", "compiled", "static"], default="eager")
    of_bench.add_argument("-p", "--n-prompt", default="0")
    of_bench.add_argument("-n", "--n-gen", type=int, default=0)
    of_bench.add_argument("--sequences", default="1")
    of_bench.add_argument("--train")
    of_bench.add_argument("-r", "--repetitions", type=int, default=3)
    options = parser.parse_args()
    match options.command:
        case "make":
            make(options.shape, options.folder)
        case "layers":
            print(SHAPES[options.shape]["layers"])
        case "nats":
            nats(options.folder, options.text, options.device)
        case "bench":
            if options.n_gen and options.mode == "compiled":
                parser.error("--mode compiled has no decoding, which --mode static compiles")
            if options.mode == "static" and (options.train or options.n_prompt != "0"):
                parser.error("--mode static is for decoding")
            bench(options)
        case "working":
            print(*working(options.out, options.devices))
        case "table":
            table(options.out)


if __name__ == "__main__":
    main()
