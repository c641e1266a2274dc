from __future__ import annotations

import math
import pickle
from dataclasses import replace

import pytest

from gateway.codec.statuses import explain
from gateway.contract import MAX_REST_SECONDS, Announcement, AppName, WorkerState
from gateway.errors import ControlError, RegistryUnavailable, UnusableModel, reason_of
from gateway.foreign_text import MAX_CHARACTERS, MAX_MESSAGE_CHARACTERS, foreign_text, message_text
from gateway.wire.grpc_status import message_value
from runtimes.errors import ExecutionError, InputError

HOSTILE = "Op\x1b[2J\x1b]0;owned\x07 \u202egnp.exe\u2066\x9b31m\x00\udcff"


@pytest.mark.parametrize(
    "text", [HOSTILE, "\x1b[31m" * 100_000, "a\n" * 100_000, b"\xff", OSError(HOSTILE), ""]
)
def test_a_text_from_elsewhere_is_one_printable_line_of_bounded_length(text: object) -> None:
    shown = foreign_text(text)
    assert len(shown) <= MAX_CHARACTERS
    assert shown == shown.strip()
    assert shown.isprintable()
    shown.encode()


def test_what_is_cut_says_so_and_what_is_short_is_kept() -> None:
    assert foreign_text("a\n\n b\tc ") == "a b c"
    assert foreign_text("x" * MAX_CHARACTERS) == "x" * MAX_CHARACTERS
    assert foreign_text("x" * (MAX_CHARACTERS + 1)) == "x" * (MAX_CHARACTERS - 1) + "…"
    assert foreign_text(" " * 10_000 + "x") == "…"
    assert foreign_text("one\x1b\n\n two ", keeps_lines=True) == "one\N{REPLACEMENT CHARACTER}\n\ntwo"


@pytest.mark.parametrize("middle", [HOSTILE, "x" * 65_540, "\nwine:stable slot0\n" * 5000])
def test_an_error_is_one_line_whatever_is_in_it_and_its_advice_stays(middle: str) -> None:
    text = str(UnusableModel(f"registry.example.com/team/iris:v1: {middle}; pack the kit again"))
    assert text.startswith("registry.example.com/team/iris:v1: ")
    assert text.endswith("; pack the kit again")
    assert text.isprintable()
    assert len(text) <= MAX_MESSAGE_CHARACTERS


def test_an_error_is_the_same_after_ray_has_carried_it() -> None:
    error = pickle.loads(pickle.dumps(RegistryUnavailable("it is\x1b[0m away")))
    assert str(error) == "it is\N{REPLACEMENT CHARACTER}[0m away"
    assert message_text("it is away; ask again") == "it is away; ask again"


def test_an_error_of_a_library_has_its_type_and_no_more_than_a_person_reads() -> None:
    assert reason_of(RuntimeError("Unknown operator \x1b[31mEvil")) == (
        "RuntimeError: Unknown operator \N{REPLACEMENT CHARACTER}[31mEvil"
    )
    assert reason_of(TimeoutError()) == "TimeoutError"
    assert len(reason_of(ValueError("x" * 10**6))) == MAX_CHARACTERS


def test_a_report_of_a_worker_is_cut_and_made_printable() -> None:
    report = Announcement("w", AppName("iris.v1"), WorkerState.FAILED, HOSTILE * 1000, first_call=HOSTILE)
    checked = report.checked()
    for text in (checked.detail, checked.first_call):
        assert text.isprintable()
    assert len(checked.detail) <= MAX_MESSAGE_CHARACTERS
    assert checked.number == report.number
    assert replace(report, host="fd00:0::0:1", port=1).checked().host == "fd00::1"


@pytest.mark.parametrize(
    ("told", "seconds"), [(1.0, 1.0), (math.inf, MAX_REST_SECONDS), (-1.0, 0.0), (math.nan, 0.0)]
)
def test_no_worker_is_awaited_for_ever(told: float, seconds: float) -> None:
    report = Announcement("w", AppName("iris.v1"), WorkerState.READY, rest_seconds=told)
    assert report.checked().rest_seconds == seconds


@pytest.mark.parametrize(
    "host", ["127.0.0.1 port 1; shutdown sessions server slot0/w0; #", "wine", "10.0.0.1\n"]
)
def test_a_worker_that_reports_what_is_no_address_is_not_heard(host: str) -> None:
    with pytest.raises(ControlError, match="an address that is none"):
        Announcement("w", AppName("iris.v1"), WorkerState.READY, host=host, port=1).checked()
    with pytest.raises(ControlError):
        Announcement("w", AppName("iris.v1"), WorkerState.READY, host="10.0.0.1", port=10**6).checked()


@pytest.mark.parametrize("error", [ExecutionError, InputError])
def test_what_an_engine_says_of_a_call_fits_a_header(error: type[Exception]) -> None:
    _, text = explain(error("the model failed: " + HOSTILE * 10_000 + "; end"), "id", {})
    assert text.startswith("the model failed: Op")
    assert (len(text) <= 2000, text.isprintable(), text.endswith("; end")) == (True, True, True)
    assert len(message_value(text)) < 20_000
    assert explain(error("a  short\ttext"), "id", {})[1] == "a  short text"
