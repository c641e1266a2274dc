"""A kit's example of a call: the tensors that it makes for a model, and their JSON.

It has one of these forms:

- the body of a call of the Open Inference Protocol, `{"inputs": [{"name", "datatype", "shape", "data"}]}`;
- rows by name, `[{"age": 51, …}, …]`, or one of them;
- values by name, `{"age": [51, 35], …}`, one for each row;
- a table of pandas (`orient="split"`), `{"columns": ["age", …], "data": [[51, …], …]}`;
- the rows of the model's only input, or of its columns in their order, `[[51, …], …]`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from gateway.codec.non_finite import is_float, to_floats, to_json
from gateway.errors import KitError
from gateway.wording import listed
from runtimes.base import Array, Datatype, Signature, TensorSpec
from runtimes.errors import InputError
from runtimes.input_check import check_inputs
from runtimes.tables import cast

MAX_TEXT_BYTES = 16 * 1024
"""How long the JSON of an example may be that is shown."""
_MAX_NAMES = 5


def example_inputs(example: Any, signature: Signature) -> dict[str, Array]:
    """Return the inputs of a call that an example makes for a model.

    Raises:
        KitError: where it has no such form, or does not fit the signature.
    """
    try:
        inputs = _inputs(_by_name(example), signature)
        if _takes_one_row(inputs, signature):
            inputs = _first_rows(inputs)
        check_inputs(signature, inputs)
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError, InputError) as error:
        raise KitError(f"the example does not fit the model: {error}") from error
    return inputs


def example_text(inputs: Mapping[str, Array]) -> str:
    """Return the JSON of a call with these inputs, or with their first rows; "" where it is too long."""
    for part in (inputs, _first_rows(inputs)):
        try:
            text = orjson.dumps({"inputs": [_tensor(name, array) for name, array in part.items()]})
        except (UnicodeDecodeError, orjson.JSONEncodeError):
            return ""
        if len(text) <= MAX_TEXT_BYTES:
            return text.decode()
    return ""


def _by_name(example: Any) -> Any:
    """Return an example as values by name, or as the rows of an input without a name."""
    if isinstance(example, list):
        is_rows = bool(example) and all(isinstance(row, dict) for row in example)
        return _columns(example) if is_rows else example
    if not isinstance(example, dict):
        return [example]
    inputs = example.get("inputs")
    if isinstance(inputs, list) and inputs and all(isinstance(tensor, dict) for tensor in inputs):
        if all("data" in tensor for tensor in inputs):
            return {str(tensor.get("name")): _shaped(tensor) for tensor in inputs}
        return _columns(inputs)
    if example.keys() == {"columns", "data"} and isinstance(example["columns"], list):
        names = [str(name) for name in example["columns"]]
        return {name: [row[column] for row in example["data"]] for column, name in enumerate(names)}
    is_row = not any(isinstance(value, list) for value in example.values())
    return _columns([example]) if is_row else example


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return rows as columns; a value that one of the rows lacks is None."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _shaped(tensor: Mapping[str, Any]) -> Any:
    shape, data = tensor.get("shape"), tensor["data"]
    if not isinstance(shape, list) or not isinstance(data, list):
        return data
    # As objects, so that null and numbers stay what they are.
    elements = np.empty(len(data), object)
    elements[:] = data
    return elements.reshape(shape).tolist() if len(data) == math.prod(shape) else data


def _inputs(values: Any, signature: Signature) -> dict[str, Array]:
    specs = {spec.name: spec for spec in signature.all_inputs}
    if not isinstance(values, dict):
        return _of_whole(values, specs)
    unknown = [name for name in values if name not in specs]
    if unknown and len(specs) == 1 and _is_matrix(next(iter(specs.values())), len(values)):
        return _of_whole(list(map(list, zip(*values.values(), strict=True))), specs)
    missing = [spec.name for spec in signature.inputs if spec.name not in values]
    if unknown or missing:
        faults = [f"it has no {_listed(missing)}"] if missing else []
        faults += [f"the model takes no {_listed(unknown)}"] if unknown else []
        raise ValueError(" and ".join(faults))
    return {name: _array(specs[name], elements) for name, elements in values.items()}


def _is_matrix(spec: TensorSpec, width: int) -> bool:
    """Tell whether an input has a column for each of the values."""
    return spec.shape is not None and len(spec.shape) == 2 and spec.shape[1] in {-1, width} - {1}


def _of_whole(rows: Any, specs: Mapping[str, TensorSpec]) -> dict[str, Array]:
    """Return the inputs for rows without names: those of the only input, or of all columns in their order."""
    if len(specs) == 1:
        (spec,) = specs.values()
        return {spec.name: _array(spec, rows)}
    if not rows or not all(isinstance(row, list) and len(row) == len(specs) for row in rows):
        raise ValueError(f"its rows have no value for each of {_listed(list(specs))}")
    return {
        spec.name: _array(spec, [row[column] for row in rows]) for column, spec in enumerate(specs.values())
    }


def _array(spec: TensorSpec, elements: Any) -> Array:
    dtype = spec.usual.numpy
    if dtype.kind == "O":
        array = _bytes(spec, np.array(elements, object))
    elif dtype.kind in "fV":
        array = to_floats(elements, dtype)
    else:
        array = cast(spec.name, np.array(elements), dtype)
    rank = array.ndim if spec.shape is None else len(spec.shape)
    if array.ndim == rank - 1 and spec.shape is not None:
        # A column of a table, or one row without its axis.
        return array[..., np.newaxis] if spec.shape[-1] == 1 else array[np.newaxis]
    return array


def _bytes(spec: TensorSpec, array: Array) -> Array:
    texts = array.reshape(-1)
    for index, element in enumerate(texts):
        if element is None and not spec.may_be_missing:
            raise ValueError(f"{spec.name!r} has no missing values")
        if element is not None:
            texts[index] = element.encode() if isinstance(element, str) else str(element).encode()
    return texts.reshape(array.shape)


def _takes_one_row(inputs: Mapping[str, Array], signature: Signature) -> bool:
    shapes = {spec.name: spec.shape or () for spec in signature.all_inputs}
    return any(shapes[name][:1] == (1,) and len(array) > 1 for name, array in inputs.items() if array.ndim)


def _first_rows(inputs: Mapping[str, Array]) -> dict[str, Array]:
    return {name: array[:1] for name, array in inputs.items()}


def _tensor(name: str, array: Array) -> dict[str, Any]:
    flat = array.reshape(-1)
    data: Any = to_json(flat) if is_float(flat) else flat.tolist()
    if flat.dtype.kind == "O":
        data = [None if element is None else element.decode() for element in flat]
    datatype = Datatype.of(array.dtype).value
    return {"name": name, "datatype": datatype, "shape": list(array.shape), "data": data}


def _listed(names: list[str]) -> str:
    return listed([repr(name) for name in names], _MAX_NAMES)
