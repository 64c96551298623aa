"""The worker of speed.py that runs llama.cpp, through the C API that llama-cpp-python binds.

Prefill is one llama_decode of the whole prompt with the logits of each sequence's last token; a decoding step is one
llama_decode of one token per sequence. The K/V cache is f16, and llama.cpp decides on flash attention: both are its defaults.
"""

import ctypes
import time
from collections.abc import Callable

import llama_cpp as llama

from worker import serve

quiet = llama.llama_log_callback(lambda level, text, data: None)
llama.llama_log_set(quiet, ctypes.c_void_p(0))


def prepare(request: dict) -> tuple[dict, Callable[[], int]]:
    ids, steps = request["ids"], request["steps"]
    batch, length = len(ids), len(ids[0])
    llama.llama_backend_init()
    options = llama.llama_model_default_params()
    model = llama.llama_model_load_from_file(request["model"].encode(), options)
    if not model:
        raise RuntimeError(f"llama.cpp cannot load {request['model']}")
    options = llama.llama_context_default_params()
    options.n_ctx = batch * -(-(length + len(steps) + 8) // 256) * 256
    options.n_seq_max = batch
    options.n_batch = max(512, batch * min(length, 2048))
    options.n_ubatch = 512
    options.n_threads = options.n_threads_batch = request["threads"]
    options.no_perf = True
    context = llama.llama_init_from_model(model, options)
    if not context:
        raise RuntimeError("llama.cpp cannot make a context")
    memory = llama.llama_get_memory(context)
    tokens = llama.llama_batch_init(options.n_batch, 0, 1)

    def read(rows: list[list[int]], position: int) -> None:
        """Decodes each row into its sequence, at most n_batch tokens per call."""
        columns = options.n_batch // batch
        for start in range(0, len(rows[0]), columns):
            end = min(start + columns, len(rows[0]))
            tokens.n_tokens = 0
            for sequence, row in enumerate(rows):
                for at in range(start, end):
                    n = tokens.n_tokens
                    tokens.token[n], tokens.pos[n] = row[at], position + at
                    tokens.n_seq_id[n], tokens.seq_id[n][0] = 1, sequence
                    tokens.logits[n] = at == len(row) - 1
                    tokens.n_tokens += 1
            if llama.llama_decode(context, tokens):
                raise RuntimeError("llama_decode failed")
        llama.llama_synchronize(context)

    def prefill() -> int:
        llama.llama_memory_clear(memory, True)
        start = time.perf_counter_ns()
        read(ids, 0)
        return time.perf_counter_ns() - start

    def decode() -> int:
        for sequence in range(batch):
            llama.llama_memory_seq_rm(memory, sequence, length, -1)
        start = time.perf_counter_ns()
        for position, step in enumerate(steps, length):
            read([[token] for token in step], position)
        return time.perf_counter_ns() - start

    if request["work"] not in ("prefill", "decode"):
        raise RuntimeError(f"llama.cpp is not asked for {request['work']}")
    once = prefill if request["work"] == "prefill" else decode
    prefill()
    vocabulary = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
    logits = llama.llama_get_logits_ith(context, -1)[:vocabulary]
    once()
    return {"llama.cpp": llama.llama_print_system_info().decode(), "next_id": logits.index(max(logits))}, once


if __name__ == "__main__":
    serve(prepare)
