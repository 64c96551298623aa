"""Writes Parquet and Arrow files as pyarrow writes them, and the rows that they hold as JSON, into `data/` beside this script.

Made with pyarrow 26.0.1, Python 3.11:

    pip install pyarrow==26.0.1
    python make_data_golden.py      # running twice gives the same bytes
"""

import datetime
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

FOLDER = Path(__file__).resolve().parent / "data"

ROWS = [
    {
        "text": None if i == 3 else f"row {i} " + "wörd " * i,
        "id": i - 2,
        "score": i / 8,
        "good": i % 2 == 0,
        "messages": [{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": "!" * i}],
        "tags": [] if i == 1 else ["a", "b"],
    }
    for i in range(7)
]
SCHEMA = pa.schema(
    [
        ("text", pa.string()),
        ("id", pa.int64()),
        ("score", pa.float64()),
        ("good", pa.bool_()),
        ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        ("tags", pa.list_(pa.string())),
    ]
)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    table = pa.Table.from_pylist(ROWS, schema=SCHEMA)
    for codec, version in [("snappy", "1.0"), ("zstd", "2.0"), ("gzip", "1.0"), ("none", "2.0")]:
        path = FOLDER / f"{codec}.parquet"
        pq.write_table(table, path, compression=codec, row_group_size=3, data_page_version=version)
    # `datasets` writes streams, with several batches.
    batches = table.to_batches(max_chunksize=3)
    for name, writer in [("stream.arrow", pa.ipc.new_stream), ("file.arrow", pa.ipc.new_file)]:
        with writer(str(FOLDER / name), SCHEMA) as out:
            for batch in batches:
                out.write_batch(batch)
    (FOLDER / "rows.json").write_text(json.dumps(ROWS, ensure_ascii=False, indent=1) + "\n")

    # Types that JSON lacks. `plain` is text that the writer does not mark as such.
    other = pa.table(
        {
            "when": pa.array([datetime.datetime(2024, 2, 29, 12)], pa.timestamp("ms")),
            "plain": pa.array([b"text"], pa.binary()),
            "image": pa.array([b"\xff\xd8\xff"], pa.binary()),
        }
    )
    pq.write_table(other, FOLDER / "other.parquet", compression="none", store_schema=False)


main()
