"""A model's engine, called directly by as many threads as there would be connections.

Run as `python -m loadtests.gpu_direct RUNTIME FILE INPUTS GPUS THREADS SECONDS`, INPUTS being numpy's (.npz);
it writes a JSON document with a `wrk.Load` for each number in THREADS (such as 1,16,64), the device,
and the memory of the GPU.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from itertools import chain
from pathlib import Path

import numpy as np

from gateway.gpus.nvml import read_gpus
from loadtests.models import Array
from loadtests.wrk import Load
from runtimes.base import Resources, TensorModel
from runtimes.select import installed

_WARM_UP_CALLS = 40
_SEVERAL_AT_ONCE = ("onnxruntime_onnx",)


def measure(model: TensorModel, inputs: Mapping[str, Array], threads: int, seconds: float) -> Load:
    """Call a model by so many threads; one that takes a call at a time gets them in turns."""
    durations: list[list[float]] = [[] for _ in range(threads)]
    turn: AbstractContextManager[object] = threading.Lock()
    if model.platform in _SEVERAL_AT_ONCE:
        turn = nullcontext()
    began = time.perf_counter()

    def work(own: list[float]) -> None:
        while (sent := time.perf_counter()) < began + seconds:
            with turn:
                model.infer(inputs)
            own.append(time.perf_counter() - sent)

    workers = [threading.Thread(target=work, args=(own,)) for own in durations]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    spent = time.perf_counter() - began
    p50, p99 = np.percentile([*chain(*durations)], [50, 99]) * 1e3
    return Load(sum(map(len, durations)), spent, float(p50), float(p99), 0)


if __name__ == "__main__":
    runtime, file, arrays, gpus, threads, seconds = sys.argv[1:]
    inputs = dict(np.load(arrays))
    loaded = installed()[runtime].load(Path(file), Resources(cpus=1, gpus=float(gpus)))
    assert isinstance(loaded, TensorModel)
    for _ in range(_WARM_UP_CALLS):
        loaded.infer(inputs)
    loads = {int(count): measure(loaded, inputs, int(count), float(seconds)) for count in threads.split(",")}
    document = {
        "device": loaded.device,
        "gpu_bytes": read_gpus().process_bytes(os.getpid()) or 0,
        "loads": {count: asdict(load) for count, load in loads.items()},
    }
    print(json.dumps(document))
