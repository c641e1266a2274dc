"""The signature gate: what callers send must still be taken, and what they read still be given."""

from __future__ import annotations

import pytest

from gateway.control.rollouts.signature_gate import signature_faults
from runtimes.base import Signature, TensorSpec

X = TensorSpec("x", "FP32", (-1, 4))
Y = TensorSpec("y", "INT64", (-1,))
STABLE = Signature((X,), (Y,))


@pytest.mark.parametrize(
    "canary",
    [
        STABLE,
        Signature((X,), (Y, TensorSpec("extra", "FP32", (-1,)))),
        Signature((TensorSpec("x", "FP32", (-1, -1)),), (Y,)),
        Signature((TensorSpec("x", "FP32", None),), (Y,)),
        Signature((X,), (TensorSpec("y", "INT64", (1,)),)),
        Signature((X,), ()),
    ],
)
def test_what_callers_do_not_notice_passes(canary: Signature) -> None:
    assert signature_faults(STABLE, canary) == []


@pytest.mark.parametrize(
    ("canary", "faults"),
    [
        (
            Signature((TensorSpec("features", "FP32", (-1, 4)),), (Y,)),
            ["input 'x' is gone", "input 'features' is new, and callers do not send it"],
        ),
        (
            Signature((TensorSpec("x", "FP64", (-1, 4)),), (Y,)),
            ["input 'x' was FP32 of [-1, 4] and is FP64 of [-1, 4]"],
        ),
        (
            Signature((TensorSpec("x", "FP32", (1, 4)),), (Y,)),
            ["input 'x' was FP32 of [-1, 4] and is FP32 of [1, 4]"],
        ),
        (
            Signature((TensorSpec("x", "FP32", (-1, 4, 1)),), (Y,)),
            ["input 'x' was FP32 of [-1, 4] and is FP32 of [-1, 4, 1]"],
        ),
        (Signature((X,), (TensorSpec("z", "INT64", (-1,)),)), ["output 'y' is gone"]),
        (
            Signature((X,), (TensorSpec("y", "INT64", None),)),
            ["output 'y' was INT64 of [-1] and is INT64 of any shape"],
        ),
    ],
)
def test_what_breaks_callers_is_named(canary: Signature, faults: list[str]) -> None:
    assert signature_faults(STABLE, canary) == faults
