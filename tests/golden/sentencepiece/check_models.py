"""Compares the ids that deepwide gives for real SentencePiece models with those of transformers and SentencePiece.

    python check_models.py prepare FOLDER TEXT.txt MODEL...    # FOLDER: target/tmp/sentencepiece
    cargo test --test tests write_ids_for_sentencepiece_to_check -- --ignored
    python check_models.py compare FOLDER

Models for it: `tokenizer.model` of Llama 2 or Mistral 7B v0.1, or the `*.model.v*` of the package mistral-common. Fails if an id
differs from transformers with merges by score (see `make_golden.py`), or, on texts without special tokens and without a space
first, from SentencePiece.
"""

import json
import sys
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as proto

from make_golden import TEXTS, by_score


def texts(path):
    lines = Path(path).read_text().split("\n")
    runs = [start + " " * n + "b" for n in range(1, 70) for start in ("a", "a\n", "")] + ["a" * n for n in range(70)]
    stripped = [line.strip().replace("<unk>", "unk") for line in lines[:3000]]
    return TEXTS + runs + stripped + lines[:3000] + ["\n".join(lines[i : i + 8]) for i in range(0, 800, 8)]


def prepare(folder, text, models):
    for path in map(Path, models):
        directory = folder / path.name.replace(".", "_")
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "tokenizer.model").write_bytes(path.read_bytes())
        (directory / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer", "add_bos_token": True}))
        (directory / "texts.json").write_text(json.dumps(texts(text)))


def compare(folder):
    failed = False
    for directory in sorted(path.parent for path in folder.glob("*/ids.json")):
        lines, ours = (json.loads((directory / name).read_text()) for name in ("texts.json", "ids.json"))
        model = proto.ModelProto()
        model.ParseFromString((directory / "tokenizer.model").read_bytes())
        theirs, truth = by_score(directory, model), sentencepiece.SentencePieceProcessor(model_file=str(directory / "tokenizer.model"))
        marks = {piece.piece for piece in model.pieces if piece.type in (2, 3, 4)}
        plain = [line[:1] not in (" ", "▁") and not any(mark in line for mark in marks) for line in lines]
        other = [line for line, ids in zip(lines, ours) if ids != theirs.encode(line)]
        untrue = [line for line, ids, plain in zip(lines, ours, plain) if plain and ids[1:] != truth.encode(line)]
        print(f"{directory.name}: {len(lines)} texts, {len(other)} other than transformers {other[:3]}, of {sum(plain)} plain ones "
              f"{len(untrue)} other than SentencePiece {untrue[:3]}")
        failed |= bool(other or untrue)
    return failed


if __name__ == "__main__":
    _, command, folder, *rest = sys.argv
    sys.exit(compare(Path(folder)) if command == "compare" else prepare(Path(folder), rest[0], rest[1:]))
