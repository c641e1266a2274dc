from __future__ import annotations

import pytest

from gateway.control.admin.callers import Caller, Role, may
from gateway.control.admin.host_paths import without_paths

READER, HOLDER = Caller(Role.READER, "nobody"), Caller(Role.HOLDER, "token")


@pytest.mark.parametrize(
    ("method", "path", "is_open"),
    [
        ("GET", "/metrics", True),
        ("HEAD", "/api/status", True),
        ("GET", "/api/models/iris/rollout", True),
        ("GET", "/api/models/iris/rollout/history", True),
        ("GET", "/api/models/iris/rollout/abort", False),
        ("GET", "/api/config", False),
        ("GET", "/api/status/x", False),
        ("GET", "/api/status\n", False),
        ("POST", "/api/status", False),
        ("get", "/api/status", False),
    ],
)
def test_readers_have_a_list_of_paths(method: str, path: str, is_open: bool) -> None:
    assert may(READER, method, path) is is_open
    assert may(HOLDER, method, path)
    assert not may(Caller(Role.NOBODY, ""), method, path)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("oci-layout:/home/me/kits:iris:v1", "oci-layout:…/kits:iris:v1"),
        ("registry.test/team/iris:v1@sha256:12", "registry.test/team/iris:v1@sha256:12"),
        ("no `/a/b c/d.onnx` here", "no `…/d.onnx` here"),
        ("'/a/b', (/c/d/) and \"/e f/g\"", "'…/b', (…/d) and \"…/g\""),
        ("http://h:1/a/b?c=/d and https://x", "http://h:1/a/b?c=…/d and https://x"),
        ("1 / 2 or //x", "1 / 2 or //x"),
        ("path=/a/b\n/c/d", "path=…/b\n…/d"),
    ],
)
def test_paths_are_shortened_and_nothing_else(text: str, shown: str) -> None:
    assert without_paths({"a": [text]}) == {"a": [shown]}
