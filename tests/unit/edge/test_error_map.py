"""What the edge says where it fails, in the form of each kind of call."""

from __future__ import annotations

import json

import pytest

from gateway.edge.error_map import ERRORS, error_entries
from gateway.wire.texts import GATEWAY_STARTS


@pytest.mark.parametrize("status", ERRORS)
def test_each_error_has_a_body_in_both_forms(status: int) -> None:
    entries = error_entries()
    for key, text in (
        ("body", ERRORS[status]),
        ("gateway-body", GATEWAY_STARTS if status == 503 else ERRORS[status]),
    ):
        assert json.loads(entries[f"{status}/{key}"]) == {"error": text}
        error = json.loads(entries[f"{status}/{key}/openai"])["error"]
        assert (error["message"], error["param"], error["code"]) == (text, None, None)
        assert isinstance(error["type"], str)


def test_an_error_of_grpc_has_no_body() -> None:
    assert not any(key.endswith(("/body/grpc", "/body/gateway")) for key in error_entries())
