"""The bare model: one process that runs it in a loop on one thread, and does nothing else.

Run as `python -m loadtests.alone MODEL SECONDS`, where MODEL is the name of a function in `loadtests.models`.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np

from loadtests import models
from loadtests.plain_model import PlainModel

if __name__ == "__main__":
    model = getattr(models, sys.argv[1])()
    plain = PlainModel(model.onnx)
    call = {"input": model.inputs[0]}
    for _ in range(20):
        plain.run(call)
    seconds: list[float] = []
    cpu = time.process_time()
    begun = before = time.perf_counter()
    while before - begun < float(sys.argv[2]):
        plain.run(call)
        now = time.perf_counter()
        seconds.append(now - before)
        before = now
    p50, p99 = np.percentile(seconds, [50, 99]) * 1e3
    figures = {
        "requests": len(seconds),
        "seconds": before - begun,
        "p50_ms": p50,
        "p99_ms": p99,
        "errors": 0,
        "cpu_seconds": time.process_time() - cpu,
    }
    print(json.dumps(figures))
