"""The calls that contenders get, and the answers that they must give."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import requests

from loadtests.models import Array

_TIMEOUT_SECONDS = 20
_TOLERANCE = 1e-5
_DATATYPES = {"float32": "FP32", "int64": "INT64"}
_JSON = {"Content-Type": "application/json"}


class WrongAnswer(Exception):
    """A contender answered something else than the model, or not at all."""


@dataclass(frozen=True, slots=True)
class Call:
    """One POST."""

    body: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a contender is called with one tensor, and how its outputs are read."""

    call: Callable[[Array], Call]
    read: Callable[[Any], dict[str, Array]]


def _oip_json(array: Array) -> Call:
    return Call(_dumps({"inputs": [{**_tensor(array), "data": array.ravel()}]}), _JSON)


def _oip_binary(array: Array) -> Call:
    head = _dumps({"inputs": [{**_tensor(array), "parameters": {"binary_data_size": array.nbytes}}]})
    headers = {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(len(head)),
    }
    return Call(head + array.tobytes(), headers)


def _bentoml_json(array: Array) -> Call:
    return Call(_dumps({"input": array}), _JSON)


def _tensor(array: Array) -> dict[str, Any]:
    return {"name": "input", "shape": array.shape, "datatype": _DATATYPES[array.dtype.name]}


def _dumps(document: dict[str, Any]) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def _oip_outputs(document: Any) -> dict[str, Array]:
    return {
        tensor["name"]: np.array(tensor["data"]).reshape(tensor["shape"]) for tensor in document["outputs"]
    }


def _bentoml_outputs(document: Any) -> dict[str, Array]:
    return {name: np.array(data) for name, data in document.items()}


OIP_JSON = Dialect(_oip_json, _oip_outputs)
OIP_BINARY = Dialect(_oip_binary, _oip_outputs)
"""The input follows the JSON as raw bytes; outputs come as JSON."""
BENTOML_JSON = Dialect(_bentoml_json, _bentoml_outputs)


def check(name: str, url: str, dialect: Dialect, array: Array, truth: Mapping[str, Array]) -> None:
    """Call a contender once, and compare its answer with `truth`, the outputs of the model itself.

    Raises:
        WrongAnswer: when it answers otherwise, or not at all.
    """
    call = dialect.call(array)
    try:
        answer = requests.post(url, call.body, headers=dict(call.headers), timeout=_TIMEOUT_SECONDS)
    except requests.RequestException as error:
        raise WrongAnswer(f"{name} did not answer: {error}") from error
    if answer.status_code != 200:
        raise WrongAnswer(f"{name} answered {answer.status_code}: {answer.text[:200]}")
    try:
        outputs = dialect.read(answer.json())
    except (KeyError, TypeError, ValueError) as error:
        raise WrongAnswer(f"{name} answered {answer.text[:200]}") from error
    if not same(outputs, truth):
        raise WrongAnswer(f"{name} answered {outputs}, the model says {dict(truth)}")


def same(outputs: Mapping[str, Array], truth: Mapping[str, Array]) -> bool:
    """Tell whether outputs are those of the model, but for rounding errors.

    Shapes are not compared: one server gives every output a second axis.
    """
    return outputs.keys() == truth.keys() and all(
        outputs[name].size == array.size
        and np.allclose(outputs[name].ravel(), array.ravel(), rtol=0, atol=_TOLERANCE)
        for name, array in truth.items()
    )
