"""Writes `data/packing.json` beside this script: rows of examples as TRL packs them, for lengths drawn at random.

Made with trl 1.16.0, pyarrow 26.0.1, NumPy 2.4.6, Python 3.11:

    pip install trl==1.16.0 pyarrow==26.0.1 numpy==2.4.6
    python make_packing_golden.py      # seeded: the same bytes each time

The functions behind `trl.pack_dataset` are called on one table: `Dataset.map` would cut it into batches of 1,000 examples and
pack each on its own.
"""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
from trl.data_utils import _pack_bfd, _pack_wrapped

PATH = Path(__file__).resolve().parent / "data" / "packing.json"


def table(lengths: list[int]) -> pa.Table:
    """Examples whose tokens all are the example's index."""
    examples = [[example] * length for example, length in enumerate(lengths)]
    return pa.table({"input_ids": pa.array(examples, pa.list_(pa.int64()))})


def rows(packed: pa.Table) -> list[list[list[int]]]:
    """Example and number of tokens of each segment of each row."""
    result = []
    for row in packed["input_ids"].to_pylist():
        segments: list[list[int]] = []
        for example in row:
            if segments and segments[-1][0] == example:
                segments[-1][1] += 1
            else:
                segments.append([example, 1])
        result.append(segments)
    return result


def case(seq_length: int, lengths: list[int]) -> dict:
    bfd = rows(_pack_bfd(table(lengths), seq_length, "truncate"))
    wrapped = rows(_pack_wrapped(table(lengths), seq_length))
    examples = [[example for example, _ in row] for row in bfd]
    return {"seq_length": seq_length, "lengths": lengths, "bfd": examples, "wrapped": wrapped}


def main() -> None:
    rng = np.random.default_rng(1)
    cases = [
        case(4, [5, 2, 3, 1]),
        case(8, [3, 3, 3, 5, 5, 2, 2, 8, 1]),
        case(1, [1, 1, 2]),
        case(16, rng.integers(1, 17, 300).tolist()),
        case(100, rng.integers(0, 140, 300).tolist()),
        case(64, np.minimum(rng.lognormal(2.5, 1, 500).astype(int) + 1, 200).tolist()),
        case(17, [4] * 50 + [3] * 50),
    ]
    PATH.write_text("[\n" + ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases) + "\n]\n")


main()
