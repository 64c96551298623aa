"""Renders results.json as Markdown: a table of all rows, and comparisons across rows."""

from statistics import median


def speeds(row: dict, name: str) -> list[float]:
    """Tokens per second of each sample of a contender; empty if it failed or did not take part."""
    return [row["produced_tokens"] / ns * 1e9 for ns in row["contenders"].get(name, {}).get("samples_ns", [])]


def figure(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def cell(values: list[float]) -> str:
    """Median and range."""
    return f"{figure(median(values))} ({figure(min(values))}–{figure(max(values))})" if values else "–"


def gib(row: dict, name: str) -> str:
    """Smallest peak: a process that also searched for its fastest implementation used more."""
    peaks = [peak for peak in row["contenders"].get(name, {}).get("peak_rss_bytes", []) if peak]
    return f"{min(peaks) / 2**30:.2f}" if peaks else "–"


def best_peer(row: dict) -> str | None:
    """Peer with the highest median."""
    entered = [name for name in row["contenders"] if name != "deepwide" and speeds(row, name)]
    return max(entered, key=lambda name: median(speeds(row, name)), default=None)


def named(row: dict, name: str) -> str:
    way = row["contenders"][name].get("about", {}).get("implementation")
    return f"{name}, {way}" if way else name


def table(header: list[str], lines: list[list[str]]) -> str:
    """A Markdown table, with all columns but the first right-aligned."""
    rule = ["---"] + ["--:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, rule, *lines)) + "\n"


def all_rows(rows: list[dict]) -> str:
    lines = []
    for row in rows:
        peer, ours = best_peer(row), speeds(row, "deepwide")
        limit = row["produced_tokens"] / row["limit_s"]
        failed = " failed" if "error" in row["contenders"].get("deepwide", {}) else "–"
        shown = ours or (speeds(row, peer) if peer else [])
        lines.append([
            row["name"], cell(ours) if ours else failed.strip(),
            f"{cell(speeds(row, peer))} ({named(row, peer)})" if peer else "–",
            f"{median(ours) / median(speeds(row, peer)):.2f}" if ours and peer else "–", figure(limit),
            (f"{median(shown) / limit:.2f}" + ("" if ours else " (peer)")) if shown else "–", row["goal"] or "–",
        ])
    return table(["work", "deepwide, tok/s", "best peer, tok/s", "ratio", "limit", "share of limit", "goal"], lines)


def everyone(rows: list[dict]) -> str:
    names = sorted({name for row in rows for name in row["contenders"]} - {"deepwide"})
    return table(["work, tok/s", "deepwide", *names], [
        [row["name"], *(cell(speeds(row, name)) for name in ("deepwide", *names))] for row in rows])


def memory(rows: list[dict]) -> str:
    names = sorted({name for row in rows for name in row["contenders"]})
    return table(["peak resident GiB", *names], [[row["name"], *(gib(row, name) for name in names)] for row in rows])


def against_dense(rows: list[dict]) -> str:
    """The time of each mixture over that of the dense model of equal active FLOPs, contender by contender."""
    by_name = {row["name"]: row for row in rows}
    lines = []
    for row in rows:
        dense = by_name.get(row["name"].replace("moe ", "wide ", 1))
        if row["model"] != "moe" or dense is None:
            continue
        for name in row["contenders"]:
            if (mixture := speeds(row, name)) and (wide := speeds(dense, name)):
                lines.append([row["name"], name, f"{median(wide) / median(mixture):.2f}"])
    return table(["work", "contender", "time ÷ time of the dense"], lines) if lines else ""


def seconds(row: dict, name: str) -> float:
    """Median of a contender's samples."""
    return row["produced_tokens"] / median(speeds(row, name))


def contexts(rows: list[dict]) -> str:
    """How cost grows with the context: the time beside that of 512 tokens times the ratio of the least costs, FLOPs of a
    prefill and bytes of decoding."""
    lines = []
    for row in rows:
        unit = "flops" if row["work"] == "prefill" else "bytes"
        middle = next((one for one in rows if " context 512 " in one["name"] and one["work"] == row["work"]), None)
        if " context " not in row["name"] or middle is None:
            continue
        for name in row["contenders"]:
            if (now := speeds(row, name)) and speeds(middle, name):
                foreseen = seconds(middle, name) * row[unit] / middle[unit]
                lines.append([row["name"], name, cell(now), f"{row[unit] / middle[unit]:.2f}",
                              f"{seconds(row, name) / foreseen:.2f}"])
    return table(["work", "contender", "tok/s", "cost ÷ that of 512", "time ÷ foreseen"], lines) if lines else ""


def batches(rows: list[dict]) -> str:
    """How decoding grows with the batch: tokens a second over those of the batch of one; and the time beside the larger of
    two, that of the bytes (of experts, of those that are met on average) at the rate of the batch of one and that of the
    FLOPs at the rate of a prefill of 512."""
    lines = []
    prefills = {row["model"]: row for row in rows if row["work"] == "prefill" and row["weights"] == "float32"
                and row["n_tokens"] == 512 and "context" not in row["name"]}
    for row in rows:
        alone = next((one for one in rows if "batched" in one["name"] and one["model"] == row["model"] and one["n_batch"] == 1), None)
        if "batched" not in row["name"] or alone is None:
            continue
        for name in row["contenders"]:
            if (now := speeds(row, name)) and (one := speeds(alone, name)):
                share, prefill = "–", prefills.get(row["model"])
                if prefill and speeds(prefill, name):
                    foreseen = max(seconds(alone, name) * row["bytes"] / alone["bytes"],
                                   seconds(prefill, name) * row["flops"] / prefill["flops"])
                    share = f"{seconds(row, name) / foreseen:.2f}"
                lines.append([row["name"], name, cell(now), f"{median(now) / median(one):.2f}", share])
    return table(["work", "contender", "tok/s", "÷ batch of 1", "time ÷ foreseen"], lines) if lines else ""


def disagreements(rows: list[dict]) -> str:
    """Peers that predict another next token in f32, and so do not compute the same function."""
    lines = []
    for row in rows:
        ids = {name: one["about"]["next_id"] for name, one in row["contenders"].items() if "next_id" in one.get("about", {})}
        if row["weights"] == "float32" and len(set(ids.values())) > 1:
            lines.append([row["name"], ", ".join(f"{name} {at}" for name, at in ids.items())])
    return table(["work", "next token"], lines) if lines else ""


def failures(rows: list[dict]) -> str:
    lines = [[row["name"], name, one["error"].replace("|", "\\|").replace("\n", " ")]
             for row in rows for name, one in row["contenders"].items() if "error" in one]
    return table(["work", "contender", "message"], lines) if lines else ""


def stored(rows: list[dict]) -> str:
    """Types in the quantized files."""
    by_file = {(row["model"], row["weights"]): row["stored_bytes_by_type"] for row in rows if row["stored_bytes_by_type"]}
    return table(["file", "MB of weights by type"], [
        [f"{model} {kind}", ", ".join(f"{name} {size / 1e6:.1f}" for name, size in sorted(by_type.items()))]
        for (model, kind), by_type in by_file.items()]) if by_file else ""


def markdown(document: dict) -> str:
    run, rows = document["run"], document["rows"]
    flops = [value for row in rows for value in row["limits"]["flops_per_s"]]
    read = [value for row in rows for value in row["limits"]["bytes_per_s"]]
    load = [value for row in rows for value in row["load_average"]]
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    head = (
        f"{run['cpu_info']}, {run['n_threads']} threads of {run['cpu_count']}; {run['test_time']}; commit {run['commit'][:12]}"
        f"{' (modified)' if run['modified'] else ''}; {run['rounds']} rounds in turns. {versions}.\n\n"
        f"Tokens a second: median (min–max). Limits, median (min–max): multiply-adds in f32"
        f" {cell([value / 1e9 for value in flops])} GFLOP/s, reading {cell([value / 1e9 for value in read])} GB/s; a row's limit"
        f" is made of the best of its own rounds. Load average when rounds began, of which ours is up to {run['n_threads']}:"
        f" {cell(load)}.\n\n"
    )
    training = [row for row in rows if row["work"] == "train"]
    parts = [("", all_rows(rows)), ("Mixtures against the dense model of equal active FLOPs", against_dense(rows)),
             ("Batched decoding", batches(rows)), ("Contexts", contexts(rows)), ("Memory of training", memory(training) if training else ""),
             ("Every contender", everyone(rows)), ("Quantized files", stored(rows)), ("Peers that disagree", disagreements(rows)), ("Failures", failures(rows))]
    return head + "\n".join((f"### {title}\n\n" if title else "") + text for title, text in parts if text)
