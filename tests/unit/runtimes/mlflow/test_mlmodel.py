"""The file MLmodel is read within bounds, whatever is in it."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

import pytest

from runtimes.errors import LoadError, NoRuntime, UnsafeFormat
from runtimes.mlflow.flavors import flavor_of
from runtimes.mlflow.mlmodel import MLmodel, read_mlmodel

SKLEARN = """
flavors:
  python_function: {loader_module: mlflow.sklearn, model_path: model.pkl}
  sklearn:
    code: null
    pickled_model: model.pkl
    sklearn_version: 1.10
    serialization_format: cloudpickle
mlflow_version: 3.17.2
run_id: 0123
utc_time_created: '2026-11-29 02:15:18.589742'
some_new_member: {of: [a, newer, release]}
signature: {inputs: '[]', outputs: null}
"""


def read(tmp_path: Path, text: str | bytes) -> MLmodel | None:
    path = tmp_path / "MLmodel"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_mlmodel(path)


def model(tmp_path: Path, text: str) -> MLmodel:
    mlmodel = read(tmp_path, text)
    assert mlmodel is not None
    return mlmodel


def test_versions_and_facts_are_as_they_are_written(tmp_path: Path) -> None:
    mlmodel = model(tmp_path, SKLEARN)
    flavor = flavor_of(mlmodel)
    assert (flavor.name, flavor.library, flavor.version) == ("sklearn", "scikit-learn", "1.10")
    assert flavor.model == "model.pkl"
    assert mlmodel.inputs == "[]"
    assert mlmodel.facts == {
        "mlflow_version": "3.17.2",
        "run_id": "0123",
        "utc_time_created": "2026-11-29 02:15:18.589742",
    }


@pytest.mark.parametrize("text", ["", "a: 1", "[1, 2]", "flavors: sklearn", "flavors: null", "just text"])
def test_a_file_of_that_name_which_is_not_mlflows_is_left_alone(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text) is None


def test_what_is_no_file_or_a_link_is_left_alone(tmp_path: Path) -> None:
    assert read_mlmodel(tmp_path / "MLmodel") is None
    (tmp_path / "real").write_text(SKLEARN)
    (tmp_path / "MLmodel").symlink_to(tmp_path / "real")
    assert read_mlmodel(tmp_path / "MLmodel") is None


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{previous}'] * 9)}]\n" for previous, name in pairwise("abcdefgh")
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("flavors: [", "is no YAML"),
        ("flavors: {a: *nothing}", "is no YAML"),
        ("flavors: &a {b: *a}", "is no YAML"),
        ("flavors: {[a]: b}", "is no YAML"),
        ("\x00\x01\x02", "is no YAML"),
        (b"flavors: \xff\xfe", "is no YAML"),
        ("- " * 100_000, "goes too deep"),
        ("[" * 10_000, "goes too deep"),
        ("a: " + "[x]," * 3, "is no YAML"),
        ("x:\n" + "- a\n" * 60_000, "too many parts"),
        ("x" * 1_100_000, "is larger than"),
    ],
)
def test_hostile_yaml_is_refused_by_the_name_of_the_file(
    tmp_path: Path, text: str | bytes, reason: str
) -> None:
    started = time.monotonic()
    with pytest.raises(LoadError, match=reason) as caught:
        read(tmp_path, text)
    assert str(tmp_path / "MLmodel") in str(caught.value)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    "text",
    [
        LAUGHS,
        "metadata: &a {x: 1}\nother: {<<: [*a, *a, *a]}\n",
        "call: !!python/object/apply:os.system ['exit 1']\n",
        "number: " + ":".join(["1"] * 100_000) + "\n",
        "number: " + "9" * 100_000 + "\n",
        "date: 2026-99-99\n",
    ],
)
def test_yaml_that_other_readers_stumble_over_is_only_text(tmp_path: Path, text: str) -> None:
    started = time.monotonic()
    assert flavor_of(model(tmp_path, text + SKLEARN)).name == "sklearn"
    assert time.monotonic() - started < 10


def test_a_wrapper_alone_is_code(tmp_path: Path) -> None:
    text = "flavors: {python_function: {loader_module: mlflow.pyfunc.model, python_model: python_model.pkl}}"
    with pytest.raises(
        UnsafeFormat, match=r"python_function alone \(loaded by mlflow.pyfunc.model\)"
    ) as caught:
        flavor_of(model(tmp_path, text))
    assert "mlflow.sklearn" in str(caught.value)


@pytest.mark.parametrize(
    ("flavors", "named"), [("{spark: {}, python_function: {}}", "'spark'"), ("{}", "none"), ("{a: 1}", "'a'")]
)
def test_other_flavors_are_refused_by_name(tmp_path: Path, flavors: str, named: str) -> None:
    with pytest.raises(NoRuntime, match=f"the flavors {named}, and none of them is served"):
        flavor_of(model(tmp_path, f"flavors: {flavors}"))


def test_of_several_flavors_data_comes_before_pickles(tmp_path: Path) -> None:
    text = "flavors: {sklearn: {}, python_function: {}, onnx: {data: model.onnx}}"
    assert flavor_of(model(tmp_path, text)).name == "onnx"
