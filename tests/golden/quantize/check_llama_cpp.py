"""GGUF files that deepwide quantizes against those of llama.cpp's quantizer: types of all tensors, and their bytes.

    pip install llama-cpp-python==0.3.36 gguf numpy
    python tests/golden/quantize/check_llama_cpp.py DEEPWIDE MODEL

MODEL is a dense Hugging Face directory. q2_k is compared with Q2_K, since llama.cpp makes no Q2_K_S without an importance
matrix. Tensors whose type differs are counted; of the others, the share of equal blocks, and the error of ours in terms of theirs.
"""

import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import gguf
import llama_cpp
import numpy

deepwide, model = sys.argv[1:]
MIXES = [("q4_0", llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0), ("q4_k", llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M), ("q2_k", llama_cpp.LLAMA_FTYPE_MOSTLY_Q2_K)]


def grown(folder, kind):
    out = Path(folder) / kind
    subprocess.run([deepwide, "grow", "-q", "--out-type", f"gguf:{kind}", model, str(out)], check=True, capture_output=True)
    return next(out.glob("*.gguf"))


def tensors(path):
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


with tempfile.TemporaryDirectory() as folder:
    whole = grown(folder, "f32")
    originals = tensors(whole)
    for kind, ftype in MIXES:
        theirs_path = Path(folder) / f"{kind}.gguf"
        params = llama_cpp.llama_model_quantize_default_params()
        params.ftype, params.nthread = ftype, 2
        failed = llama_cpp.llama_model_quantize(str(whole).encode(), str(theirs_path).encode(), params)
        assert not failed
        ours, theirs = tensors(grown(folder, kind)), tensors(theirs_path)
        assert ours.keys() == theirs.keys()
        others, blocks, equal, ratios = Counter(), 0, 0, []
        for name, mine in ours.items():
            yours = theirs[name]
            if mine.tensor_type != yours.tensor_type:
                others[f"{mine.tensor_type.name} for {yours.tensor_type.name}"] += 1
                continue
            _, size = gguf.GGML_QUANT_SIZES[mine.tensor_type]
            a, b = (numpy.asarray(tensor.data).reshape(-1).view(numpy.uint8).reshape(-1, size) for tensor in (mine, yours))
            blocks, equal = blocks + len(a), equal + int((a == b).all(axis=1).sum())
            original = numpy.asarray(originals[name].data).reshape(-1)
            error = lambda x: float(((gguf.dequantize(numpy.asarray(x.data), x.tensor_type).reshape(-1) - original) ** 2).sum())
            if error(yours) > 0:
                ratios.append(error(mine) / error(yours))
        print(f"{kind}: {100 * equal / blocks:.4f} % of {blocks} blocks are equal; squared error {max(ratios):.6f} of theirs at most; other types: {dict(others)}")
        assert max(ratios) < 1.01
        llm = llama_cpp.Llama(str(next((Path(folder) / kind).glob("*.gguf"))), n_ctx=64, verbose=False)
        print("  ", repr(llm("The capital of France is", max_tokens=8, temperature=0)["choices"][0]["text"]))
