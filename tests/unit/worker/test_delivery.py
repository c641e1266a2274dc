"""What a worker logs while its reports do not reach the gateway: soon, why, and not too often."""

from __future__ import annotations

import logging

import pytest

from gateway.worker.delivery import Delivery
from tests.support.clock import Clock

REFUSED = ConnectionError("failed to connect\n\tto all addresses; HTTP proxy returned response code 403")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def delivery(clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Delivery:
    monkeypatch.setattr(logging.getLogger("gateway"), "propagate", True)
    caplog.set_level(logging.INFO, "gateway")
    return Delivery({"model": "iris"}, clock)


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_a_gateway_that_is_started_again_is_no_event(
    delivery: Delivery, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        clock.now += 6
        delivery.failed(REFUSED)
        clock.now += 1
        delivery.succeeded()
    assert events(caplog) == []


def test_a_silence_is_logged_with_its_reason_once_a_minute_and_its_end(
    delivery: Delivery, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(150):
        clock.now += 1
        delivery.failed(REFUSED)
    assert events(caplog) == ["reports.undelivered"] * 3
    fields = vars(caplog.records[0])
    assert fields["reason"] == (
        "ConnectionError: failed to connect to all addresses; HTTP proxy returned response code 403"
    )
    assert (fields["model"], fields["seconds"]) == ("iris", 10)
    delivery.succeeded()
    delivery.succeeded()
    assert events(caplog)[3:] == ["reports.delivered"]


@pytest.mark.parametrize(
    ("error", "reason"), [(TimeoutError(), "no answer in time"), (EOFError(), "EOFError")]
)
def test_an_error_without_words_has_some(
    delivery: Delivery, clock: Clock, caplog: pytest.LogCaptureFixture, error: Exception, reason: str
) -> None:
    clock.now += 11
    delivery.failed(error)
    assert vars(caplog.records[0])["reason"] == reason
