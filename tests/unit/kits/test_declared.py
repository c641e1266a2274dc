"""Kits that declare more of their model than may be kept are refused when they are judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from gateway.errors import UnusableModel
from gateway.kits.declared import check_declared, labels_fault
from gateway.kits.examination import examine
from gateway.kits.kitfile import Model, ModelPart
from gateway.kits.library import Library
from gateway.kits.policy import ANYTHING
from gateway.oci.reference import parse_reference
from gateway.worker.labels import UnusableLabels, labels_of
from runtimes.base import Signature, TensorSpec
from tests.support.artifacts import LayoutBuilder
from tests.support.kitops import pack_kit
from tests.support.model_files import identity_onnx, node, onnx_model, value_info

Judge = Callable[..., str]


@pytest.fixture
def judge(tmp_path: Path) -> Judge:
    """Packs a kit, examines it, and returns why it is refused."""

    def refusal(model: bytes, parameters: Mapping[str, object] | None = None) -> str:
        builder = LayoutBuilder(tmp_path / "layout")
        pack_kit(
            builder,
            "kit:v1",
            ("model", "m.onnx", {"m.onnx": model}),
            model={"parameters": parameters} if parameters else None,
        )
        library = Library(tmp_path / "library")
        kit = library.describe(parse_reference(f"oci-layout:{builder.directory}:kit:v1"))
        with pytest.raises(UnusableModel) as refused:
            examine(library, kit, ANYTHING)
        return str(refused.value)

    return refusal


def test_a_model_of_very_many_inputs_is_refused(judge: Judge) -> None:
    inputs = [value_info("x0", 1, ("n", 2))] + [value_info("x", 1, ("n", 2))] * 149_999
    model = onnx_model([node("Identity", ["x0"], ["y"])], inputs, [value_info("y", 1, ("n", 2))])
    assert "the model has 150,000 inputs, more than 4,096" in judge(model)


def test_a_model_of_very_many_outputs_is_refused(judge: Judge) -> None:
    outputs = [value_info(f"y{number}", 1, ("n", 2)) for number in range(5000)]
    nodes = [node("Identity", ["x"], [f"y{number}"]) for number in range(5000)]
    assert "5,000 outputs, more than" in judge(onnx_model(nodes, [value_info("x", 1, ("n", 2))], outputs))


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"labels": ["a"] * 200_001}, "more than 200,000 labels"),
        ({"labels": {f"y{number}": ["a"] for number in range(5000)}}, "labels of more than 4,096 outputs"),
        ({"labels": {"y": ["a" * 1001]}}, "a label of more than 1,000 characters"),
    ],
)
def test_a_kitfile_of_very_many_labels_is_refused(
    parameters: Mapping[str, object], text: str, judge: Judge
) -> None:
    assert text in judge(identity_onnx(), parameters)


def test_names_and_shapes_are_bounded(judge: Judge) -> None:
    long = "x" * 600
    model = onnx_model(
        [node("Identity", [long], ["y"])], [value_info(long, 1, ("n",))], [value_info("y", 1, ("n",))]
    )
    assert "the name of inputs[0] has more than 512 characters" in judge(model)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (TensorSpec("x", "FP32", (1,) * 33), r"inputs\[0\] has 33 dimensions"),
        (TensorSpec("x", "FP32", (-1, 2**62)), "a dimension that is longer than"),
        (TensorSpec("x", "ANY", None, "FP32", (1,) * 100_000), "has 100,000 dimensions"),
    ],
)
def test_shapes_are_bounded(spec: TensorSpec, text: str, tmp_path: Path) -> None:
    builder = LayoutBuilder(tmp_path / "layout")
    pack_kit(builder, "kit:v1", ("model", "m.onnx", {"m.onnx": identity_onnx()}))
    kit = Library(tmp_path / "library").describe(parse_reference(f"oci-layout:{builder.directory}:kit:v1"))
    check_declared(kit, Signature((TensorSpec("x", "FP32", (-1, 2)),), ()))
    with pytest.raises(UnusableModel, match=text):
        check_declared(kit, Signature((spec,), ()))


def test_labels_in_files_and_models_are_bounded(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("\n" * 300_000)
    model = Model(name="m", path="m", parts=(ModelPart(name="labels", type="labels", path="labels.txt"),))
    with pytest.raises(UnusableLabels, match="more than 200,000 labels"):
        labels_of(model, tmp_path)
    assert labels_fault([("a",) * 200_000]) == ""
