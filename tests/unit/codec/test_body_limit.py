"""How large a body may be that a model takes."""

from __future__ import annotations

import json

import pytest

from gateway.codec.body_limit import body_limit
from runtimes.base import Signature, TensorSpec

MAXIMUM = 64 * 1024 * 1024
FIXED = TensorSpec("x", "FP32", (1, 3, 224, 224))


@pytest.mark.parametrize(
    "specs",
    [
        (),
        (TensorSpec("x", "FP32", (-1, 4)),),
        (TensorSpec("x", "BYTES", (1,)),),
        (TensorSpec("x", "FP32", None),),
        (FIXED, TensorSpec("y", "INT64", (1, -1))),
        (TensorSpec("x", "FP32", (2**40, 2**40)),),
    ],
)
def test_what_is_not_fixed_is_not_bounded_further(specs: tuple[TensorSpec, ...]) -> None:
    assert body_limit(Signature(specs, ()), MAXIMUM) == MAXIMUM


def test_fixed_shapes_bound_a_body_generously() -> None:
    small = body_limit(Signature((TensorSpec("x", "FP32", (1, 4)),), ()), MAXIMUM)
    assert 1_000_000 < small < 1_100_000
    limit = body_limit(Signature((FIXED,), (), (TensorSpec("y", "FP32", (1,)),)), MAXIMUM)
    assert limit < MAXIMUM / 2
    row = [-1.2345678901234567e-100] * 224
    data = [[[row] * 224] * 3]
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 3, 224, 224], "data": data}
    longest = json.dumps({"inputs": [tensor]}, indent=4)
    assert len(longest) < limit
