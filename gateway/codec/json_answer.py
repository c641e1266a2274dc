"""The Open Inference Protocol's answers: arrays become JSON, with raw tensors after it where requested."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from gateway.codec.call import Call
from gateway.codec.classification import largest
from gateway.codec.non_finite import is_float, to_json
from gateway.codec.tensors import to_bytes
from runtimes.base import Array, Datatype
from runtimes.errors import ExecutionError, InputError

_BF16_KIND = Datatype.BF16.numpy.kind


class Encoder:
    """Writes the answers of one version.

    `labels` are the names of an output's classes, by output; those under "" are of every other output.
    """

    def __init__(self, model: str, version: str, labels: Mapping[str, Sequence[str]]) -> None:
        self._model = model
        self._version = version
        # How many bytes stand before the outputs, where a call has no id.
        head = {"model_name": model, "model_version": version, "id": "", "outputs": []}
        self._start = len(orjson.dumps(head)) - len("]}")
        self._datatypes: dict[np.dtype[Any], str] = {}
        self._labels = labels
        self._all_labels = labels.get("", ())

    def __call__(self, call: Call, outputs: Mapping[str, Array]) -> tuple[bytes, int | None]:
        """Write an answer: its body, and how much of that is JSON where raw tensors follow, else None.

        NaN becomes null, and the infinities become strings, see `non_finite`.

        Raises:
            ExecutionError: when the protocol has no datatype for an output.
            InputError: when classes are requested of an output that has none.
        """
        raw: list[bytes | memoryview] = []
        tensors = []
        for name, output in outputs.items():
            requested = call.outputs.get(name, call.others)
            if requested.classes:
                array = largest(name, output, requested.classes, self._labels.get(name, self._all_labels))
            else:
                array = output
            datatype = self._datatypes.get(array.dtype) or self._datatype(name, array)
            tensor: dict[str, Any] = {"name": name, "datatype": datatype, "shape": array.shape}
            if requested.binary:
                data = to_bytes(array)
                raw.append(data)
                tensor["parameters"] = {"binary_data_size": len(data)}
            else:
                tensor["data"] = array if array.ndim == 1 else array.reshape(-1)
            tensors.append(tensor)
        # All in one go: to put pieces together would copy them.
        document = {
            "model_name": self._model,
            "model_version": self._version,
            "id": call.id,
            "outputs": tensors,
        }
        body = orjson.dumps(document, _plain, orjson.OPT_SERIALIZE_NUMPY)
        # orjson writes NaN and the infinities as null. A body without "u" or "l" has no null in it, and then
        # no array is searched for infinities. Names may have these letters too.
        start = self._start
        if body.find(b"u", start) >= 0 and body.find(b"l", start) >= 0 and _spell_infinities(tensors):
            body = orjson.dumps(document, _plain, orjson.OPT_SERIALIZE_NUMPY)
        return (b"".join((body, *raw)), len(body)) if raw else (body, None)

    def _datatype(self, name: str, array: Array) -> str:
        try:
            datatype = self._datatypes[array.dtype] = Datatype.of(array.dtype).value
        except InputError as error:
            raise ExecutionError(f"output {name!r}: {error}") from error
        return datatype


def _spell_infinities(tensors: list[dict[str, Any]]) -> bool:
    """Replace arrays with infinities by JSON that has those as strings; return whether there were any."""
    has_infinities = False
    for tensor in tensors:
        data = tensor.get("data")
        if data is not None and is_float(data) and np.isinf(data).any():
            tensor["data"] = to_json(data)
            has_infinities = True
    return has_infinities


def _plain(flat: Array) -> Any:
    """Return what orjson can write in place of an array that it cannot: BYTES, BF16, or one with gaps."""
    kind = flat.dtype.kind
    if kind in "OSU":
        return [_text(item) for item in flat.tolist()]
    return flat.astype(np.float32) if kind == _BF16_KIND else flat.copy()


def _text(item: Any) -> str:
    return item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item)


def error(message: str) -> bytes:
    """Write an error as every client of the protocol reads it."""
    # an engine's own words may hold what is no Unicode
    return orjson.dumps({"error": message.encode("utf-8", "replace").decode()})
