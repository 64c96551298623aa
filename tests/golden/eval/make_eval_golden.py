"""Runs lm-eval 0.4.13 on invented items and tiny models, and keeps what it finds: hashes of prompts, log-likelihoods, scores.

    pip install "lm-eval[hf]==0.4.13" tokenizers
    python make_eval_golden.py      # running twice gives the same bytes

Writes `data/` (items in the layouts of `deepwide eval --data-dir`), `tokenizer.json`, and `scores.json`. The models are
`llama_gqa_tied` and `mixtral_4x2` of the folder above, with a context of 512.
"""

import csv
import json
import random
import shutil
import tempfile
from hashlib import sha256
from pathlib import Path

import local_lm_eval
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

HERE = Path(__file__).resolve().parent
DATA = HERE / "data"
MODELS = ["llama_gqa_tied", "mixtral_4x2"]
CONTEXT = 512
WORDS = "the cat sat on a mat while one dog ran home and ate his red hat then it fell asleep near some trees".split()


def sentence(draw: random.Random, length: int) -> str:
    return " ".join(draw.choice(WORDS) for _ in range(length))


def tokenizer() -> Tokenizer:
    """Letters and a few pairs of them: 61 ids, as many as the models have."""
    letters = list("abcdefghijklmnopqrstuvwxyz") + list("0123456789") + list(" \n.,:?'-\"_")
    pairs = [("t", "h"), ("th", "e"), ("a", "n"), (" ", "a"), (":", " "), ("e", "r"), (".", "\n"), ("q", ":")]
    vocabulary = ["<unk>", "<s>", "</s>", *letters]
    merges = pairs[: 61 - len(vocabulary)]
    vocabulary += ["".join(pair) for pair in merges]
    assert len(vocabulary) == len(set(vocabulary)) <= 61
    made = Tokenizer(models.BPE({token: index for index, token in enumerate(vocabulary)}, merges, unk_token="<unk>"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Split("\n\n", "isolated")
    made.decoder = decoders.Fuse()
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    return made


def lines(path: Path, items: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items), encoding="utf-8")


def write_data() -> None:
    draw = random.Random(7)

    def arc(index: int) -> dict:
        labels = ["A", "B", "C", "D"] if index % 3 else ["1", "2", "3"]
        texts = [sentence(draw, draw.randint(1, 4)) + ("é 日" if index == 2 else "") for _ in labels]
        return {
            "id": f"item_{index}",
            "question": sentence(draw, 6) + "?" + (" " if index == 1 else ""),
            "choices": {"text": texts, "label": labels},
            "answerKey": draw.choice(labels),
        }

    lines(DATA / "arc_challenge/train.jsonl", [arc(index) for index in range(40)])
    lines(DATA / "arc_challenge/test.jsonl", [arc(index) for index in range(6)])

    def hellaswag(index: int) -> dict:
        marks = ["", "[header] Steps [title] Try ", "  [step] two  spaces "][index % 3]
        start, end = marks + sentence(draw, 5) + ".", ["he", "THE Dog", "[substeps] it"][index % 3]
        endings = [f"{' [title] ' if index == 1 else ''}{sentence(draw, draw.randint(2, 5))}." for _ in range(4)]
        return {
            "ind": index,
            "activity_label": sentence(draw, 2),
            "ctx_a": start,
            "ctx_b": end,
            "ctx": f"{start} {end}",
            "endings": endings,
            "source_id": f"source~{index}",
            "split": "val",
            "split_type": "indomain",
            "label": str(draw.randrange(4)),
        }

    train = [hellaswag(index) for index in range(14)]
    items = [hellaswag(index) for index in range(5)]
    # An item that is among its own examples, twice: lm-eval draws again.
    lines(DATA / "hellaswag/train.jsonl", [*train[:7], items[3], *train[7:], items[3]])
    lines(DATA / "hellaswag/validation.jsonl", items)

    def winogrande(index: int) -> dict:
        return {
            "sentence": f"{sentence(draw, 4).capitalize()} so _ {sentence(draw, 4)}.",
            "option1": "Anna",
            "option2": "the dog",
            "answer": draw.choice("12"),
        }

    lines(DATA / "winogrande/train_xl.jsonl", [winogrande(index) for index in range(30)])
    lines(DATA / "winogrande/dev.jsonl", [winogrande(index) for index in range(6)])

    def truthfulqa(index: int) -> dict:
        choices = [sentence(draw, draw.randint(2, 5)) + "." for _ in range(3 + index)]
        labels = [1] * (1 + index % 2) + [0] * (len(choices) - 1 - index % 2)
        targets = {"choices": choices, "labels": labels}
        return {"question": sentence(draw, 5) + "?", "mc1_targets": targets, "mc2_targets": targets}

    lines(DATA / "truthfulqa/multiple_choice_validation.jsonl", [truthfulqa(index) for index in range(4)])

    for subject, count in [("anatomy", 5), ("high_school_us_history", 3), ("virology", 4)]:
        for split, count in [("dev", 5), ("test", count)]:
            path = DATA / f"mmlu/{split}/{subject}_{split}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w", newline="", encoding="utf-8") as file:
                out = csv.writer(file, lineterminator="\n")
                out.writerow(["question", "choice0", "choice1", "choice2", "choice3", "answer"])
                for _ in range(count):
                    question = f' {sentence(draw, 5)}, "{sentence(draw, 2)}"?\n'
                    out.writerow([question, *(sentence(draw, 2) for _ in range(4)), draw.randrange(4)])

    def gsm8k(index: int) -> dict:
        return {"question": sentence(draw, 6) + "?", "answer": f"{sentence(draw, 4)} = {index}.\n#### 1,{index:03}"}

    lines(DATA / "gsm8k/train.jsonl", [gsm8k(index) for index in range(12)])
    lines(DATA / "gsm8k/test.jsonl", [gsm8k(index) for index in range(3)])


def run(model: Path, tasks: list, shots: int | None, chat: str | None = None) -> dict:
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    results = lm_eval.simple_evaluate(
        model=HFLM(pretrained=str(model), dtype="float32", device="cpu", batch_size=4),
        tasks=tasks,
        num_fewshot=shots,
        system_instruction="be brief." if chat else None,
        apply_chat_template=bool(chat),
        fewshot_as_multiturn=chat == "multiturn",
        bootstrap_iters=100,
    )
    samples = {
        task: [
            {
                "hashes": [sample[f"{name}_hash"] for name in ("doc", "prompt", "target")],
                "filter": sample["filter"],
                "requests": [sha256("\0".join(text for text in pair if isinstance(text, str)).encode()).hexdigest()[:16] for pair in sample["arguments"]],
                "answers": [
                    [sample["resps"][0][0], answer] if isinstance(answer, str) else [round(float(answer[0]), 5), bool(answer[1])]
                    for answer in sample["filtered_resps"]
                ],
                "metrics": {name: float(sample[name]) for name in sample["metrics"]},
            }
            for sample in items
        ]
        for task, items in results["samples"].items()
    }
    for group in results["results"].values():
        group.pop("sample_count", None)
    kept = ("results", "groups", "group_subtasks", "versions", "n-shot", "higher_is_better", "n-samples")
    return {key: results[key] for key in kept if key in results} | {"samples": samples}


def main() -> None:
    shutil.rmtree(DATA, ignore_errors=True)
    write_data()
    tokenizer().save(str(HERE / "tokenizer.json"))
    (HERE / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}) + "\n"
    )
    local_lm_eval.use(DATA)
    tasks = ["arc_challenge", "hellaswag", "truthfulqa_mc2", "winogrande", "mmlu_anatomy", "mmlu_high_school_us_history"]
    # As the group `openllm` defines them: no item is left out of its examples.
    parts = [{"task": name, "fewshot_split": "train"} for name in ("hellaswag", "winogrande")]
    grouped = [{"group": "grouped", "task": parts}]
    runs, sparse = {}, MODELS[1]
    with tempfile.TemporaryDirectory() as folder:
        for name in MODELS:
            model = Path(folder) / name
            shutil.copytree(HERE.parent / name, model)
            config = json.loads((model / "config.json").read_text()) | {"max_position_embeddings": CONTEXT}
            (model / "config.json").write_text(json.dumps(config))
            for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
                shutil.copy(HERE / file, model / file)
            runs[f"{name} 0"] = run(model, tasks, None)
        runs[f"{sparse} 3"] = run(Path(folder) / sparse, tasks, 3)
        runs[f"{sparse} 5 grouped"] = run(Path(folder) / sparse, grouped, 5)
        runs[f"{sparse} 2 gsm8k"] = run(Path(folder) / sparse, ["gsm8k"], 2)
        # More than the context: prompts lose their start.
        runs[f"{sparse} 12"] = run(Path(folder) / sparse, ["arc_challenge"], 12)
        runs[f"{sparse} 2 multiturn"] = run(Path(folder) / sparse, tasks, 2, "multiturn")
        runs[f"{sparse} 2 singleturn"] = run(Path(folder) / sparse, tasks, 2, "singleturn")
    (HERE / "scores.json").write_text(json.dumps(runs, indent=0) + "\n")


main()
