"""The rows of a golden dataset: how they are read, sent to a canary's worker, and scored.

In JSONL, each line is `{"inputs": {NAME: VALUE}, "outputs": {NAME: VALUE}}`, a row of each tensor without its
batch axis. In CSV, the first line names the columns. The target's column, else the last one, holds what is
expected of the output. The others are the row of the model's input, in their order; where the model has
several inputs, the columns have their names.
"""

from __future__ import annotations

import csv
import http.client
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from gateway.codec.read_answers import read_answer
from gateway.errors import KitError
from gateway.kits.datasets import Dataset
from gateway.rollout.agreement import compare
from gateway.rollout.plan import Golden, Metric
from runtimes.base import Array, Datatype, Signature, TensorSpec
from runtimes.errors import InputError

_MAX_ROWS = 10_000
_ROWS_PER_CALL = 64
_SECONDS = 60.0


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
    if len(rows) > _MAX_ROWS:
        raise KitError(f"dataset {dataset.path} has more than {_MAX_ROWS} rows; a golden one is small")
    return rows


def _json_rows(text: str) -> Iterator[Row]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        row = orjson.loads(line)
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
    output_spec = next((spec for spec in signature.outputs if spec.name == output), None)
    if output_spec is not None and output_spec.shape is not None and len(output_spec.shape) > 1:
        # A single value for a row of several numbers is the index of the largest.
        output_spec = None
    for number, values in enumerate(lines, 2):
        if not values:
            continue
        if len(values) != len(names):
            raise ValueError(f"line {number} has {len(values)} values for {len(names)} columns")
        given = {name: value for name, value in zip(names, values, strict=True) if name != target}
        yield Row(_csv_inputs(given, signature), {output: _value(values[column], output_spec)})


def _csv_inputs(given: Mapping[str, str], signature: Signature) -> dict[str, Any]:
    if len(signature.inputs) == 1:
        (spec,) = signature.inputs
        row = [_value(value, spec) for value in given.values()]
        return {spec.name: row[0] if len(spec.shape or (0, 0)) == 1 else row}
    # A row of a column [batch, 1] is a list of one.
    return {
        spec.name: [value] if len(spec.shape or ()) == 2 else value
        for spec in signature.inputs
        for value in (_value(given[spec.name], spec),)
    }


def _label_output(signature: Signature, target: str) -> str:
    """Return the output that a target belongs to: the one of its name, the labels, or the only one."""
    outputs = [spec.name for spec in signature.outputs]
    if target in outputs:
        return target
    labels = [spec.name for spec in signature.outputs if not spec.usual.startswith(("FP", "BF"))]
    candidates = labels or outputs
    if len(candidates) != 1:
        raise ValueError(f"say which output {target} is, with `output:` (there are {', '.join(outputs)})")
    return candidates[0]


def _value(text: str, spec: TensorSpec | None) -> Any:
    kind = "f" if spec is None else spec.usual.numpy.kind
    text = text.strip()
    if kind == "O":
        return text
    if kind == "b":
        return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
    number = float(text)
    return int(number) if kind in "iu" or (spec is None and number.is_integer()) else number


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
    rows: Sequence[Row], golden: Golden, signature: Signature, address: tuple[str, int], path: str, key: str
) -> Score:
    """Send all rows to the worker at `address`, as calls of `path`; `key` is the edge's.

    Raises:
        KitError: when the worker refuses a row, or answers without an expected output.
        OSError: when the worker does not answer; it may do so later.
    """
    right = 0.0
    connection = http.client.HTTPConnection(*address, timeout=_SECONDS)
    size = _ROWS_PER_CALL if all(_is_batch(spec) for spec in signature.inputs) else 1
    try:
        for first in range(0, len(rows), size):
            part = rows[first : first + size]
            connection.request("POST", path, _request(part, signature), {"Kitserve-Edge": key})
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != http.HTTPStatus.OK:
                text = body.decode(errors="replace")[:500]
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


def _request(rows: Sequence[Row], signature: Signature) -> bytes:
    inputs = []
    for spec in signature.inputs:
        try:
            values = [row.inputs[spec.name] for row in rows]
        except KeyError:
            raise KitError(f"a row has no input {spec.name}") from None
        if not spec.shape or _is_batch(spec) or spec.shape[0] == 1:
            array = _array(values, spec.usual)
        else:
            array = _array(values[0], spec.usual)
        data = array.reshape(-1).tolist()
        tensor = {"name": spec.name, "datatype": spec.usual, "shape": list(array.shape), "data": data}
        inputs.append(tensor)
    return orjson.dumps({"inputs": inputs})


def _array(values: Any, datatype: Datatype) -> Array:
    try:
        return np.array(values, datatype.numpy)
    except (ValueError, TypeError, OverflowError) as error:
        raise KitError(f"a row's input is no {datatype}: {error}") from error


def _right(rows: Sequence[Row], outputs: Mapping[str, Array], golden: Golden) -> float:
    """Return how many of the rows have the expected outputs."""
    expected: dict[str, Array] = {}
    answered: dict[str, Array] = {}
    for name in rows[0].outputs:
        if name not in outputs:
            raise KitError(f"the model has no output {name}; it gives {', '.join(outputs)}")
        values, output = np.array([row.outputs[name] for row in rows]), outputs[name]
        if golden.metric in (Metric.AUTO, Metric.LABEL) and values.ndim == 1 and values.dtype.kind in "iu":
            # A class is expected where the model gives a probability for each.
            output = output.argmax(axis=-1) if output.ndim > 1 and output.shape[-1] > 1 else output
        if output.size == values.size and math.prod(output.shape[1:]) == math.prod(values.shape[1:]):
            output = output.reshape(values.shape)
        expected[name], answered[name] = values, output
    return compare(expected, answered, golden).agreeing * len(rows)
