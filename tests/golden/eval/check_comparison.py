"""`deepwide compare-scores` against a bootstrap in NumPy and SciPy's exact binomial test, on samples of real runs.

    pip install numpy scipy
    python tests/golden/eval/check_comparison.py DEEPWIDE A B

A and B are directories that `deepwide eval --log_samples` or lm-eval wrote, with one log for each task.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from scipy.stats import binomtest

deepwide, *folders = sys.argv[1:]


def scores(folder: str) -> dict:
    """(task, metric): {(index, hash): score}."""
    found = {}
    for path in sorted(Path(folder).rglob("samples_*.jsonl")):
        task = path.stem.removeprefix("samples_").rsplit("_", 1)[0]
        for line in path.read_text().splitlines():
            sample = json.loads(line)
            for metric in sample["metrics"]:
                items = found.setdefault((task, f"{metric},{sample.get('filter', 'none')}"), {})
                items[sample["doc_id"], sample["doc_hash"]] = float(sample[metric])
    return found


def resampled(differences: list[np.ndarray]) -> np.ndarray:
    """Mean over tasks of the mean differences of 10,000 resamples."""
    draw = np.random.default_rng(0)
    means = [d[draw.integers(0, len(d), (10_000, len(d)))].mean(1) for d in differences]
    return np.mean(means, 0)


a, b = map(scores, folders)
rows = json.loads(subprocess.run([deepwide, "compare-scores", *folders, "--json"], check=True, capture_output=True, text=True).stdout)["comparisons"]
main, failed = [], False
for row in rows:
    if row["task"] == "mean":
        differences = main
    else:
        of_a, of_b = (x[row["task"], row["metric"]] for x in (a, b))
        shared = sorted(of_a.keys() & of_b.keys())
        x, y = (np.array([of[item] for item in shared]) for of in (of_a, of_b))
        differences = [y - x]
        assert row["num_items"] == len(shared) and np.isclose([row["a"], row["b"]], [x.mean(), y.mean()]).all()
        if row["mcnemar"]:
            only_a, only_b = int(((x == 1) & (y == 0)).sum()), int(((x == 0) & (y == 1)).sum())
            p = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
            assert (row["mcnemar"]["only_a"], row["mcnemar"]["only_b"]) == (only_a, only_b)
            assert np.isclose(row["mcnemar"]["p_value"], p, rtol=1e-9), (row["mcnemar"], p)
        if row["metric"] == "acc_norm,none" or (row["task"], "acc_norm,none") not in a:
            main.append(y - x)
    found, interval = resampled(differences), row["interval"]
    theirs = np.array([np.mean([d.mean() for d in differences]), found.std(ddof=1), *np.percentile(found, [2.5, 97.5])])
    ours = np.array([interval[key] for key in ("difference", "stderr", "low", "high")])
    # Two bootstraps of 10,000 resamples: their ends differ by a few hundredths of a standard error, and by one item.
    slack = 0.1 * theirs[1] + 1 / row["num_items"]
    off = np.abs(ours - theirs)
    good = off[0] < 1e-12 and off[1] < 0.05 * theirs[1] and (off[2:] <= slack).all()
    failed |= not good
    print(f"{row['task']:16} {row['metric']:14} ours {np.round(100 * ours, 3)}  NumPy {np.round(100 * theirs, 3)}  {'ok' if good else 'DIFFERS'}")
print(subprocess.run([deepwide, "compare-scores", *folders], check=True, capture_output=True, text=True).stdout)
sys.exit(failed)
