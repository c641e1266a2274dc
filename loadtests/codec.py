"""The time to read a call and to write its answer, without server and model: `python -m loadtests.codec`.

Each line is one body, which three functions read or write in turn. A time is that of one call, in
microseconds: the best of several turns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import orjson

from gateway.codec.call import IN_BINARY, Call
from gateway.codec.json_answer import Encoder
from gateway.codec.json_request import Decoder
from runtimes.base import Array, Datatype, Signature, TensorSpec

_TURNS = 9
_TURN_SECONDS = 0.02
_SHAPES = ((1, 4), (1, 32), (1, 128), (1, 1024), (1000, 4), (1, 3, 224, 224))

Task = Callable[[], object]


def main() -> None:
    """Print the microseconds that each function takes."""
    generator = np.random.default_rng(7)
    tasks: tuple[Task, ...]
    for datatype in (Datatype.FP32, Datatype.INT64):
        _title(f"reading {datatype}", "Kitserve", "its orjson", "floor")
        signature = Signature((TensorSpec("x", datatype, None),), ())
        decode, small = Decoder(signature), Decoder(signature)
        small._large = None
        for shape in _SHAPES:
            values = (generator.random(shape) * 1000).round(4).astype("f8" if datatype == "FP32" else "i8")
            for form, data in (("flat", values.ravel().tolist()), ("nested", values.tolist())):
                tensor = {"name": "x", "datatype": datatype, "shape": shape, "data": data}
                body = orjson.dumps({"inputs": [tensor]})
                tasks = (
                    partial(decode, (body,)),
                    partial(small, (body,)),
                    partial(_floor_reads, body, datatype),
                )
                _line(f"{list(shape)} {form}", len(body), tasks)
    _title("writing", "Kitserve", "raw", "floor")
    encode = Encoder("model", "v1", {})
    for datatype in (Datatype.FP32, Datatype.FP64, Datatype.BF16, Datatype.INT64):
        for shape in ((1, 3), (1000, 1000)):
            outputs = {"y": (generator.random(shape) * 1000).astype(datatype.numpy)}
            raw = Call("", {}, others=IN_BINARY)
            body, _ = encode(Call("", {}), outputs)
            tasks = (
                partial(encode, Call("", {}), outputs),
                partial(encode, raw, outputs),
                partial(_floor_writes, outputs, datatype),
            )
            _line(f"{datatype} {list(shape)}", len(body), tasks)


def _floor_reads(body: bytes, datatype: Datatype) -> Mapping[str, Array]:
    """Do the least that a server in Python must do; check nothing."""
    return {
        tensor["name"]: np.array(tensor["data"], datatype.numpy).reshape(tensor["shape"])
        for tensor in orjson.loads(body)["inputs"]
    }


def _floor_writes(outputs: Mapping[str, Array], datatype: Datatype) -> bytes:
    tensors = [
        {"name": name, "datatype": datatype, "shape": array.shape, "data": array.astype("f4").ravel()}
        if datatype == "BF16"
        else {"name": name, "datatype": datatype, "shape": array.shape, "data": array.ravel()}
        for name, array in outputs.items()
    ]
    document = {"model_name": "model", "outputs": tensors}
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def _title(*columns: Any) -> None:
    print("\n{:26}{:>11}{:>12}{:>12}{:>12}".format(columns[0], "bytes", *columns[1:]))


def _line(name: str, size: int, tasks: tuple[Task, ...]) -> None:
    best = [float("inf")] * len(tasks)
    counts = [max(1, round(_TURN_SECONDS / max(_seconds(task, 1), 1e-6))) for task in tasks]
    for _ in range(_TURNS):
        for index, task in enumerate(tasks):
            best[index] = min(best[index], _seconds(task, counts[index]))
    print(
        "{:26}{:>11,}{:>12,.2f}{:>12,.2f}{:>12,.2f}".format(name, size, *(1e6 * seconds for seconds in best))
    )


def _seconds(task: Task, count: int) -> float:
    began = time.perf_counter()
    for _ in range(count):
        task()
    return (time.perf_counter() - began) / count


if __name__ == "__main__":
    main()
