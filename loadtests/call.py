"""The one call that every contender answers, and what it must answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import orjson
import requests

FLOWER = [5.1, 3.5, 1.4, 0.2]
LABEL = 0
TOLERANCE = 1e-5

BODY = json.dumps(
    {"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": FLOWER}]},
    separators=(",", ":"),
)
HEADERS = {"Content-Type": "application/json"}

_DATATYPES = {"float32": "FP32", "int64": "INT64"}

Check = Callable[[str, str], None]


class WrongAnswer(Exception):
    """A contender answered something else than the model."""


class PlainModel:
    """The model on one thread, with the least code from a call to its answer; nothing is checked."""

    def __init__(self, path: Path) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self._session: Any = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._names = [output.name for output in self._session.get_outputs()]

    def answer(self, body: bytes) -> bytes:
        """One inference call of the Open Inference Protocol, JSON to JSON."""
        inputs = {
            tensor["name"]: np.array(tensor["data"], dtype=np.float32).reshape(tensor["shape"])
            for tensor in orjson.loads(body)["inputs"]
        }
        outputs = [
            {
                "name": name,
                "datatype": _DATATYPES[array.dtype.name],
                "shape": array.shape,
                "data": array.reshape(-1),
            }
            for name, array in self._run(inputs).items()
        ]
        document = {"model_name": "iris", "outputs": outputs}
        return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)

    def truth(self) -> dict[str, Any]:
        """What the model itself makes of the call: each output's array by its name."""
        return self._run({"input": np.array([FLOWER], dtype=np.float32)})

    def _run(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return dict(zip(self._names, self._session.run(self._names, inputs), strict=True))


def checker(models: Sequence[Path]) -> Check:
    """A function `(name, url)`: it calls once and raises WrongAnswer unless one of the models answered so."""
    truths = [PlainModel(model).truth() for model in models]

    def check(name: str, url: str) -> None:
        try:
            answer = requests.post(url, BODY, headers=HEADERS, timeout=20)
        except requests.RequestException as error:
            raise WrongAnswer(f"{name} did not answer: {error}") from error
        if answer.status_code != 200:
            raise WrongAnswer(f"{name} answered {answer.status_code}: {answer.text[:200]}")
        found = {tensor["name"]: tensor for tensor in answer.json()["outputs"]}
        if not any(_same(found, truth) for truth in truths):
            raise WrongAnswer(f"{name} answered {found}, ONNX Runtime says {truths}")

    return check


def _same(found: dict[str, Any], truth: dict[str, Any]) -> bool:
    return (
        found.keys() == truth.keys()
        and found["label"]["data"] == [LABEL]
        and all(
            found[name]["shape"] == list(array.shape)
            and np.allclose(found[name]["data"], array.reshape(-1), rtol=0, atol=TOLERANCE)
            for name, array in truth.items()
        )
    )
