"""What the methods of a kit's class take and give, by the annotations of their parameters.

    NDArray[np.float32]                       FP32 of any shape; np.ndarray: numbers of any datatype
    Annotated[NDArray[np.float32], (-1, 4)]   the same of a shape, -1 for any length
    list[str], list[bytes]                    BYTES [-1]; list[str | None] may have missing elements
    list[float], list[int], list[bool]        FP64, INT64, BOOL [-1]
    str, float, int, bool                     one value: a tensor of shape [1]
    dict[str, …]                              free form: all inputs, or outputs, by name

This module runs in the kit's environment, so it imports the standard library and numpy alone.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin

import numpy as np

from runtimes.python import frames

ANY = "ANY"
"""Numbers of any datatype."""
OUTPUT = "output"
"""The name of an output that is returned without one."""

_SCALARS: Mapping[Any, str] = {str: "BYTES", bytes: "BYTES", float: "FP64", int: "INT64", bool: "BOOL"}
_HINT = (
    "write NDArray[np.float32] (of numpy.typing), list[str], list[float], str, float, int, bool, or "
    "dict[str, np.ndarray] for tensors of any names"
)


class WrongClass(Exception):
    """The kit's class cannot be served; the message says what of it is wrong."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or an output of a method."""

    name: str
    datatype: str
    """A datatype of the Open Inference Protocol, or ANY."""
    shape: tuple[int, ...] | None = None
    form: str = "array"
    """How Python has it: `array`, `list` or `value`."""
    is_text: bool = False
    """Whether its BYTES are `str` in Python."""
    is_optional: bool = False
    may_be_missing: bool = False

    @property
    def document(self) -> dict[str, Any]:
        """What the worker is told of it."""
        return {
            "name": self.name,
            "datatype": self.datatype,
            "shape": self.shape,
            "is_optional": self.is_optional,
            "may_be_missing": self.may_be_missing,
        }


@dataclass(frozen=True, slots=True)
class Method:
    """A method of the kit's object, bound to it."""

    name: str
    function: Callable[..., Any]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    """Empty where they are known only after a call."""
    takes_dict: bool = False
    """Whether it takes all its inputs as one dict; `inputs` are then what is stated, or empty."""

    @property
    def document(self) -> dict[str, Any]:
        """What the worker is told of it."""
        return {
            "inputs": [tensor.document for tensor in self.inputs],
            "outputs": [tensor.document for tensor in self.outputs],
            "takes_dict": self.takes_dict,
        }


def method_of(owner: Any, name: str, stated: Mapping[str, Any]) -> Method:
    """Return what a method of an object takes and gives.

    Args:
        owner: the object; its `inputs` and `outputs` state what annotations of free form leave out.
        name: of the method.
        stated: `inputs` and `outputs` as the Kitfile or the config state them, for a method of free form.

    Raises:
        WrongClass: an annotation is missing, or stands for no tensor.
    """
    function = getattr(owner, name)
    label = f"{type(owner).__name__}.{name}"
    if not callable(function) or inspect.iscoroutinefunction(function):
        raise WrongClass(f"{label} must be a plain method, not {type(function).__name__} or `async def`")
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except Exception as error:
        raise WrongClass(f"the annotations of {label} cannot be read: {error}") from error
    parameters = [*inspect.signature(function).parameters.values()]
    for parameter in parameters:
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise WrongClass(
                f"{label}: the parameter {parameter} is one of *args, **kwargs or positional only"
            )
        if parameter.name not in hints:
            raise WrongClass(f"{label}: the parameter {parameter.name!r} has no annotation; {_HINT}")
    takes_dict = len(parameters) == 1 and _is_dict(hints[parameters[0].name])
    if takes_dict:
        inputs = _stated(owner, "inputs", stated)
    else:
        inputs = tuple(
            _tensor(
                f"{label}: the parameter {parameter.name!r}",
                parameter.name,
                hints[parameter.name],
                is_optional=parameter.default is not parameter.empty,
            )
            for parameter in parameters
        )
    outputs = _outputs(label, hints.get("return", inspect.Signature.empty))
    return Method(name, function, inputs, outputs or _stated(owner, "outputs", stated), takes_dict)


def _outputs(label: str, hint: Any) -> tuple[Tensor, ...]:
    """Return the outputs that a return annotation has; () where it does not say them."""
    if hint is inspect.Signature.empty or hint is Any or _is_dict(hint):
        return ()
    where = f"{label}: what it returns"
    if hint is type(None):
        raise WrongClass(f"{where} is None; return a dict of arrays by name, or an array")
    if typing.is_typeddict(hint) or dataclasses.is_dataclass(hint):
        fields = typing.get_type_hints(hint, include_extras=True)
        return tuple(_tensor(f"{where}, {name!r}", name, field) for name, field in fields.items())
    return (_tensor(where, OUTPUT, hint),)


def _tensor(where: str, name: str, hint: Any, *, is_optional: bool = False) -> Tensor:
    shape: tuple[int, ...] | None = None
    if get_origin(hint) is Annotated:
        hint, *notes = get_args(hint)
        shape = next((_shape(where, note) for note in notes if isinstance(note, tuple | list)), None)
    if is_optional:
        hint = _without_none(hint)[0]
        if get_origin(hint) is Annotated:
            return _tensor(where, name, hint, is_optional=True)
    tensor = _plain(where, name, hint)
    if shape is not None and tensor.shape is not None and shape != tensor.shape:
        raise WrongClass(f"{where} is annotated with shape {list(shape)}, but has {list(tensor.shape)}")
    return dataclasses.replace(
        tensor, shape=tensor.shape if shape is None else shape, is_optional=is_optional
    )


def _plain(where: str, name: str, hint: Any) -> Tensor:
    if hint in _SCALARS:
        return Tensor(name, _SCALARS[hint], (1,), "value", is_text=hint is str)
    origin = get_origin(hint)
    if origin in (list, collections.abc.Sequence) and get_args(hint):
        element, may_be_missing = _without_none(get_args(hint)[0])
        if element in _SCALARS and not (may_be_missing and element not in (str, bytes)):
            return Tensor(
                name,
                _SCALARS[element],
                (-1,),
                "list",
                is_text=element is str,
                may_be_missing=may_be_missing,
            )
    if hint is np.ndarray:
        return Tensor(name, ANY)
    if origin is np.ndarray:
        return _array(where, name, get_args(hint))
    shown = hint.__name__ if isinstance(hint, type) and origin is None else str(hint)
    raise WrongClass(f"{where} is annotated with {shown}, which is no tensor; {_HINT}")


def _array(where: str, name: str, arguments: tuple[Any, ...]) -> Tensor:
    """Return the tensor of np.ndarray[SHAPE, np.dtype[SCALAR]], as which NDArray[SCALAR] is written."""
    element = next(iter(get_args(arguments[1])), Any) if len(arguments) == 2 else Any
    if element is Any or not isinstance(element, type) or element in (np.generic, np.number):
        return Tensor(name, ANY)
    if element.__name__ == "bfloat16":
        return Tensor(name, frames.BF16)
    try:
        datatype = frames.datatype_of(np.dtype(element))
    except (TypeError, ValueError) as error:
        raise WrongClass(f"{where} is annotated with {element.__name__}: {error}") from error
    return Tensor(name, datatype, is_text=element is np.str_)


def _without_none(hint: Any) -> tuple[Any, bool]:
    """Return what is left of `X | None`, and whether None was there."""
    if get_origin(hint) in (Union, types.UnionType):
        others = [part for part in get_args(hint) if part is not type(None)]
        if len(others) == 1:
            return others[0], True
    return hint, False


def _is_dict(hint: Any) -> bool:
    return hint is dict or get_origin(hint) in (dict, collections.abc.Mapping)


def _shape(where: str, value: Any) -> tuple[int, ...]:
    if not all(type(size) is int and size >= -1 for size in value):
        raise WrongClass(f"{where}: the shape {value!r} must be whole numbers, -1 for any length")
    return tuple(value)


def _stated(owner: Any, kind: str, stated: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """Return the tensors that the class states by name, else those that the Kitfile or the config state.

    The class has a dict: {"age": "FP32"}, or with a shape {"age": ("FP32", [-1])}.
    """
    where = f"{type(owner).__name__}.{kind}"
    value = getattr(owner, kind, None)
    if value is None:
        return tuple(
            Tensor(
                entry["name"], entry["datatype"], None if entry["shape"] is None else tuple(entry["shape"])
            )
            for entry in stated.get(kind, ())
        )
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise WrongClass(f'{where} must be a dict, such as {{"age": "FP32"}} or {{"age": ("FP32", [-1])}}')
    tensors = []
    for name, entry in value.items():
        datatype, shape = entry if isinstance(entry, tuple | list) and len(entry) == 2 else (entry, None)
        if datatype not in (*frames.DTYPES, frames.BF16, ANY):
            raise WrongClass(
                f"{where}: {name!r} has datatype {datatype!r}, none of {', '.join(frames.DTYPES)}"
            )
        tensors.append(Tensor(name, datatype, None if shape is None else _shape(where, shape)))
    return tuple(tensors)
