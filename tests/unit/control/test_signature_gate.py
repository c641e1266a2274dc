"""The signature gate: what callers send must still be taken, and what they read still be given."""

from __future__ import annotations

import pytest

from gateway.control.rollouts.signature_gate import signature_faults
from runtimes.base import ANY, Signature, TensorSpec

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
        Signature((TensorSpec("x", ANY),), (TensorSpec("y", ANY, (-1,)),)),
        Signature((X,), (Y,), (TensorSpec("scale", "FP32", (1,)),)),
    ],
)
def test_what_callers_do_not_notice_passes(canary: Signature) -> None:
    assert signature_faults(STABLE, canary) == []


def test_a_datatype_that_is_stated_at_last_passes() -> None:
    guessed = Signature((TensorSpec("x", ANY, likely="FP32"),), (TensorSpec("y", ANY),))
    assert signature_faults(guessed, Signature((TensorSpec("x", "INT64"),), (Y,))) == []


def test_inputs_that_could_be_left_out_still_can() -> None:
    optional = TensorSpec("scale", "FP32", (1,))
    stable = Signature((X,), (Y,), (optional,))
    assert signature_faults(stable, stable) == []
    assert signature_faults(stable, STABLE) == ["input 'scale' is gone"]
    assert signature_faults(stable, Signature((X, optional), (Y,))) == [
        "input 'scale' could be left out, and must be sent now"
    ]


def test_outputs_that_were_given_on_request_still_are() -> None:
    scores = TensorSpec("scores", "FP64", (-1, 3))
    stable = Signature((X,), (Y,), on_request=(scores,))
    assert signature_faults(stable, stable) == []
    assert signature_faults(stable, Signature((X,), (Y, scores))) == []
    assert signature_faults(stable, STABLE) == ["output 'scores' is gone"]
    assert signature_faults(Signature((X,), (Y, scores)), stable) == [
        "output 'scores' is given only to calls that name it now"
    ]


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
