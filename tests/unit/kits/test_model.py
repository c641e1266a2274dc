"""A kit's runtime is chosen as the policy has it, and a refusal says what the policy could do."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gateway.errors import UnusableModel
from gateway.kits.library import Library, UnpackedKit
from gateway.kits.model import choose_runtime, load
from gateway.oci.reference import parse_reference
from runtimes.base import Resources, TensorModel


@pytest.fixture
def kit(tmp_path: Path, layout: Path) -> Callable[[str], UnpackedKit]:
    library = Library(tmp_path)
    return lambda name: library.open(parse_reference(f"oci-layout:{layout}:samples/{name}"))


def test_a_pickle_is_refused_with_what_it_imports_and_how_to_allow_it(
    kit: Callable[[str], UnpackedKit],
) -> None:
    pickled = kit("iris-pickle:v1")
    with pytest.raises(UnusableModel) as caught:
        choose_runtime(pickled, None)
    text = str(caught.value)
    assert text.startswith(
        f"{pickled.kit.reference}: model/iris.joblib is a pickle (joblib included), which runs"
    )
    assert "it imports joblib.numpy_pickle, numpy, numpy._core, sklearn.ensemble and sklearn.tree. " in text
    assert "export the model to ONNX" in text
    assert "sign it and set `allow_code: signed`" in text
    assert text.endswith(f"or list its digest there, {pickled.kit.digest}")


def test_a_pickle_is_served_where_code_is_allowed_and_that_is_logged(
    kit: Callable[[str], UnpackedKit], caplog: pytest.LogCaptureFixture
) -> None:
    pickled = kit("iris-pickle:v1")
    with caplog.at_level(logging.WARNING, "gateway.kits.model"):
        choice = choose_runtime(pickled, None, allow_code=True)
    (record,) = caplog.records
    assert record.getMessage() == "code allowed"
    assert vars(record)["path"] == "model/iris.joblib"
    assert "sklearn.ensemble" in vars(record)["imports"]
    model = load(pickled, choice, Resources())
    assert isinstance(model, TensorModel)
    assert model.infer({"input": np.array([[5.1, 3.5, 1.4, 0.2]])})["label"].tolist() == [0]


@pytest.mark.parametrize("allow_code", [False, True])
def test_weights_cannot_be_served_whatever_the_policy(
    kit: Callable[[str], UnpackedKit], *, allow_code: bool
) -> None:
    with pytest.raises(UnusableModel, match=r"weights\.pt .*cannot be served at all") as caught:
        choose_runtime(kit("iris-statedict:v1"), None, allow_code=allow_code)
    assert "policy" not in str(caught.value)


@pytest.mark.parametrize("name", ["iris:v1", "iris-torchscript:v1", "iris-export:v1"])
def test_allowing_code_changes_nothing_for_others(kit: Callable[[str], UnpackedKit], name: str) -> None:
    one = kit(name)
    assert choose_runtime(one, None).runtime.name == choose_runtime(one, None, allow_code=True).runtime.name


def test_a_hint_that_does_not_fit_is_told_before_the_policy(kit: Callable[[str], UnpackedKit]) -> None:
    with pytest.raises(UnusableModel) as caught:
        choose_runtime(kit("iris-pickle:v1"), "onnx")
    assert "policy" not in str(caught.value)


def test_a_runtime_that_computes_on_cpus_takes_no_gpu(kit: Callable[[str], UnpackedKit]) -> None:
    pickled = kit("iris-pickle:v1")
    choice = choose_runtime(pickled, None, allow_code=True)
    with pytest.raises(UnusableModel, match=r"asks for 0\.5 GPUs, and the runtime sklearn computes on CPUs"):
        load(pickled, choice, Resources(gpus=0.5))
