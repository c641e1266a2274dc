"""A kit's example of a call, as its author wrote it; whether it fits the model is found out elsewhere.

The Kitfile has it as `model.parameters.example`: the body of a call of the Open Inference Protocol, or rows.
Else it is the input example of a directory of MLflow (`saved_input_example_info` in its MLmodel).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from gateway.errors import KitError
from gateway.kits.library import UnpackedKit
from gateway.kits.mlflow import MLflowModel
from gateway.kits.parents import model_of
from runtimes.mlflow.mlmodel import MLmodel

_PARAMETER = "example"
_MAX_BYTES = 1024 * 1024
_MAX_ELEMENTS = 1_000_000


def read_example(kit: UnpackedKit, mlflow: MLflowModel | None) -> Any:
    """Return the example as JSON has it: see `gateway.engine.example`; None where the kit has none.

    Raises:
        KitError: where it cannot be read.
    """
    model = model_of(kit.kit)
    example = None if model is None else model.parameter(_PARAMETER)
    if example is not None or mlflow is None or not mlflow.mlmodel.example:
        return example
    return _read_mlflow(mlflow.mlmodel)


def _read_mlflow(mlmodel: MLmodel) -> Any:
    info = mlmodel.example
    name = info.get("artifact_path") or "input_example.json"
    path = mlmodel.directory / name
    if Path(name).name != name or path.is_symlink() or not path.is_file():
        raise KitError(f"the example {name!r} of {mlmodel.path.name} is no file beside it")
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise KitError(f"the example {name!r} is larger than {_MAX_BYTES} bytes")
        # MLflow writes NaN as null, and the infinities as Python does.
        value = json.loads(data)
    except (OSError, ValueError, RecursionError) as error:
        raise KitError(f"the example {name!r} cannot be read: {error}") from error
    if info.get("params") == "true" and isinstance(value, dict):
        # Beside it are values for MLflow's own wrapper.
        value = value.get("inputs")
    type_ = info.get("type", "")
    if type_.startswith("sparse_matrix"):
        return _dense(name, value, is_by_column=type_.endswith("csc"))
    if type_ == "dataframe" and isinstance(value, dict) and "columns" not in value:
        return value.get("data")
    return value


def _dense(name: str, value: Any, *, is_by_column: bool) -> list[list[float]]:
    """Return the rows of a sparse matrix, as scipy's csr_matrix and csc_matrix have it. Raises KitError."""
    try:
        return _rows(value, is_by_column=is_by_column)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise KitError(f"the example {name!r} is no sparse matrix: {error!r}") from error


def _rows(value: Mapping[str, Any], *, is_by_column: bool) -> list[list[float]]:
    rows, columns = (int(size) for size in value["shape"])
    if min(rows, columns) < 0 or math.prod((rows, columns)) > _MAX_ELEMENTS:
        raise ValueError(f"its shape is {[rows, columns]}")
    matrix = [[0.0] * columns for _ in range(rows)]
    starts, indices, data = value["indptr"], value["indices"], value["data"]
    for major, (start, end) in enumerate(pairwise(starts)):
        for minor, element in zip(indices[start:end], data[start:end], strict=True):
            row, column = (minor, major) if is_by_column else (major, minor)
            if row < 0 or column < 0:
                raise IndexError(f"it has an element at {[row, column]}")
            matrix[row][column] = math.nan if element is None else float(element)
    return matrix
