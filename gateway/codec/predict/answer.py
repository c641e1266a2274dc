"""A model's outputs become predictions, one for each row: values, by the names of outputs and classes or not.

Numbers are written as in the Open Inference Protocol: NaN is null, an infinity is a string.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from gateway.codec.non_finite import is_float
from gateway.codec.predict.class_names import ClassNames
from gateway.codec.predict.paths import Style
from gateway.codec.predict.request import Request, first_output
from runtimes.base import Array, Datatype
from runtimes.errors import InputError

CSV = b"text/csv; charset=utf-8"
_LABEL = "label"
_REFUSED = re.compile(r"(^|;)\s*q=0(\.0*)?\s*($|;)")
_MEDIA = ("text/csv", "application/json", "*/*", "application/*")


def wants_csv(accept: str) -> bool:
    """Tell whether a caller asks for CSV: the first type of its `Accept` that there is."""
    for part in accept.lower().split(","):
        name, _, parameters = part.partition(";")
        name = name.strip()
        if name in _MEDIA and not _REFUSED.search(parameters):
            return name == "text/csv"
    return False


class PredictionWriter:
    """Writes the predictions of one version."""

    def __init__(self, model: str, version: str, names: ClassNames) -> None:
        self._model = model
        self._version = version
        self._names = names

    def json(self, request: Request, outputs: Mapping[str, Array], style: Style) -> bytes:
        """Write an answer as JSON."""
        if style is Style.NAMED:
            document = {
                "model_name": self._model,
                "model_version": self._version,
                "predictions": self._named(request, outputs),
            }
        else:
            is_columnar = style is Style.KSERVE and request.is_columnar
            document = {"outputs" if is_columnar else "predictions": _plain(request, outputs, is_columnar)}
        return orjson.dumps(document, default=_as_list, option=orjson.OPT_SERIALIZE_NUMPY)

    def csv(self, request: Request, outputs: Mapping[str, Array], style: Style) -> bytes:
        """Write an answer as CSV, with a header where outputs are by name.

        Raises:
            InputError: for an output that is no table.
        """
        if style is not Style.NAMED:
            outputs = _chosen(request, outputs)
        rows = _rows(request)
        header: list[str] = []
        columns: list[list[Any]] = []
        for name, output in outputs.items():
            if not _is_by_row(output, rows) or output.ndim > 2:
                raise InputError(f"output {name!r} of shape {list(output.shape)} is no table; ask for JSON")
            labels = self._names.of_columns(name, output) or range(output.shape[-1])
            is_single = output.ndim == 1 or output.shape[1] == 1
            header += [name] if is_single else [f"{name}.{label}" for label in labels]
            classes = self._names.of_values(name, output) if style is Style.NAMED else None
            values = output.reshape(rows, -1)
            columns += [classes] if classes is not None else [_texts(column) for column in values.T]
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        if style is Style.NAMED:
            writer.writerow(header)
        writer.writerows(zip(*columns, strict=True))
        return text.getvalue().encode("utf-8", "replace")

    def _named(self, request: Request, outputs: Mapping[str, Array]) -> Any:
        """Return predictions with outputs and classes by name."""
        rows = _rows(request)
        if not all(_is_by_row(output, rows) for output in outputs.values()):
            # The outputs are about the call as a whole.
            whole = {name: _json(output) for name, output in outputs.items()}
            return next(iter(whole.values())) if len(whole) == 1 else whole
        columns: dict[str, Sequence[Any]] = {}
        has_class = _LABEL in outputs or any(map(self._names.is_class, outputs.values()))
        for name, output in outputs.items():
            labels = self._names.of_columns(name, output)
            if labels:
                if not has_class:
                    has_class = True
                    best = np.asarray(output, np.float64).argmax(axis=1).tolist()
                    columns[_LABEL] = [labels[index] for index in best]
                columns[name] = [dict(zip(labels, row, strict=True)) for row in _json(output)]
            else:
                classes = self._names.of_values(name, output)
                columns[name] = classes if classes is not None else list(_json(_without_ones(output)))
        if len(columns) == 1:
            return next(iter(columns.values()))
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _plain(request: Request, outputs: Mapping[str, Array], is_columnar: bool) -> Any:
    """Return predictions as the clients of other servers read them: the values of the first output."""
    chosen = {name: _json(output) for name, output in _chosen(request, outputs).items()}
    if len(chosen) == 1:
        return next(iter(chosen.values()))
    if is_columnar:
        return chosen
    if not all(_is_by_row(outputs[name], _rows(request)) for name in chosen):
        raise InputError("these outputs have no value for each row; ask for one of them")
    return [dict(zip(chosen, values, strict=True)) for values in zip(*chosen.values(), strict=True)]


def _chosen(request: Request, outputs: Mapping[str, Array]) -> Mapping[str, Array]:
    """Return the outputs that the caller named, else the first."""
    if request.call.outputs:
        return outputs
    name = first_output(list(outputs))
    return {name: outputs[name]} if name else {}


def _rows(request: Request) -> int:
    """Return how many rows a call has."""
    array = next(iter(request.call.inputs.values()))
    return len(array) if array.ndim else 1


def _is_by_row(output: Array, rows: int) -> bool:
    return output.ndim > 0 and len(output) == rows


def _without_ones(output: Array) -> Array:
    """Return an output with one value for each row as a flat array."""
    return output.reshape(len(output)) if output.ndim == 2 and output.shape[1] == 1 else output


def _json(output: Array) -> Any:
    """Return an array, or lists, that orjson writes as this output."""
    if output.dtype.kind in "OSU":
        return _decoded(output.tolist())
    if output.dtype == Datatype.BF16.numpy:
        output = output.astype(np.float32)
    if is_float(output) and np.isinf(output).any():
        return _spelled(output)
    return np.ascontiguousarray(output) if output.ndim else output[()]


def _spelled(output: Array) -> Any:
    """Return floats with infinities as lists, and those as strings."""
    spelled = output.astype(object)
    spelled[np.isposinf(output)] = "Infinity"
    spelled[np.isneginf(output)] = "-Infinity"
    return spelled.tolist()


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _texts(column: Array) -> list[Any]:
    """Return one column of a table as CSV has it; what is missing is empty."""
    values = _decoded(column.tolist())
    return ["" if value is None or value != value else value for value in values]


def _as_list(value: Any) -> Any:
    """Return what orjson can write in place of what it cannot: a row with gaps."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(type(value).__name__)
