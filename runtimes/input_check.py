"""The check of a call's inputs against a model's signature, and what its errors say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from runtimes.base import ANY, Array, Datatype, Signature
from runtimes.errors import InputError
from runtimes.signature import has_shape

_NUMBERS = frozenset(datatype.numpy for datatype in Datatype if datatype is not Datatype.BYTES)


class InputCheck:
    """The check of inputs against a signature, prepared once and called for each request."""

    __slots__ = ("_expected", "_required", "_specs")

    def __init__(self, signature: Signature) -> None:
        self._expected = tuple(
            (
                spec.name,
                None if spec.datatype == ANY else Datatype(spec.datatype).numpy,
                None if spec.shape is None else len(spec.shape),
                tuple((axis, size) for axis, size in enumerate(spec.shape or ()) if size >= 0),
            )
            for spec in signature.all_inputs
        )
        self._specs = {spec.name: spec for spec in signature.all_inputs}
        self._required = frozenset(spec.name for spec in signature.inputs)

    def __call__(self, inputs: Mapping[str, Array]) -> None:
        """Raise InputError, naming the tensor, unless `inputs` fit the signature."""
        left_out = 0
        for name, dtype, rank, sizes in self._expected:
            array = inputs.get(name)
            if array is None:
                if name in self._required:
                    raise self._wrong_names(inputs)
                left_out += 1
                continue
            actual = array.dtype
            if dtype is None:
                if actual not in _NUMBERS:
                    raise self._mismatch(name, array)
            # numpy has one object per native dtype, so identity decides nearly every call
            elif actual is not dtype and actual != dtype and not (dtype.kind == "O" and actual.kind in "SU"):
                raise self._mismatch(name, array)
            if rank is not None:
                shape = array.shape
                if len(shape) != rank:
                    raise self._mismatch(name, array)
                for axis, size in sizes:
                    if shape[axis] != size:
                        raise self._mismatch(name, array)
        if len(inputs) != len(self._expected) - left_out:
            raise self._wrong_names(inputs)

    def check_names(self, inputs: Mapping[str, Array]) -> None:
        """Raise InputError where an input is missing or unknown, whatever the others hold."""
        if not self._required <= inputs.keys() <= self._specs.keys():
            raise self._wrong_names(inputs)

    def _wrong_names(self, inputs: Mapping[str, Array]) -> InputError:
        """Return the error for inputs of which some are missing or unknown."""
        unknown = [name for name in inputs if name not in self._specs]
        missing = [name for name, *_ in self._expected if name in self._required and name not in inputs]
        faults = []
        if unknown:
            faults.append(f"unknown {_listed(unknown)}")
        if missing:
            faults.append(f"{_listed(missing)} {'is' if len(missing) == 1 else 'are'} missing")
        names = ", ".join(map(repr, self._specs)) or "no inputs"
        return InputError(f"{', and '.join(faults)}; the model takes {names}")

    def _mismatch(self, name: str, array: Array) -> InputError:
        """Return the error for an input that does not fit; it tells only what differs."""
        spec = self._specs[name]
        datatype, shape = datatype_name(array.dtype), list(array.shape)
        expected = "a datatype of numbers" if spec.datatype == ANY else spec.datatype
        fits = datatype != Datatype.BYTES if spec.datatype == ANY else datatype == spec.datatype
        if fits and spec.shape is not None:
            return InputError(f"input {name!r} must have shape {shape_text(spec.shape)}, not {shape}")
        if spec.shape is None or has_shape(shape, spec.shape):
            return InputError(f"input {name!r} must be {expected}, not {datatype}")
        expected = f"{expected} of shape {shape_text(spec.shape)}"
        return InputError(f"input {name!r} must be {expected}, not {datatype} of shape {shape}")


def check_inputs(signature: Signature, inputs: Mapping[str, Array]) -> None:
    """Raise InputError unless `inputs` fit `signature`. On a hot path, keep an `InputCheck` instead."""
    InputCheck(signature)(inputs)


def unknown_output(name: str, outputs: Sequence[str]) -> InputError:
    """Return the error for an output that the model does not have."""
    return InputError(f"unknown output {name!r}; the model gives {', '.join(map(repr, outputs))}")


def _listed(names: Sequence[str]) -> str:
    return f"{'input' if len(names) == 1 else 'inputs'} {', '.join(map(repr, names))}"


def shape_text(expected: Sequence[int]) -> str:
    """Return a shape as errors show it."""
    return f"{list(expected)} (-1: any length)" if -1 in expected else str(list(expected))


def datatype_name(dtype: np.dtype[Any]) -> str:
    """Return the datatype of a numpy dtype as errors show it, also where the protocol has none for it."""
    try:
        return Datatype.of(dtype).value
    except InputError:
        return f"numpy {dtype.str}"
