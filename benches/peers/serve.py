"""Times `generate` and `serve` beside the raw decoding of `bench`, and llama-cpp-python's server beside both, in turns.

    python benches/peers/serve.py --deepwide target/release/deepwide --model smollm2 [--gguf smollm2-q8.gguf] --out serving

Each client asks for `--tokens` greedy tokens after a prompt of a few words, streamed. Speed counts tokens behind the first of a
text, as `bench` does; at several clients it counts all tokens of the time in which all of them run. Peers need llama-cpp-python
with its server; with `--gguf` both servers read this file, which `bench` and `generate` then read too. Prints a table of medians
with their range and writes results.json into the folder.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROMPT = "The history of the town begins"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--deepwide", default="target/release/deepwide", help="the command")
    parser.add_argument("--model", required=True, help="Hugging Face directory")
    parser.add_argument("--gguf", help="GGUF file to use in its place, also by llama.cpp")
    parser.add_argument("--out", type=Path, default=Path("serving"))
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-t", "--threads", type=int, default=2)
    return parser.parse_args()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def server(words: list[str], path: str) -> Iterator[str]:
    """A running server; words may name its port."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen([word.replace("PORT", str(port)) for word in words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            if process.poll() is not None:
                raise RuntimeError(f"{words[0]} ended with {process.returncode}")
            try:
                urllib.request.urlopen(url + path, timeout=5).read()
                break
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait()


def stream(url: str, args: argparse.Namespace, stamps: list[float], extra: dict) -> None:
    """Asks for a text and notes when each part comes."""
    body = {"model": "m", "prompt": PROMPT, "max_tokens": args.tokens, "temperature": 0, "stream": True} | extra
    request = urllib.request.Request(f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as lines:
        for line in lines:
            if line.startswith(b"data: {"):
                stamps.append(time.perf_counter())


def served(url: str, args: argparse.Namespace, clients: int, extra: dict) -> float:
    """Tokens per second. Parts without text still count: each is a token, the last tells the end."""
    stamps: list[list[float]] = [[] for _ in range(clients)]
    threads = [threading.Thread(target=stream, args=(url, args, one, extra)) for one in stamps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if any(len(one) < args.tokens for one in stamps):
        raise RuntimeError(f"{min(map(len, stamps))} parts of {args.tokens}: the text ended early")
    if clients == 1:
        return (len(stamps[0]) - 1) / (stamps[0][-1] - stamps[0][0])
    start, end = min(one[0] for one in stamps), max(one[-1] for one in stamps)
    return clients * args.tokens / (end - start)


def bench(args: argparse.Namespace, model: str) -> float:
    words = [args.deepwide, "bench", model, "-p", "0", "-n", str(args.tokens), "-r", "1", "-t", str(args.threads), "-o", "json", "-q"]
    return json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)[0]["avg_ts"]


def generated(args: argparse.Namespace, model: str) -> float:
    """From the times at which parts of the text are printed: loading and the prompt are before the first."""
    words = [args.deepwide, "generate", model, "-p", PROMPT, "-n", str(args.tokens), "--ignore-eos", "-q"]
    words += ["--temp", "0", "-t", str(args.threads)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE)
    stamps = []
    while os.read(process.stdout.fileno(), 4096):
        stamps.append(time.perf_counter())
    if process.wait():
        raise RuntimeError("generate failed")
    # The last part is the end of the line.
    return (args.tokens - 1) / (stamps[-1] - stamps[0])


def main() -> None:
    args = arguments()
    model = args.gguf or args.model
    load = os.getloadavg()
    ours = [args.deepwide, "serve", model, "--port", "PORT", "--parallel", str(args.clients), "-t", str(args.threads)]
    theirs = [sys.executable, "-m", "llama_cpp.server", "--model", str(args.gguf), "--port", "PORT", "--n_threads", str(args.threads)]
    samples: dict[str, list[float]] = {}
    for _ in range(args.rounds):
        row = {"bench": bench(args, model), "generate": generated(args, model)}
        with server(ours, "/health") as url:
            served(url, args, 1, {"ignore_eos": True})
            row["serve, 1 client"] = served(url, args, 1, {"ignore_eos": True})
            # The first batch of this size touches its memory for the first time.
            served(url, args, args.clients, {"ignore_eos": True})
            row[f"serve, {args.clients} clients"] = served(url, args, args.clients, {"ignore_eos": True})
        if args.gguf:
            with server(theirs, "/v1/models") as url:
                served(url, args, 1, {})
                row["llama.cpp's server, 1 client"] = served(url, args, 1, {})
        for name, speed in row.items():
            samples.setdefault(name, []).append(speed)
    base = statistics.median(samples["bench"])
    print(f"{'':32} {'tokens/s':>10}  {'range':>17}  of bench")
    for name, row in samples.items():
        middle = statistics.median(row)
        print(f"{name:32} {middle:10.1f}  {min(row):8.1f}{max(row):9.1f}  {middle / base:.3f}")
    args.out.mkdir(parents=True, exist_ok=True)
    record = {"model": Path(model).name, "tokens": args.tokens, "threads": args.threads, "load_average": load, "samples": samples}
    (args.out / "results.json").write_text(json.dumps(record, indent=1) + "\n")


main()
