"""The conversation between speed.py and one of its workers, from the worker's side.

The first line of standard input is a request (JSON; the keys are those of rows.Row.request). The worker loads, warms up and
answers {"ready": …}; then each further line asks for one measurement and is answered by one line of JSON: {"sample_ns": …,
"peak_rss_bytes": …}, or {"error": …}, after which the worker ends. It works only when asked.
"""

import json
import os
import resource
import sys
from collections.abc import Callable


def serve(prepare: Callable[[dict], tuple[dict, Callable[[], int]]]) -> None:
    """Answers on the real standard output; whatever a library prints goes to standard error.

    `prepare` loads and warms up what a request names, and returns what there is to say about it and the function that does
    one measurement and returns its nanoseconds.
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
    except Exception as error:  # whatever it is, it is the row's result
        print(json.dumps({"error": f"{type(error).__name__}: {error}"[:500]}), file=answers)
