"""One prediction of XGBoost for a matrix, without what its Python interface does besides.

`Booster.inplace_predict` takes 150 µs for a row, of which the trees take a few: it makes a class and two JSON
documents, and looks whether the rows are one of ten kinds of table. Here its C function is called at once:
https://xgboost.readthedocs.io/en/stable/c.html, XGBoosterPredictFromDense.

XGBoost's handle of its own C library is not public. A release that has none is served by `inplace_predict`.
"""

from __future__ import annotations

import ctypes
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from runtimes.base import Array

Predict = Callable[[Array], Array]
"""Makes predictions of rows, [rows, columns] of FP32 as they lie in C; there is at least one row."""

_SIZES = ctypes.POINTER(ctypes.c_uint64)
_FLOATS = ctypes.POINTER(ctypes.c_float)


def predictor(booster: Any, rounds: tuple[int, int], missing: float, *, is_raw: bool) -> Predict:
    """Return what predicts with a booster.

    Args:
        booster: a booster of trees, which the result keeps.
        rounds: the first tree round, and the one after the last; (0, 0) for all.
        missing: the value that stands for a missing one, NaN besides.
        is_raw: whether to give the sums of the leaves, and not what the objective makes of them.
    """
    options = {
        "type": int(is_raw),
        "training": False,
        "iteration_begin": rounds[0],
        "iteration_end": rounds[1],
        "missing": missing,
        "strict_shape": False,
        "cache_id": 0,
    }
    if has_native(booster):
        return _native(booster, json.dumps(options).encode())
    return _inplace(booster, rounds, missing, is_raw=is_raw)


def has_native(booster: Any) -> bool:
    """Tell whether this release of XGBoost shows its C function, and the handle that it takes."""
    from xgboost import core

    library, handle = getattr(core, "_LIB", None), getattr(booster, "handle", None)
    return (
        isinstance(library, ctypes.CDLL)
        and isinstance(handle, ctypes.c_void_p)
        and hasattr(library, "XGBoosterPredictFromDense")
    )


def _native(booster: Any, options: bytes) -> Predict:
    from xgboost import core

    function, last_error = core._LIB.XGBoosterPredictFromDense, core._LIB.XGBGetLastError
    no_proxy = ctypes.c_void_p()

    def predict(rows: Array) -> Array:
        shape, dimensions, values = _SIZES(), ctypes.c_uint64(), _FLOATS()
        place = rows.__array_interface__["data"][0]
        count, width = rows.shape
        matrix = b'{"data":[%d,true],"shape":[%d,%d],"typestr":"<f4","version":3}' % (place, count, width)
        failed = function(
            booster.handle,
            matrix,
            options,
            no_proxy,
            ctypes.byref(shape),
            ctypes.byref(dimensions),
            ctypes.byref(values),
        )
        if failed:
            raise core.XGBoostError(last_error().decode(errors="replace"))
        sizes = shape[: dimensions.value]
        # The engine's memory is this thread's, and written over by its next prediction.
        copied = bytearray(ctypes.string_at(values, math.prod(sizes) * ctypes.sizeof(ctypes.c_float)))
        return np.frombuffer(copied, np.float32).reshape(sizes)

    return predict


def _inplace(booster: Any, rounds: tuple[int, int], missing: float, *, is_raw: bool) -> Predict:
    kind = "margin" if is_raw else "value"

    def predict(rows: Array) -> Array:
        result: Array = booster.inplace_predict(
            rows, iteration_range=rounds, predict_type=kind, missing=missing, validate_features=False
        )
        return result

    return predict
