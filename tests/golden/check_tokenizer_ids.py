"""Token ids of deepwide against transformers, SentencePiece and llama.cpp on random Unicode.

    pip install transformers==5.23.0 sentencepiece protobuf llama-cpp-python gguf
    python tests/golden/check_tokenizer_ids.py DEEPWIDE VOCABULARY... [--count 10000] [--seed 0]

A VOCABULARY is a directory with a tokenizer.json, a tokenizer.model, or a GGUF file. The reference is transformers for the first,
transformers with merges by score for the second (see sentencepiece/make_golden.py) and SentencePiece itself on texts without
special tokens and without a space first, llama.cpp for a byte-level GGUF file, on assigned code points, and transformers' reading of
any other. The ids of deepwide are those of `deepwide tokenize`. Exits with 1 if a text has other ids.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import unicodedata
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
SPECIAL = ["<s>", "</s>", "<unk>", "<pad>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "[INST]", "<0x0A>", "<0x41>"]
PIECES = [
    " ", "  ", "\n", "\n\n", "\t", "\r\n", " " * 17, "▁", "Ġ", "'s", "'LL", "don't", "1", "12", "123", "1234", "3.14", "0x1F", "_", "__init__", "==", "!=", "->",
    "the", " the", "The", " quick", "brown", "foxes", "naïve", "Zürich", "ﬁ", "İstanbul", "Привет", " мир", "你好", "，世界", "日本語", "テスト", "안녕", "하세요",
    "مرحبا", "שלום", "नमस्ते", "กำลัง", "👍🏽", "👩‍👩‍👧‍👦", "🏳️‍🌈", "e\u0301", "\u0301", "\u00a0", "\u3000", "\u200b", "\u200d", "\ufeff", "\u2028", "\u0000", "\u007f", "½", "²", "Ⅷ", "𝕏",
]
RANGES = [(0x20, 0x7F), (0xA0, 0x250), (0x370, 0x600), (0x600, 0x800), (0x900, 0xE80), (0x1100, 0x1200), (0x2000, 0x2C00), (0x3040, 0x3100), (0x4E00, 0xA000),
          (0xAC00, 0xD7A4), (0xE000, 0xE100), (0xF900, 0x10000), (0x10000, 0x10400), (0x1D400, 0x1D800), (0x1F300, 0x1FB00), (0x20000, 0x2A000), (0x0, 0x110000)]


def random_text(draw: random.Random) -> str:
    def char() -> str:
        while True:
            found = chr(draw.randrange(*draw.choice(RANGES)))
            if not 0xD800 <= ord(found) < 0xE000:
                return found

    kind = draw.random()
    length = draw.choice([1, 2, 3, 5, 8, 13, 40])
    if kind < 0.35:
        return "".join(char() for _ in range(length))
    if kind < 0.7:
        return "".join(draw.choice(PIECES) for _ in range(length))
    if kind < 0.8:
        return "".join(draw.choice("abcABC123 \n'.") for _ in range(4 * length))
    mixed = "".join(draw.choice([char, lambda: draw.choice(PIECES), lambda: draw.choice(SPECIAL)])() for _ in range(length))
    return unicodedata.normalize(draw.choice(["NFC", "NFD", "NFKC"]), mixed)


def texts(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        found[random_text(draw)] = None
    return list(found)


def ids_of_deepwide(deepwide: str, vocabulary: Path, lines: list[str]) -> list[list[int]]:
    """One run for all texts, each of which must have a token."""
    with tempfile.TemporaryDirectory() as folder:
        source, out, model = Path(folder) / "texts.jsonl", Path(folder) / "shards", vocabulary
        if ".model" in vocabulary.name:
            model = Path(folder) / "model"
            model.mkdir()
            shutil.copy(vocabulary, model / "tokenizer.model")
            settings = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": False}
            (model / "tokenizer_config.json").write_text(json.dumps(settings))
        source.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
        subprocess.run([deepwide, "tokenize", "--tokenizer", str(model), "--no-eos", "-q", str(source), str(out)], check=True, stdout=subprocess.DEVNULL)
        record = json.loads((out / "dataset.json").read_text())
        dtype = {"uint16": "<u2", "uint32": "<u4"}[record["dtype"]]
        rows = []
        for tokens, starts in zip(sorted(out.glob("tokens-*.bin")), sorted(out.glob("documents-*.bin"))):
            ids, starts = np.fromfile(tokens, dtype), np.fromfile(starts, "<u8")
            rows += [ids[a:b].tolist() for a, b in zip(starts, starts[1:])]
        assert len(rows) == len(lines), f"{len(rows)} rows of {len(lines)} texts: some have no token"
        return rows


def references(vocabulary: Path) -> dict:
    """Name: (ids of a text, whether a text counts)."""
    every = lambda text: True
    if vocabulary.is_dir():
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(vocabulary)
        return {"transformers": (lambda text: tokenizer.encode(text, add_special_tokens=False), every)}
    if ".model" in vocabulary.name:
        import sentencepiece
        from sentencepiece import sentencepiece_model_pb2 as proto

        sys.path.insert(0, str(HERE / "sentencepiece"))
        from make_golden import by_score

        model = proto.ModelProto()
        model.ParseFromString(vocabulary.read_bytes())
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(vocabulary, Path(folder) / "tokenizer.model")
            (Path(folder) / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer", "add_bos_token": False}))
            theirs = by_score(Path(folder), model)
        truth = sentencepiece.SentencePieceProcessor(model_file=str(vocabulary))
        marks = {piece.piece for piece in model.pieces if piece.type in (2, 3, 4)}
        plain = lambda text: text[:1] not in (" ", "▁") and not any(mark in text for mark in marks)
        return {
            "transformers, merges by score": (lambda text: theirs.encode(text, add_special_tokens=False), every),
            "SentencePiece": (truth.encode, plain),
        }
    import llama_cpp
    from gguf import GGUFReader

    kind = GGUFReader(vocabulary).fields["tokenizer.ggml.model"].contents()
    if kind == "gpt2":
        model = llama_cpp.Llama(str(vocabulary), vocab_only=True, verbose=False)
        # llama.cpp splits two of 10,000 texts otherwise than transformers, both with code points that Unicode does not assign.
        assigned = lambda text: all(unicodedata.category(char) != "Cn" for char in text)
        return {"llama.cpp": (lambda text: model.tokenize(text.encode(), add_bos=False, special=True), assigned)}
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(vocabulary.parent, gguf_file=vocabulary.name)
    return {"transformers reading the GGUF file": (lambda text: tokenizer.encode(text, add_special_tokens=False), every)}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("deepwide")
    parser.add_argument("vocabularies", nargs="+", type=Path)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    lines, failed = texts(args.count, args.seed), False
    for vocabulary in args.vocabularies:
        ours = ids_of_deepwide(args.deepwide, vocabulary, lines)
        for name, (encode, counts) in references(vocabulary).items():
            compared = [(text, ids, encode(text)) for text, ids in zip(lines, ours) if counts(text)]
            other = [(text, ids, theirs) for text, ids, theirs in compared if ids != list(theirs)]
            print(f"{vocabulary.name}: {len(compared)} texts, {len(other)} with other ids by {name}", flush=True)
            for text, ids, theirs in other[:5]:
                print(f"    {text[:60]!r}\n      ours   {ids[:24]}\n      theirs {list(theirs)[:24]}")
            failed |= bool(other)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
