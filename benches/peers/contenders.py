"""The contenders. Each has one method, `measure`, which takes one sample of one row."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

from models import ACTIVE, EXPERTS, Models, overlap
from rows import DECODED, Row

HERE = Path(__file__).parent
PATIENCE_S = 1800.0
"""Timeout of a contender without output; its row then fails."""


class Failed(Exception):
    """A contender failed on a row; the message says why."""


def environment(threads: int) -> dict[str, str]:
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
    return os.environ | {name: str(threads) for name in names} | {"CUDA_VISIBLE_DEVICES": ""}


class Worker:
    """A worker process: loads a request once, then takes measurements on demand; see worker.py."""

    def __init__(self, command: list[str], request: dict):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        text=True, env=environment(request["threads"]))
        self.errors: list[str] = []
        threading.Thread(target=lambda: self.errors.extend(self.process.stderr), daemon=True).start()
        self.about = self.ask(json.dumps(request))["ready"]

    def ask(self, line: str = "") -> dict:
        end = threading.Timer(PATIENCE_S, self.process.kill)
        end.start()
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        finally:
            end.cancel()
        if not answer:
            self.process.wait()
            raise Failed(f"ended with {self.process.returncode}: {''.join(self.errors).strip()[-300:]}")
        answer = json.loads(answer)
        if "error" in answer:
            raise Failed(answer["error"])
        return answer

    def close(self) -> None:
        self.process.stdin.close()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


class Peer:
    """A package in a worker of its own for a row. Training has a fresh process for every sample: two would not fit into
    memory, and the peak is then that of training alone."""

    def __init__(self, command: list[str], takes_gguf: bool):
        self.command, self.takes_gguf = command, takes_gguf
        self.worker: Worker | None = None
        self.implementation: str | None = None

    def measure(self, row: Row, models: Models, threads: int) -> dict:
        if self.worker is None:
            if row.quantized or self.takes_gguf:
                kind = {"float32": "f32", "bfloat16": "bf16"}.get(row.weights, row.weights)
                path = models.gguf(row.model, kind)
            else:
                path = models.directory(row.model)
            request = row.request(str(path), models.config(row.model)["vocab_size"], threads)
            self.worker = Worker(self.command, request | {"implementation": self.implementation})
            self.implementation = self.worker.about.get("implementation")
        answer = self.worker.ask() | {"about": self.worker.about}
        if row.work == "train":
            self.close()
        return answer

    def close(self) -> None:
        """Stops the worker; the next row starts a new one."""
        if self.worker is not None:
            self.worker.close()
        self.worker = None

    def next_row(self) -> None:
        self.close()
        self.implementation = None


class Deepwide:
    """The deepwide command, one process per sample."""

    def __init__(self, binary: str):
        self.binary = binary

    def measure(self, row: Row, models: Models, threads: int) -> dict:
        path = models.gguf(row.model, row.weights) if row.quantized else models.directory(row.model)
        grown = row.model == "dus" and not row.quantized
        command = [self.binary, "bench", str(models.base if grown else path), "-t", str(threads), "-r", "1", "-o", "json"]
        if row.work == "train":
            command += ["-p", "0", "-n", "0", "--train", f"{row.batch}x{row.tokens}"]
        elif row.work == "prefill":
            command += ["-p", str(row.tokens), "-n", "0"]
        else:
            command += ["-p", "0", "-n", str(DECODED), "-d", str(row.tokens), "--sequences", str(row.batch)]
        command += ["--dtype", row.weights] if not row.quantized and row.work != "train" else []
        command += ["--dus", str(overlap(models.config("base")["num_hidden_layers"]))] if grown else []
        command += ["--moe", str(EXPERTS), "--top-k", str(ACTIVE)] if row.model == "moe" else []
        done = subprocess.run(command, capture_output=True, text=True, env=environment(threads), timeout=PATIENCE_S)
        if done.returncode:
            raise Failed(f"exit {done.returncode}: {done.stderr.strip()[-300:]}")
        results = json.loads(done.stdout)
        if len(results) != 1:
            raise Failed(f"{len(results)} results where 1 was asked for")
        result = results[0]
        return {"sample_ns": result.pop("samples_ns")[-1], "peak_rss_bytes": result.get("peak_rss"), "about": result}

    def next_row(self) -> None:
        """No process outlives a sample."""


def candle_probe(target: Path) -> str:
    """Builds the candle worker and returns the path of its binary."""
    subprocess.run(["cargo", "build", "--release", "--locked", "--target-dir", str(target)], cwd=HERE / "candle", check=True)
    return str(target / "release" / "candle-probe")


def peers(probe: str) -> dict[str, Peer]:
    return {
        "llama.cpp": Peer([sys.executable, str(HERE / "llama.py")], takes_gguf=True),
        "PyTorch": Peer([sys.executable, str(HERE / "pytorch.py")], takes_gguf=False),
        "candle": Peer([probe], takes_gguf=False),
    }
