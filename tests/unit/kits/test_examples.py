"""Where a kit's example of a call is, and which ones are none."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.errors import KitError
from gateway.kits.examples import read_example
from gateway.kits.kit import Kit
from gateway.kits.kitfile import Kitfile, Model
from gateway.kits.library import UnpackedKit
from gateway.kits.mlflow import MLflowModel
from gateway.oci.reference import Digest, parse_reference
from gateway.worker.example import KitExample
from runtimes.base import Signature, TensorSpec
from runtimes.mlflow.flavors import Flavor
from runtimes.mlflow.mlmodel import MLmodel


def kit(parameters: Any = None) -> UnpackedKit:
    kitfile = Kitfile(model=Model(name="m", parameters=parameters))
    reference = parse_reference("registry.test/team/guess:v1")
    return cast(
        "UnpackedKit",
        SimpleNamespace(kit=Kit(reference, Digest.of(b"kit"), cast("Any", None), kitfile, (), "")),
    )


def saved(directory: Path, content: Any, **info: str) -> MLflowModel:
    text = content if isinstance(content, str) else json.dumps(content)
    (directory / "input_example.json").write_text(text)
    example = {"artifact_path": "input_example.json", **info}
    return MLflowModel(MLmodel(directory / "MLmodel", {}, "", example), Flavor("onnx", "ONNX", "", "m.onnx"))


def test_the_kitfiles_counts_before_mlflows(tmp_path: Path) -> None:
    mlflow = saved(tmp_path, [[1, 2]], type="ndarray")
    assert read_example(kit(), None) is None
    assert read_example(kit(["no", "object"]), None) is None
    assert read_example(kit(), mlflow) == [[1, 2]]
    assert read_example(kit({"example": [{"age": 51}]}), mlflow) == [{"age": 51}]


@pytest.mark.parametrize(
    ("content", "info", "expected"),
    [
        ({"columns": ["a"], "data": [[1]]}, {"type": "dataframe"}, {"columns": ["a"], "data": [[1]]}),
        ({"data": [[1]]}, {"type": "dataframe"}, [[1]]),
        ({"data": [[1]]}, {"type": "json_object"}, {"data": [[1]]}),
        ({"inputs": [[1]], "params": {"x": 1}}, {"type": "ndarray", "params": "true"}, [[1]]),
        (
            {"data": [1, 2, 3], "indices": [0, 2, 1], "indptr": [0, 2, 3], "shape": [2, 3]},
            {"type": "sparse_matrix_csr"},
            [[1, 0, 2], [0, 3, 0]],
        ),
        (
            {"data": [1, 2, 3], "indices": [0, 1, 0], "indptr": [0, 1, 2, 3], "shape": [2, 3]},
            {"type": "sparse_matrix_csc"},
            [[1, 0, 3], [0, 2, 0]],
        ),
        ("[[Infinity]]", {"type": "ndarray"}, [[math.inf]]),
    ],
)
def test_forms_of_mlflow(tmp_path: Path, content: Any, info: dict[str, str], expected: Any) -> None:
    assert read_example(kit(), saved(tmp_path, content, **info)) == expected


@pytest.mark.parametrize(
    ("content", "info", "reason"),
    [
        ("{", {}, "cannot be read"),
        ("[" * 100_000, {}, "cannot be read"),
        ("[" + "1," * 600_000 + "1]", {}, "larger than"),
        ([1], {"artifact_path": "../input_example.json"}, "no file beside it"),
        ([1], {"artifact_path": "/etc/passwd"}, "no file beside it"),
        ([1], {"artifact_path": "other.json"}, "no file beside it"),
        ([1], {"type": "sparse_matrix_csr"}, "no sparse matrix"),
        ({"shape": [10**9, 10**9]}, {"type": "sparse_matrix_csr"}, "no sparse matrix"),
        (
            {"data": [1], "indices": [-1], "indptr": [0, 1], "shape": [1, 1]},
            {"type": "sparse_matrix_csr"},
            "no sparse matrix",
        ),
        (
            {"data": [1], "indices": [7], "indptr": [0, 1], "shape": [1, 1]},
            {"type": "sparse_matrix_csr"},
            "no sparse matrix",
        ),
    ],
)
def test_what_cannot_be_read_is_told(tmp_path: Path, content: Any, info: dict[str, str], reason: str) -> None:
    with pytest.raises(KitError, match=reason):
        read_example(kit(), saved(tmp_path, content, **info))


def test_one_that_does_not_fit_is_logged_and_no_error(caplog: pytest.LogCaptureFixture) -> None:
    signature = Signature((TensorSpec("age", "INT64", (-1, 1)),), ())
    example = KitExample.of(kit({"example": [{"age": 51}]}), None, signature)
    assert json.loads(example.text)["inputs"][0]["data"] == [51]
    example.pass_over("the model failed")
    assert (example.text, example.inputs) == ("", None)
    example = KitExample.of(kit({"example": [{"size": [51]}]}), None, signature)
    assert (example.text, example.inputs) == ("", None)
    assert KitExample.of(kit(), None, signature).text == ""
    assert [record.message for record in caplog.records] == ["example.unused"] * 2
