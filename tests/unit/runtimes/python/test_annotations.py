"""What a kit's class takes and gives is read from the annotations of its methods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from runtimes.python.annotations import ANY, Method, Tensor, WrongClass, method_of


def method(function: Any, stated: Any = None, **members: Any) -> Method:
    owner = type("Model", (), {"predict": function, **members})()
    return method_of(owner, "predict", stated or {})


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (NDArray[np.float32], Tensor("x", "FP32")),
        (NDArray[np.int64], Tensor("x", "INT64")),
        (NDArray[np.uint8], Tensor("x", "UINT8")),
        (NDArray[np.bool_], Tensor("x", "BOOL")),
        (NDArray[np.float16], Tensor("x", "FP16")),
        (NDArray[ml_dtypes.bfloat16], Tensor("x", "BF16")),
        (NDArray[np.str_], Tensor("x", "BYTES", is_text=True)),
        (NDArray[np.bytes_], Tensor("x", "BYTES")),
        (NDArray[np.object_], Tensor("x", "BYTES")),
        (np.ndarray, Tensor("x", ANY)),
        (NDArray[Any], Tensor("x", ANY)),
        (Annotated[NDArray[np.float32], (-1, 4)], Tensor("x", "FP32", (-1, 4))),
        (Annotated[NDArray[np.float32], "a note", [3]], Tensor("x", "FP32", (3,))),
        (list[str], Tensor("x", "BYTES", (-1,), "list", is_text=True)),
        (list[str | None], Tensor("x", "BYTES", (-1,), "list", is_text=True, may_be_missing=True)),
        (list[bytes], Tensor("x", "BYTES", (-1,), "list")),
        (list[float], Tensor("x", "FP64", (-1,), "list")),
        (list[int], Tensor("x", "INT64", (-1,), "list")),
        (list[bool], Tensor("x", "BOOL", (-1,), "list")),
        (str, Tensor("x", "BYTES", (1,), "value", is_text=True)),
        (float, Tensor("x", "FP64", (1,), "value")),
        (int, Tensor("x", "INT64", (1,), "value")),
        (bool, Tensor("x", "BOOL", (1,), "value")),
    ],
)
def test_an_annotation_is_a_tensor(annotation: Any, expected: Tensor) -> None:
    def predict(self: Any, x: Any) -> Any: ...

    predict.__annotations__ = {"x": annotation, "return": annotation}
    read = method(predict)
    assert read.inputs == (expected,)
    (output,) = read.outputs
    assert (output.name, output.datatype, output.shape) == ("output", expected.datatype, expected.shape)


def test_annotations_that_are_written_as_text() -> None:
    def predict(self: Any, age: NDArray[np.float32], city: list[str]) -> dict[str, np.ndarray]:
        return {}

    read = method(predict)
    assert [(tensor.name, tensor.datatype) for tensor in read.inputs] == [("age", "FP32"), ("city", "BYTES")]
    assert read.outputs == ()


def test_a_parameter_with_a_default_may_be_left_out() -> None:
    def predict(self: Any, x: float, y: list[int] | None = None, *, z: int = 3) -> None: ...

    predict.__annotations__["return"] = float
    read = method(predict)
    assert [(tensor.name, tensor.is_optional) for tensor in read.inputs] == [
        ("x", False),
        ("y", True),
        ("z", True),
    ]


class Typed(TypedDict):
    label: list[str]
    score: NDArray[np.float32]


@dataclass
class Answer:
    label: list[str]
    score: NDArray[np.float32]


@pytest.mark.parametrize("annotation", [Typed, Answer])
def test_outputs_with_names(annotation: type) -> None:
    def predict(self: Any, x: float) -> Any: ...

    predict.__annotations__["return"] = annotation
    outputs = [(tensor.name, tensor.datatype) for tensor in method(predict).outputs]
    assert outputs == [("label", "BYTES"), ("score", "FP32")]


def free(self: Any, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return inputs


def test_free_form_is_what_the_class_states() -> None:
    read = method(free, inputs={"age": "FP32", "city": ("BYTES", [-1, 2])}, outputs={"y": "FP64"})
    assert read.takes_dict
    assert read.inputs == (Tensor("age", "FP32"), Tensor("city", "BYTES", (-1, 2)))
    assert read.outputs == (Tensor("y", "FP64"),)


def test_free_form_is_else_what_the_kit_states() -> None:
    stated = {"inputs": [{"name": "x", "datatype": "INT8", "shape": [2]}], "outputs": []}
    assert method(free, stated).inputs == (Tensor("x", "INT8", (2,)),)
    assert method(free).inputs == ()


def without(self: Any, x) -> Any: ...  # type: ignore[no-untyped-def]


def of_nothing(self: Any, x: complex) -> Any: ...


def of_complex(self: Any, x: NDArray[np.complex64]) -> Any: ...


def of_list(self: Any, x: list) -> Any: ...  # type: ignore[type-arg]


def of_any(self: Any, *x: float) -> Any: ...


def of_unknown(self: Any, x: Nowhere) -> Any: ...  # type: ignore[name-defined]  # noqa: F821


def of_two_shapes(self: Any, x: Annotated[list[str], (2, 2)]) -> Any: ...


def of_bad_shape(self: Any, x: Annotated[NDArray[np.float32], ("n",)]) -> Any: ...


def of_none(self: Any, x: float) -> None: ...


async def later(self: Any, x: float) -> float: ...  # type: ignore[empty-body]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (without, r"Model\.predict: the parameter 'x' has no annotation; write NDArray\[np\.float32\]"),
        (of_nothing, r"Model\.predict: the parameter 'x' is annotated with complex, which is no tensor"),
        (of_complex, r"'x' is annotated with complex64: dtype complex64 has no datatype"),
        (of_list, r"'x' is annotated with list, which is no tensor"),
        (of_any, r"the parameter \*x: 'float' is one of \*args"),
        (of_unknown, r"the annotations of Model\.predict cannot be read: name 'Nowhere' is not defined"),
        (of_two_shapes, r"'x' is annotated with shape \[2, 2\], but has \[-1\]"),
        (of_bad_shape, r"the shape \('n',\) must be whole numbers"),
        (of_none, r"Model\.predict: what it returns is None; return a dict"),
        (later, r"Model\.predict must be a plain method"),
    ],
)
def test_what_is_wrong_is_said(function: Any, message: str) -> None:
    with pytest.raises(WrongClass, match=message):
        method(function)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["x"], r"Model\.inputs must be a dict, such as"),
        ({"x": "FLOAT"}, r"Model\.inputs: 'x' has datatype 'FLOAT', none of BOOL"),
        ({"x": ("FP32", ["n"])}, r"Model\.inputs: the shape \['n'\] must be whole numbers"),
    ],
)
def test_what_is_wrong_with_a_statement_is_said(inputs: Any, message: str) -> None:
    with pytest.raises(WrongClass, match=message):
        method(free, inputs=inputs)
