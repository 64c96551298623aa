#!/usr/bin/env python3
"""Models of random weights, their speed in PyTorch, and the table of `run.sh`.

    peer.py make SHAPE FOLDER       a Hugging Face directory, in bfloat16
    peer.py layers SHAPE
    peer.py bench SHAPE CHILD …     the tests of `deepwide bench`, by transformers; one JSON object a line
    peer.py table OUT               all records of a folder, as a table
"""

import argparse
import json
import pathlib
import statistics
import time

# Llama's sizes: SmolLM2-135M, TinyLlama-1.1B, and one for rehearsals.
SHAPES = {
    "135m": dict(layers=30, hidden=576, intermediate=1536, heads=9, kv_heads=3, vocab=49152),
    "1.1b": dict(layers=22, hidden=2048, intermediate=5632, heads=32, kv_heads=4, vocab=32000),
    "pico": dict(layers=4, hidden=64, intermediate=160, heads=4, kv_heads=2, vocab=512),
}


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

    model(shape, "dense", torch.bfloat16, "cpu").save_pretrained(folder)
    print(f"{shape} in {folder}")


class Timer:
    def __init__(self, device: str, repetitions: int):
        self.device, self.repetitions = device, repetitions

    def synchronize(self) -> None:
        import torch

        if self.device == "cuda":
            torch.cuda.synchronize()

    def rates(self, tokens: int, run, warmups: int) -> list[float]:
        for _ in range(warmups):
            run()
        rates = []
        for _ in range(self.repetitions):
            self.synchronize()
            start = time.perf_counter()
            run()
            self.synchronize()
            rates.append(tokens / (time.perf_counter() - start))
        return rates


def bench(options: argparse.Namespace) -> None:
    import torch

    device, vocab = options.device, SHAPES[options.shape]["vocab"]
    dtype = getattr(torch, options.dtype)
    timer = Timer(device, options.repetitions)

    def tokens(rows: int, length: int):
        return torch.randint(0, vocab, (rows, length), device=device)

    def report(test: str, rates: list[float]) -> None:
        peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
        record = dict(test=test, avg_ts=statistics.mean(rates), samples_ts=rates, peak_bytes=peak)
        print(json.dumps(record | dict(backend=f"torch {torch.__version__} {options.mode}", device=device)), flush=True)

    if options.train:
        rows, length = map(int, options.train.split("x"))
        net = model(options.shape, options.child, torch.float32, device).train()
        step_of = torch.compile(net) if options.mode == "compiled" else net
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, fused=device == "cuda")
        # deepwide's step, float32, and the usual one, under autocast.
        for name, autocast in [("float32", False), ("bfloat16", True)]:
            def step():
                batch = tokens(rows, length)
                with torch.autocast(device, torch.bfloat16, enabled=autocast):
                    loss = step_of(batch, labels=batch, use_cache=False).loss
                loss.backward()
                torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)

            test = f"train{rows}x{length}"
            report(test if name == "float32" else f"{test} {name}", timer.rates(rows * length, step, 2))
        return

    net = model(options.shape, options.child, dtype, device).eval()
    forward = torch.compile(net) if options.mode == "compiled" else net
    with torch.inference_mode():
        for length in map(int, options.n_prompt.split(",")):
            if length:
                run = lambda: forward(tokens(1, length), logits_to_keep=1, use_cache=True)
                report(f"pp{length}", timer.rates(length, run, 1))
        for rows in map(int, options.sequences.split(",")):
            count = options.n_gen
            if not count:
                continue

            def decode():
                cache, last = None, tokens(rows, 1)
                for _ in range(count):
                    step = forward(last, past_key_values=cache, use_cache=True)
                    cache, last = step.past_key_values, step.logits[:, -1:].argmax(-1)

            report(f"tg{count}" + (f"x{rows}" if rows > 1 else ""), timer.rates(rows * count, decode, 1))


def table(out: pathlib.Path) -> None:
    rates: dict[tuple[str, str, str], dict[str, float]] = {}
    columns: list[str] = []
    for file in sorted(out.glob("bench.*.jsonl")):
        shape, child, _, column = file.name.removeprefix("bench.").removesuffix(".jsonl").rsplit(".", 3)
        if column not in columns:
            columns.append(column)
        for line in file.read_text().splitlines():
            record = json.loads(line)
            test = record["test"]
            if record.get("batch_size", 1) > 1 and test.startswith("tg"):
                test = f"tg{record['n_gen']}x{record['batch_size']}"
            rates.setdefault((shape, child, test), {})[column] = record["avg_ts"]
    print("# Tokens per second\n")
    for name in ["gpu.csv"]:
        if (out / name).exists():
            print((out / name).read_text())
    print("| model | child | test |" + "".join(f" {column} |" for column in columns))
    print("|---|---|---|" + "--:|" * len(columns))
    for (shape, child, test), found in sorted(rates.items()):
        cells = (f"{found[column]:.1f}" if column in found else "" for column in columns)
        print(f"| {shape} | {child} | {test} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ["make", "layers", "bench"]:
        commands.add_parser(name).add_argument("shape", choices=SHAPES)
    commands.choices["make"].add_argument("folder", type=pathlib.Path)
    commands.add_parser("table").add_argument("out", type=pathlib.Path)
    of_bench = commands.choices["bench"]
    of_bench.add_argument("child", choices=["dense", "deep", "wide"])
    of_bench.add_argument("--device", default="cuda")
    of_bench.add_argument("--dtype", default="bfloat16")
    of_bench.add_argument("--mode", choices=["eager", "compiled"], default="eager")
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
        case "bench":
            bench(options)
        case "table":
            table(options.out)


if __name__ == "__main__":
    main()
