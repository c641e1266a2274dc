"""The models that are served in a measurement, and inputs for them.

Every model has one input, `input`, whose first axis is the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.support.artifacts import iris

Array = NDArray[Any]

_OPSET = 17
_IR_VERSION = 8

_IMAGE_SIDE = 224
_CHANNELS = (32, 48, 64, 128, 128)
_STRIDES = (2, 1, 2, 1, 2)
_CLASSES = 10

_WORDS = 1000
_TOKENS = 160
_EMBEDDED = 128
_HIDDEN = 512
_TOPICS = 4


@dataclass(frozen=True, slots=True)
class Model:
    """A model. `onnx` is its file; `inputs` are different arrays of one item each.

    `batch` is how many items a batch should have: a larger batch of images no longer fits a core's cache.
    """

    name: str
    onnx: bytes
    inputs: Sequence[Array]
    batch: int


Maker = Callable[[], Model]


@cache
def flowers() -> Model:
    """Make the iris sample. It takes microseconds, so it shows what a call costs besides the model."""
    rows = [[5.1, 3.5, 1.4, 0.2], [6.0, 2.9, 4.5, 1.5], [6.9, 3.1, 5.4, 2.1], [5.7, 2.8, 4.1, 1.3]]
    return Model("flowers", iris(), [np.array([row], np.float32) for row in rows], 32)


@cache
def text() -> Model:
    """Make an LSTM over 160 tokens: 5 to 10 ms of one core for a call of 1 kB.

    Most of that is reading the weights at each step, which the items of a batch share.
    """
    chance = np.random.default_rng(1)
    weights = {
        "words": _normal(chance, _WORDS, _EMBEDDED),
        "W": _normal(chance, 1, 4 * _HIDDEN, _EMBEDDED, fan_in=_EMBEDDED),
        "R": _normal(chance, 1, 4 * _HIDDEN, _HIDDEN, fan_in=_HIDDEN),
        "head": _normal(chance, _HIDDEN, _TOPICS, fan_in=_HIDDEN / 16),
        "directions": np.array([0], np.int64),
    }
    nodes = [
        helper.make_node("Gather", ["words", "input"], ["embedded"]),
        helper.make_node("Transpose", ["embedded"], ["steps"], perm=[1, 0, 2]),
        helper.make_node("LSTM", ["steps", "W", "R"], ["", "last"], hidden_size=_HIDDEN),
        helper.make_node("Squeeze", ["last", "directions"], ["state"]),
        helper.make_node("Gemm", ["state", "head"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"]),
    ]
    inputs = [chance.integers(0, _WORDS, (1, _TOKENS)) for _ in range(4)]
    file = _file(nodes, weights, (TensorProto.INT64, ["n", _TOKENS]), _TOPICS)
    return Model("text", file, inputs, 16)


@cache
def image() -> Model:
    """Make a net of five convolutions: about 5 ms of one core.

    Its input is 3x224x224, which is 1.2 MB as JSON and 0.6 MB raw.
    """
    chance = np.random.default_rng(2)
    nodes, weights = [], {}
    before, channels_in = "input", 3
    for number, (channels_out, stride) in enumerate(zip(_CHANNELS, _STRIDES, strict=True)):
        kernel, convolved, after = f"kernel{number}", f"convolved{number}", f"after{number}"
        weights[kernel] = _normal(chance, channels_out, channels_in, 3, 3, fan_in=channels_in * 9 / 2)
        nodes += [
            helper.make_node("Conv", [before, kernel], [convolved], strides=[stride] * 2, pads=[1] * 4),
            helper.make_node("Relu", [convolved], [after]),
        ]
        before, channels_in = after, channels_out
    weights["head"] = _normal(chance, channels_in, _CLASSES, fan_in=channels_in / 16)
    nodes += [
        helper.make_node("GlobalAveragePool", [before], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
        helper.make_node("Gemm", ["features", "head"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"]),
    ]
    # Four decimals, as a client would write a pixel.
    inputs = [chance.random((1, 3, _IMAGE_SIDE, _IMAGE_SIDE)).round(4).astype(np.float32) for _ in range(4)]
    file = _file(nodes, weights, (TensorProto.FLOAT, ["n", 3, _IMAGE_SIDE, _IMAGE_SIDE]), _CLASSES)
    return Model("image", file, inputs, 4)


def _normal(chance: np.random.Generator, *shape: int, fan_in: float = 1.0) -> Array:
    weights: Array = (chance.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32)
    return weights


def _file(
    nodes: Sequence[Any], weights: Mapping[str, Array], input_: tuple[int, list[int | str]], classes: int
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("input", *input_)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", classes])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    file: bytes = model.SerializeToString()
    return file
