"""The log of the calls on a language model: which are in it, and that no word of them is."""

from __future__ import annotations

import logging

import pytest

from gateway.logs.limits import Logged
from gateway.metrics.tokens import Tokens
from gateway.worker.generated_log import HUNG_UP, FinishReasons, GeneratedLog

NAMES = {"model": "chat", "version": "v1", "digest": "sha256:12"}
TOKENS = Tokens(input=7, cached=3, output=5)


def written(logged: Logged, status: int, caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    caplog.clear()
    log = GeneratedLog(NAMES, logged)
    seconds = {"first_token_seconds": 0.123456, "seconds": 1.0}
    with caplog.at_level(logging.INFO, "gateway.worker.generated_log"):
        log.write("r-1", {"role": "canary"}, status, TOKENS, seconds, log.reasons())
    return caplog.records


@pytest.mark.parametrize(
    ("logged", "statuses"),
    [("off", set()), ("errors", {500, 502, 504, HUNG_UP}), ("all", {200, 400, 500, 502, 504, HUNG_UP})],
)
def test_the_setting_tells_which_calls_are_logged(
    logged: Logged, statuses: set[int], caplog: pytest.LogCaptureFixture
) -> None:
    assert {
        status for status in (200, 400, 500, 502, 504, HUNG_UP) if written(logged, status, caplog)
    } == statuses


def test_an_event_has_the_numbers_of_its_call(caplog: pytest.LogCaptureFixture) -> None:
    [record] = written("all", 200, caplog)
    assert (record.getMessage(), record.levelname) == ("generated", "INFO")
    fields = vars(record)
    assert {name: fields[name] for name in NAMES} == NAMES
    assert (fields["request_id"], fields["role"], fields["status"]) == ("r-1", "canary", 200)
    assert (fields["input_tokens"], fields["cached_tokens"], fields["output_tokens"]) == (7, 3, 5)
    assert (fields["first_token_seconds"], fields["seconds"], fields["finish_reasons"]) == (0.1235, 1.0, [])
    [record] = written("errors", 502, caplog)
    assert record.levelname == "WARNING", "so that a flood of them is bounded"


@pytest.mark.parametrize(
    ("events", "reasons"),
    [
        (b'data: {"choices":[{"finish_reason":"stop","index":0}]}\n\n', ["stop"]),
        (b'data: {"choices":[{"finish_reason": "length"},{"finish_reason":"stop"}]}\n\n', ["length", "stop"]),
        (b'data: {"choices":[{"finish_reason":null}]}\n\ndata: [DONE]\n\n', []),
        (b'event: response.incomplete\ndata: {"type":"response.incomplete"}\n\n', ["incomplete"]),
        (b'data: {"choices":[{"delta":{"content":"\\"finish_reason\\":\\"stop\\""}}]}\n\n', []),
        (b'data: {"choices":[{"delta":{"content":"x\\nevent: response.failed"}}]}\n\n', []),
    ],
)
def test_why_an_answer_ended_is_read_from_its_events_and_not_its_words(
    events: bytes, reasons: list[str]
) -> None:
    noted = FinishReasons()
    noted.feed(b'data: {"choices":[{"delta":{"content":"a"},"finish_reason":null}]}\n\n')
    noted.feed(events)
    assert noted.names() == reasons


def test_an_engine_cannot_have_endless_reasons_noted() -> None:
    noted = FinishReasons()
    for number in range(100):
        noted.feed(b'data: {"finish_reason":"%s"}\n\n' % (b"abcdefghij"[: number % 10 + 1] * 3))
    assert len(noted.names()) <= 8
