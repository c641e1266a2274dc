"""The inputs of a model as a signature of MLflow has them: columns of a table, or tensors.

Both are JSON: a list of `{"name", "type", "required"}`, or of `{"name", "type": "tensor", "tensor-spec":
{"dtype", "shape"}}`, where the name may be missing. Written by `mlflow.types.Schema.to_json`. Its parameters
(`params`) are of MLflow's own wrappers, and not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from runtimes.base import Datatype
from runtimes.errors import LoadError

_COLUMNS: Mapping[str, Datatype] = {
    "boolean": Datatype.BOOL,
    "integer": Datatype.INT32,
    "long": Datatype.INT64,
    "float": Datatype.FP32,
    "double": Datatype.FP64,
    "string": Datatype.BYTES,
    "binary": Datatype.BYTES,
}
# By the names of numpy; bfloat16 is that of ml_dtypes.
_TENSORS: Mapping[str, Datatype] = {
    "bool": Datatype.BOOL,
    **{name.lower(): Datatype(name) for name in ("UINT8", "UINT16", "UINT32", "UINT64")},
    **{name.lower(): Datatype(name) for name in ("INT8", "INT16", "INT32", "INT64")},
    "float16": Datatype.FP16,
    "bfloat16": Datatype.BF16,
    "float32": Datatype.FP32,
    "float64": Datatype.FP64,
    "str": Datatype.BYTES,
    "object": Datatype.BYTES,
    "bytes": Datatype.BYTES,
}
_MAX_COLUMNS = 20_000


@dataclass(frozen=True, slots=True)
class Column:
    """A column, or a tensor."""

    name: str
    """"" where it has none."""
    type: str
    """What MLflow calls its type."""
    datatype: Datatype | None
    """None where the type is none of the protocol's: dates, lists, objects."""
    shape: tuple[int, ...] | None = None
    """That of a tensor; None for columns."""
    is_required: bool = True


@dataclass(frozen=True, slots=True)
class Schema:
    """All columns, or all tensors, in their order."""

    columns: tuple[Column, ...] = ()

    @property
    def is_tensors(self) -> bool:
        """Whether they are tensors."""
        return any(column.shape is not None for column in self.columns)

    @property
    def names(self) -> tuple[str, ...]:
        """Their names; () where one has none."""
        names = tuple(column.name for column in self.columns)
        return names if all(names) else ()


def read_schema(text: str) -> Schema:
    """Read the JSON text of a signature's inputs; an empty text has none. Raises LoadError."""
    if not text:
        return Schema()
    try:
        entries = orjson.loads(text)
        if not isinstance(entries, list) or len(entries) > _MAX_COLUMNS:
            raise LoadError(f"it is no list of at most {_MAX_COLUMNS} columns")
        columns = tuple(map(_column, entries))
    except (orjson.JSONDecodeError, UnicodeEncodeError) as error:
        raise LoadError(f"it is no JSON: {error}") from error
    names = [column.name for column in columns if column.name]
    if len(set(names)) < len(names):
        raise LoadError("it names a column twice")
    if len({column.shape is None for column in columns}) > 1:
        raise LoadError("it has columns and tensors, where all must be one or the other")
    return Schema(columns)


def _column(entry: Any) -> Column:
    if not isinstance(entry, dict):
        raise LoadError("one of its columns is no object")
    name, type_ = entry.get("name"), str(entry.get("type"))[:40]
    # A table without names has their positions in some releases.
    name = str(name) if isinstance(name, str | int) else ""
    if type_ != "tensor":
        # MLflow 1 wrote `optional`.
        is_required = entry.get("required") is not False and entry.get("optional") is not True
        return Column(name, type_, _COLUMNS.get(type_), None, is_required)
    spec = entry.get("tensor-spec")
    dtype, shape = (spec.get("dtype"), spec.get("shape")) if isinstance(spec, dict) else (None, None)
    if not isinstance(shape, list) or not all(type(size) is int and size >= -1 for size in shape):
        raise LoadError(f"the shape of {name or 'a tensor'!r} is no list of numbers")
    return Column(name, f"tensor of {str(dtype)[:40]}", _TENSORS.get(str(dtype)), tuple(shape))
