"""The worker's side of the protocol between speed.py and its workers.

The first line on standard input is a request (JSON; see rows.Row.request). The worker loads, warms up and answers
{"ready": …}. Each further line requests one measurement, answered by one line of JSON: {"sample_ns": …, "peak_rss_bytes": …},
or {"error": …}, after which the worker exits. It is idle in between.
"""

import json
import os
import resource
import sys
from collections.abc import Callable


def serve(prepare: Callable[[dict], tuple[dict, Callable[[], int]]]) -> None:
    """Answers on the original standard output; libraries print to standard error.

    `prepare` loads and warms up a request. It returns a description, and a function that takes one measurement and returns
    its nanoseconds.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    try:
        about, once = prepare(json.loads(sys.stdin.readline()))
        print(json.dumps({"ready": about}), file=answers)
        for _ in sys.stdin:
            sample = once()
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            print(json.dumps({"sample_ns": sample, "peak_rss_bytes": peak}), file=answers)
    except Exception as error:  # any failure is the result of the row
        print(json.dumps({"error": f"{type(error).__name__}: {error}"[:500]}), file=answers)
