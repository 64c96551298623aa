"""Runs lm-eval on local files, with no access to the hub: `datasets.load_dataset` is replaced by a reader of the layouts that
`deepwide eval --data-dir` reads."""

import csv
import gzip
import json
from pathlib import Path

import datasets

FOLDERS = {
    "allenai/ai2_arc": ("arc_challenge", {"train": "train", "validation": "validation", "test": "test"}),
    "Rowan/hellaswag": ("hellaswag", {"train": "train*", "validation": "validation"}),
    "truthfulqa/truthful_qa": ("truthfulqa", {"validation": "multiple_choice_validation"}),
    "allenai/winogrande": ("winogrande", {"train": "train_xl", "validation": "dev"}),
    "openai/gsm8k": ("gsm8k", {"train": "train*", "test": "test"}),
}


def rows(path: Path) -> list[dict]:
    """The rows of a .jsonl file, also compressed."""
    opened = gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8")
    with opened as lines:
        return [json.loads(line) for line in lines]


def mmlu(folder: Path, subject: str, split: str) -> list[dict]:
    """A split of a subject, in the schema of the hub."""
    with (folder / "mmlu" / split / f"{subject}_{split}.csv").open(encoding="utf-8", newline="") as lines:
        return [
            {
                "question": row["question"],
                "subject": subject,
                "choices": [row[f"choice{index}"] for index in range(4)],
                "answer": int(row["answer"]),
            }
            for row in csv.DictReader(lines)
        ]


def use(folder: Path) -> None:
    """Makes lm-eval read its data below `folder`."""

    def load_dataset(path: str, name: str | None = None, **_: object) -> datasets.DatasetDict:
        if path == "cais/mmlu":
            splits = {split: mmlu(folder, name, split) for split in ("dev", "test")}
        else:
            directory, names = FOLDERS[path]
            found = {split: sorted((folder / directory).glob(f"{stem}.jsonl*")) for split, stem in names.items()}
            splits = {split: rows(files[0]) for split, files in found.items() if files}
        return datasets.DatasetDict({split: datasets.Dataset.from_list(items) for split, items in splits.items()})

    datasets.load_dataset = load_dataset
