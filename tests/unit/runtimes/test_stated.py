"""A stated signature makes a file's narrower, and may not contradict it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from runtimes.base import ANY, Array, Signature, TensorModel, TensorSpec
from runtimes.errors import InputError, LoadError
from runtimes.stated import StatedModel, combine

IDS = TensorSpec("ids", ANY, likely="FP32")
ROWS = TensorSpec("rows", "FP32", (-1, 4))
MASK = TensorSpec("mask", ANY)
Y = TensorSpec("y", ANY)
FILE = Signature((IDS, ROWS), (Y,), (MASK,))


class Echo:
    platform = "echo"
    device = "cpu"
    signature = FILE
    closed = False

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        return {"y": inputs["ids"]}

    def close(self) -> None:
        self.closed = True


def stated(*inputs: TensorSpec, outputs: tuple[TensorSpec, ...] = (), file: Signature = FILE) -> Signature:
    return combine(file, inputs, outputs, "the Kitfile")


def test_what_is_stated_replaces_what_the_file_does_not_say() -> None:
    ids, mask = TensorSpec("ids", "INT64", (-1, -1)), TensorSpec("mask", "BOOL", (1,))
    y = TensorSpec("y", "FP16", (-1, 2))
    assert stated(ids, mask, outputs=(y,)) == Signature((ids, ROWS), (y,), (mask,))


@pytest.mark.parametrize(
    ("shape", "narrower"),
    [((8, 4), (8, 4)), ((-1, -1), (-1, 4)), (None, (-1, 4)), ((8, -1), (8, 4)), ((-1, 4), (-1, 4))],
)
def test_a_shape_is_what_both_say(shape: tuple[int, ...] | None, narrower: tuple[int, ...]) -> None:
    assert stated(TensorSpec("rows", "FP32", shape)).inputs[1] == TensorSpec("rows", "FP32", narrower)


def test_outputs_that_are_known_only_after_a_run_are_those_that_are_stated() -> None:
    unknown = Signature((IDS,), ())
    assert stated(outputs=(Y,), file=unknown).outputs == (Y,)
    assert stated(file=unknown).outputs == ()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            TensorSpec("rows", "FP64", (-1, 4)),
            r"Kitfile states that input 'rows' is FP64 of shape \[-1, 4\], but the model's file says FP32",
        ),
        (
            TensorSpec("rows", "FP32", (-1, 5)),
            r"FP32 of shape \[-1, 5\], but the model's file says FP32",
        ),
        (TensorSpec("rows", "FP32", (4,)), r"FP32 of shape \[4\], but"),
        (TensorSpec("rows", "FP32", ()), r"FP32 of shape \[\], but"),
        (
            TensorSpec("ids", "BYTES"),
            "'ids' is BYTES of any shape, but the model's file says ANY",
        ),
        (TensorSpec("row", "FP32"), "states an input 'row', but the model has 'ids', 'rows', 'mask'"),
    ],
)
def test_what_contradicts_the_file_is_an_error(spec: TensorSpec, message: str) -> None:
    with pytest.raises(LoadError, match=message):
        stated(spec)


def test_outputs_on_request_are_made_narrower_too_and_stay_so() -> None:
    file = Signature((IDS,), (Y,), on_request=(TensorSpec("scores", ANY),))
    scores = TensorSpec("scores", "FP64", (-1, 2))
    assert stated(outputs=(scores,), file=file) == Signature((IDS,), (Y,), on_request=(scores,))
    with pytest.raises(LoadError, match="states an output 'z', but the model has 'y', 'scores'"):
        stated(outputs=(TensorSpec("z", "FP32"),), file=file)


def test_an_output_that_the_model_does_not_have_is_an_error() -> None:
    with pytest.raises(LoadError, match="states an output 'z', but the model has 'y'"):
        stated(outputs=(TensorSpec("z", "FP32"),))


def test_inputs_are_checked_before_the_model_is_run() -> None:
    inner = Echo()
    model = StatedModel(inner, stated(TensorSpec("ids", "INT64", (-1, 2))))
    assert isinstance(model, TensorModel)
    rows = np.ones((1, 4), np.float32)
    assert model.infer({"ids": np.ones((1, 2), np.int64), "rows": rows})["y"].tolist() == [[1, 1]]
    with pytest.raises(InputError, match="'ids' must be INT64"):
        model.infer({"ids": np.ones((1, 2), np.float32), "rows": rows})
    with pytest.raises(InputError, match=r"'ids' must have shape \[-1, 2\] \(-1: any length\), not \[1, 3\]"):
        model.infer({"ids": np.ones((1, 3), np.int64), "rows": rows})
    model.close()
    assert inner.closed
