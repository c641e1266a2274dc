"""The rows of a golden dataset: how they are read, sent to a canary's worker, and scored.

In JSONL, each line is `{"inputs": {NAME: VALUE}, "outputs": {NAME: VALUE}}`, a row of each tensor without its
batch axis. In CSV, the first line names the columns. The target's column, else the last one, holds what is
expected of the output. The others are the row of the model's input, in their order; where the model has
several inputs, the columns have their names.

Floats may be missing: null or NaN in JSONL, which need not be strict JSON, and an empty cell in CSV.
"""

from __future__ import annotations

import csv
import http.client
import io
import math
import ssl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from gateway.codec.non_finite import is_float, parse_json, to_floats, to_json
from gateway.codec.read_answers import read_answer
from gateway.errors import KitError
from gateway.foreign_text import foreign_text
from gateway.kits.datasets import Dataset
from gateway.rollout.agreement import compare
from gateway.rollout.plan import Golden, Metric
from gateway.wire.headers import EDGE_HEADER
from gateway.wire.worker_tls import worker_connection
from gateway.wording import counted
from runtimes.base import Array, Datatype, Signature, TensorSpec
from runtimes.errors import InputError

MAX_ROWS = 10_000
_ROWS_PER_CALL = 64
_SECONDS = 60.0
# Cells that hold nothing; NaN is a number.
_MISSING = frozenset({"", "na", "n/a", "null", "none"})
_PREDICT = "predict"
_BOOLEANS: Mapping[str, bool] = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its inputs, and the outputs that are expected, by name; without batch axis."""

    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Score:
    """How many rows were answered as expected; of a row with several outputs, the share of them counts."""

    right: float
    rows: int

    @property
    def share(self) -> float:
        """The share of the rows."""
        return self.right / self.rows


def read_rows(dataset: Dataset, golden: Golden, signature: Signature) -> list[Row]:
    """Read a dataset's rows.

    Raises:
        KitError: when they are not as the module says, or do not fit the model.
    """
    text = dataset.data.decode("utf-8-sig", "replace")
    read = _json_rows(text) if dataset.path.endswith(".jsonl") else _csv_rows(text, golden, signature)
    try:
        rows = list(read)
    except (ValueError, TypeError, KeyError, IndexError, csv.Error) as error:
        raise KitError(f"dataset {dataset.path} cannot be used: {error}") from error
    if not rows:
        raise KitError(f"dataset {dataset.path} has no rows")
    if len(rows) > MAX_ROWS:
        raise KitError(f"dataset {dataset.path} has more than {MAX_ROWS} rows; a golden one is small")
    return rows


def _json_rows(text: str) -> Iterator[Row]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        row = parse_json(line.encode())
        inputs, outputs = row["inputs"], row["outputs"]
        if not isinstance(inputs, dict) or not isinstance(outputs, dict) or not inputs or not outputs:
            raise ValueError(f"line {number}: inputs and outputs must be objects with something in them")
        yield Row(inputs, outputs)


def _csv_rows(text: str, golden: Golden, signature: Signature) -> Iterator[Row]:
    lines = csv.reader(io.StringIO(text))
    names = [name.strip() for name in next(lines, [])]
    if not names:
        raise ValueError("it is empty")
    target = golden.target or names[-1]
    if target not in names:
        raise ValueError(f"it has no column {target}")
    column = names.index(target)
    output = golden.output or _label_output(signature, target)
    output_spec = next((spec for spec in signature.all_outputs if spec.name == output), None)
    for number, values in enumerate(lines, 2):
        if not values:
            continue
        if len(values) != len(names):
            raise ValueError(
                f"line {number} has {counted(len(values), 'value')} for {counted(len(names), 'column')}"
            )
        row = [
            _Cell(value.strip(), f"line {number}, column {name}")
            for name, value in zip(names, values, strict=True)
        ]
        cells = {name: cell for name, cell in zip(names, row, strict=True) if name != target}
        yield Row(_csv_inputs(cells, signature), {output: _expected_value(row[column], output_spec)})


@dataclass(frozen=True, slots=True)
class _Cell:
    """A cell of a CSV file, and which one it is."""

    text: str
    place: str

    @property
    def is_missing(self) -> bool:
        return self.text.lower() in _MISSING


def _csv_inputs(cells: Mapping[str, _Cell], signature: Signature) -> dict[str, Any]:
    first = signature.inputs[0]
    is_column = first.shape == (-1, 1) and first.name in cells
    if len(signature.inputs) == 1 and not is_column:
        (spec,) = signature.inputs
        row = [_value(cell, spec.usual) for cell in cells.values()]
        return {spec.name: row[0] if len(spec.shape or (0, 0)) == 1 else row}
    # A row of a column [batch, 1] is a list of one.
    return {
        spec.name: [value] if len(spec.shape or ()) == 2 else value
        for spec in signature.inputs
        for value in (_value_of_input(cells[spec.name], spec),)
    }


def _label_output(signature: Signature, target: str) -> str:
    """Return the output that a target belongs to: the one of its name, the labels, or the only one.

    Of several, that is `predict`, as estimators of scikit-learn call it.
    """
    outputs = [spec.name for spec in signature.outputs]
    if any(spec.name == target for spec in signature.all_outputs):
        return target
    labels = [spec.name for spec in signature.outputs if not spec.usual.startswith(("FP", "BF"))]
    candidates = labels or outputs
    if _PREDICT in candidates:
        return _PREDICT
    if len(candidates) != 1:
        raise ValueError(f"say which output {target} is, with `output:` (there are {', '.join(outputs)})")
    return candidates[0]


def _expected_value(cell: _Cell, spec: TensorSpec | None) -> Any:
    """Return what a cell expects of an output; of a row of several numbers, the index of the largest."""
    shape = None if spec is None else spec.shape
    is_class = shape is not None and len(shape) > 1 and shape[-1] != 1
    if spec is not None and not is_class:
        return _value(cell, spec.usual)
    if is_class and cell.is_missing:
        raise ValueError(f"{cell.place} is empty; the index of a class is expected there")
    number = _value(cell, Datatype.FP64)
    return int(number) if number.is_integer() else number


def _value_of_input(cell: _Cell, spec: TensorSpec) -> Any:
    """Return the value of a column's cell; one that is empty is None where strings may be missing."""
    return None if spec.may_be_missing and cell.is_missing else _value(cell, spec.usual)


def _value(cell: _Cell, datatype: Datatype) -> Any:
    kind = datatype.numpy.kind
    if kind == "O":
        return cell.text
    if kind in "fV" and cell.is_missing:
        return math.nan
    if cell.is_missing:
        raise ValueError(f"{cell.place} is empty, and {datatype} has no missing values")
    try:
        if kind == "b":
            return _BOOLEANS[cell.text.lower()]
        return int(float(cell.text)) if kind in "iu" else float(cell.text)
    except (ValueError, OverflowError, KeyError) as error:
        raise ValueError(f"{cell.place}: {error}") from error


def first_inputs(rows: Sequence[Row], signature: Signature) -> dict[str, Array]:
    """Return the inputs of a call with the first row alone.

    Raises:
        KitError: when it lacks an input, or does not fit the model's datatypes.
    """
    inputs = {}
    for spec in signature.inputs:
        if spec.name not in rows[0].inputs:
            raise KitError(f"a row has no input {spec.name}")
        value = rows[0].inputs[spec.name]
        has_batch_axis = not spec.shape or _is_batch(spec) or spec.shape[0] == 1
        try:
            inputs[spec.name] = np.array([value] if has_batch_axis else value, spec.usual.numpy)
        except (ValueError, TypeError, OverflowError) as error:
            raise KitError(f"a row's input {spec.name} is no {spec.usual}: {error}") from error
    return inputs


def score(
    rows: Sequence[Row],
    golden: Golden,
    signature: Signature,
    address: tuple[str, int],
    path: str,
    key: str,
    tls: ssl.SSLContext | None = None,
) -> Score:
    """Send all rows to the worker at `address`, as calls of `path`; `key` is the edge's.

    With `tls`, it is called over TLS, see `worker_connection`.

    Raises:
        KitError: when the worker refuses a row, or answers without an expected output.
        OSError: when the worker does not answer; it may do so later.
    """
    right = 0.0
    connection = worker_connection(address, _SECONDS, tls)
    size = _ROWS_PER_CALL if all(_is_batch(spec) for spec in signature.inputs) else 1
    try:
        for first in range(0, len(rows), size):
            part = rows[first : first + size]
            request = _request(part, first + 1, signature)
            connection.request("POST", path, request, {EDGE_HEADER: key})
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != http.HTTPStatus.OK:
                text = foreign_text(body.decode(errors="replace"))
                raise KitError(f"row {first + 1} is answered with {answer.status}: {text}")
            right += _right(part, read_answer(memoryview(body), None), golden)
    except http.client.HTTPException as error:
        raise OSError(f"the worker's answer broke off: {error}") from error
    except InputError as error:
        raise KitError(str(error)) from error
    finally:
        connection.close()
    return Score(right, len(rows))


def _is_batch(spec: TensorSpec) -> bool:
    return bool(spec.shape) and spec.shape is not None and spec.shape[0] == -1


def _request(rows: Sequence[Row], first: int, signature: Signature) -> bytes:
    """Write the call for rows of which the first has the number `first`."""
    inputs = []
    for spec in signature.inputs:
        try:
            values = [row.inputs[spec.name] for row in rows]
        except KeyError:
            raise KitError(f"a row has no input {spec.name}") from None
        if not spec.shape or _is_batch(spec) or spec.shape[0] == 1:
            array = _array(values, spec, first)
        else:
            array = _array(values[:1], spec, first)[0]
        flat = array.reshape(-1)
        data = to_json(flat) if is_float(flat) else flat.tolist()
        tensor = {"name": spec.name, "datatype": spec.usual, "shape": list(array.shape), "data": data}
        inputs.append(tensor)
    requested = {"outputs": [{"name": name} for name in rows[0].outputs]}
    is_on_request = any(spec.name in rows[0].outputs for spec in signature.on_request)
    return orjson.dumps({"inputs": inputs, **(requested if is_on_request else {})})


def _array(values: Any, spec: TensorSpec, first: int) -> Array:
    datatype = spec.usual
    dtype = datatype.numpy
    if dtype.kind not in "fV" and not spec.may_be_missing and _has_null(values):
        number = next((row for row, value in enumerate(values, first) if _has_null(value)), first)
        raise KitError(f"row {number}: input {spec.name} has null, and {datatype} has no missing values")
    try:
        return to_floats(values, dtype) if dtype.kind in "fV" else np.array(values, dtype)
    except (ValueError, TypeError, OverflowError) as error:
        raise KitError(f"a row's input {spec.name} is no {datatype}: {error}") from error


def _has_null(values: Any) -> bool:
    return values is None or (isinstance(values, list) and any(map(_has_null, values)))


def _right(rows: Sequence[Row], outputs: Mapping[str, Array], golden: Golden) -> float:
    """Return how many of the rows have the expected outputs."""
    expected: dict[str, Array] = {}
    answered: dict[str, Array] = {}
    for name in rows[0].outputs:
        if name not in outputs:
            raise KitError(f"the model has no output {name}; it gives {', '.join(outputs)}")
        output = outputs[name]
        values = _expected(name, [row.outputs[name] for row in rows], output)
        if golden.metric in (Metric.AUTO, Metric.LABEL) and values.ndim == 1 and values.dtype.kind in "iu":
            # A class is expected where the model gives a probability for each.
            output = _likeliest(output) if output.ndim > 1 and output.shape[-1] > 1 else output
        if output.size == values.size and math.prod(output.shape[1:]) == math.prod(values.shape[1:]):
            output = output.reshape(values.shape)
        expected[name], answered[name] = values, output
    return compare(expected, answered, golden).agreeing * len(rows)


def _expected(name: str, rows: list[Any], output: Array) -> Array:
    """Return what rows expect of an output: floats of one of floats, or the indices of classes."""
    try:
        if not is_float(output):
            if _has_null(rows):
                datatype = Datatype.of(output.dtype)
                raise KitError(f"a row expects null of output {name}, and {datatype} has no missing values")
            return np.array(rows)
        is_vector = output.ndim > 1 and output.shape[-1] > 1
        if is_vector and all(type(value) is int for value in rows):
            return np.array(rows)
        return to_floats(rows, np.dtype(np.float64))
    except (ValueError, TypeError, OverflowError) as error:
        raise KitError(f"what a row expects of output {name} does not fit it: {error}") from error


def _likeliest(output: Array) -> Array:
    """Return the index of the largest number of each row, -1 for a row with NaN."""
    values = output.astype(np.float64)
    return np.where(np.isnan(values).any(axis=-1), -1, values.argmax(axis=-1))
