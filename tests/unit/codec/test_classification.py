from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gateway.codec.call import Call, RequestedOutput
from gateway.codec.classification import largest
from gateway.codec.json_answer import Encoder
from runtimes.base import Array, Datatype
from runtimes.errors import InputError


def of(array: Array, count: int, *labels: str) -> list[Any]:
    classes: list[Any] = largest("y", array, count, labels).tolist()
    return classes


@pytest.mark.parametrize("datatype", [each for each in Datatype if each not in ("BOOL", "BYTES")])
def test_every_kind_of_number_has_a_largest(datatype: Datatype) -> None:
    array = np.array([3, 0, 7, 1]).astype(datatype.numpy)
    whole = np.dtype(datatype.numpy).kind in "iu"
    expected = [b"7:2", b"3:0"] if whole else [b"7.000000:2", b"3.000000:0"]
    assert of(array, 2) == expected


def test_rows_are_a_batch() -> None:
    rows = np.array([[0.1, 0.7, 0.2], [0.5, 0.25, 0.25]], "f8")
    assert of(rows, 2) == [[b"0.700000:1", b"0.200000:2"], [b"0.500000:0", b"0.250000:1"]]
    assert of(rows.reshape(2, 3, 1), 1) == [[b"0.700000:1"], [b"0.500000:0"]]
    assert largest("y", rows, 9).shape == (2, 3)


def test_labels_follow_indices_as_far_as_they_go() -> None:
    assert of(np.array([1, 2, 3]), 3, "a", "") == [b"3:2", b"2:1", b"1:0:a"]
    assert of(np.array([2, 1]), 1, "né:x") == ["2:0:né:x".encode()]


def test_equal_values_keep_their_order_and_what_is_no_number_is_last() -> None:
    assert of(np.array([1, 2, 2, 1, 2]), 5) == [b"2:1", b"2:2", b"2:4", b"1:0", b"1:3"]
    array = np.array([np.nan, 1.0, np.inf, -1.0], "f4")
    assert of(array, 4) == [b"inf:2", b"1.000000:1", b"-1.000000:3", b"nan:0"]
    assert of(np.array([0, 2**64 - 1], "u8"), 2) == [b"18446744073709551615:1", b"0:0"]


@pytest.mark.parametrize(
    ("shape", "expected"), [((0,), (0,)), ((2, 0), (2, 0)), ((0, 3), (0, 0)), ((), (1,))]
)
def test_outputs_without_classes_have_none(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert largest("y", np.zeros(shape, "f4"), 2).shape == expected


@pytest.mark.parametrize("array", [np.array([True]), np.array([b"a"], dtype=object), np.array(["a"])])
def test_what_holds_no_numbers_has_no_classes(array: Array) -> None:
    with pytest.raises(InputError, match=r"^output 'y' holds no numbers; leave out"):
        of(array, 1)


def test_answers_have_the_labels_of_their_output_or_those_of_all() -> None:
    outputs = {"a": np.array([[1, 2]]), "b": np.array([[1, 2]]), "c": np.array([5])}
    call = Call("", {}, {name: RequestedOutput(classes=1) for name in "ab"} | {"c": RequestedOutput()})
    labels = {"a": ("no", "yes"), "": ("left", "right")}
    body, _ = Encoder("m", "v", labels)(call, outputs)
    assert b'"datatype":"BYTES","shape":[1,1],"data":["2:1:yes"]' in body
    assert b'"data":["2:1:right"]' in body
    assert b'"data":[5]' in body
    assert b'"data":["2:1"]' in Encoder("m", "v", {"other": ("x", "y")})(call, outputs)[0]
