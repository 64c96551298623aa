"""Makes the SentencePiece models of this folder and what transformers, SentencePiece and llama.cpp's converter say of them.

    pip install transformers==5.23.0 sentencepiece==0.2.3 protobuf==7.36.2
    python make_golden.py            # seeded: the same bytes each time
    python make_golden.py --check    # recompute, compare, write nothing

Each folder has a `tokenizer.model`, the settings beside it, and `expected.json`.

BPE. The ids are those of `LlamaTokenizerFast.from_pretrained`, with the merges in the order of the scores, as transformers
sorted them up to version 4 and as in the published `tokenizer.json` of Llama and Mistral (`convert_slow_tokenizer.generate_merges`
with scores). transformers 5 sorts by id: the same ids where scores fall with the id (checked), others for runs of spaces with
the scores of Llama (checked, too, so that this note goes when it is no longer true).

Unigram. `LlamaTokenizerFast` of transformers 5 joins the pieces of a Unigram model like BPE; the ids are those of
`convert_slow_tokenizer.LlamaConverter`, which reads it as Unigram.

On texts without special tokens and without a space first, all ids are SentencePiece's own (checked).
"""

import io
import json
import random
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as proto
from transformers import LlamaTokenizerFast, convert_slow_tokenizer, tokenization_utils_base

HERE = Path(__file__).parent
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

WORDS = """the cat sat on a mat and dog ran to river where water was cold of in it is for you that with as return def import
naïve café 你好 世界 日本 Hello World aaa aaaa == ==== fi fin final""".split()

TEXTS = [
    "", " ", "  ", "   ", "the cat", " the cat", "  the  cat ", "the   cat    sat     on", "a\n\nb", "\n", "\t x", " \n ",
    "def f():\n    return 1\n        # x\n", "你好，世界", "日本語 テスト", "👍🏽 ☃", "é e\u0301 ﬁ Ａ１", "naïve\r\ncafé", "▁the", "the▁cat",
    "▁ ▁", "\u0000\u007f", "a" * 41, "=" * 23, " " * 33 + "x", "x" + " " * 33 + "x", "<s>the cat</s>", "<s> the cat",
    "the <s> cat", "<unk>", "</s>", "the cat</s>", "[INST] the cat [/INST]", "[INST]the", "x[REF]y [REF] z", "the<pad>cat",
    "<pad> the", "<0x41>", "<0x0A>\n", "\ufeffthe", "\u200bthe", "ﷺ", "𝕏 the", "don't", "Zürich", "3.14 1,000", "i̇stanbul",
]


def trained(model_type, **options):
    draw = random.Random(0)
    sentences = (" ".join(draw.choice(WORDS) for _ in range(9)) for _ in range(3000))
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=sentences, model_writer=out, model_type=model_type, hard_vocab_limit=False, num_threads=1,
        minloglevel=2, **options,
    )
    model = proto.ModelProto()
    model.ParseFromString(out.getvalue())
    return model


def as_in_llama(model):
    """Runs of spaces get the lowest score and, but for their order, the lowest ids behind the bytes."""
    pieces = list(model.pieces)
    head = [piece for piece in pieces if piece.type != NORMAL]
    runs = [proto.ModelProto.SentencePiece(piece="▁" * n, score=-1e9) for n in (2, 4, 8, 5, 16, 6, 3, 7)]
    rest = [piece for piece in pieces if piece.type == NORMAL and set(piece.piece) != {"▁"} or piece.piece == "▁"]
    del model.pieces[:]
    model.pieces.extend(head + runs[:2] + rest[:2] + runs[2:] + rest[2:])
    return model


IDENTITY = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
LLAMA = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def added(content, **flags):
    return {"content": content, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, **flags}


def folders():
    """Name: model, settings by file name."""
    bpe = dict(model_type="bpe", vocab_size=420, byte_fallback=True)
    with tempfile.NamedTemporaryFile("w", suffix=".tsv") as rules:
        rules.write("FB01\t66 69\n")  # LlamaTokenizerFast ignores them, and the removal of spaces
        rules.flush()
        model = trained(**bpe, normalization_rule_tsv=rules.name)
    model.trainer_spec.ClearField("input"), model.normalizer_spec.ClearField("normalization_rule_tsv")
    yield "defaults", model, {}
    config = {**LLAMA, "add_bos_token": True, "add_eos_token": False, "legacy": False, "pad_token": None}
    yield "llama", as_in_llama(trained(**bpe, **IDENTITY)), {"tokenizer_config.json": config}
    listed = {str(id): added(token, special=True) for id, token in enumerate(["<unk>", "<s>", "</s>"])}
    config = {**config, "legacy": True, "add_eos_token": True, "additional_special_tokens": [], "added_tokens_decoder": listed}
    yield "legacy", trained(**bpe, **IDENTITY), {"tokenizer_config.json": config}
    symbols = dict(control_symbols=["[INST]", "[/INST]"], user_defined_symbols=["[REF]"])
    model = trained(**bpe, **IDENTITY, **symbols)
    config = {**LLAMA, "tokenizer_class": "LlamaTokenizerFast", "add_bos_token": True}
    old = {"bos_token": added("<s>"), "eos_token": added("</s>"), "pad_token": "<pad>"}
    older = {"<pad>": len(model.pieces), "[X]": len(model.pieces) + 1}
    files = {"tokenizer_config.json": config, "special_tokens_map.json": old, "added_tokens.json": older}
    yield "symbols", model, files
    yield "no_prefix", trained(**bpe, **IDENTITY, add_dummy_prefix=False), {
        "tokenizer_config.json": {**LLAMA, "add_prefix_space": False, "use_default_system_prompt": False}
    }
    unigram = trained(model_type="unigram", vocab_size=420, byte_fallback=True, **IDENTITY)
    yield "unigram", unigram, {"tokenizer_config.json": {**LLAMA, "add_bos_token": True}}


def falls(model):
    scores = [piece.score for piece in model.pieces if piece.type == NORMAL]
    return all(a > b for a, b in zip(scores, scores[1:]))


def by_score(folder, model):
    """`LlamaTokenizerFast` with merges in the order of the scores."""
    generate = tokenization_utils_base.generate_merges
    scores = {piece.piece: piece.score for piece in model.pieces}
    tokenization_utils_base.generate_merges = lambda vocab: convert_slow_tokenizer.generate_merges(vocab, scores)
    try:
        return LlamaTokenizerFast.from_pretrained(folder)
    finally:
        tokenization_utils_base.generate_merges = generate


def bpe_tokenizer(folder, model):
    as_it_is, tokenizer = LlamaTokenizerFast.from_pretrained(folder), by_score(folder, model)
    same = all(as_it_is.encode(text) == tokenizer.encode(text) for text in TEXTS)
    assert same == falls(model), "the order of merges"
    return tokenizer


def unigram_tokenizer(folder, model):
    source = SimpleNamespace(
        vocab_file=str(folder / "tokenizer.model"), legacy=False, add_prefix_space=True,
        convert_ids_to_tokens=lambda id: model.pieces[id].piece,
    )
    tokenizer = LlamaTokenizerFast.from_pretrained(folder)
    processor = tokenizer._tokenizer.post_processor
    tokenizer._tokenizer = convert_slow_tokenizer.LlamaConverter(source).converted()
    tokenizer._tokenizer.add_special_tokens(["<unk>"])
    tokenizer._tokenizer.post_processor = processor
    return tokenizer


def gguf(model, files):
    """Scores and types as llama.cpp's converter takes them from SentencePiece (`_create_vocab_sentencepiece`)."""
    size = len(model.pieces)
    scores = [piece.score for piece in model.pieces]
    # Two differences: the converter writes user-defined pieces as normal ones, which llama.cpp then does not find whole, and
    # special tokens of added_tokens.json as user-defined ones.
    types = [piece.type for piece in model.pieces]
    config = files.get("tokenizer_config.json", {})
    listed = {int(id): token["special"] for id, token in config.get("added_tokens_decoder", {}).items()}
    special = files.get("special_tokens_map.json", {}).values()
    listed.update({id: token in special for token, id in files.get("added_tokens.json", {}).items()})
    for id, special in sorted(listed.items()):
        if id >= size:
            scores.append(0.0), types.append(0)
        scores[id], types[id] = -1000.0, CONTROL if special else USER_DEFINED
    return {"scores": scores, "types": types}


def expected(folder, model, files):
    unigram = model.trainer_spec.model_type == 1
    tokenizer = (unigram_tokenizer if unigram else bpe_tokenizer)(folder, model)
    truth = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    plain = lambda text: text[:1] not in (" ", "▁") and not any(token in text for token in ("<s>", "</s>", "<unk>", "<pad>", "["))
    texts = []
    for text in TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=False)
        # The library finds the pieces of bytes in a text, too, where it searches (Unigram).
        if plain(text) and model.normalizer_spec.name == "identity" and not (unigram and "<0x" in text):
            assert ids == truth.encode(text), (folder.name, text, ids, truth.encode(text))
        texts.append({
            "text": text,
            "ids": ids,
            "with_special_tokens": tokenizer.encode(text),
            "decoded": tokenizer._tokenizer.decode(ids, skip_special_tokens=False),
        })
    result = {"vocab_size": len(tokenizer), "bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id, "texts": texts}
    return result if unigram else {**result, "gguf": gguf(model, files)}


def main():
    check = "--check" in sys.argv
    for name, model, files in folders():
        with tempfile.TemporaryDirectory() as directory:
            folder = Path(directory) / name
            folder.mkdir()
            (folder / "tokenizer.model").write_bytes(model.SerializeToString(deterministic=True))
            for file, value in files.items():
                (folder / file).write_text(json.dumps(value, indent=1) + "\n")
            lines = json.dumps(expected(folder, model, files), ensure_ascii=True, separators=(",", ":"))
            (folder / "expected.json").write_text(lines.replace('{"text"', '\n{"text"') + "\n")
            for made in sorted(folder.iterdir()):
                kept = HERE / name / made.name
                if check:
                    assert kept.read_bytes() == made.read_bytes(), kept
                else:
                    kept.parent.mkdir(exist_ok=True)
                    kept.write_bytes(made.read_bytes())
        print(name, len(model.pieces), "pieces", "agree" if check else "written")


if __name__ == "__main__":
    main()
