"""What `kitserve run` says once its model is ready: the simplest call on it, and where to look."""

from __future__ import annotations

import io
from typing import Any

import pytest

from gateway.cli.first_call import FirstCall, command_in
from gateway.cli.progress import Reporter
from gateway.cli.terminal import terminal
from gateway.errors import ControlError

URL, ADMIN_URL = "http://127.0.0.1:1", "http://127.0.0.1:2"


def document(*paths: str) -> dict[str, Any]:
    """An OpenAPI document whose paths each show themselves as the command."""
    return {"paths": {path: {"post": {"x-codeSamples": [{"source": f"curl {path}"}]}} for path in paths}}


INFER, PREDICT, CHAT = "/v2/models/m/infer", "/v2/models/m/predict", "/models/m/v1/chat/completions"


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        ([INFER], INFER),
        ([INFER, PREDICT], PREDICT),
        ([INFER, PREDICT, CHAT], CHAT),
        (["/v2/models/m2/infer", "/v2/models/{model}/infer", "/v2/models/m/versions/v1/infer"], ""),
    ],
)
def test_the_simplest_call_on_this_model_is_shown(paths: list[str], expected: str) -> None:
    assert command_in(document(*paths), "m") == (f"curl {expected}" if expected else "")


def test_a_path_without_an_example_is_passed_over() -> None:
    paths = document(INFER)
    paths["paths"][PREDICT] = {"post": {}}
    assert command_in(paths, "m") == f"curl {INFER}"
    assert command_in({}, "m") == ""


@pytest.fixture
def shown() -> io.StringIO:
    return io.StringIO()


def first_call(shown: io.StringIO, monkeypatch: pytest.MonkeyPatch, *commands: str) -> FirstCall:
    """One whose model's document has these commands, one after the other."""
    call = FirstCall("m", URL, ADMIN_URL, Reporter(terminal(file=shown, width=40)))
    answers = iter(commands)
    monkeypatch.setattr(call, "_command", lambda: next(answers))
    return call


def status(state: str, message: str = "") -> dict[str, Any]:
    return {"models": [{"name": "m", "state": state, "message": message}]}


def test_it_waits_for_the_call_and_tells_it_once(shown: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    command = "curl 'http://127.0.0.1:1/a/path/that/is/longer/than/the/terminal' \\\n  -d '{}'"
    call = first_call(shown, monkeypatch, "", command)
    for state in ("pulling", "loading", "ready"):
        call.see(status(state))
        assert shown.getvalue() == ""
    call.see(status("ready"))
    call.see(status("failed"))
    text = shown.getvalue()
    assert text.count("m is ready") == 1
    assert command in text.replace("\n  ", "\n"), "it is pasted as it is"
    for place in (f"{URL}/docs", f"{ADMIN_URL}/metrics", "--admin 127.0.0.1:2", "Ctrl-C"):
        assert place in text


def test_a_model_that_nobody_describes_is_told_without_a_call(
    shown: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = first_call(shown, monkeypatch, *[""] * 10)
    for _ in range(10):
        call.see(status("ready"))
    assert "m is ready.\n" in shown.getvalue()


def test_a_model_that_fails_ends_the_run(shown: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    call = first_call(shown, monkeypatch)
    with pytest.raises(ControlError, match="m cannot be served: it has no memory"):
        call.see(status("failed", "it has no memory"))
