"""Outputs of an ONNX file that are sequences or maps, which the protocol does not have, as tensors.

A sequence of maps, as skl2onnx's ZipMap gives it, becomes one tensor with a row for each map and a column for
each key, and a second one with the keys. A sequence of tensors becomes as many tensors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import numpy as np

from runtimes.base import Array, Datatype, TensorSpec

_NUMBERED = re.compile(r"(.+)_[0-9]+")


class Form(Enum):
    """What an output is that is no tensor."""

    MAP = auto()
    MAPS = auto()
    TENSORS = auto()


@dataclass(frozen=True, slots=True)
class Composed:
    """An output that is a map, a sequence of maps, or a sequence of tensors."""

    name: str
    form: Form
    datatype: Datatype
    """Of the values, or of the tensors."""
    key_datatype: Datatype = Datatype.INT64
    keys_name: str = ""
    """What the tensor of the keys is called."""
    keys: tuple[int | str, ...] = ()
    """The keys, where the file states them."""

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        """The tensors that it becomes; none where their number is known only after a run."""
        if self.form is Form.TENSORS:
            return ()
        count = len(self.keys) if self.keys else -1
        # Not [-1] for the keys: their number is not the number of rows.
        keys_shape = (count,) if self.keys else None
        shape = (-1, count) if self.form is Form.MAPS else keys_shape
        return (
            TensorSpec(self.name, self.datatype.value, shape),
            TensorSpec(self.keys_name, self.key_datatype.value, keys_shape),
        )

    def tensors(self, value: Any) -> dict[str, Array]:
        """Return the tensors of what the engine gave: a dict, a list of dicts, or a list of arrays.

        A key that is missing in a row is NaN there, 0 of integers, and "" of strings.
        """
        if self.form is Form.TENSORS:
            return {f"{self.name}_{index}": array for index, array in enumerate(value)}
        rows = [value] if self.form is Form.MAP else value
        keys = self.keys or tuple(dict.fromkeys(key for row in rows for key in row))
        missing = {"f": np.nan, "V": np.nan, "O": b""}.get(self.datatype.numpy.kind, 0)
        table = [[_plain(row.get(key, missing)) for key in keys] for row in rows]
        array = np.array(table, self.datatype.numpy).reshape(len(rows), len(keys))
        names = np.array([_plain(key) for key in keys], self.key_datatype.numpy)
        return {self.name: array[0] if self.form is Form.MAP else array, self.keys_name: names}


def source_of(name: str, composed: Mapping[str, Composed]) -> str | None:
    """Return the file's output that the tensor `name` is made of, None where it is of none of `composed`."""
    for output in composed.values():
        if output.form is not Form.TENSORS and name in (output.name, output.keys_name):
            return output.name
    match = _NUMBERED.fullmatch(name)
    base = composed.get(match[1]) if match else None
    return base.name if base is not None and base.form is Form.TENSORS else None


def _plain(item: Any) -> Any:
    return item.encode() if isinstance(item, str) else item
