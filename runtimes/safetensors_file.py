"""The header of a safetensors file: its tensors, with their datatypes and sizes.

Source: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
from pathlib import Path

from runtimes.errors import LoadError

MAX_HEADER_BYTES = 100_000_000
"""The largest header, which is the limit of the safetensors library, too."""

_MAX_AXES = 64
_MAX_SIZE = 2**63

# Bytes of an element, by the names in a header.
FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_OTHERS = {"I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2, "I8": 1, "U8": 1, "BOOL": 1}


def tensors(path: Path) -> dict[str, tuple[str, int]]:
    """Return the datatype and the number of elements of each tensor, from a header. Raises LoadError."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, MAX_HEADER_BYTES)))
        return {
            name: (str(tensor["dtype"]), _elements(tensor["shape"]))
            for name, tensor in header.items()
            if name != "__metadata__"
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise LoadError(
            f"{path} has no header of safetensors that can be read ({type(error).__name__}); "
            "copy it and pack the kit again"
        ) from error


def loaded_bytes(path: Path, float_bytes: int) -> int:
    """Return the bytes of a file's tensors in memory, where each floating-point number takes `float_bytes`.

    Raises LoadError.
    """
    return sum(
        count * (float_bytes if kind in FLOATS else _OTHERS.get(kind, 1))
        for kind, count in tensors(path).values()
    )


def _elements(shape: list[int]) -> int:
    """Return how many elements a tensor has. Raises ValueError for a shape that no tensor has.

    The product of many long numbers would take hours.
    """
    if len(shape) > _MAX_AXES or not all(isinstance(size, int) and 0 <= size < _MAX_SIZE for size in shape):
        raise ValueError("a shape that no tensor has")
    return math.prod(shape)
