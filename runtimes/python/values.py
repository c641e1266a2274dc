"""Tensors as the kit's methods take them, and what they return as tensors.

This module runs in the kit's environment, so it imports the standard library and numpy alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from runtimes.python import frames
from runtimes.python.annotations import ANY, OUTPUT, Method, Tensor
from runtimes.python.frames import Array


class WrongInput(Exception):
    """A tensor of the caller cannot be made into what the method takes; the message names it."""


class WrongAnswer(Exception):
    """What the method returned is not what it should; the message names it."""


def call(method: Method, tensors: Mapping[str, Array], wanted: Sequence[str] = ()) -> dict[str, Array]:
    """Call a method with tensors, and return its outputs; the `wanted` ones where some are named.

    Raises:
        WrongInput: a tensor is no UTF-8, or an output is wanted that there is not.
        WrongAnswer: what was returned is not as it should be.
        Exception: what the method raised.
    """
    if method.takes_dict:
        result = method.function(dict(tensors))
    else:
        specs = {tensor.name: tensor for tensor in method.inputs}
        result = method.function(**{name: _argument(specs[name], array) for name, array in tensors.items()})
    named = _by_name(method, result)
    if method.outputs:
        outputs = _expected(method, named)
    else:
        outputs = {name: _tensor(method, name, value, None) for name, value in named.items()}
    for name in wanted:
        if name not in outputs:
            raise WrongInput(f"unknown output {name!r}; the model gives {', '.join(map(repr, outputs))}")
    return {name: outputs[name] for name in wanted} if wanted else outputs


def _argument(spec: Tensor, array: Array) -> Any:
    if spec.datatype == frames.BYTES and spec.is_text:
        try:
            texts = [None if item is None else item.decode() for item in array.reshape(-1).tolist()]
        except UnicodeDecodeError as error:
            raise WrongInput(f"input {spec.name!r} is no UTF-8: {error}") from error
        if spec.form == "array":
            return np.array(texts, dtype=np.str_).reshape(array.shape)
        return texts if spec.form == "list" else texts[0]
    if spec.form == "array":
        return array
    values: list[Any] = array.reshape(-1).tolist()
    return values if spec.form == "list" else values[0]


def _by_name(method: Method, result: Any) -> Mapping[str, Any]:
    """Return the outputs by name. Raises WrongAnswer for what has none."""
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        return {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    if isinstance(result, Mapping):
        if not result or not all(isinstance(name, str) for name in result):
            raise WrongAnswer(f"{method.name} returned a dict without entries, or whose keys are no text")
        return result
    if result is None or isinstance(result, tuple | set):
        raise WrongAnswer(
            f"{method.name} returned {'None' if result is None else 'a ' + type(result).__name__}; return "
            "a dict of arrays by name, or an array"
        )
    return {OUTPUT: result}


def _expected(method: Method, named: Mapping[str, Any]) -> dict[str, Array]:
    names = [tensor.name for tensor in method.outputs]
    if set(named) != set(names):
        raise WrongAnswer(
            f"{method.name} returned {', '.join(map(repr, named))}, and is to return "
            f"{', '.join(map(repr, names))}"
        )
    return {
        tensor.name: _tensor(method, tensor.name, named[tensor.name], tensor) for tensor in method.outputs
    }


def _tensor(method: Method, name: str, value: Any, spec: Tensor | None) -> Array:
    """Return a value as a tensor, of the datatype and shape that are expected of it."""
    where = f"{method.name} returned for {name!r}"
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise WrongAnswer(f"{where} a {type(value).__name__} that is no array: {error}") from error
    if array.ndim == 0 and (spec is None or spec.shape is None or len(spec.shape) == 1):
        array = array.reshape(1)
    try:
        datatype = frames.datatype_of(array.dtype)
    except ValueError as error:
        raise WrongAnswer(f"{where} an array whose {error}; cast it") from error
    if datatype == frames.BYTES:
        array = _texts(where, array)
    if spec is None:
        return array
    if spec.datatype not in (ANY, datatype):
        array = _cast(where, array, spec)
    if spec.shape is not None and not _fits(array.shape, spec.shape):
        raise WrongAnswer(f"{where} shape {list(array.shape)}, and is to return {list(spec.shape)}")
    return array


def _cast(where: str, array: Array, spec: Tensor) -> Array:
    """Cast numbers to others of their kind, such as FP64 to FP32, and whole ones to floats."""
    if frames.BYTES not in (spec.datatype, frames.datatype_of(array.dtype)):
        dtype = frames.dtype_of(spec.datatype)
        if not array.size or np.can_cast(array.dtype, dtype, "same_kind"):
            return array.astype(dtype)
    raise WrongAnswer(f"{where} {frames.datatype_of(array.dtype)}, and is to return {spec.datatype}")


def _texts(where: str, array: Array) -> Array:
    texts: Array = array.astype(object)
    for item in texts.reshape(-1).tolist():
        if not (item is None or isinstance(item, str | bytes)):
            raise WrongAnswer(
                f"{where} a {type(item).__name__} among its elements, which is no number or text"
            )
    return texts


def _fits(shape: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    return len(shape) == len(expected) and all(
        size in (-1, length) for length, size in zip(shape, expected, strict=True)
    )
