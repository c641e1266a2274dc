from __future__ import annotations

import logging

from gateway.logs.counts import MAX_EVENTS, LineCounts


def record(text: str, level: int = logging.WARNING) -> logging.LogRecord:
    return logging.LogRecord("gateway", level, __file__, 1, text, ("x",), None)


def test_warnings_and_errors_are_counted_by_event() -> None:
    counts = LineCounts()
    for text, level in (
        ("worker.failed", logging.WARNING),
        ("worker.failed", logging.WARNING),
        ("tick.failed", logging.CRITICAL),
        ("worker.ready", logging.INFO),
        ("%s: not used", logging.WARNING),
    ):
        counts.count(record(text, level))
    assert counts.totals() == {
        ("warning", "worker.failed"): 2,
        ("error", "tick.failed"): 1,
        ("warning", "other"): 1,
    }


def test_there_are_not_more_events_than_a_few() -> None:
    counts = LineCounts()
    for number in range(MAX_EVENTS * 2):
        counts.count(record("a." + "b" * (number + 1)))
    totals = counts.totals()
    assert len(totals) <= MAX_EVENTS + 1
    assert (sum(totals.values()), totals["warning", "other"]) == (MAX_EVENTS * 2, MAX_EVENTS)
