"""How often a worker reports, by what the gateway tells it and by what happens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest

from gateway.contract import MAX_REST_SECONDS, Announcement, Instructions, WorkerState
from gateway.metrics.tally import Tally
from gateway.worker.reports import Reports
from gateway.worker.resting import Rest
from tests.support.announcing import FIRST
from tests.support.clock import Clock

SECONDS = 14


class Over(Exception):
    """The seconds of the test are over."""


class Reporting:
    """A worker that is ready, in a time that goes by only while it sleeps, and the gateway that hears it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = Clock()
        self.began = self.clock.now
        self.seconds: list[int] = []
        self.rests: list[float] = []
        self.instructions = Instructions(may_rest=True)
        self.is_gateway_gone = False
        self._events: Mapping[int, Callable[[], None]] = {}
        self.tally = Tally()
        rest = Rest(self.clock)
        self.reports = Reports(
            FIRST, {}, self.tally, self._hear, lambda report: report, lambda _report, _answer: None, rest
        )
        self.reports.note(state=WorkerState.READY)
        monkeypatch.setattr(asyncio, "sleep", self._sleep)

    def run(self, events: Mapping[int, Callable[[], None]] | None = None) -> list[int]:
        """Return in which seconds it reports, where these things happen in those seconds."""
        self._events = events or {}
        with pytest.raises(Over):
            asyncio.run(self.reports.run())
        return self.seconds

    def call(self, ongoing: int) -> Callable[[], None]:
        """Return what has so many calls be inside."""
        return lambda: setattr(self.tally, "ongoing", ongoing)

    async def _hear(self, announcement: Announcement) -> Instructions:
        self.seconds.append(round(self.clock.now - self.began))
        self.rests.append(announcement.rest_seconds)
        if self.is_gateway_gone:
            raise ConnectionError
        return self.instructions

    async def _sleep(self, seconds: float) -> None:
        self.clock.now += seconds
        second = round(self.clock.now - self.began)
        if second >= SECONDS:
            raise Over
        self._events.get(second, lambda: None)()


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> Reporting:
    return Reporting(monkeypatch)


def test_a_worker_that_nobody_calls_reports_seldom_and_says_for_how_long(reports: Reporting) -> None:
    assert reports.run() == [0, 1, 5, 9, 13]
    assert reports.rests == [0.0, *[MAX_REST_SECONDS] * 4]


@pytest.mark.parametrize(
    "instructions", [Instructions(), Instructions(describe=True, may_rest=True)], ids=["awaited", "describes"]
)
def test_one_of_which_the_gateway_waits_for_something_reports_each_second(
    reports: Reporting, instructions: Instructions
) -> None:
    reports.instructions = instructions
    assert reports.run() == list(range(SECONDS))


def test_one_that_is_not_ready_yet_reports_each_second(reports: Reporting) -> None:
    reports.reports.note(state=WorkerState.LOADING)
    assert reports.run() == list(range(SECONDS))


def test_one_that_has_a_call_inside_for_long_reports_each_second(reports: Reporting) -> None:
    assert reports.run({3: reports.call(1), 8: reports.call(0)}) == [0, 1, 3, 4, 5, 6, 7, 8, 9, 13]


def test_one_whose_gateway_is_gone_tries_each_second(reports: Reporting) -> None:
    assert reports.run({6: lambda: setattr(reports, "is_gateway_gone", True)}) == [0, 1, 5, 9, 10, 11, 12, 13]
