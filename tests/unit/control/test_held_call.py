from __future__ import annotations

import json

import pytest

from gateway.control.activator.held_call import HeldCall, refusal


@pytest.mark.parametrize(
    ("line", "names_version"),
    [
        (b"POST /v2/models/iris/versions/v2/infer HTTP/1.1", True),
        (b"GET /v2/models/iris/versions/v2/ready HTTP/1.1", True),
        (b"POST /v2/models/iris/infer HTTP/1.1", False),
        (b"POST /v2/models/iris/infer HTTP/1.1\r\nHost: edge\r\nModelKit-Version: v2", True),
        (b"POST /v1/chat/completions HTTP/1.1\r\nmodelkit-version:v2", True),
        (b"POST /v1/chat/completions HTTP/1.1\r\nmodelkit-version: ", False),
        (b"POST /v1/chat/completions HTTP/1.1", False),
        (b"POST /inference.GRPCInferenceService/ModelInfer HTTP/1.1", False),
    ],
)
def test_a_call_may_name_its_version(line: bytes, names_version: bool) -> None:
    assert HeldCall("slot3", line + b"\r\n\r\n", b"").names_version is names_version


@pytest.mark.parametrize(
    "path",
    [
        "/v2/models/iris/predict",
        "/v1/models/iris:predict",
        "/v1/models/iris/versions/v1:predict",
        "/invocations",
    ],
)
def test_a_call_as_people_write_them_is_refused_in_its_own_form(path: str) -> None:
    answer = refusal(HeldCall("slot3", f"POST {path} HTTP/1.1\r\n\r\n".encode(), b""), "ask again")
    assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {"error": "ask again"}


def test_a_call_of_the_openai_api_is_refused_in_its_form() -> None:
    answer = refusal(HeldCall("slot3", b"POST /v1/chat/completions HTTP/1.1\r\n\r\n", b""), "ask again")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["message"] == "ask again"
