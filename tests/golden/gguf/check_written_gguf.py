"""Runs GGUF files that deepwide wrote with llama.cpp, and compares with transformers on the same weights.

    $ python experiments/prepare_smollm2.py target/tmp/smollm2      # if SmolLM2 and its children are to be checked, 12 GB
    $ cargo test --test tests write_gguf_files_for_llama_cpp -- --ignored --nocapture    # prints FOLDER
    $ python tests/golden/gguf/check_written_gguf.py FOLDER/*.gguf

The weights are taken out of the file with gguf-py, put under their names in a model that transformers makes of the
`config.json` of the parent, and computed with in float32. What llama.cpp adds is its rounding of activations: none in
F32 (its cache of keys and values is set to F32 here), to 16 bits in F16 and BF16, to 8 in Q8_0. As a control, the same is done with the rows of the query and key
projections left in the order of the file, which must not agree. SmolLM2 must also tokenize as transformers does, and
continue a text with the same tokens, as long as the two best are not nearer to each other than the logits are off.
"""

import sys
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, MixtralConfig

GOLDEN = Path(__file__).parent.parent
TOLERANCE = {"F32": 2e-4, "F16": 0.02, "BF16": 0.1, "Q8_0": 0.1}
"""Largest difference of a logit, relative to the largest logit."""
TEXTS = ["It is a truth universally acknowledged, that a single man in possession of a good fortune,", "  1984 was\n\tdef f(x):\n    return 'x' ✅ Привет",
         "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"]
CONTINUED = 24


def config_of(parent: Path, keys: dict) -> AutoConfig:
    config = AutoConfig.from_pretrained(parent)
    config.num_hidden_layers = keys["block_count"]
    if "expert_count" in keys and config.model_type == "llama":
        kept = {key: value for key, value in config.to_dict().items() if key not in ("model_type", "architectures", "transformers_version")}
        config = MixtralConfig(**kept, num_local_experts=keys["expert_count"], num_experts_per_tok=keys["expert_used_count"], sliding_window=None)
    return config


def unpermuted(rows: torch.Tensor, head_dim: int) -> torch.Tensor:
    return rows.reshape(-1, head_dim // 2, 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def state_of(reader: gguf.GGUFReader, config: AutoConfig, permute: bool) -> dict[str, torch.Tensor]:
    tensors = {}
    for tensor in reader.tensors:
        numbers = gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy()
        tensors[tensor.name] = torch.from_numpy(np.ascontiguousarray(numbers, np.float32).reshape(tensor.shape[::-1].tolist()))
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = lambda name: unpermuted(tensors[name], head_dim) if permute else tensors[name]
    state = {"model.embed_tokens.weight": tensors["token_embd.weight"], "model.norm.weight": tensors["output_norm.weight"],
             "lm_head.weight": tensors.get("output.weight", tensors["token_embd.weight"])}
    for i in range(config.num_hidden_layers):
        ours, theirs = f"blk.{i}.", f"model.layers.{i}."
        state |= {theirs + "input_layernorm.weight": tensors[ours + "attn_norm.weight"],
                  theirs + "post_attention_layernorm.weight": tensors[ours + "ffn_norm.weight"],
                  theirs + "self_attn.q_proj.weight": heads(ours + "attn_q.weight"), theirs + "self_attn.k_proj.weight": heads(ours + "attn_k.weight"),
                  theirs + "self_attn.v_proj.weight": tensors[ours + "attn_v.weight"], theirs + "self_attn.o_proj.weight": tensors[ours + "attn_output.weight"]}
        if ours + "ffn_gate_inp.weight" in tensors:
            state |= {theirs + "mlp.gate.weight": tensors[ours + "ffn_gate_inp.weight"],
                      theirs + "mlp.experts.gate_up_proj": torch.cat([tensors[ours + "ffn_gate_exps.weight"], tensors[ours + "ffn_up_exps.weight"]], 1),
                      theirs + "mlp.experts.down_proj": tensors[ours + "ffn_down_exps.weight"]}
        else:
            state |= {theirs + f"mlp.{name}_proj.weight": tensors[ours + f"ffn_{name}.weight"] for name in ["gate", "up", "down"]}
    return state


def loaded(model, state) -> None:
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and all("inv_freq" in name for name in missing), (missing, unexpected)


def logits_of_llama_cpp(model: llama_cpp.Llama, ids: list[int]) -> torch.Tensor:
    model.reset()
    model.eval(ids)
    return torch.from_numpy(model.scores[: len(ids)].copy())


def continued_by_transformers(model, ids: list[int]) -> tuple[list[int], float]:
    """Greedy tokens, and the least distance of the best from the second best."""
    out, nearest, cache = [], float("inf"), None
    for _ in range(CONTINUED):
        answer = model(torch.tensor([ids]), past_key_values=cache, use_cache=True)
        (best, second), index = answer.logits[0, -1].topk(2)
        nearest, cache, ids = min(nearest, (best - second).item()), answer.past_key_values, [index[0].item()]
        out += ids
    return out, nearest


def continued_by_llama_cpp(model: llama_cpp.Llama, ids: list[int]) -> list[int]:
    model.reset()
    out = []
    for _ in range(CONTINUED):
        model.eval(ids)
        ids = [int(model.scores[model.n_tokens - 1].argmax())]
        out += ids
    return out


def difference(model, texts: list[list[int]], answers: list[torch.Tensor]) -> torch.Tensor:
    """Of each position, the largest of a logit."""
    return torch.cat([(model(ids) - answer).abs().max(1).values for ids, answer in zip(texts, answers)])


def check(path: Path) -> bool:
    path = path.resolve()
    name, kind = path.stem.rsplit("-", 1)
    is_smollm2 = name.startswith("smollm2")
    parent = path.parent.parent / "smollm2" if is_smollm2 else GOLDEN / name
    reader = gguf.GGUFReader(path)
    keys = {key.removeprefix("llama."): field.contents() for key, field in reader.fields.items() if key.startswith("llama.")}
    config = config_of(parent, keys)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", experts_implementation="eager").float().eval()
    theirs = llama_cpp.Llama(str(path), n_ctx=256, logits_all=True, verbose=False, n_threads=2,
                             type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32, flash_attn=False)
    good = True
    if is_smollm2:
        tokenizer = AutoTokenizer.from_pretrained(parent)
        texts = [tokenizer.encode(text) for text in TEXTS]
        same = [theirs.tokenize(text.encode(), add_bos=False, special=True) == ids for text, ids in zip(TEXTS, texts)]
        assert all(same), same
    else:
        texts = [[(7 * i * i + 3 * i + text) % config.vocab_size for i in range(40)] for text in range(2)]
    with torch.no_grad():
        ours = lambda ids: model(torch.tensor([ids])).logits[0]
        answers = [logits_of_llama_cpp(theirs, ids) for ids in texts]
        loaded(model, state_of(reader, config, permute=False))
        control = difference(ours, texts, answers)
        loaded(model, state_of(reader, config, permute=True))
        off = difference(ours, texts, answers)
        size = max(answer.abs().max().item() for answer in answers)
        # Where activations are rounded, some token near a tie goes to another expert: the most positions decide.
        counted = off.quantile(0.9 if "expert_count" in keys and kind != "F32" else 1).item()
        good &= counted <= TOLERANCE[kind] * size < control.max().item()
        off = off.max().item()
        print(f"{name:18} {kind:5} {type(model).__name__:19} {config.num_hidden_layers} layers  logits off by {off:.1e}", end="")
        print(f" of {size:.1f} (counted: {counted:.1e}, control: {control.max().item():.1e})", end="")
        if is_smollm2:
            for text in texts:
                (a, nearest), b = continued_by_transformers(model, text), continued_by_llama_cpp(theirs, text)
                agreed = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), CONTINUED)
                good &= agreed == CONTINUED or nearest <= 2 * off
                print(f"  {agreed}/{CONTINUED}", end="")
            print(f" greedy tokens agree: {theirs.detokenize(b)!r}", end="")
        print("" if good else "  WRONG", flush=True)
    return good


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(0 if all([check(Path(path)) for path in sys.argv[1:]]) else 1)
