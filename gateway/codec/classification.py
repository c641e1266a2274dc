"""The classification extension: an output's largest values with their indices and labels.

Specification: Triton, `docs/protocol/extension_classification.md`. Each class is BYTES, `VALUE:INDEX` or
`VALUE:INDEX:LABEL`. The first dimension of two or more is the batch; the others together are the classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from runtimes.base import Array, Datatype
from runtimes.errors import InputError

_FP32 = np.dtype(np.float32)


def largest(name: str, array: Array, count: int, labels: Sequence[str] = ()) -> Array:
    """Return the `count` largest of each row of output `name`, largest first, or all where it has fewer.

    Of equal values the first in place comes first; NaN comes last. Indices beyond `labels` have none.

    Raises InputError for an output that holds no numbers.
    """
    if array.dtype.kind not in "fiu" and array.dtype != Datatype.BF16.numpy:
        raise InputError(f"output {name!r} holds no numbers; leave out its parameter `classification`")
    batch = array.shape[:1] if array.ndim > 1 else ()
    rows = array.reshape(*batch, -1) if array.size else array.reshape(*batch, 0)
    if array.dtype.kind not in "iu" and array.dtype.itemsize < _FP32.itemsize:
        rows = rows.astype(_FP32)
    # sorting the reverse and reading it from behind keeps equal values in their order
    reverse = (rows if rows.dtype.kind in "iu" else np.where(np.isnan(rows), -np.inf, rows))[..., ::-1]
    order = rows.shape[-1] - 1 - np.argsort(reverse, axis=-1, kind="stable")[..., ::-1][..., :count]
    values = np.take_along_axis(rows, order, axis=-1)
    classes = np.empty(order.size, dtype=object)
    classes[:] = [
        _class(value, index, labels)
        for value, index in zip(values.reshape(-1).tolist(), order.reshape(-1).tolist(), strict=True)
    ]
    return classes.reshape(order.shape)


def _class(value: float | int, index: int, labels: Sequence[str]) -> bytes:
    text = f"{value:d}" if isinstance(value, int) else f"{value:f}"
    label = labels[index] if index < len(labels) else ""
    return f"{text}:{index}:{label}".encode() if label else f"{text}:{index}".encode()
