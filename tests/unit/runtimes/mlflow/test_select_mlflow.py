"""Of a directory of MLflow, one file is the model, whatever else is there."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from runtimes.errors import LoadError, ModelError, NoRuntime, SeveralModels, UnsafeFormat
from runtimes.select import choose
from tests.support.artifacts import iris

ONNX = "flavors: {onnx: {data: model.onnx, onnx_version: 1.19.0}, python_function: {loader_module: x}}"


def write(root: Path, mlmodel: str, **files: bytes) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "MLmodel").write_text(mlmodel)
    for name, data in {"conda.yaml": b"a: 1", "input_example.json": b"[1]", **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def test_the_other_files_are_no_models(tmp_path: Path) -> None:
    other = pickle.dumps(print)
    files = {"model.onnx": iris(), "python_model.pkl": other, "artifacts/other.onnx": iris()}
    root = write(tmp_path / "mlflow", ONNX, **files)
    assert choose(root).path == root / "model.onnx"
    assert choose(tmp_path).path == root / "model.onnx"
    # A file that is named by itself is what is served.
    assert choose(root / "artifacts" / "other.onnx").path == root / "artifacts" / "other.onnx"


def test_a_model_beside_the_directory_is_another_one(tmp_path: Path) -> None:
    write(tmp_path / "mlflow", ONNX, **{"model.onnx": iris()})
    (tmp_path / "second.onnx").write_bytes(iris())
    with pytest.raises(SeveralModels, match=r"mlflow/model.onnx, second.onnx"):
        choose(tmp_path)


def test_a_model_of_mlflow_within_another_is_part_of_it(tmp_path: Path) -> None:
    root = write(tmp_path, ONNX, **{"model.onnx": iris()})
    write(root / "artifacts" / "inner", ONNX, **{"model.onnx": iris()})
    assert choose(root).path == root / "model.onnx"


@pytest.mark.parametrize("name", ["other.onnx", "../model.onnx", "/etc/passwd", "artifacts"])
def test_a_model_that_is_not_there_is_told_by_its_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "model.onnx").write_bytes(iris())
    root = write(tmp_path / "mlflow", f"flavors: {{onnx: {{data: {name}}}}}", **{"model.onnx": iris()})
    with pytest.raises(LoadError, match="is not there; pack the whole directory") as caught:
        choose(root)
    assert name in str(caught.value)
    assert str(root / "MLmodel") in str(caught.value)


def test_a_wrapper_alone_is_refused_even_where_code_is_allowed(tmp_path: Path) -> None:
    text = "flavors: {python_function: {loader_module: mlflow.pyfunc.model}}"
    root = write(tmp_path, text, **{"python_model.pkl": pickle.dumps(print), "artifacts/a.onnx": iris()})
    for allow_code in (False, True):
        with pytest.raises(UnsafeFormat, match="python_function alone"):
            choose(root, allow_code=allow_code)


@pytest.mark.parametrize(
    ("text", "error"),
    [("flavors: {prophet: {}}", NoRuntime), ("flavors: [", LoadError), ("flavors: {sklearn: {}}", LoadError)],
)
def test_what_cannot_be_served_is_told_unless_there_is_another_model(
    tmp_path: Path, text: str, error: type[ModelError]
) -> None:
    write(tmp_path / "mlflow", text)
    with pytest.raises(error, match="mlflow/MLmodel"):
        choose(tmp_path)
    (tmp_path / "model.onnx").write_bytes(iris())
    assert choose(tmp_path).path == tmp_path / "model.onnx"


@pytest.mark.parametrize(
    "flavor", ["pytorch: {model_data: data}", "keras: {data: data}", "tensorflow: {data: data}"]
)
def test_in_a_directory_of_data_the_model_is_called_so(tmp_path: Path, flavor: str) -> None:
    files = {"data/model.onnx": iris(), "data/custom_objects.cloudpickle": iris(), "data/model/part": iris()}
    root = write(tmp_path, f"flavors: {{{flavor}}}", **files)
    with pytest.raises(SeveralModels, match=r"data/model.onnx, data/model/part"):
        choose(root)


def test_a_file_of_that_name_that_is_not_mlflows_changes_nothing(tmp_path: Path) -> None:
    root = write(tmp_path, "hello: world", **{"other.onnx": iris()})
    assert choose(root).path == root / "other.onnx"
