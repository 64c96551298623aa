"""Makes what the tests of GGUF compare with: what llama.cpp, its converter, gguf-py and transformers say.

    $ pip install transformers==5.23.0 torch==2.15.0 sentencepiece==0.2.3 llama-cpp-python==0.3.36 safetensors==0.8.0
    $ python make_gguf_golden.py LLAMA_CPP    # a checkout of llama.cpp, for its converter and gguf-py

- `sentencepiece.json`, `byte_level.json`: a tiny vocabulary, trained here on this repository's LICENSE-APACHE and `OTHER`,
  as the keys of the GGUF file that gguf-py made of it, and the ids that `TEXTS` have. `ids` are those of transformers for
  `sentencepiece`, and those of llama.cpp, for each `tokenizer.ggml.pre`, for `byte_level`.
- `q8_0.safetensors`: numbers, many of them halfway between two steps, and the blocks that gguf-py makes of them.
- `converted.json`: keys and tensors (name, type, shape, SHA-256) of the files that llama.cpp's converter makes of the
  tiny models beside this folder.
"""

import hashlib
import json
import sys
import tempfile
from pathlib import Path

if len(sys.argv) != 2:
    sys.exit(__doc__)
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/gguf-py"]

import gguf
import llama_cpp
import numpy as np
import sentencepiece
from safetensors.numpy import save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent.parent
OTHER = """Привет, мир! Schöne Grüße aus Köln. 我想在天上飞 こんにちは 안녕하세요 Ça va très bien, merci. fn main() { let x = 1 + 2; }
if (a == b) {\n\treturn c;\n}\n1984 1984 1234 1234 123 12 2001 3.14159 10,000 It's we'll they've I'D YOU'RE don't x1 y22 z333 w4444
"""
TEXTS = [
    "", " ", "  ", "   ", "\n", "\n\n\n", "\t", " \t\n ", "a", " a", "  a", "a ", "a  ", "Hello, world!", " Hello", "   Hello   world  ",
    "the Work and such Derivative Works", "Licensor shall be under the terms of this License", "1", "12", "123", "1234567", "  1984", "a 12 b",
    "3.14159 10,000", "It's we'll they've I'd you're don't", "IT'S WE'LL THEY'VE I'D YOU'RE DON'T", "'s's 'S", "x = y + 1;\n\tif (a == b) {\n    return c;\n}\n",
    "Привет, мир!", "我想在apple工作1314151天～", "こんにちは世界", "🚀 (normal) 😶\u200d🌫️ ✅ 🦙🦙", "e\u0301 é \u0301", "Å Å", "\u00a0no-break\u00a0", "\u2028\u3000wide",
    "\ufeffbom", "a\u0000b", "½ ² ٣ Ⅷ 一", "ǅungla ǅ ᾈ", "camelCaseWord HTTPServer", "----====____````!!!!", "a/b/c\\d", "\r\n\r\n x \r\n", "zebra zebra\tzebra",
    "zebras", "<|im_start|>user\nhi<|im_end|>", "a<|im_end|> b", "</s>x", "<s>", "< s>", "<0x41>", "▁a ▁", "Ġa", "[PAD3]", "<tool> x <tool>", "x" * 70,
]
PRE_TOKENIZERS = ["gpt-2", "smollm", "llama-bpe", "smaug-bpe", "qwen2", "tekken", "gpt-4o", "default"]


def corpus() -> list[str]:
    return ((REPOSITORY / "LICENSE-APACHE").read_text() + OTHER * 9).splitlines(keepends=True)


def write_vocabulary(path: Path, keys: dict) -> None:
    """A GGUF file of these keys, and the tensors without which llama.cpp would not look at it: none."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(32)
    writer.add_head_count(1)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(keys["tokens"]))
    writer.add_tokenizer_model(keys["model"])
    writer.add_tokenizer_pre(keys["pre"])
    writer.add_token_list(keys["tokens"])
    if keys["scores"]:
        writer.add_token_scores(keys["scores"])
    writer.add_token_types(keys["token_types"])
    if keys["merges"]:
        writer.add_token_merges(keys["merges"])
    for name in ["bos", "eos", "unk", "pad"]:
        if keys[name] is not None:
            getattr(writer, f"add_{name}_token_id")(keys[name])
    writer.add_add_bos_token(keys["add_bos"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def ids_of_llama_cpp(path: Path) -> list[list[int]]:
    model = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    return [model.tokenize(text.encode(), add_bos=False, special=True) for text in TEXTS]


def ids_of_transformers(path: Path) -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    return [tokenizer.encode(text, add_special_tokens=False) for text in TEXTS]


def make_sentencepiece(folder: Path) -> None:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line.strip("\n") for line in corpus()), model_prefix=str(folder / "sp"), vocab_size=640, model_type="bpe",
        byte_fallback=True, character_coverage=0.99, split_digits=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, allow_whitespace_only_pieces=True, user_defined_symbols=["<tool>"], num_threads=1)
    model = sentencepiece.SentencePieceProcessor(str(folder / "sp.model"))
    kind = lambda i: 2 if model.is_unknown(i) else 3 if model.is_control(i) else 6 if model.is_byte(i) else 4 if model.id_to_piece(i) == "<tool>" else 1
    size = model.get_piece_size()
    keys = {"model": "llama", "pre": "default", "tokens": [model.id_to_piece(i) for i in range(size)],
            "scores": [model.get_score(i) for i in range(size)], "token_types": [kind(i) for i in range(size)], "merges": [],
            "bos": model.bos_id(), "eos": model.eos_id(), "unk": model.unk_id(), "pad": None, "add_bos": True}
    path = folder / "sentencepiece.gguf"
    write_vocabulary(path, keys)
    ids, others = ids_of_transformers(path), ids_of_llama_cpp(path)
    differing = [text for text, a, b in zip(TEXTS, ids, others) if a != b]
    print(f"sentencepiece: {size} tokens; llama.cpp gives other ids than transformers to {differing}")
    save("sentencepiece", {**keys, "texts": TEXTS, "ids": ids, "llama_cpp": others})


def make_byte_level(folder: Path) -> None:
    tokenizer = Tokenizer(models.BPE())
    # Coarse words, so that there are merges across the borders that the pre-tokenizers draw.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\s?\S+"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    # No merge makes them: only what keeps whole words that are tokens finds them.
    tokens += ["zebra", "Ġzebra", "<tool>"]
    types = [3 if token in specials else 4 if token == "<tool>" else 1 for token in tokens]
    keys = {"model": "gpt2", "pre": None, "tokens": tokens, "scores": [], "token_types": types, "merges": [" ".join(m) for m in model["merges"]],
            "bos": 1, "eos": 2, "unk": 0, "pad": 2, "add_bos": False}
    ids = {}
    for pre in PRE_TOKENIZERS:
        path = folder / f"{pre}.gguf"
        write_vocabulary(path, {**keys, "pre": pre})
        ids[pre] = ids_of_llama_cpp(path)
        differing = [text for text, a, b in zip(TEXTS, ids[pre], ids_of_transformers(path)) if a != b]
        print(f"byte_level, {pre}: {len(tokens)} tokens; transformers gives other ids than llama.cpp to {differing}")
    save("byte_level", {**keys, "texts": TEXTS, "ids": ids})


def make_q8_0() -> None:
    random = np.random.default_rng(8)
    normal = random.standard_normal((40, 32)).astype(np.float32)
    # Scales that are powers of two make x / d exact, and k + 1/2 a tie.
    ties = random.integers(-254, 255, (40, 32)).astype(np.float32) / 2
    ties[:, 0] = 127
    ties *= np.exp2(random.integers(-20, 10, (40, 1))).astype(np.float32)
    small = (normal[:8] * np.exp2(np.linspace(-140, -10, 8, dtype=np.float32))[:, None]).astype(np.float32)
    zeros = np.zeros((1, 32), np.float32)
    numbers = np.concatenate([normal, ties, small, zeros])
    with np.errstate(all="ignore"):
        blocks = gguf.quants.quantize(numbers, gguf.GGMLQuantizationType.Q8_0)
    bf16 = gguf.quants.quantize(numbers, gguf.GGMLQuantizationType.BF16)
    save_file({"numbers": numbers, "q8_0": blocks, "bf16": bf16}, HERE / "q8_0.safetensors")


def make_converted() -> None:
    from conversion.llama import LlamaModel

    class WithoutVocabulary(LlamaModel):
        model_arch = LlamaModel.model_arch

        def set_vocab(self):
            self.gguf_writer.add_tokenizer_model("none")

    converted = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ["llama_mha", "llama_gqa_tied", "llama_head_dim", "llama_llama3_rope", "llama_linear_rope", "llama_bfloat16",
                     "mistral_window", "mixtral_4x2"]:
            for kind in ["F32", "F16", "BF16", "Q8_0"]:
                path = Path(folder) / f"{name}-{kind}.gguf"
                ftype = gguf.LlamaFileType["ALL_F32" if kind == "F32" else f"MOSTLY_{kind}"]
                WithoutVocabulary(HERE.parent / name, ftype, path).write()
                reader = gguf.GGUFReader(path)
                keys = {key: field.contents() for key, field in reader.fields.items() if key.split(".")[0] not in ("GGUF", "tokenizer")}
                tensors = {tensor.name: [tensor.tensor_type.name, tensor.shape.tolist(), hashlib.sha256(tensor.data.tobytes()).hexdigest()]
                           for tensor in reader.tensors}
                converted.setdefault(name, {})[kind] = {"keys": keys, "tensors": tensors}
    save("converted", converted)


def save(name: str, content: dict) -> None:
    (HERE / f"{name}.json").write_text(json.dumps(content, ensure_ascii=True, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        make_sentencepiece(Path(folder))
        make_byte_level(Path(folder))
    make_q8_0()
    make_converted()
