"""The `openai` client and lm-evaluation-harness against `deepwide serve`.

    pip install openai==1.* lm_eval[api]==0.4.13 transformers
    python tests/golden/generation/check_serving.py DEEPWIDE MODEL [DATA]

MODEL is a Hugging Face directory with a chat template. With DATA, a directory with HellaSwag's rows as
hellaswag/validation.jsonl, lm-eval scores them through local-completions and, for comparison, with transformers.
"""

import concurrent.futures
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import openai

deepwide, path, *data = sys.argv[1:]
server = subprocess.Popen([deepwide, "serve", path, "--port", "0", "--api-key", "secret", "--dtype", "float32"],
                          stderr=subprocess.PIPE, text=True)
try:
    address = next(found[1] for line in server.stderr if (found := re.match(r"listening on (\S+)", line)))
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="secret")
    name = client.models.list().data[0].id
    chat = [{"role": "user", "content": "Name three colors."}]
    whole = client.chat.completions.create(model=name, messages=chat, max_tokens=40, temperature=0, logprobs=True, top_logprobs=3)
    assert whole.choices[0].message.role == "assistant" and whole.usage.completion_tokens > 0
    assert len(whole.choices[0].logprobs.content) == whole.usage.completion_tokens
    parts = client.chat.completions.create(model=name, messages=chat, max_tokens=40, temperature=0, stream=True,
                                           stream_options={"include_usage": True})
    parts = list(parts)
    assert "".join(part.choices[0].delta.content or "" for part in parts if part.choices) == whole.choices[0].message.content
    assert parts[-1].usage == whole.usage
    text = client.completions.create(model=name, prompt=["One, two,", "Red, green,"], max_tokens=8, temperature=0, n=2, logprobs=2)
    assert [choice.index for choice in text.choices] == [0, 1, 2, 3]
    assert text.choices[0].text == text.choices[1].text and len(text.choices[0].logprobs.tokens) == 8
    print(whole.choices[0].message.content)
    for refused, kind in [
        (lambda: client.completions.create(model=name, prompt="a", temperature=-1), openai.BadRequestError),
        (lambda: client.completions.create(model=name, prompt="a " * 100_000), openai.BadRequestError),
        (lambda: openai.OpenAI(base_url=client.base_url, api_key="wrong").models.list(), openai.AuthenticationError),
    ]:
        try:
            refused()
            sys.exit("not refused")
        except kind as error:
            assert error.body["message"], error
    # A client that hangs up in the middle of a stream, and 64 others at once.
    stream = client.completions.create(model=name, prompt="Once", max_tokens=500, stream=True)
    next(iter(stream))
    stream.close()
    ask = lambda i: client.completions.create(model=name, prompt=f"Number {i} is", max_tokens=16, temperature=1, seed=i).choices[0].text
    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        together = list(pool.map(ask, range(64)))
    assert together[:4] == [ask(i) for i in range(4)], "the same seed gives the same text"
    print("openai: ok")

    if data:
        import lm_eval
        from lm_eval.tasks import TaskManager

        rows = [json.loads(line) for line in (Path(data[0]) / "hellaswag/validation.jsonl").read_text().splitlines()[:16]]
        with tempfile.TemporaryDirectory() as folder:
            items = [{"context": row["ctx"], "choices": row["endings"], "label": int(row["label"])} for row in rows]
            (Path(folder) / "items.json").write_text("\n".join(map(json.dumps, items)))
            task = {"task": "items", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": f"{folder}/items.json"}},
                    "test_split": "test", "output_type": "multiple_choice", "doc_to_text": "context", "doc_to_choice": "choices",
                    "doc_to_target": "label", "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}]}
            import os
            os.environ["OPENAI_API_KEY"] = "secret"
            found = {}
            for model, args in [
                ("local-completions", dict(model=path, base_url=f"{address}/v1/completions", num_concurrent=8,
                                           tokenizer=path, tokenized_requests=True, tokenizer_backend="huggingface")),
                ("hf", dict(pretrained=path, dtype="float32", device="cpu")),
            ]:
                result = lm_eval.simple_evaluate(model=model, model_args=args, tasks=[task], task_manager=TaskManager(),
                                                 log_samples=True, bootstrap_iters=0)
                found[model] = result["samples"]["items"]
                print(model, {key: value for key, value in result["results"]["items"].items() if "acc" in key and "stderr" not in key})
        off = max(abs(float(a[0]) - float(b[0])) for ours, theirs in zip(*found.values())
                  for a, b in zip(ours["filtered_resps"], theirs["filtered_resps"]))
        print(f"lm-eval: log-likelihoods differ by at most {off:.2e}")
        assert off < 1e-2
finally:
    server.terminate()
    assert server.wait() == 143
