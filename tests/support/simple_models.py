"""The small models that NVIDIA's example clients call, as ONNX: sums, differences, strings given back."""

from __future__ import annotations

from collections.abc import Mapping

from tests.support.model_files import chunk, node, number, onnx_model, value_info

_INT8, _INT32, _STRING = 3, 6, 8
_INT_ATTRIBUTE = 2


def simple_models() -> Mapping[str, bytes]:
    """ONNX files by the names under which the examples call them."""
    return {
        "simple": onnx_model(
            [
                node("Add", ["INPUT0", "INPUT1"], ["OUTPUT0"]),
                node("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"]),
            ],
            [value_info(name, _INT32, ("n", 16)) for name in ("INPUT0", "INPUT1")],
            [value_info(name, _INT32, ("n", 16)) for name in ("OUTPUT0", "OUTPUT1")],
        ),
        # ONNX Runtime adds neither.
        "simple_int8": _sum_and_difference_of(_INT8),
        "simple_string": _sum_and_difference_of(_STRING),
        "simple_identity": onnx_model(
            [node("Identity", ["INPUT0"], ["OUTPUT0"])],
            [value_info("INPUT0", _STRING, ("n", "m"))],
            [value_info("OUTPUT0", _STRING, ("n", "m"))],
        ),
        "custom_identity_int32": onnx_model(
            [node("Identity", ["INPUT0"], ["OUTPUT0"])],
            [value_info("INPUT0", _INT32, ("n", "m"))],
            [value_info("OUTPUT0", _INT32, ("n", "m"))],
        ),
    }


def _sum_and_difference_of(element: int) -> bytes:
    """What `simple` does, for tensors that are INT32 only within."""
    return onnx_model(
        [
            _cast("INPUT0", "first", _INT32),
            _cast("INPUT1", "second", _INT32),
            node("Add", ["first", "second"], ["sum"]),
            node("Sub", ["first", "second"], ["difference"]),
            _cast("sum", "OUTPUT0", element),
            _cast("difference", "OUTPUT1", element),
        ],
        [value_info(name, element, ("n", 16)) for name in ("INPUT0", "INPUT1")],
        [value_info(name, element, ("n", 16)) for name in ("OUTPUT0", "OUTPUT1")],
    )


def _cast(source: str, target: str, element: int) -> bytes:
    attribute = chunk(1, "to") + number(3, element) + number(20, _INT_ATTRIBUTE)
    return node("Cast", [source], [target], attributes=chunk(5, attribute))
