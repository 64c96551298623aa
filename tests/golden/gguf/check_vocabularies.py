"""Compares the tokenizers that deepwide makes of real GGUF vocabularies with llama.cpp and transformers.

    $ python check_vocabularies.py dump FOLDER FILE.gguf...      # FOLDER: target/tmp/vocabularies
    $ cargo test --test tests write_vocabularies_for_transformers_and_llama_cpp -- --ignored --nocapture
    $ python check_vocabularies.py compare FOLDER TEXT.txt       # 2,000 lines of it, twice, and `NASTY`

Files for it: any model, or the `models/ggml-vocab-*.gguf` of a checkout of llama.cpp. Fails if our files give other ids
than transformers (`llama`) or than llama.cpp (`gpt2`), or if transformers reads other ids out of them than tokenizers.
"""

import json
import sys
from pathlib import Path

import llama_cpp
from gguf import GGUFReader
from tokenizers import Tokenizer
from transformers import AutoTokenizer

NASTY = [
    "", " ", "  ", "   ", "\n", "\n\n\n", "\t", " \t\n ", "\r\n\r\n x \r\n", "\u00a0no-break\u00a0", "\u2028\u3000wide", "\ufeffbom", "a\u0000b", "\u200b\u200d",
    "½ ² ٣ Ⅷ 一 １２", "e\u0301 é \u0301", "ǅungla ǅ ᾈ", "ſ 'ſ K", "🚀 (normal) 😶\u200d🌫️ ✅ 🦙🦙", "👩‍👩‍👧‍👦🏳️‍🌈", "Привет, мир!", "我想在apple工作1314151天～",
    "こんにちは世界", "안녕하세요", "กำลัง", "कान्ति", "مرحبا بالعالم", "שלום", "1 12 123 1234 12345  1984   7", "3.14159 10,000", "0x1F600", "x" * 300, " " * 100, "\n" * 40,
    "It's we'll they've I'd you're don't IT'S WE'LL 'S", "def f(x):\n    return x ** 2  # square\n\n\n", "if (a == b) {\n\t\treturn c;\n\t}\n", "<html><body class=\"a\">&nbsp;</body>",
    "SELECT * FROM t WHERE a='b';", "----====____````!!!!????", "a/b/c\\d", "camelCaseWord HTTPServer snake_case", "https://example.org/?q=1&r=%20", "<|im_start|>user\nhi<|im_end|>\n",
    "<s>a</s>", "< s>", "<0x41>", "▁a ▁", "Ġa Ċ", "[PAD3]", "<unk>", "<|endoftext|>a<|endoftext|>",
]


def dump(folder: Path, files: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        fields = GGUFReader(file).fields
        get = lambda key, default=None: fields[key].contents() if key in fields else default
        ggml = lambda key, default=None: get(f"tokenizer.ggml.{key}", default)
        keys = {key: ggml(key, []) for key in ["tokens", "scores", "merges"]}
        keys |= {"gguf": str(Path(file).resolve()), "model": ggml("model"), "pre": ggml("pre"), "token_types": ggml("token_type", []),
                 "bos": ggml("bos_token_id"), "eos": ggml("eos_token_id"), "unk": ggml("unknown_token_id"), "pad": ggml("padding_token_id"),
                 "add_bos": ggml("add_bos_token")}
        (folder / f"{Path(file).stem}.json").write_text(json.dumps(keys))


def compare(folder: Path, lines: list[str]) -> bool:
    # As they are, and without what the two disagree about in `llama`: a space at the start of a text, special tokens.
    lines = lines + [line.strip().replace("<unk>", "unk") for line in lines]
    texts = NASTY + lines
    good = True
    for path in sorted(folder.glob("*.json")):
        keys = json.loads(path.read_text())
        ours = Tokenizer.from_file(str(path.with_suffix("") / "tokenizer.json"))
        loaded = AutoTokenizer.from_pretrained(path.with_suffix(""))
        gguf = Path(keys["gguf"])
        model = llama_cpp.Llama(str(gguf), vocab_only=True, verbose=False)
        try:
            theirs = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        except ValueError as error:  # an architecture whose weights it does not know
            print(f"{path.stem}: {error}")
            theirs = loaded
        ids = {
            "tokenizers": [ours.encode(text, add_special_tokens=False).ids for text in texts],
            "transformers reading our files": [loaded.encode(text, add_special_tokens=False) for text in texts],
            "llama.cpp": [model.tokenize(text.encode(), add_bos=False, special=True) for text in texts],
            "transformers reading the GGUF file": [theirs.encode(text, add_special_tokens=False) for text in texts],
        }
        reference = "llama.cpp" if keys["model"] == "gpt2" else "transformers reading the GGUF file"
        around = loaded.encode("a") == theirs.encode("a")
        print(f"{path.stem}: {len(keys['tokens'])} tokens, {keys['model']} {keys['pre']}, {len(texts)} texts, special tokens {'as' if around else 'NOT as'} in transformers")
        for name, other in ids.items():
            differing = [text for text, a, b in zip(texts, ids["tokenizers"], other) if a != b]
            print(f"    {len(differing):5} texts have other ids by {name}" + (f", such as {[text[:40] for text in differing[:8]]}" if differing else ""))
            if keys["model"] == "llama" and name == "llama.cpp":
                plain = [text for text in differing if not text.startswith(" ") and "<" not in text]
                print(f"    {len(plain):5} of them begin with no space and hold no special token" + (f": {plain[:8]}" if plain else ""))
            # llama.cpp takes `</s>` for a control token in whatever vocabulary it stands.
            told = [text for text in differing if name != "llama.cpp" or "</s>" not in text]
            good &= not told or name not in (reference, "transformers reading our files")
    return good


if __name__ == "__main__":
    if sys.argv[1:2] == ["dump"] and len(sys.argv) > 3:
        dump(Path(sys.argv[2]), sys.argv[3:])
    elif sys.argv[1:2] == ["compare"] and len(sys.argv) == 4:
        all_lines = [line for line in Path(sys.argv[3]).read_text().splitlines() if line.strip()]
        sys.exit(0 if compare(Path(sys.argv[2]), all_lines[:2000]) else 1)
    else:
        sys.exit(__doc__)
