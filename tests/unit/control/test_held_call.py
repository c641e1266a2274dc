from __future__ import annotations

import pytest

from gateway.control.activator.held_call import HeldCall


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
